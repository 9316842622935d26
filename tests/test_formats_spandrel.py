"""Checkpoints loaded through spandrel."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import irnsigma_plugin
from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.checkpoints.weights import CheckpointError
from irnsigma_plugin.cli import main

PARITY = Path(__file__).parent / 'data/parity'


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'spandrel', None)
    monkeypatch.delitem(sys.modules, 'irnsigma_plugin.formats.spandrel', raising=False)
    monkeypatch.delattr('irnsigma_plugin.formats.spandrel', raising=False)
    with pytest.raises(ImportError, match='pip install spandrel'):
        irnsigma_plugin.register_spandrel()


CASES = {
    'import spandrel.util': (0, ''),
    'from spandrel import *': (0, ''),
    'import irnsigma_plugin; irnsigma_plugin.register_spandrel(0.75)': (0.75, ''),
    'import irnsigma_plugin.formats.spandrel': (0, ''),
    "os.environ['IRNSIGMA_SIGMA'] = '0.5'; import spandrel": (0.5, ''),
    "os.environ['IRNSIGMA_SIGMA'] = '0.5'; import irnsigma_plugin; irnsigma_plugin.register_spandrel(0.25)": (0.25, ''),
    "os.environ['IRNSIGMA_SIGMA'] = '2'; import spandrel": (None, 'stays out of spandrel: IRNSIGMA_SIGMA in the env'),
    "sys.modules['irnsigma_plugin.archs.irn_arch'] = None; import spandrel": (None, 'stays out of spandrel: import of'),
}


def test_importing_spandrel_registers(run_cli):
    """Whoever imports it first; what stands in the way is a warning, and spandrel works without."""
    pytest.importorskip('spandrel')
    code = f"""
import os, sys, warnings
import safetensors.torch, torchvision  # what takes long to import stays imported in the children
if len(sys.argv) > 1:  # without the hook
    import spandrel
    assert 'IRNsigma' not in spandrel.MAIN_REGISTRY
    import irnsigma_plugin
    assert 'IRNsigma' in spandrel.MAIN_REGISTRY
    sys.exit()
assert 'spandrel' not in sys.modules and 'irnsigma_plugin' in sys.modules
for case, (sigma, warning) in {CASES}.items():
    child = os.fork()
    if child == 0:
        try:
            with warnings.catch_warnings(record=True) as caught:
                exec(case)
            import spandrel
            found = [each.architecture for each in spandrel.MAIN_REGISTRY if each.architecture.id == 'IRNsigma']
            assert [each.sigma for each in found] == ([] if sigma is None else [sigma]), found
            assert spandrel.__loader__ is spandrel.__spec__.loader and 'irnsigma' not in repr(spandrel.__loader__)
            texts = [str(each.message) for each in caught if 'irnsigma' in str(each.message)]
            assert warning in ''.join(texts) and len(texts) == bool(warning), texts
            os._exit(0)
        except BaseException as error:
            print(case, repr(error), flush=True)
            os._exit(1)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit(1)
"""
    run_cli('-c', code, IRNSIGMA_SIGMA='')
    run_cli('-c', code, 'without', IRNSIGMA_AUTOLOAD='0')


@pytest.fixture
def spandrel():
    """spandrel with the plugin's default settings."""
    module = pytest.importorskip('spandrel')
    irnsigma_plugin.register_spandrel()
    yield module
    irnsigma_plugin.register_spandrel()


def load(spandrel, path):
    return spandrel.ModelLoader().load_from_file(str(path))


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
def test_checkpoints_of_the_original_implementation(spandrel, scale):
    expected = np.load(PARITY / f'irn_x{scale}_gc8.npz')
    descriptor = load(spandrel, PARITY / f'irn_x{scale}_gc8.pth')
    assert isinstance(descriptor, spandrel.ImageModelDescriptor)
    assert (descriptor.architecture.id, descriptor.purpose, descriptor.scale) == ('IRNsigma', 'SR', scale)
    assert (descriptor.input_channels, descriptor.output_channels) == (3, 3)
    assert descriptor.size_requirements.none
    lr = torch.from_numpy(expected['lr_uint8'].astype(np.float32) / 255)
    hr = torch.from_numpy(expected['hr_from_zero_z']).clamp(0, 1)
    restored = torch.cat([descriptor(image[None]) for image in lr])
    torch.testing.assert_close(restored, hr, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'wrap',
    [
        lambda weights: {'params': weights},
        lambda weights: {'params_ema': weights, 'network_g': {'scale': 4}},
        lambda weights: {f'module.{key}': value for key, value in weights.items()},
    ],
    ids=['params', 'params_ema', 'wrapped'],
)
def test_every_layout_of_a_file(spandrel, tmp_path, wrap):
    weights = torch.load(PARITY / 'irn_x4_gc8.pth')
    torch.save(wrap(weights), tmp_path / 'net_g.pth')
    loaded = load(spandrel, tmp_path / 'net_g.pth').model.net.state_dict()
    torch.testing.assert_close(dict(loaded), dict(weights))


def test_sigma_is_that_of_the_registration_and_can_be_changed(spandrel):
    path = PARITY / 'irn_x4_gc8.pth'
    faithful = load(spandrel, path)
    assert faithful.tiling == spandrel.ModelTiling.SUPPORTED
    irnsigma_plugin.register_spandrel(sigma=0.5)
    half = load(spandrel, path)
    assert half.tiling == spandrel.ModelTiling.DISCOURAGED
    lr = torch.rand(1, 3, 4, 5)
    torch.testing.assert_close(half(lr), half(lr), rtol=0, atol=0)
    assert (half(lr) - faithful(lr)).abs().max() > 0.01
    half.model.sigma = 0
    torch.testing.assert_close(half(lr), faithful(lr), rtol=0, atol=0)
    assert (half.tiling, half.tags) == (spandrel.ModelTiling.SUPPORTED, ['sigma 0'])
    faithful.model.sigma = 0.25
    assert (faithful.tiling, faithful.tags) == (spandrel.ModelTiling.DISCOURAGED, ['sigma 0.25'])


