import copy
import functools

import pytest
import torch
from benchmarks.textbook import TextbookDenseBlock, textbook
from helpers.invertibility import random_image, randomise
from torch import nn
from torch.nn import functional as F

from irnsigma_plugin.archs import dense_block, dense_kernels
from irnsigma_plugin.archs.dense_block import DenseBlock, ResidualBlock, compile_blocks
from irnsigma_plugin.archs.irn_arch import InvRescaleNet


def test_equals_the_layers_written_out():
    block = randomise(DenseBlock(4, 5, growth_channels=6), std=0.2)
    x = random_image(2, 4, 5, 7) - 0.5

    def layer(k, *inputs):
        conv = getattr(block, f'conv{k}')
        return F.conv2d(torch.cat(inputs, 1), conv.weight, conv.bias, padding=1)

    def activate(y):
        return torch.where(y > 0, y, 0.2 * y)

    x1 = activate(layer(1, x))
    x2 = activate(layer(2, x, x1))
    x3 = activate(layer(3, x, x1, x2))
    x4 = activate(layer(4, x, x1, x2, x3))
    torch.testing.assert_close(block(x), layer(5, x, x1, x2, x3, x4))


def test_residual_equals_the_layers_written_out():
    block = randomise(ResidualBlock(4, 5, growth_channels=6), std=0.2)
    x = random_image(2, 4, 5, 7) - 0.5

    def layer(k, x):
        conv = getattr(block, f'conv{k}')
        return F.conv2d(x, conv.weight, conv.bias, padding=1)

    def activate(y):
        return torch.where(y > 0, y, 0.2 * y)

    x1 = activate(layer(1, x))
    x2 = x1 + activate(layer(2, x1))
    x3 = x2 + activate(layer(3, x2))
    torch.testing.assert_close(block(x), layer(4, x3))


def test_initial_residual_weights():
    torch.manual_seed(0)
    block = ResidualBlock(3, 9, growth_channels=32)
    assert torch.equal(block(random_image(1, 3, 4, 4)), torch.zeros(1, 9, 4, 4))
    for conv, gain in ((block.conv1, 1), (block.conv2, 0.1), (block.conv3, 0.1)):
        xavier = (2 / (9 * conv.in_channels + 9 * 32)) ** 0.5
        torch.testing.assert_close(conv.weight.std().item(), gain * xavier, rtol=0.1, atol=0)


def test_initial_weights():
    torch.manual_seed(0)
    block = DenseBlock(3, 9, growth_channels=32)
    assert torch.equal(block(random_image(1, 3, 4, 4)), torch.zeros(1, 9, 4, 4))
    for k in range(1, 5):
        conv = getattr(block, f'conv{k}')
        inputs = 3 + 32 * (k - 1)
        assert conv.weight.shape == (32, inputs, 3, 3)
        assert not conv.bias.any()
        xavier = (2 / (9 * inputs + 9 * 32)) ** 0.5
        torch.testing.assert_close(conv.weight.std().item(), 0.1 * xavier, rtol=0.1, atol=0)


every_kind = pytest.mark.parametrize('kind', [DenseBlock, ResidualBlock])


@every_kind
def test_gradients_and_input_is_left_alone(kind):
    block = randomise(kind(2, 1, growth_channels=2), std=0.2).double()
    x = random_image(1, 2, 3, 3, dtype=torch.float64).requires_grad_()
    copy = x.detach().clone()
    assert torch.autograd.gradcheck(block, x)
    assert torch.equal(x, copy)


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(('in_channels', 'out_channels'), [(9, 3), (3, 9), (45, 3)])
def test_gradients_equal_the_textbook(in_channels, out_channels):
    block = randomise(DenseBlock(in_channels, out_channels, growth_channels=8), std=0.2).double()
    textbook = TextbookDenseBlock(block)
    x = random_image(2, in_channels, 7, 9, dtype=torch.float64) - 0.5
    weight = random_image(2, out_channels, 7, 9, dtype=torch.float64, seed=1) - 0.5

    def gradients(net):
        leaf = x.clone().requires_grad_()
        (net(leaf) * weight).sum().backward()
        taken = [leaf.grad, *(parameter.grad.clone() for parameter in block.parameters())]
        block.zero_grad()
        return taken

    for actual, expected in zip(gradients(block), gradients(textbook)):
        assert relative_error(actual, expected) < 1e-9


def test_an_input_without_gradient():
    block = randomise(DenseBlock(3, 2, growth_channels=2), std=0.2)
    block(random_image(1, 3, 4, 5)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in block.parameters())


@every_kind
def test_autocast_is_for_the_convolutions(kind):
    block = randomise(kind(3, 4, growth_channels=8), std=0.05)
    x = random_image(1, 3, 8, 8).requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        y = block(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), block(x), rtol=0.05, atol=0.01)
    y.float().sum().backward()
    assert x.grad.dtype == block.conv1.weight.grad.dtype == torch.float32


def gradients(net, image):
    """Result, and gradients of the image and of the parameters."""
    leaf = image.clone().requires_grad_()
    y = net(leaf)
    (y * random_image(*y.shape, dtype=y.dtype, seed=1)).sum().backward()
    taken = [leaf.grad, *(parameter.grad.clone() for parameter in net.parameters() if parameter.requires_grad)]
    net.zero_grad()
    return y.detach(), taken


