"""Every option file loads and runs: the real files, on small data and with fewer, thinner layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from basicsr.test import test_pipeline as run_test_pipeline
from basicsr.train import train_pipeline
from basicsr.utils.options import ordered_yaml
from helpers.experiment import has_alexnet, write_photographs, write_yaml

from irnsigma_plugin.options.train_val import expand_metrics

OPTION_FILES = sorted((Path(__file__).resolve().parents[1] / 'options').glob('*.yml'))
SMALL = {
    'block_num': lambda value: [1] * len(value),
    'growth_channels': lambda _: 4,
    'num_feat': lambda _: 4,
    'num_block': lambda _: 1,
    'num_group': lambda _: 1,
    'squeeze_factor': lambda _: 2,
}


def _test_of(training: Path) -> Path:
    return training.with_name(training.name.replace('train_', 'test_'))


def load(file: Path) -> dict:
    return yaml.load(file.read_text(encoding='utf-8'), Loader=ordered_yaml()[0])


def shrink(options: dict, folder: Path) -> None:
    """Make an option file run within seconds and without downloads. Nothing else is changed."""
    options['datasets'] = dict(list(options['datasets'].items())[:2])
    for name, dataset in options['datasets'].items():
        side = dataset.get('gt_size', 48)
        photographs = write_photographs(folder / name, count=2, height=side, width=side + 4)
        dataset.update(type='HRImageDataset', dataroot_gt=str(photographs), io_backend={'type': 'disk'})
        dataset.pop('dataroot_lq', None)
        if name == 'train':
            dataset.update(batch_size_per_gpu=2, num_worker_per_gpu=0)
    for name in ('network_g', 'network_d'):
        network = options.get(name, {})
        network.update((key, small(network[key])) for key, small in SMALL.items() if key in network)
    options['path']['pretrain_network_g'] = None
    options['val']['pbar'] = False
    if not has_alexnet():
        expand_metrics(options)
        del options['val']['metrics']['lpips']
    if 'train' in options:
        options['train']['total_iter'] = 2
        if 'perceptual_opt' in options['train']:
            options['train']['perceptual_opt']['weights'] = 'random'
        if options['train'].get('net_d_init_iters'):
            options['train']['net_d_init_iters'] = 1


@pytest.mark.parametrize('file', OPTION_FILES, ids=lambda file: file.stem)
def test_option_file_runs(file, tmp_path, monkeypatch):
    options = load(file)
    shrink(options, tmp_path / 'photographs')
    monkeypatch.chdir(tmp_path)
    plain = yaml.safe_load(yaml.dump(options, Dumper=ordered_yaml()[1]))
    monkeypatch.setattr('sys.argv', ['basicsr', '-opt', str(write_yaml(plain, tmp_path / file.name))])
    if file.stem.startswith('train'):
        train_pipeline(str(tmp_path))
        assert (tmp_path / 'experiments' / options['name'] / 'models/net_g_latest.pth').exists()
    else:
        run_test_pipeline(str(tmp_path))
        assert any((tmp_path / 'results' / options['name'] / 'visualization').rglob('*.png'))


@pytest.mark.parametrize('file', OPTION_FILES, ids=lambda file: file.stem)
def test_option_file_says_how_to_run_it_and_is_named_after_it(file):
    command = 'train' if file.stem.startswith('train') else 'test'
    assert f'python -m basicsr.{command} -opt options/{file.name}' in file.read_text(encoding='utf-8')
    assert load(file)['name'] == file.stem.replace('train_', '')


@pytest.mark.parametrize(
    'train',
    [file for file in OPTION_FILES if file.stem.startswith('train') and _test_of(file).exists()],
    ids=lambda file: file.stem,
)
def test_what_a_training_leaves_fits_the_test_of_its_name(train):
    assert load(_test_of(train))['network_g'] == load(train)['network_g']


def test_training_values_of_the_papers():
    """The table of published settings, against the option files."""
    shared = {'weight_decay': 1e-5, 'grad_clip': 10, 'batch': 16, 'patch': 144, 'guidance': 16}
    expected = {
        'train_IRN_x4': {'total_iter': 500000, 'lr': 2e-4, 'reconstruction': 1, 'weighting': 'equal'},
        'train_IRN+_x4': {'total_iter': 400000, 'lr': 1e-4, 'reconstruction': 0.01, 'weighting': 'equal'},
        'train_IRNsigma_x4': {'total_iter': 400000, 'lr': 1e-4, 'reconstruction': 0.01, 'weighting': 'sigma'},
    }
    for file in OPTION_FILES:
        if file.stem in expected:
            options = load(file)
            train, data = options['train'], options['datasets']['train']
            mixture = train['mixture_opt']
            assert {
                'weight_decay': train['optim_g']['weight_decay'],
                'grad_clip': train['grad_clip'],
                'batch': data['batch_size_per_gpu'],
                'patch': data['gt_size'],
                'guidance': mixture['lambda_guidance'],
                'total_iter': train['total_iter'],
                'lr': train['optim_g']['lr'],
                'reconstruction': mixture['lambda_reconstruction'],
                'weighting': mixture['weighting'],
            } == {**shared, **expected.pop(file.stem)}
    assert not expected
