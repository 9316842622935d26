import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from benchmarks.textbook import textbook
from helpers.invertibility import ROUND_TRIP, assert_same_state, check_inverse, random_image, randomise, state_of
from torch import nn

from irnsigma_plugin.archs.dense_block import DenseBlock, ResidualBlock
from irnsigma_plugin.archs.irn_arch import (
    LEVELS,
    SUBNETS,
    CouplingBlock,
    HaarDownsampling,
    InvRescaleNet,
    LearnableDownsampling,
)
from irnsigma_plugin.archs.rescaling_net import quantize
from irnsigma_plugin.losses.mixture_loss import charbonnier, latent_energy, squared_error

SCALES = (2, 3, 4, 8)
PARITY = Path(__file__).parent / 'data' / 'parity'
every_subnet = pytest.mark.parametrize('subnet', SUBNETS)


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


def test_keys_and_size_of_residual_sub_networks():
    net = InvRescaleNet(2, [1], subnet='residual')
    names = {
        f'operations.1.{subnet}.conv{k}.{kind}'
        for subnet in ('F', 'GH')
        for k in range(1, 5)
        for kind in ('weight', 'bias')
    }
    assert set(net.state_dict()) == names | {'operations.0.haar_weights'}
    # Of F 9 -> 32 -> 32 -> 32 -> 3, of GH 3 -> 32 -> 32 -> 32 -> 18: 9 weights a pair of channels, and the biases.
    weights = 9 * (9 * 32 + 2 * 32 * 32 + 32 * 3) + 9 * (3 * 32 + 2 * 32 * 32 + 32 * 18)
    assert sum(parameter.numel() for parameter in net.operations[1].parameters()) == weights + 3 * 32 + 3 + 3 * 32 + 18


@pytest.mark.parametrize(('subnet', 'width'), [('dense', 8), ('residual', 16)])
@pytest.mark.parametrize('dtype', ROUND_TRIP)
@pytest.mark.parametrize('scale', SCALES)
def test_round_trip_with_randomised_weights(scale, dtype, subnet, width):
    torch.manual_seed(0)
    std = 0.01 if scale == 3 else 0.02  # more would make the learnable matrix ill-conditioned
    net = randomise(InvRescaleNet(scale, growth_channels=width, subnet=subnet), std=std).to(dtype).requires_grad_(False)
    hr = random_image(2, 3, 48, 24, dtype=dtype)
    lr, z = net.downscale(hr)
    fresh_lr, fresh_z = InvRescaleNet(scale, growth_channels=1).to(dtype).downscale(hr)
    assert (lr - fresh_lr).abs().mean() > 0.05, 'the weights are too small to test anything'
    assert (z - fresh_z).abs().mean() > 0.05, 'the weights are too small to test anything'
    torch.testing.assert_close(net.upscale(lr, z), hr, rtol=0, atol=ROUND_TRIP[dtype])


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (5, 1), (2, 3), (7, 30), (17, 16), (23, 25)])
@pytest.mark.parametrize('scale', SCALES)
@every_subnet
def test_any_size(subnet, scale, height, width):
    net = randomise(InvRescaleNet(scale, [1] * (scale.bit_length() - 1), growth_channels=4, subnet=subnet), std=0.02)
    hr = random_image(2, 3, height, width)
    small = (-(-height // scale), -(-width // scale))
    with torch.no_grad():
        lr, z = net.downscale(hr)
        assert lr.shape == (2, 3, *small)
        assert z.shape == net.latent_shape(lr.shape) == (2, 3 * scale**2 - 3, *small)
        torch.testing.assert_close(net.upscale(lr, z)[..., :height, :width], hr, rtol=0, atol=1e-5)
        assert net(hr, 0.5).restored.shape == hr.shape


@every_subnet
def test_forward_stores_nothing(subnet):
    net = randomise(InvRescaleNet(4, [1, 1], growth_channels=4, subnet=subnet))
    before = state_of(net)
    net(random_image(1, 3, 9, 10), torch.tensor([0.5])).restored.sum().backward()
    assert_same_state(before, state_of(net))


@every_subnet
def test_gradient_reaches_every_trainable_parameter(subnet):
    net = randomise(InvRescaleNet(3, [2], growth_channels=4, subnet=subnet))
    net(random_image(1, 3, 9, 9), 1.0).restored.square().sum().backward()
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
        ({'sigma_input': 1}, 'sigma_input'),
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
        ({'subnet': 'desne'}, 'subnet'),
        ({'subnet': None}, 'subnet'),
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
        + charbonnier(result.restored, hr)
        + latent_energy(result.latent)
    ).mean().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.requires_grad}
    net.zero_grad()
    return gradients