@pytest.mark.parametrize('channels', [(9, 3), (3, 9), (45, 3), (8, 16)])
def test_channels_of_zeros_change_neither_result_nor_gradients(monkeypatch, channels):
    block = randomise(DenseBlock(*channels, growth_channels=8), std=0.2).double()
    image = random_image(2, channels[0], 7, 9, dtype=torch.float64) - 0.5
    expected = gradients(block, image)
    computed = []

    def padded(*tensors):
        padded_tensors = dense_kernels.aligned(*tensors)
        computed.extend(padded_tensors[:6])
        return dense_kernels._in_one_piece(*padded_tensors)[:, : channels[1]]

    monkeypatch.setattr(dense_block, 'dense', padded)
    y, taken = gradients(block, image)
    assert relative_error(y, expected[0]) < 1e-12
    assert all(relative_error(a, b) < 1e-12 for a, b in zip(taken, expected[1]))
    x, first, *_, last = computed
    whole = {3: 8, 9: 16, 45: 48, 8: 8, 16: 16}
    assert (x.shape[1], first.shape[1], last.shape[0]) == (whole[channels[0]], x.shape[1], whole[channels[1]])
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in computed)


@pytest.mark.parametrize(('dtype', 'aligned'), [(torch.bfloat16, True), (torch.float16, True), (torch.float32, False)])
def test_half_precision_is_aligned_on_gpus(monkeypatch, dtype, aligned):
    class OnGPU(torch.Tensor):
        """Says that it is."""

        device = torch.device('cuda')

    shapes = []
    monkeypatch.setattr(
        dense_kernels, '_in_one_piece', lambda x, *_: shapes.append(x.shape[1]) or x.new_zeros(1, 16, 4, 5)
    )
    block = DenseBlock(3, 9, growth_channels=8).to(dtype)
    convolutions = [getattr(block, f'conv{k}') for k in range(1, 6)]
    x = random_image(1, 3, 4, 5).to(dtype)
    for each in (x, x.as_subclass(OnGPU)):
        dense_kernels.dense(each, [conv.weight for conv in convolutions], [conv.bias for conv in convolutions])
    assert shapes == [3, 8 if aligned else 3]


def test_blocks_are_compiled_once_for_each_kind_and_for_gradients_only(monkeypatch):
    """Traced by torch.compile, but run by torch itself."""
    graphs = []
    compiled = functools.partial(torch.compile, backend=lambda graph, inputs: graphs.append(inputs) or graph)
    monkeypatch.setattr(torch, 'compile', compiled)
    net = randomise(InvRescaleNet(4, [2, 2], growth_channels=4, sigma_input=True), std=0.05)
    plain = copy.deepcopy(net)
    compile_blocks(net)
    image, sigma = random_image(2, 3, 16, 24), torch.tensor([0.0, 1.0])
    epsilon = random_image(2, 45, 4, 6, seed=2) - 0.5
    with torch.no_grad():
        torch.testing.assert_close(net(image, sigma, epsilon), plain(image, sigma, epsilon), rtol=0, atol=0)
    assert not graphs
    for _ in range(2):
        y, taken = gradients(WholeCycle(net, sigma, epsilon), image)
    expected_y, expected = gradients(WholeCycle(plain, sigma, epsilon), image)
    assert len(graphs) == 8  # F, or G and H, at two levels, with sigma and without
    net(image, sigma, epsilon)
    assert len(graphs) == 9  # the first one of all gets an image that needs no gradient
    assert relative_error(y, expected_y) < 1e-6
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(taken, expected))
    assert list(net.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize('half', [True, False])
def test_compiled_blocks_may_be_computed_again(monkeypatch, half):
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='aot_eager'))
    net = randomise(InvRescaleNet(4, [1, 1], growth_channels=4), std=0.05)
    net.checkpoint_blocks = True
    plain = copy.deepcopy(net)
    compile_blocks(net)
    image, epsilon = random_image(2, 3, 16, 24), random_image(2, 45, 4, 6, seed=2) - 0.5
    with torch.autocast('cpu', torch.bfloat16, enabled=half):
        _, taken = gradients(WholeCycle(net, 1.0, epsilon), image)
        _, expected = gradients(WholeCycle(plain, 1.0, epsilon), image)
    # Of a bias with three gradients bf16 leaves little, as their sums all but cancel.
    pairs = [(a, b) for a, b in zip(taken, expected) if not half or a.ndim == 4]
    assert all(relative_error(a, b) < (0.1 if half else 1e-5) for a, b in pairs)
    whole = (torch.cat([a.flatten() for a in each]) for each in (taken, expected))
    assert relative_error(*whole) < (0.01 if half else 1e-5)


def test_networks_without_blocks_of_ours_in_half_precision():
    net = textbook(randomise(InvRescaleNet(2, [1], growth_channels=4), std=0.05))
    with torch.autocast('cpu', torch.bfloat16):
        restored = net(random_image(1, 3, 8, 8), 0.0).restored
    restored.float().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)


class WholeCycle(nn.Module):
    def __init__(self, net, sigma, epsilon):
        super().__init__()
        self.net, self.sigma, self.epsilon = net, sigma, epsilon

    def forward(self, hr):
        return self.net(hr, self.sigma, self.epsilon).restored