@pytest.fixture
def epsilon_of(spandrel, monkeypatch):
    """The latents that a model at sigma 1 makes its result of."""
    irnsigma_plugin.register_spandrel(sigma=1)
    model = load(spandrel, PARITY / 'irn_x4_gc8.pth').model
    monkeypatch.setattr(model.net, 'upscale', lambda lr, latent: latent)
    return model


def test_tiles_of_a_picture_do_not_share_their_noise(epsilon_of):
    picture = torch.rand(1, 3, 130, 80, generator=torch.Generator().manual_seed(0))
    one, other = epsilon_of(picture[..., :40]), epsilon_of(picture[..., 40:])
    pairs = torch.stack([one.flatten(), other.flatten()])
    assert abs(torch.corrcoef(pairs)[0, 1]) < 0.01  # of 234,000 values: five deviations
    torch.testing.assert_close(pairs.std(1), torch.ones(2), rtol=0, atol=0.01)


def test_the_noise_is_that_of_the_8_bit_pixels(epsilon_of):
    lr = torch.arange(3 * 4 * 5).reshape(1, 3, 4, 5) / 255
    expected = epsilon_of(lr)
    for same in (lr, lr.to(memory_format=torch.channels_last), lr + 0.001, lr.double()):
        torch.testing.assert_close(epsilon_of(same).float(), expected, rtol=0, atol=0)
    changed = lr.clone()
    changed[0, 0, 0, 0] = 1 / 255
    assert (epsilon_of(changed) != expected).all()


def test_a_batch_is_restored_as_each_image_alone(spandrel):
    irnsigma_plugin.register_spandrel(sigma=1)
    model = load(spandrel, PARITY / 'irn_x4_gc8.pth').model
    lr = torch.rand(2, 3, 4, 5)
    with torch.no_grad():
        torch.testing.assert_close(model(lr), torch.cat([model(lr[:1]), model(lr[1:])]))


@pytest.mark.parametrize('registered', [1.0, 0.5])
def test_clamp_is_that_of_the_weights(spandrel, tmp_path, registered):
    net = InvRescaleNet(4, [2, 1], 8, clamp=2.0)
    net.load_state_dict(torch.load(PARITY / 'irn_x4_gc8.pth'))
    torch.save({'params': net.state_dict(), 'network_g': {'clamp': 2.0}}, tmp_path / 'net_g.pth')
    assert main(['export', str(tmp_path / 'net_g.pth'), str(tmp_path), '--format', 'safetensors']) == 0
    irnsigma_plugin.register_spandrel(clamp=registered)
    lr = torch.rand(1, 3, 4, 5)
    with torch.no_grad():
        expected = net.upscale(lr, torch.zeros(net.latent_shape(lr.shape))).clamp(0, 1)
    for name in ('net_g.pth', 'net_g.safetensors'):
        torch.testing.assert_close(load(spandrel, tmp_path / name)(lr), expected)


def test_clamp_of_weights_that_do_not_tell_it_is_that_of_the_registration(spandrel):
    path = PARITY / 'irn_x4_gc8.pth'
    net = InvRescaleNet(scale=4, block_num=[2, 1], growth_channels=8, clamp=0.5)
    net.load_state_dict(torch.load(path))
    irnsigma_plugin.register_spandrel(clamp=0.5)
    lr = torch.rand(1, 3, 4, 5)
    with torch.no_grad():
        expected = net.upscale(lr, torch.zeros(net.latent_shape(lr.shape))).clamp(0, 1)
    torch.testing.assert_close(load(spandrel, path)(lr), expected)


def test_residual_sub_networks(spandrel, tmp_path):
    net = InvRescaleNet(2, [2], 4, subnet='residual')
    torch.nn.init.normal_(net.operations[2].GH.conv4.weight)
    torch.save(net.state_dict(), tmp_path / 'net_g.pth')
    lr = torch.rand(1, 3, 4, 5)
    with torch.no_grad():
        expected = net.upscale(lr, torch.zeros(net.latent_shape(lr.shape))).clamp(0, 1)
    torch.testing.assert_close(load(spandrel, tmp_path / 'net_g.pth')(lr), expected)


@pytest.mark.parametrize('settings', [{'sigma': 1.5}, {'clamp': 0}], ids=str)
def test_settings_out_of_range_are_refused(spandrel, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        irnsigma_plugin.register_spandrel(**settings)


def test_registered_once_and_only_what_is_ours_is_recognised(spandrel):
    assert [support.architecture.id for support in spandrel.MAIN_REGISTRY].count('IRNsigma') == 1
    detect = spandrel.MAIN_REGISTRY['IRNsigma'].detect
    weights = torch.load(PARITY / 'irn_x4_gc8.pth')
    assert detect(weights)
    assert not detect({key: value for key, value in weights.items() if 'haar' not in key})
    del weights['operations.4.F.conv2.weight']
    with pytest.raises(CheckpointError, match=r'missing \(first: operations\.4\.F\.conv2\.weight'):
        spandrel.ModelLoader().load_from_state_dict(weights)
