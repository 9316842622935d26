from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from helpers.invertibility import ROUND_TRIP, assert_same_state, random_image, randomise, state_of
from helpers.oracle import textbook

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.archs.rescaling_net import quantize
from irnsigma_plugin.losses.mixture_loss import charbonnier, latent_energy, squared_error

SCALES = (2, 3, 4, 8)
PARITY = Path(__file__).parent / 'data' / 'parity'


@pytest.fixture(scope='module', params=SCALES, ids='x{}'.format)
def parity(request):
    """The network with the original implementation's weights, and what the original made of an image."""
    scale = request.param
    with np.load(PARITY / f'irn_x{scale}_gc8.npz') as file:
        expected = {name: torch.from_numpy(file[name]) for name in file.files}
    net = InvRescaleNet(scale, expected['block_num'].tolist(), growth_channels=int(expected['gc']))
    net.load_state_dict(torch.load(PARITY / f'irn_x{scale}_gc8.pth', weights_only=True), strict=True)
    return net.requires_grad_(False), expected


def assert_parity(actual, expected):
    """Within 1e-5 of the largest value."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_parity_downscale(parity):
    net, expected = parity
    lr, z = net.downscale(expected['hr'])
    assert_parity(lr, expected['lr_float'])
    assert_parity(z, expected['z'])
    levels = (quantize(lr) * 255 - expected['lr_uint8']).round().abs()
    assert levels.max() <= 1
    assert levels.mean() < 1e-3, 'more than a few values at exact halves are rounded the other way'


def test_parity_upscale(parity):
    net, expected = parity
    lr, z = expected['lr_uint8'].float() / 255, expected['z_sample']
    assert_parity(net.upscale(lr, z), expected['hr_from_z_sample'])
    assert_parity(net.upscale(lr, torch.zeros_like(z)), expected['hr_from_zero_z'])


def test_parity_losses(parity):
    net, expected = parity
    lr, z = net.downscale(expected['hr'])
    hr = net.upscale(expected['lr_uint8'].float() / 255, expected['z_sample'])
    assert_parity(charbonnier(expected['hr'], hr).mean(), expected['loss_reconstruction_l1'])
    assert_parity(squared_error(lr, expected['lr_ref']).mean(), expected['loss_guidance_l2'])
    assert_parity(latent_energy(z).mean(), expected['loss_latent'])


@pytest.mark.parametrize(
    ('scale', 'count', 'level_sizes'), [(2, 1_668_000, [8]), (4, 4_355_376, [8, 8]), (8, 11_120_256, [8, 8, 8])]
)
def test_size_of_the_papers_networks(scale, count, level_sizes):
    net = InvRescaleNet(scale)
    assert sum(parameter.numel() for parameter in net.parameters()) == count
    kinds = [type(operation).__name__ for operation in net.operations]
    assert kinds == [kind for size in level_sizes for kind in ['HaarDownsampling'] + ['CouplingBlock'] * size]


def test_x3_is_one_learnable_level_of_12_blocks():
    kinds = [type(operation).__name__ for operation in InvRescaleNet(3, growth_channels=1).operations]
    assert kinds == ['LearnableDownsampling'] + ['CouplingBlock'] * 12


def test_keys_are_those_of_the_original():
    keys = {
        f'operations.{i}.{subnet}.conv{k}.{kind}'
        for i in (1, 3, 4)
        for subnet in 'FGH'
        for k in range(1, 6)
        for kind in ('weight', 'bias')
    }
    keys |= {'operations.0.haar_weights', 'operations.2.haar_weights'}
    assert set(InvRescaleNet(4, [1, 2], growth_channels=1).state_dict()) == keys
    assert 'operations.0.conv_weights' in InvRescaleNet(3, [1], growth_channels=1).state_dict()


@pytest.mark.parametrize('dtype', ROUND_TRIP)
@pytest.mark.parametrize('scale', SCALES)
def test_round_trip_with_randomised_weights(scale, dtype):
    std = 0.01 if scale == 3 else 0.02  # more would make the learnable matrix ill-conditioned
    net = randomise(InvRescaleNet(scale, growth_channels=8), std=std).to(dtype).requires_grad_(False)
    hr = random_image(2, 3, 48, 24, dtype=dtype)
    lr, z = net.downscale(hr)
    fresh_lr, fresh_z = InvRescaleNet(scale, growth_channels=1).to(dtype).downscale(hr)
    assert (lr - fresh_lr).abs().mean() > 0.05, 'the weights are too small to test anything'
    assert (z - fresh_z).abs().mean() > 0.05, 'the weights are too small to test anything'
    torch.testing.assert_close(net.upscale(lr, z), hr, rtol=0, atol=ROUND_TRIP[dtype])


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (5, 1), (2, 3), (7, 30), (17, 16), (23, 25)])
@pytest.mark.parametrize('scale', SCALES)
def test_any_size(scale, height, width):
    net = randomise(InvRescaleNet(scale, [1] * (scale.bit_length() - 1), growth_channels=4), std=0.02)
    hr = random_image(2, 3, height, width)
    small = (-(-height // scale), -(-width // scale))
    with torch.no_grad():
        lr, z = net.downscale(hr)
        assert lr.shape == (2, 3, *small)
        assert z.shape == net.latent_shape(lr.shape) == (2, 3 * scale**2 - 3, *small)
        torch.testing.assert_close(net.upscale(lr, z)[..., :height, :width], hr, rtol=0, atol=1e-5)
        assert net(hr, 0.5).hr.shape == hr.shape


def test_forward_stores_nothing():
    net = randomise(InvRescaleNet(4, [1, 1], growth_channels=4))
    before = state_of(net)
    net(random_image(1, 3, 9, 10), torch.tensor([0.5])).hr.sum().backward()
    assert_same_state(before, state_of(net))


def test_gradient_reaches_every_trainable_parameter():
    net = randomise(InvRescaleNet(3, [2], growth_channels=4))
    net(random_image(1, 3, 9, 9), 1.0).hr.square().sum().backward()
    assert [name for name, parameter in net.named_parameters() if not parameter.grad.any()] == []


def test_built_by_basicsr():
    net = build_network({'type': 'InvRescaleNet', 'scale': 2, 'block_num': [1], 'growth_channels': 4, 'clamp': 0.5})
    assert isinstance(net, InvRescaleNet)
    assert net.scale == 2
    assert net.operations[1].clamp == 0.5
    assert net.operations[1].F.conv1.out_channels == 4


@pytest.mark.parametrize(
    ('arguments', 'name'),
    [
        ({'scale': 5}, 'scale'),
        ({'scale': '4'}, 'scale'),
        ({'scale': 4, 'block_num': [8]}, 'block_num'),
        ({'scale': 4, 'block_num': [8, 0]}, 'block_num'),
        ({'scale': 2, 'block_num': 8}, 'block_num'),
        ({'scale': 2, 'block_num': ['8']}, 'block_num'),
        ({'scale': 2, 'block_num': [1.5]}, 'block_num'),
        ({'scale': 2, 'block_num': [True]}, 'block_num'),
        ({'scale': True}, 'scale'),
        ({'growth_channels': 0}, 'growth_channels'),
        ({'growth_channels': 8.5}, 'growth_channels'),
        ({'growth_channels': '32'}, 'growth_channels'),
        ({'clamp': 0}, 'clamp'),
        ({'clamp': float('nan')}, 'clamp'),
        ({'clamp': '1'}, 'clamp'),
    ],
)
def test_wrong_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=rf'InvRescaleNet: {name}.*{arguments[name]!r}'.replace('[', r'\[')):
        InvRescaleNet(**arguments)


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match='block_nums'):
        InvRescaleNet(block_nums=[8, 8])


def cycle_gradients(net, hr):
    """Gradients of all parameters for a loss that reads everything a training cycle returns."""
    torch.manual_seed(0)
    result = net(hr, 0.7)
    (
        squared_error(result.lr, torch.zeros_like(result.lr))
        + charbonnier(result.hr, hr)
        + latent_energy(result.latent)
    ).mean().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.requires_grad}
    net.zero_grad()
    return gradients


@pytest.fixture
def small_net():
    net = randomise(InvRescaleNet(4, block_num=[1, 2], growth_channels=4)).double()
    return net, random_image(2, 3, 12, 20, dtype=torch.float64)


def test_gradients_equal_the_textbook(small_net):
    net, hr = small_net
    expected = cycle_gradients(textbook(net), hr)
    for name, gradient in cycle_gradients(net, hr).items():
        error, size = (gradient - expected[name]).norm().item(), expected[name].norm().item()
        assert error <= 1e-9 * size, f'{name}: {error} of {size}'


def test_checkpointed_blocks_keep_less_and_change_nothing(small_net):
    net, hr = small_net
    kept = {}

    def gradients_and_memory(checkpoint_blocks):
        net.checkpoint_blocks = checkpoint_blocks
        sizes = []

        def keep(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            gradients = cycle_gradients(net, hr)
        kept[checkpoint_blocks] = sum(sizes)
        return gradients

    expected = gradients_and_memory(False)
    assert_same_gradients(gradients_and_memory(True), expected)
    assert kept[True] < kept[False]


def assert_same_gradients(actual, expected):
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [((2, [8], 2), 160), ((3, [12], 2), 360), ((4, [8, 8], 2), 480), ((4, [1, 2], 2), 100), ((8, [8, 8, 8], 2), 1120)],
)
def test_receptive_field(arguments, expected):
    assert InvRescaleNet(*arguments).receptive_field() == expected


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        ((4, [1, 1], 32), 200 + 8 * (9 + 128) / 4),
        ((4, [1, 1], 8), 200 + 8 * (9 + 32) / 4),
        ((3, [1], 32), 200 + 8 * (24 + 128) / 9),
    ],
)
def test_bytes_per_pixel(arguments, expected):
    assert InvRescaleNet(*arguments).bytes_per_pixel() == pytest.approx(expected)