@pytest.fixture
def small_net():
    net = randomise(InvRescaleNet(4, block_num=[1, 2], growth_channels=4)).double()
    return net, random_image(2, 3, 12, 20, dtype=torch.float64)


@pytest.mark.parametrize('sigma_input', [False, True])
def test_gradients_equal_the_textbook(sigma_input):
    arguments = {'block_num': [1, 2], 'growth_channels': 4, 'sigma_input': sigma_input}
    net, hr = randomise(InvRescaleNet(4, **arguments)).double(), random_image(2, 3, 12, 20, dtype=torch.float64)
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
    assert InvRescaleNet(*arguments, subnet='residual').receptive_field() == expected * 4 / 5


@every_subnet
def test_nothing_further_away_than_the_receptive_field_counts(subnet):
    net = randomise(InvRescaleNet(2, [1], 2, subnet=subnet), std=0.3).double()
    reach, hr = net.receptive_field(), random_image(1, 3, 64, 2, dtype=torch.float64)
    changed = hr.clone()
    changed[:, :, 32] += 1  # in one row of cells
    with torch.no_grad():
        (_, z), (_, expected) = net.downscale(changed), net.downscale(hr)
    rows = (z - expected).abs().sum((0, 1, 3)).nonzero()
    assert (rows.min(), rows.max()) == (16 - reach // 2, 16 + reach // 2)


class Affine(nn.Module):
    """`factor · mean of the channels + shift`, so that the coupling can be computed by hand."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.out_channels = out_channels
        self.factor, self.shift = 0.0, 0.0

    def forward(self, x):
        return (self.factor * x.mean(1, keepdim=True) + self.shift).expand(-1, self.out_channels, -1, -1)


class AffineHeads(Affine):
    """Two of them side by side, one in each half of the result."""

    def forward(self, x):
        return torch.cat([head(x) for head in self.heads], 1) if hasattr(self, 'heads') else super().forward(x)


@pytest.mark.parametrize('shared', [False, True])
def test_coupling_by_hand(shared):
    block = CouplingBlock(3, AffineHeads, split=1, clamp=0.8, shared=shared)
    if shared:
        block.GH.heads = nn.ModuleList((Affine(1, 2), Affine(1, 2)))
    g, h = block.GH.heads if shared else (block.G, block.H)
    block.F.factor, block.F.shift = 2.0, 1.0
    g.factor, g.shift = -1.0, 0.5
    h.factor = math.log(3) / 10
    x = torch.tensor([1.0, 3.0, 5.0]).view(1, 3, 1, 1)
    # y1 = 1 + (2 · (3 + 5)/2 + 1) = 10; H(y1) = ln 3, sigmoid 3/4, s = 0.8 · (2 · 3/4 - 1) = 0.4;
    # G(y1) = -9.5; y2 = (3, 5) · exp(0.4) - 9.5.
    y = torch.tensor([10.0, -5.0245259070762, -2.0408765117936]).view(1, 3, 1, 1)
    torch.testing.assert_close(block(x), y)
    torch.testing.assert_close(block.inverse(y), x)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize(('channels', 'split', 'clamp'), [(12, 3, 1.0), (48, 3, 1.0), (5, 2, 3.0)])
@pytest.mark.parametrize(('kind', 'shared'), [(DenseBlock, False), (DenseBlock, True), (ResidualBlock, True)])
def test_inverse_of_coupling(kind, shared, channels, split, clamp, dtype):
    block = CouplingBlock(channels, partial(kind, growth_channels=8), split, clamp, shared)
    block = randomise(block, std=0.05 if kind is DenseBlock else 0.1).to(dtype)
    x = random_image(2, channels, 5, 7, dtype=dtype)
    assert (block(x) - x).abs().mean() > 0.1
    check_inverse(block, x, x.shape)


def test_clamp_in_the_state_dict():
    """None at 1, for the original code loads strictly; else the characters of the number."""
    nets = {clamp: InvRescaleNet(2, [1], 4, clamp) for clamp in (1, 1.0, 2, 0.7)}
    found = {clamp: net.state_dict().pop('log_scale_clamp', None) for clamp, net in nets.items()}
    assert {clamp: entry and bytes(entry.tolist()) for clamp, entry in found.items() if entry is None} == {1: None}
    assert [bytes(found[clamp].tolist()) for clamp in (2, 0.7)] == [b'2.0', b'0.7']
    assert not any('clamp' in name for name, _ in [*nets[2].named_parameters(), *nets[2].named_buffers()])


def test_weights_of_another_clamp_do_not_load_strictly():
    nets = {clamp: InvRescaleNet(2, [1], 4, clamp) for clamp in (1, 2.0, 0.5)}
    wrapped = torch.nn.Sequential(nets[0.5])
    for net, saved in ((nets[1], nets[2.0]), (nets[0.5], nets[2.0]), (wrapped, torch.nn.Sequential(nets[2.0]))):
        with pytest.raises(RuntimeError, match=r'Unexpected .*clamp 2\.0 \(this network has clamp '):
            net.load_state_dict(saved.state_dict())
        net.load_state_dict(saved.state_dict(), strict=False)
    nets[2.0].load_state_dict(InvRescaleNet(2, [1], 4, 2).state_dict())
    nets[2.0].load_state_dict(nets[1].state_dict())  # of a file from before, which does not tell
    assert (nets[1].clamp, nets[2.0].clamp) == (1, 2.0)


def as_convolutions(block, sigma):
    """A dense block by the definition, with sigma as one more channel of x_0."""

    def compute(x):
        x = torch.cat((x, 4 * sigma.expand(len(x), 1, *x.shape[2:])), 1)
        for k in range(1, 6):
            conv, c = getattr(block, f'conv{k}'), block.in_channels
            weight = torch.cat((conv.weight[:, :c], getattr(block, f'sigma{k}'), conv.weight[:, c:]), 1)
            y = torch.nn.functional.conv2d(x, weight, conv.bias, padding=1)
            x = torch.cat((x, torch.nn.functional.leaky_relu(y, 0.2)), 1)
        return y

    return compute


def test_sigma_is_a_channel_of_every_sub_network():
    net = randomise(InvRescaleNet(2, [1], 3, sigma_input=True))
    lr, epsilon = random_image(2, 3, 5, 4), torch.randn(2, 9, 5, 4)
    sigma = torch.tensor([0.25, 1.0])
    haar, coupling = net.operations
    of_f, of_g, of_h = (as_convolutions(getattr(coupling, name), sigma.view(2, 1, 1, 1)) for name in 'FGH')
    details = (sigma.view(2, 1, 1, 1) * epsilon - of_g(lr)) / torch.exp(2 * torch.sigmoid(of_h(lr)) - 1)
    expected = haar.inverse(torch.cat((lr - of_f(details), details), 1))
    torch.testing.assert_close(net.restore(lr, epsilon, sigma), expected)
    with torch.no_grad():
        torch.testing.assert_close(net.restore(lr, epsilon, sigma), expected)
        cells = sigma.view(2, 1, 1, 1).expand(2, 1, 5, 4)
        torch.testing.assert_close(net.restore(lr, epsilon, cells), expected)
        zero = net.restore(lr, epsilon, 0.0)
    torch.testing.assert_close(zero, net.upscale(lr, 0 * epsilon))


@every_subnet
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_sigma_of_a_cell_reaches_its_pixels(scale, subnet):
    """In every level: a number, and a map of that number, are the same."""
    net = randomise(InvRescaleNet(scale, [1] * len(LEVELS[scale]), 3, sigma_input=True, subnet=subnet))
    lr = random_image(1, 3, 4, 3)
    epsilon = torch.randn(net.latent_shape(lr.shape))
    with torch.no_grad():
        number, cells = (net.restore(lr, epsilon, sigma) for sigma in (0.5, torch.full((1, 1, 4, 3), 0.5)))
        other = net.restore(lr, epsilon, 1.0)
    torch.testing.assert_close(number, cells, rtol=0, atol=0)
    assert (number - other).abs().min() > 0


@pytest.mark.parametrize(('subnet', 'names', 'readers'), [('dense', 'F G H', 5), ('residual', 'F GH', 1)])
def test_sigma_input_learns_and_is_saved(subnet, names, readers):
    net = InvRescaleNet(4, [1, 1], 3, sigma_input=True, subnet=subnet)
    plain = InvRescaleNet(4, [1, 1], 3, subnet=subnet)
    names = {f'operations.{i}.{s}.sigma{k}' for i in (1, 3) for s in names.split() for k in range(1, readers + 1)}
    assert net.state_dict().keys() - plain.state_dict().keys() == names
    randomise(net)(random_image(2, 3, 8, 8), torch.tensor([0.0, 1.0])).restored.sum().backward()
    gradients = dict(net.named_parameters())
    assert [name for name in names if not gradients[name].grad.any()] == []


@every_subnet
def test_amplified_sigma(subnet):
    net = randomise(InvRescaleNet(4, [1, 1], 4, sigma_input=True, subnet=subnet), std=0.1)
    hr, lr, epsilon = random_image(1, 3, 16, 16), random_image(1, 3, 4, 4), random_image(1, 45, 4, 4)
    with torch.no_grad():
        small, whole, faithful = net.downscale(hr), net.restore(lr, epsilon / 2, 1.0), net.restore(lr, epsilon, 0.0)
        net.amplify_sigma(2)
        assert (net.restore(lr, epsilon, 1.0) - whole).abs().max() > 0.01
        torch.testing.assert_close(net.restore(lr, epsilon, 0.5), whole)  # of the same z
        torch.testing.assert_close(net.restore(lr, epsilon, 0.0), faithful, rtol=0, atol=0)
        torch.testing.assert_close(net.downscale(hr), small, rtol=0, atol=0)


@pytest.mark.parametrize(('sigma_input', 'gain'), [(True, 0), (True, -1.0), (True, math.inf), (True, '2'), (False, 2)])
def test_sigma_that_cannot_be_amplified(sigma_input, gain):
    with pytest.raises(ValueError, match=r'^amplify_sigma: (gain must be|.* not trained with sigma_input)'):
        InvRescaleNet(2, [1], 3, sigma_input=sigma_input).amplify_sigma(gain)


@every_subnet
def test_a_network_that_was_not_told_sigma_begins_as_it_is(subnet):
    plain = randomise(InvRescaleNet(2, [1], 3, subnet=subnet))
    net = randomise(InvRescaleNet(2, [1], 3, sigma_input=True, subnet=subnet))
    net.load_state_dict(plain.state_dict())
    hr, epsilon, sigma = random_image(1, 3, 6, 8), torch.randn(1, 9, 3, 4), torch.tensor([0.5])
    torch.testing.assert_close(net(hr, sigma, epsilon), plain(hr, sigma, epsilon))


@every_subnet
def test_a_training_casts_each_parameter_once_in_half_precision(subnet, monkeypatch):
    net = randomise(InvRescaleNet(4, [2, 1], 8, sigma_input=True, subnet=subnet), std=0.05)
    kind, calls = SUBNETS[subnet][0], []  # the biases of each call
    compute = kind.compute
    monkeypatch.setattr(kind, 'compute', lambda *given: calls.append(given[3]) or compute(*given))
    hr, epsilon = random_image(1, 3, 16, 16), random_image(1, 45, 4, 4, seed=1)

    def gradient():
        result = net(hr, 0.5, epsilon)
        net.zero_grad()
        (result.restored.float().square().sum() + result.lr.sum()).backward()
        return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

    expected = gradient()
    calls.clear()
    with torch.autocast('cpu', torch.bfloat16):
        actual = gradient()
        assert (actual - expected).norm() < 0.03 * expected.norm()
        biases = {id(bias): bias.dtype for call in calls for bias in call}.values()
        own = [name for name, _ in net.named_parameters() if name.endswith('bias')]
        assert list(biases) == [torch.bfloat16] * len(own)
        assert len(calls) == 2 * sum(isinstance(module, kind) for module in net.modules())
        calls.clear()
        with torch.no_grad():  # nothing is kept for later, when the weights may be others
            net(hr, 0.5, epsilon)
    assert len({id(bias) for call in calls for bias in call}) == sum(map(len, calls))


@pytest.mark.parametrize('clamp', [0.5, 2.0])
def test_clamp_bounds_the_scale(clamp):
    block = CouplingBlock(4, Affine, split=1, clamp=clamp)
    x = torch.ones(1, 4, 1, 1)
    for shift, expected in ((100.0, math.exp(clamp)), (-100.0, math.exp(-clamp))):
        block.H.shift = shift
        torch.testing.assert_close(block(x)[:, 1:], torch.full((1, 3, 1, 1), expected))


@pytest.mark.parametrize(('kind', 'shared'), SUBNETS.values())
def test_gradients_of_coupling_in_both_directions(kind, shared):
    block = randomise(CouplingBlock(4, partial(kind, growth_channels=2), 3, shared=shared), std=0.2).double()
    x = random_image(1, 4, 2, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(block, x)
    assert torch.autograd.gradcheck(block.inverse, x)


BLOCK = torch.tensor([[10.0, 3.0], [5.0, 2.0]]).view(1, 1, 2, 2)
# By hand: (10+3+5+2)/4, (10-3+5-2)/4, (10+3-5-2)/4, (10-3-5+2)/4.
BANDS = torch.tensor([5.0, 2.5, 1.5, 1.0]).view(1, 4, 1, 1)


def test_haar_bands_of_one_block():
    haar = HaarDownsampling(1)
    torch.testing.assert_close(haar(BLOCK), BANDS, rtol=0, atol=0)
    torch.testing.assert_close(haar.inverse(BANDS), BLOCK, rtol=0, atol=0)


def test_haar_channels_are_ordered_band_first_and_blocks_stay_in_place():
    haar = HaarDownsampling(3)
    image = torch.zeros(1, 3, 4, 6)
    image[:, 1, 2:, 4:] = BLOCK  # green, second row and third column of blocks
    expected = torch.zeros(1, 12, 2, 3)
    expected[0, [1, 4, 7, 10], 1, 2] = BANDS.flatten()
    torch.testing.assert_close(haar(image), expected, rtol=0, atol=0)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('channels', [1, 3, 12])
def test_inverse_of_haar(channels, dtype):
    check_inverse(
        HaarDownsampling(channels).to(dtype), random_image(2, channels, 6, 10, dtype=dtype), (2, 4 * channels, 3, 5)
    )


def test_haar_weights_are_a_frozen_parameter_in_the_original_layout():
    ((name, weights),) = HaarDownsampling(3).named_parameters()
    assert name == 'haar_weights'
    assert not weights.requires_grad
    signs = [[[1, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]]
    torch.testing.assert_close(weights.data, torch.tensor(signs * 3, dtype=torch.float32).unsqueeze(1))


def test_gradients_of_haar():
    haar = HaarDownsampling(2).double()
    for call, shape in ((haar, (1, 2, 2, 4)), (haar.inverse, (1, 8, 1, 2))):
        assert torch.autograd.gradcheck(call, random_image(*shape, dtype=torch.float64).requires_grad_())


def test_fresh_learnable_layer_takes_the_mean_and_the_other_pixels():
    layer = LearnableDownsampling(2)
    block = torch.tensor([[10.0, 3.0], [5.0, 2.0]]).view(1, 1, 2, 2)
    bands = torch.tensor([5.0, 3.0, 5.0, 2.0]).view(1, 4, 1, 1)
    torch.testing.assert_close(layer(block), bands)
    torch.testing.assert_close(layer.inverse(bands), block)


def test_every_colour_is_mixed_by_the_same_matrix_and_bands_come_first():
    layer = LearnableDownsampling(2)
    matrix = torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0], [4.0, 0.0, 0.0, 1.0]])
    layer.conv_weights.data.copy_(matrix)
    image = torch.zeros(1, 2, 2, 4)
    image[0, 0, :, 2:] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    image[0, 1, :, :2] = torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    expected = torch.zeros(1, 8, 1, 2)
    expected[0, 0::2, 0, 1] = torch.tensor([5.0, 2.0, -1.0, 8.0])  # matrix · (1, 2, 3, 4)
    expected[0, 1::2, 0, 0] = torch.tensor([17.0, 6.0, -1.0, 28.0])  # matrix · (5, 6, 7, 8)
    torch.testing.assert_close(layer(image), expected)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_inverse_of_the_learnable_layer(scale, dtype):
    layer = randomise(LearnableDownsampling(scale), std=0.01).to(dtype)
    check_inverse(layer, random_image(2, 3, 4 * scale, 2 * scale, dtype=dtype), (2, 3 * scale**2, 4, 2))


def test_the_matrix_is_trainable_in_both_directions():
    layer = randomise(LearnableDownsampling(2)).double()
    image = random_image(1, 1, 2, 4, dtype=torch.float64).requires_grad_()
    bands = random_image(1, 4, 1, 2, dtype=torch.float64, seed=1).requires_grad_()

    def run(call, x, matrix):
        return torch.func.functional_call(Direction(layer, call), {'layer.conv_weights': matrix}, x)

    matrix = layer.conv_weights.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, m: run('forward', x, m), (image, matrix))
    assert torch.autograd.gradcheck(lambda y, m: run('inverse', y, m), (bands, matrix))


class Direction(torch.nn.Module):
    """Calls one direction of a layer, since functional_call knows only `forward`."""

    def __init__(self, layer, call):
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x):
        return getattr(self.layer, self.call)(x)


def test_autocast_does_not_shorten_the_learnable_layer():
    layer = randomise(LearnableDownsampling(2), std=0.01)
    image = random_image(1, 3, 4, 4)
    with torch.autocast('cpu', torch.bfloat16):
        bands = layer(image)
        restored = layer.inverse(bands)
    assert torch.equal(bands, layer(image))
    assert torch.equal(restored, layer.inverse(bands))
