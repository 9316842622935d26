"""scripts/benchmark.py: every part at a tiny size, and what its figures are made of."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.experiment import has_alexnet, options_to_train, write_photographs, write_yaml
from helpers.invertibility import randomise

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.files import WriteError

PARTS = {
    'forward of G',
    'loss terms',
    'forward of D',
    'forward of VGG, original',
    'forward of VGG, restored',
    'backward of losses, VGG, D',
    'backward of G',
    "optimiser's step of G",
    "D's step: forward, losses",
    "D's step: backward",
    "D's step: optimiser",
    'EMA',
    'the rest',
}
CPU = torch.device('cpu')


@pytest.fixture
def load():
    """Import the script, or a module beside it."""
    return importlib.import_module


@pytest.fixture
def photographs(tmp_path):
    return write_photographs(tmp_path / 'photographs', count=1, height=160, width=160)


@pytest.fixture
def options(tmp_path, photographs):
    return write_yaml(options_to_train(photographs), tmp_path / 'train.yml')


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The current directory, an empty one."""
    folder = tmp_path / 'elsewhere'
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_place_for_the_figures_is_made_before_they_are_measured(load, tmp_path, monkeypatch):
    script = load('benchmark')
    monkeypatch.setattr(script, 'measure', lambda args: {'made': (tmp_path / 'new').is_dir()})
    script.main(['--json', str(tmp_path / 'new/figures.json')])
    assert json.loads((tmp_path / 'new/figures.json').read_text()) == {'made': True}
    (tmp_path / 'file').touch()
    with pytest.raises(WriteError, match='file: cannot be written'):
        script.main(['--json', str(tmp_path / 'file/figures.json')])


def test_every_part(load, tmp_path, photographs, options, elsewhere, monkeypatch):
    script = load('benchmark')
    monkeypatch.setattr(script.loader, 'BATCH', 2)
    results, plot, plot_again = (tmp_path / name for name in ('figures.json', 'sizes.png', 'again.png'))
    script.main(
        [
            '--parts',
            'inference',
            'networks',
            'training',
            'step',
            'loader',
            'sizes',
            '--runs',
            '1',
            '--blocks',
            '1',
            '1',
            '--growth',
            '2',
            '--sizes',
            '64x48',
            '--networks',
            '{scale: 2, block_num: [1]}',
            '{scale: 2, block_num: [1], subnet: residual}',
            '--precisions',
            'fp32',
            'bf16',
            '--batch',
            '1',
            '--patch',
            '32',
            '--largest',
            '128',
            '--images',
            str(photographs),
            '--options',
            str(options),
            '--amp',
            'bf16',
            '--channels-last',
            '--json',
            str(results),
            '--plot',
            str(plot),
        ]
    )
    figures = json.loads(results.read_text())

    assert [row['what'] for row in figures['inference'] + figures['training']] == [
        'downscale 64x48',
        'downscale 64x48, bf16',
        'upscale 64x48',
        'upscale 64x48, bf16',
        'training step 1x32x32',
        'training step 1x32x32, checkpoint_blocks',
    ]
    for row in figures['inference'] + figures['training']:
        assert row['speedup'] == row['textbook_seconds'] / row['seconds']

    dense, residual = figures['networks']
    assert dense['downscale_ratio'] == dense['upscale_ratio'] == 1
    assert residual['upscale_ratio'] == residual['upscale_seconds'] / dense['upscale_seconds']
    # Two operations a weight, of kernels of 9 weights, at a quarter of the pixels.
    of_f, of_g_or_h = (9 + 41 + 73 + 105) * 32 + 137 * 3, (3 + 35 + 67 + 99) * 32 + 131 * 9
    assert dense['mflop_per_pixel'] == pytest.approx(2 * 9 / 4 * (of_f + 2 * of_g_or_h) / 1e6)
    of_f, of_g_and_h = 9 * 32 + 2 * 32 * 32 + 32 * 3, 3 * 32 + 2 * 32 * 32 + 32 * 18
    assert residual['mflop_per_pixel'] == pytest.approx(2 * 9 / 4 * (of_f + of_g_and_h) / 1e6)

    step = figures['step']
    assert (step['batch'], step['patch'], step['vgg_weights']) == (1, 32, 'random')
    assert step['plugin_train'] == {'amp': 'bf16', 'channels_last': True}
    *parts, total = step['rows']
    assert total['what'] == 'total'
    assert {part['what'] for part in parts} == PARTS
    for key in ('seconds', 'textbook_seconds'):  # measured apart
        assert sum(part[key] for part in parts) == pytest.approx(total[key], rel=0.1)

    small, large = figures['sizes']
    assert (small['pixels'], large['pixels']) == (64 * 64, 128 * 128)
    assert small['exponent'] is None
    assert large['exponent'] == pytest.approx(math.log2(large['seconds'] / small['seconds']) / 2)

    assert {(row['type'], row['sub_images'], row['gt_size']) for row in figures['loader']} == {
        (name, side, patch)
        for name in ('PairedImageDataset', 'HRImageDataset')
        for side in (480, 240)
        for patch in (144, 64)
    }
    for row in figures['loader']:
        assert row['workers_needed'] == pytest.approx(1 / total['seconds'] / row['samples_per_second'])

    script.main(['--from', str(results), '--plot', str(plot_again)])
    assert plot.read_bytes()[:4] == b'\x89PNG'
    assert plot_again.read_bytes() == plot.read_bytes()
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--parts', 'loader'], 'loader needs photographs'),
        (['--parts', 'quality', '--images', 'photographs'], 'quality needs a trained network and photographs'),
        (
            ['--parts', 'step', '--options', 'residual.yml'],
            'textbook blocks, but the subnet of residual.yml is residual',
        ),
        (['--openvino', '--device', 'cuda'], '--openvino runs on the CPU'),
        (['--openvino', '--precisions', 'fp16'], 'OpenVINO computes in fp32 or bf16'),
        (['--plot', 'sizes.png'], '--plot draws the part sizes'),
        (['--from', 'figures.json'], '--from needs a file to draw'),
    ],
)
def test_missing_arguments_are_named(load, capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path('residual.yml').write_text('network_g: {subnet: residual}\n')
    with pytest.raises(SystemExit):
        load('benchmark').main(arguments)
    assert message in capsys.readouterr().err


def openvino_has_bf16() -> bool:
    """Whether OpenVINO does as it is told, and does not take fp32."""
    import openvino

    return 'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')


