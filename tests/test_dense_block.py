import torch
from invertibility import random_image, randomise
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
        xavier = (2 / (9 * inputs + 9 * 32))**0.5
        torch.testing.assert_close(conv.weight.std().item(), 0.1 * xavier, rtol=0.1, atol=0)


def test_gradients_and_input_is_left_alone():
    block = randomise(DenseBlock(2, 1, growth_channels=2), std=0.2).double()
    x = random_image(1, 2, 3, 3, dtype=torch.float64).requires_grad_()
    copy = x.detach().clone()
    assert torch.autograd.gradcheck(block, x)
    assert torch.equal(x, copy)
