import pytest
import torch
from benchmarks.textbook import TextbookDenseBlock
from helpers.invertibility import random_image, randomise
from torch.nn import functional as F

from irnsigma_plugin.archs.dense_block import DenseBlock


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


def test_gradients_and_input_is_left_alone():
    block = randomise(DenseBlock(2, 1, growth_channels=2), std=0.2).double()
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


def test_autocast_is_for_the_convolutions():
    block = randomise(DenseBlock(3, 4, growth_channels=8), std=0.05)
    x = random_image(1, 3, 8, 8).requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        y = block(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), block(x), rtol=0.05, atol=0.01)
    y.float().sum().backward()
    assert x.grad.dtype == block.conv1.weight.grad.dtype == torch.float32