def test_quality_of_precisions(load, photographs, elsewhere):
    if not has_alexnet():
        pytest.skip('needs the weights of AlexNet')
    torch.save({'params': randomise(InvRescaleNet(4, [1, 1], 4), std=0.02).state_dict()}, 'net.pth')
    quality = load('benchmarks.quality')
    openvino = importlib.util.find_spec('openvino') is not None
    rows = list(quality.benchmark_quality(CPU, 'net.pth', sorted(photographs.iterdir()), ['bf16'], openvino))
    ways = ('fp32', 'bf16', 'openvino bf16')[: 2 + openvino]
    assert [(row['precision'], row['sigma']) for row in rows] == [(way, sigma) for way in ways for sigma in (0, 1)]
    assert all(row['hr_psnr'] is None for row in rows[:2])
    for full, half in zip(rows[:2] * 2, rows[2:]):
        if half['precision'] == 'openvino bf16' and not openvino_has_bf16():
            assert half['hr'] < 0.01
            continue
        assert 0 < abs(full['psnr_y'] - half['psnr_y']) < 0.1
        assert 0 < abs(full['lpips'] - half['lpips']) < 0.01
        assert 40 < half['hr_psnr'] < 100
    assert quality.squared_error(np.array([1, 5], np.uint8), np.array([3, 2], np.uint8)) == (4 + 9) / 2


def test_openvino_computes_what_the_network_does(load, tmp_path, monkeypatch):
    if importlib.util.find_spec('openvino') is None:  # no import, which would tell a server
        pytest.skip('needs OpenVINO')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    net, hr = randomise(InvRescaleNet(4, [1, 1], 2), std=0.01), torch.rand(1, 3, 64, 48)
    engine = load('benchmarks.network').openvino_engine(net, ['fp32'])
    with torch.no_grad():
        lr, z = net.downscale(hr)
        expected = {'downscale': ([hr], lr), 'upscale': ([lr, z], net.upscale(lr, z))}
    for direction, (inputs, result) in expected.items():
        found = engine[direction]['openvino fp32'](*inputs)
        torch.testing.assert_close(found[0] if direction == 'downscale' else found, result, rtol=0, atol=1e-5)


