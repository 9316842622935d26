"""ONNX models, run by onnxruntime and compared with the original implementation."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.invertibility import randomise

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.archs.rescaling_net import RescalingNet, quantize
from irnsigma_plugin.checkpoints.weights import build_network, model_hash, read_checkpoint
from irnsigma_plugin.cli import main
from irnsigma_plugin.formats import onnx as onnx_export
from irnsigma_plugin.formats.onnx import restore_alone

PARITY = Path(__file__).parent / 'data/parity'


def installed() -> None:
    for package in onnx_export.PACKAGES:
        pytest.importorskip(package)


def run(path, **inputs) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return session.run(None, inputs)[0]


@pytest.fixture(scope='module', params=[2, 3], ids=['x2', 'x3'])
def exported(request, tmp_path_factory):
    """Scale, and the folder with the two models of a checkpoint of the original implementation."""
    installed()
    folder = tmp_path_factory.mktemp('onnx') / 'made'
    assert main(['export', str(PARITY / f'irn_x{request.param}_gc8.pth'), str(folder)]) == 0
    return request.param, folder


def test_models_compute_what_the_original_implementation_does(exported):
    scale, folder = exported
    expected = np.load(PARITY / f'irn_x{scale}_gc8.npz')
    lr = expected['lr_uint8'].astype(np.float32) / 255
    close = {'rtol': 1e-4, 'atol': 1e-4}
    np.testing.assert_allclose(run(folder / 'downscale.onnx', hr=expected['hr']), expected['lr_float'], **close)
    np.testing.assert_allclose(
        run(folder / 'upscale.onnx', lr=lr, latent=expected['z_sample']), expected['hr_from_z_sample'], **close
    )
    np.testing.assert_allclose(
        run(folder / 'upscale.onnx', lr=lr, latent=0 * expected['z_sample']), expected['hr_from_zero_z'], **close
    )


@pytest.mark.parametrize('size', [(1, 1, 1), (1, 2, 1), (2, 13, 8), (1, 24, 31)], ids=str)
def test_images_of_any_size(exported, size):
    scale, folder = exported
    net = build_network(read_checkpoint(PARITY / f'irn_x{scale}_gc8.pth'))
    n, height, width = size
    hr = torch.rand(n, 3, height, width)
    with torch.no_grad():
        lr, latent = net.downscale(hr)
    torch.testing.assert_close(torch.from_numpy(run(folder / 'downscale.onnx', hr=hr.numpy())), lr, rtol=0, atol=1e-5)
    restored = torch.from_numpy(run(folder / 'upscale.onnx', lr=lr.numpy(), latent=latent.numpy()))
    torch.testing.assert_close(restored[..., :height, :width], hr, rtol=0, atol=1e-4)


def test_the_files_say_what_they_are(exported):
    import onnx

    scale, folder = exported
    assert {path.name for path in folder.iterdir()} == {'downscale.onnx', 'upscale.onnx'}
    weights = torch.load(PARITY / f'irn_x{scale}_gc8.pth')
    for path in folder.iterdir():
        model = onnx.load(path)
        assert {entry.key: entry.value for entry in model.metadata_props} == {
            'scale': str(scale),
            'model_hash': model_hash(weights),
        }
        assert {entry.version for entry in model.opset_import if entry.domain == ''} == {18}


def test_one_input_at_a_fixed_sigma(tmp_path):
    """For programs that give an image and take one: what the spandrel model computes, too."""
    import onnx

    installed()
    path = PARITY / 'irn_x3_gc8.pth'
    assert main(['export', str(path), str(tmp_path), '--sigma', '0.5']) == 0
    assert {path.name for path in tmp_path.iterdir()} == {'downscale.onnx', 'upscale_sigma0.5.onnx'}
    model = onnx.load(tmp_path / 'upscale_sigma0.5.onnx')
    assert {entry.key: entry.value for entry in model.metadata_props}['sigma'] == '0.5'
    assert [each.name for each in model.graph.input] == ['lr']
    net = build_network(read_checkpoint(path))
    for size in ((2, 3, 5, 4), (1, 3, 1, 1), (1, 3, 33, 70)):
        lr = torch.randint(0, 256, size) / 255
        with torch.no_grad():
            expected = restore_alone(net, lr, 0.5).clamp(0, 1)
        assert (expected - net.upscale(lr, torch.zeros(net.latent_shape(lr.shape)))).abs().max() > 0.01
        restored = torch.from_numpy(run(tmp_path / 'upscale_sigma0.5.onnx', lr=lr.numpy()))
        torch.testing.assert_close(restored, expected, rtol=0, atol=1e-4)


def test_one_input_at_sigma_0_is_the_faithful_image(tmp_path):
    installed()
    expected = np.load(PARITY / 'irn_x2_gc8.npz')
    net = build_network(read_checkpoint(PARITY / 'irn_x2_gc8.pth'))
    (path,) = onnx_export.export_onnx(net, tmp_path, ['up'], sigma=0)
    restored = run(path, lr=expected['lr_uint8'].astype(np.float32) / 255)
    np.testing.assert_allclose(restored, expected['hr_from_zero_z'].clip(0, 1), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match='sigma must be a number from 0'):
        onnx_export.export_onnx(net, tmp_path, sigma=1.5)


@pytest.mark.parametrize('subnet', ['dense', 'residual'])
def test_a_network_that_is_told_sigma(tmp_path, subnet):
    installed()
    net = randomise(InvRescaleNet(2, [1], 3, sigma_input=True, subnet=subnet)).eval()
    onnx_export.export_onnx(net, tmp_path, ['up'])
    lr, epsilon, sigma = torch.rand(2, 3, 5, 4), torch.randn(2, 9, 5, 4), torch.tensor([0.2, 1]).view(2, 1, 1, 1)
    sigma = sigma.expand(2, 1, 5, 4)
    result = run(tmp_path / 'upscale.onnx', lr=lr.numpy(), epsilon=epsilon.numpy(), sigma=sigma.numpy())
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(result), net.restore(lr, epsilon, sigma), rtol=1e-4, atol=1e-4)
        onnx_export.export_onnx(net, tmp_path, ['up'], sigma=0.2)
        result = run(tmp_path / 'upscale_sigma0.2.onnx', lr=quantize(lr).numpy())
        expected = restore_alone(net, quantize(lr), 0.2).clamp(0, 1)
        torch.testing.assert_close(torch.from_numpy(result), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def net():
    return InvRescaleNet(scale=2, block_num=[1], growth_channels=1)


def test_one_direction_another_opset(net, tmp_path, caplog):
    installed()
    errors = onnx_export.export_onnx(net, tmp_path, ['up'], opset=20)
    assert list(errors) == [str(tmp_path / 'upscale.onnx')]
    assert errors[str(tmp_path / 'upscale.onnx')] <= onnx_export.TOLERANCE
    assert [path.name for path in tmp_path.iterdir()] == ['upscale.onnx']
    assert not [record for record in caplog.records if record.name.startswith('onnx')]


def test_a_folder_that_takes_no_files_is_said_before_the_work(tmp_path, capsys):
    (tmp_path / 'file').touch()
    assert main(['export', str(tmp_path / 'none.pth'), str(tmp_path / 'file')]) == 1
    assert f'{tmp_path}/file: cannot be written (Not a directory); check' in capsys.readouterr().err


def test_a_model_that_deviates_is_not_written(exported, tmp_path, monkeypatch):
    scale, folder = exported
    net = build_network(read_checkpoint(PARITY / f'irn_x{scale}_gc8.pth'))
    with torch.no_grad():
        net.operations[-1].F.conv5.bias.add_(0.01)
    monkeypatch.setattr(onnx_export, '_export', lambda half, opset: (folder / half.file_name).read_bytes())
    with pytest.raises(onnx_export.OnnxError, match=r'downscale\.onnx deviates from torch by 0\.0\d+, .*nothing was'):
        onnx_export.export_onnx(net, tmp_path / 'made', ['down'])
    assert not (tmp_path / 'made').exists()


def test_without_the_packages(net, tmp_path, monkeypatch):
    for package in onnx_export.PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(onnx_export.OnnxError, match='pip install onnx onnxscript onnxruntime'):
        onnx_export.export_onnx(net, tmp_path)


def test_the_cause_of_a_failing_exporter_is_named(net, tmp_path, monkeypatch):
    installed()

    def fail(*args, **kwargs):
        raise RuntimeError('a long story') from ValueError('no such operator')

    monkeypatch.setattr(torch.onnx, 'export', fail)
    with pytest.raises(onnx_export.OnnxError, match=r'cannot export upscale\.onnx: no such operator'):
        onnx_export.export_onnx(net, tmp_path, ['up'])


def test_opset_too_small(net, tmp_path):
    with pytest.raises(ValueError, match='opset must be a whole number, 18 or more'):
        onnx_export.export_onnx(net, tmp_path, opset=11)


def test_help_has_examples_and_the_shapes(capsys):
    assert main(['export', '--help']) == 0
    text = capsys.readouterr().out
    assert 'irnsigma export net_g_latest.pth onnx' in text
    assert 'latent (N, 3*scale*scale - 3, h, w)' in text
    assert 'Files of these names are replaced' in text


def noise_by_its_definition(levels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The formulas of `restore_alone` in Python's whole numbers, for one image."""
    prime = 2**30 - 35

    def scramble(value: int, key: int) -> int:
        for constant in (0x243F6A88, 0x13198A2E, 0x03707344):
            value = pow(value + key + constant, 5, prime)
        return value

    channels, height, width = shape
    key = sum(scramble(place, int(level)) for place, level in enumerate(levels.flatten())) % prime
    noise = np.empty(shape)
    for channel, row, column in np.ndindex(shape):
        a, b = row * width + column, channel
        uniform = []
        for _ in range(2):
            a, b = scramble(a, key), scramble(b, key + 1)
            uniform.append((a + b) ** 2 % prime)
        radius = np.sqrt(-2 * np.log((uniform[0] + 1) / prime))
        noise[channel, row, column] = radius * np.cos(2 * np.pi * uniform[1] / prime)
    return noise


