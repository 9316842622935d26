"""Networks told from their checkpoints."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from safetensors.torch import save_file

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.checkpoints import weights
from irnsigma_plugin.checkpoints.weights import (
    Checkpoint,
    CheckpointError,
    build_network,
    check_fits,
    discover_network,
    read_checkpoint,
)
from irnsigma_plugin.rescaling.rescaler import Rescaler
from irnsigma_plugin.training.discriminator import IRNDiscriminator

PARITY = Path(__file__).parent / 'data/parity'


def tiny(**settings) -> InvRescaleNet:
    return InvRescaleNet(**{'scale': 4, 'block_num': [1, 2], 'growth_channels': 3, **settings})


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
def test_checkpoints_of_the_original_implementation(scale):
    """What it computed from its checkpoint is computed by what is built from the checkpoint alone."""
    checkpoint = read_checkpoint(PARITY / f'irn_x{scale}_gc8.pth')
    expected = np.load(PARITY / f'irn_x{scale}_gc8.npz')
    assert discover_network(checkpoint) == {
        'scale': scale,
        'block_num': expected['block_num'].tolist(),
        'growth_channels': 8,
    }
    random_state = torch.get_rng_state()
    net = build_network(checkpoint)
    assert torch.equal(torch.get_rng_state(), random_state), 'it drew weights that the file has'
    assert not net.training
    wide = [each for each in net.parameters() if each.dim() == 4 and each.shape[1] > 1]
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in wide)
    with torch.no_grad():
        lr, _ = net.downscale(torch.from_numpy(expected['hr']))
    torch.testing.assert_close(lr, torch.from_numpy(expected['lr_float']), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'settings',
    [
        {'scale': 2, 'block_num': [1], 'growth_channels': 1},
        {'scale': 3, 'block_num': [3], 'growth_channels': 5},
        {'scale': 4, 'block_num': [1, 11], 'growth_channels': 2},
        {'scale': 4, 'block_num': [8, 8], 'growth_channels': 32},
        {'scale': 8, 'block_num': [2, 1, 3], 'growth_channels': 4},
        {'scale': 3, 'block_num': [2], 'growth_channels': 5, 'subnet': 'residual'},
        {'scale': 4, 'block_num': [1, 11], 'growth_channels': 2, 'sigma_input': True, 'subnet': 'residual'},
    ],
    ids=str,
)
def test_any_depth_and_growth(settings):
    assert discover_network(Checkpoint(InvRescaleNet(**settings).state_dict())) == settings


@pytest.mark.parametrize(
    ('saved', 'argument', 'expected'),
    [({}, {}, 1.0), ({}, {'clamp': 2.0}, 2.0), ({'clamp': 0.5}, {}, 0.5), ({'clamp': 0.5}, {'clamp': 2.0}, 0.5)],
)
def test_clamp_is_the_saved_one_else_the_arguments_else_1(saved, argument, expected):
    net = tiny()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    wanted = tiny(clamp=expected)
    wanted.load_state_dict(net.state_dict())
    hr = torch.rand(1, 3, 8, 8)
    built = build_network(Checkpoint(net.state_dict(), network=saved), **argument)
    torch.testing.assert_close(built.downscale(hr), wanted.downscale(hr), rtol=0, atol=0)


@pytest.mark.parametrize('clamp', [2, 0.7, math.log(2), 1e-7, 1e20])
@pytest.mark.parametrize('cast', [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
def test_the_clamp_among_the_weights_is_exact_whatever_they_are_cast_to(clamp, cast):
    state_dict = tiny(clamp=clamp).state_dict()
    state_dict['log_scale_clamp'] = state_dict['log_scale_clamp'].to(cast)
    assert build_network(Checkpoint(state_dict), 3.0).operations[1].clamp == clamp
    # The block is what an option file said; the weights are what the network was.
    assert build_network(Checkpoint(state_dict, network={'clamp': 9.0})).operations[1].clamp == clamp


@pytest.mark.parametrize('entry', [b'much', b'-1.0', b'nan', b'', b'\xff'], ids=str)
def test_an_impossible_clamp_among_the_weights(entry):
    state_dict = {**tiny().state_dict(), 'log_scale_clamp': torch.tensor(list(entry), dtype=torch.uint8)}
    with pytest.raises(
        CheckpointError, match=r'some\.pth: log_scale_clamp among its weights must be a number, more than 0'
    ):
        build_network(Checkpoint(state_dict, path='some.pth'))


def test_a_file_tells_its_clamp_without_the_block(tmp_path):
    for path, save in ((tmp_path / 'net.pth', torch.save), (tmp_path / 'net.safetensors', save_file)):
        save({key: value.contiguous() for key, value in tiny(clamp=2.0).state_dict().items()}, path)
        for device in ('cpu', 'meta'):
            assert read_checkpoint(path, device=device).saved_hidden_arguments() == {'clamp': 2.0}
        assert Rescaler.from_checkpoint(path, 'cpu').net.operations[1].clamp == 2.0


def test_a_discriminators_file_is_pointed_out(tmp_path):
    path = tmp_path / 'net_d_5.pth'
    torch.save({'params': IRNDiscriminator(num_feat=2).state_dict()}, path)
    with pytest.raises(CheckpointError, match=r'It is of a discriminator: take net_g_5\.pth\.'):
        Rescaler.from_checkpoint(path, 'cpu')


def test_weights_of_sigma_show_that_there_are_some(tmp_path):
    check_fits(tiny(sigma_input=True, subnet='residual'), tiny(subnet='residual').state_dict(), 'net.pth')
    net = tiny(sigma_input=True)
    torch.save(net.state_dict(), tmp_path / 'net.pth')
    built = Rescaler.from_checkpoint(tmp_path / 'net.pth', 'cpu').net
    torch.testing.assert_close(dict(built.state_dict()), dict(net.state_dict()), rtol=0, atol=0)
    assert built.sigma_input
    some = without(net.state_dict(), 'G.sigma3')
    with pytest.raises(CheckpointError, match=r'G\.sigma3'):
        build_network(Checkpoint(some))
    with pytest.raises(CheckpointError, match=r'keys are unknown \(first: .*sigma1'):
        check_fits(tiny(), net.state_dict(), 'net.pth')
    check_fits(net, tiny().state_dict(), 'net.pth')  # a network that is to learn of sigma


def without(state_dict: dict, part: str) -> dict:
    return {key: value for key, value in state_dict.items() if part not in key}


@pytest.mark.parametrize(
    ('state_dict', 'message'),
    [
        (
            RRDBNet(3, 3, num_feat=4, num_block=1, num_grow_ch=4).state_dict(),
            r'expected .*operations\.0\.haar_weights.*found \d+ keys: conv_first\.weight, ',
        ),
        (IRNDiscriminator(num_feat=2).state_dict(), r'expected .*operations\.0\.haar_weights.*found \d+ keys: '),
        (without(tiny().state_dict(), 'haar'), r'expected .*operations\.0\.haar_weights.*found '),
        (
            {'operations.0.haar_weights': torch.zeros(12, 1, 2, 2), 'operations.1.conv_weights': torch.eye(9)},
            'expected ',
        ),
        (without(tiny().state_dict(), '.F.'), r'growth_channels 0, but .* \(first: operations\.1\.F\.conv1\.weight\)'),
        (
            without(tiny().state_dict(), 'operations.4.G.conv3'),
            r'block_num \[1, 2\], growth_channels 3, but 2 keys are missing \(first: operations\.4\.G\.conv3\.weight',
        ),
        (
            without(tiny(block_num=[3, 1]).state_dict(), 'operations.2.'),
            r'30 keys are missing \(first: operations\.2\.F\.',
        ),
        (without(tiny().state_dict(), 'operations.1.'), 'growth_channels 0'),
        (
            {'operations.0.haar_weights': torch.zeros(12, 1, 2, 2)},
            r'block_num \[0\].*every level needs a coupling block',
        ),
        ({**tiny().state_dict(), 'operations.5.K.conv1.bias': torch.zeros(3)}, r'unknown \(first: operations\.5\.K\.'),
        (
            {**tiny().state_dict(), 'operations.4.H.conv1.bias': torch.zeros(4)},
            r'operations\.4\.H\.conv1\.bias has shape \(4,\) instead of \(3,\)',
        ),
        ({**tiny().state_dict(), 'operations.999999999.F': torch.zeros(3)}, 'not of InvRescaleNet'),
        (
            without(tiny(subnet='residual').state_dict(), 'operations.4.GH.conv3'),
            r'subnet residual, but 2 keys are missing \(first: operations\.4\.GH\.conv3\.weight',
        ),
    ],
    ids=[
        'ESRGAN',
        'discriminator',
        'no Haar',
        'x6',
        'no F',
        'missing layer',
        'missing block',
        'no first block',
        'no block',
        'unknown layer',
        'inconsistent growth',
        'absurd number',
        'missing residual layer',
    ],
)
def test_other_weights_are_refused(state_dict, message):
    with pytest.raises(CheckpointError, match=message) as info:
        build_network(Checkpoint(state_dict, path='some.pth'))
    assert str(info.value).startswith('some.pth is not of InvRescaleNet, or incomplete')


def test_networks_of_others_are_refused_by_name():
    checkpoint = Checkpoint({'mix.conv_weights': torch.eye(16)}, 'params', {'type': 'LinearRescaleNet'}, 'linear.pth')
    with pytest.raises(
        CheckpointError, match=r'linear\.pth is of the network LinearRescaleNet, which nobody has registered: install'
    ):
        build_network(checkpoint)


def test_an_argument_that_weights_do_not_show_is_taken_from_the_saved_block(monkeypatch):
    """Whatever arguments the network gets, its signature alone says so."""

    class InvRescaleNetOfTomorrow(InvRescaleNet):
        def __init__(self, scale=4, block_num=None, growth_channels=32, clamp=1.0, heads=1):
            super().__init__(scale, block_num, growth_channels, clamp)
            self.more = torch.nn.Linear(heads, heads)

    monkeypatch.setattr(weights, 'InvRescaleNet', InvRescaleNetOfTomorrow)
    monkeypatch.setattr(weights, 'HIDDEN_ARGUMENTS', weights.hidden_arguments(InvRescaleNetOfTomorrow))
    assert weights.HIDDEN_ARGUMENTS == {'clamp': 1.0, 'heads': 1}
    saved = {'type': 'InvRescaleNetOfTomorrow', 'heads': 2}
    checkpoint = Checkpoint(InvRescaleNetOfTomorrow(2, [1], 3, heads=2).state_dict(), network=saved)
    assert build_network(checkpoint).more.in_features == 2
    weights.check_arguments(checkpoint, {'heads': 2})
    with pytest.raises(CheckpointError, match=r'trained with heads: 2, .*Set network_g\.heads: 2 in the option file'):
        weights.check_arguments(checkpoint, {})