def test_time_belongs_to_the_part_entered_last(load, monkeypatch):
    module = load('benchmarks.watch')
    times = iter([0.0, 1.0, 3.0, 7.0, 15.0, 20.0, 30.0])
    monkeypatch.setattr(module, 'moment', lambda device: next(times))
    watch = module.Watch(CPU)
    with watch.part('outer'):  # 0
        with watch.part('inner'):  # 1
            watch.change('other')  # 3, then 7
        with watch.part('inner'):  # 15, then 20
            pass
    assert watch.read() == {'outer': 1 + 8 + 10, 'inner': 2 + 5, 'other': 4}
    assert watch.read() == {}


def test_backward_of_g_begins_where_all_else_has_ended(load, options):
    step = load('benchmarks.step')
    model = step.IRNSigmaModel(step.step_options(options, CPU, 32, {}))
    watch = step.watch_model(model)
    order = []
    change = watch.change
    watch.change = lambda part: (order.append(part), change(part))
    for what, first in {'D': model.net_d.conv0, 'VGG': model.cri_perceptual.vgg.net[0]}.items():

        def note(net, inputs, features, what=what):
            if features.requires_grad:
                features.register_hook(lambda gradient: order.append(what))

        first.register_forward_hook(note)
    for parameter in model.net_g.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda parameter: order.append('G'))
    model.step.step_discriminator = lambda *args: None
    model.feed_data({'gt': torch.rand(1, 3, 32, 32), 'lq': torch.rand(1, 3, 8, 8)})
    model.optimize_parameters(1)
    begin = order.index('backward of G')
    assert set(order[:begin]) == {'D', 'VGG'}
    assert set(order[begin + 1 :]) == {'G'}


@pytest.mark.parametrize(('is_there', 'weights'), [(False, 'random'), (True, 'imagenet')])
def test_shipped_options_at_another_size(load, elsewhere, monkeypatch, is_there, weights):
    step = load('benchmarks.step')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(elsewhere))
    if is_there:
        (elsewhere / 'checkpoints').mkdir()
        (elsewhere / 'checkpoints' / 'vgg19-dcbb9e9d.pth').touch()
    opt = step.step_options(step.OPTIONS, CPU, 128, {'amp': 'bf16'})
    assert opt['train']['perceptual_opt']['weights'] == weights
    assert opt['network_d']['input_size'] == opt['datasets']['train']['gt_size'] == 128
    assert (opt['train']['amp'], opt['train']['ema_decay'], opt['path']) == ('bf16', 0.999, {})
    assert (opt['train']['compile'], opt['train']['cuda_graph']) == (False, False)


def test_step_of_a_network_alone(load, tmp_path, photographs, elsewhere):
    step = load('benchmarks.step')
    options = write_yaml(options_to_train(photographs, adversarial=False), tmp_path / 'irn.yml')
    taken = step.benchmark_step(CPU, options, 1, None, 1, {})
    assert (taken.patch, taken.vgg_weights) == (32, None)
    assert {row['what'] for row in taken.rows} == {
        'forward of G',
        'loss terms',
        'backward of losses, VGG, D',
        'backward of G',
        "optimiser's step of G",
        'EMA',
        'the rest',
        'total',
    }


def test_cost_of_small_images_that_lose_detail(load, photographs, elsewhere):
    """A lower quality has fewer bytes, and less is restored; exact ones are restored as `irnsigma evaluate` does."""
    if not has_alexnet():
        pytest.skip('needs the weights of AlexNet')
    torch.save({'params': randomise(InvRescaleNet(4, [1, 1], 4), std=0.02).state_dict()}, 'net.pth')
    images = sorted(photographs.iterdir())
    exact, *lossy = load('benchmarks.lossy').benchmark_lossy(CPU, 'net.pth', images)
    assert [(row['format'], row['quality']) for row in (exact, *lossy[:3])] == [
        ('png', None),
        ('jpg', 95),
        ('jpg', 90),
        ('jpg', 75),
    ]
    assert lossy[0]['kilobytes'] > lossy[1]['kilobytes'] > lossy[2]['kilobytes']
    assert exact['psnr_y_0'] > lossy[2]['psnr_y_0']
    for row in load('benchmarks.quality').benchmark_quality(CPU, 'net.pth', images, ['fp32']):
        for name in ('psnr_y', 'lpips'):
            assert exact[f'{name}_{row["sigma"]:g}'] == pytest.approx(row[name], abs=1e-6)
