import math
from functools import partial

import pytest
import torch
from helpers.invertibility import check_inverse, random_image, randomise
from torch import nn

from irnsigma_plugin.archs.dense_block import DenseBlock
from irnsigma_plugin.archs.irn_arch import CouplingBlock


class Affine(nn.Module):
    """`factor · mean of the channels + shift`, so that the coupling can be computed by hand."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.out_channels = out_channels
        self.factor, self.shift = 0.0, 0.0

    def forward(self, x):
        return (self.factor * x.mean(1, keepdim=True) + self.shift).expand(-1, self.out_channels, -1, -1)


def test_values_by_hand():
    block = CouplingBlock(3, Affine, split=1, clamp=0.8)
    block.F.factor, block.F.shift = 2.0, 1.0
    block.G.factor, block.G.shift = -1.0, 0.5
    block.H.factor = math.log(3) / 10
    x = torch.tensor([1.0, 3.0, 5.0]).view(1, 3, 1, 1)
    # y1 = 1 + (2 · (3 + 5)/2 + 1) = 10; H(y1) = ln 3, sigmoid 3/4, s = 0.8 · (2 · 3/4 - 1) = 0.4;
    # G(y1) = -9.5; y2 = (3, 5) · exp(0.4) - 9.5.
    y = torch.tensor([10.0, -5.0245259070762, -2.0408765117936]).view(1, 3, 1, 1)
    torch.testing.assert_close(block(x), y)
    torch.testing.assert_close(block.inverse(y), x)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize(('channels', 'split', 'clamp'), [(12, 3, 1.0), (48, 3, 1.0), (5, 2, 3.0)])
def test_inverse(channels, split, clamp, dtype):
    block = randomise(CouplingBlock(channels, partial(DenseBlock, growth_channels=8), split, clamp)).to(dtype)
    x = random_image(2, channels, 5, 7, dtype=dtype)
    assert (block(x) - x).abs().mean() > 0.1
    check_inverse(block, x, x.shape)


@pytest.mark.parametrize('clamp', [0.5, 2.0])
def test_clamp_bounds_the_scale(clamp):
    block = CouplingBlock(4, Affine, split=1, clamp=clamp)
    x = torch.ones(1, 4, 1, 1)
    for shift, expected in ((100.0, math.exp(clamp)), (-100.0, math.exp(-clamp))):
        block.H.shift = shift
        torch.testing.assert_close(block(x)[:, 1:], torch.full((1, 3, 1, 1), expected))


def test_gradients_of_both_directions():
    block = randomise(CouplingBlock(4, partial(DenseBlock, growth_channels=2), split=3), std=0.2).double()
    x = random_image(1, 4, 2, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(block, x)
    assert torch.autograd.gradcheck(block.inverse, x)