@pytest.fixture
def latent_net():
    """Of scale 2, which restores its latent."""
    net = RescalingNet()
    net.scale = 2
    net.upscale = lambda lr, latent: latent
    return net


def test_noise_of_the_pixels_is_as_defined(latent_net):
    levels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5))
    latent = restore_alone(latent_net, torch.from_numpy(levels / 255).float(), 0.5)
    expected = 0.5 * np.stack([noise_by_its_definition(image, (9, 4, 5)) for image in levels])
    np.testing.assert_allclose(latent.numpy(), expected, rtol=0, atol=1e-5)
    assert not restore_alone(latent_net, torch.rand(1, 3, 4, 5), 0).any()


def test_noise_of_the_pixels_is_normal_and_independent(latent_net):
    """Of a black image, which gives it the least to begin with, and one that differs in a single level."""
    lr = torch.zeros(2, 3, 100, 120)
    lr[1, 2, -1, -1] = 1 / 255
    noise = restore_alone(latent_net, lr, 1).double()
    count = noise[0].numel()
    moments = {1: 0, 2: 1, 3: 0, 4: 3, 6: 15}
    variances = {1: 1, 2: 2, 3: 15, 4: 96, 6: 10170}
    for power, expected in moments.items():
        deviations = ((noise**power).mean((1, 2, 3)) - expected) * (count / variances[power]) ** 0.5
        assert deviations.abs().max() < 4, power
    pairs = [(noise[0], noise[1])]
    for dim, lag in itertools.product((1, 2, 3), (1, 2, 5)):
        size = noise.shape[dim] - lag
        pairs.append((noise.narrow(dim, 0, size), noise.narrow(dim, lag, size)))
    for one, other in pairs:
        for this, that in ((one, other), ((one**2 - 1) / 2**0.5, (other**2 - 1) / 2**0.5)):
            assert abs((this * that).mean()) * this.numel() ** 0.5 < 4
