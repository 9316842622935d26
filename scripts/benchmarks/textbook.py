"""The network in textbook form, slow and plain: what the benchmark and the tests compare with."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from irnsigma_plugin.archs.dense_block import DenseBlock
from irnsigma_plugin.archs.irn_arch import CouplingBlock, InvertibleModule, InvRescaleNet


class TextbookDenseBlock(nn.Module):
    """Concatenate, convolve: one line of the definition each, with the parameters of a :class:`DenseBlock`."""

    def __init__(self, block: DenseBlock) -> None:
        super().__init__()
        for name, conv in block.named_children():
            self.add_module(name, conv)
        for name, of_sigma in block.named_parameters(recurse=False):
            self.register_parameter(name, of_sigma)

    def forward(self, x: Tensor, *sigma: Tensor) -> Tensor:
        features = [x]
        for k in range(1, 5):
            features.append(F.leaky_relu(self._convolve(k, features, sigma), 0.2, inplace=True))
        return self._convolve(5, features, sigma)

    def _convolve(self, k: int, features: list[Tensor], sigma: tuple[Tensor, ...]) -> Tensor:
        y = getattr(self, f'conv{k}')(torch.cat(features, 1))
        return y + F.conv2d(*sigma, getattr(self, f'sigma{k}'), padding=1) if sigma else y


class TextbookCouplingBlock(InvertibleModule):
    """The equations of coupling as they stand, with the sub-networks of a :class:`CouplingBlock`."""

    def __init__(self, block: CouplingBlock) -> None:
        super().__init__()
        self.split_sizes, self.clamp = block.split_sizes, block.clamp
        self.F, self.G, self.H = (TextbookDenseBlock(subnet) for subnet in (block.F, block.G, block.H))

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = x.split(self.split_sizes, 1)
        y1 = x1 + self.F(x2)
        s = self.clamp * (2 * torch.sigmoid(self.H(y1)) - 1)
        return torch.cat((y1, x2 * torch.exp(s) + self.G(y1)), 1)

    def inverse(self, y: Tensor, *sigma: Tensor) -> Tensor:
        y1, y2 = y.split(self.split_sizes, 1)
        s = self.clamp * (2 * torch.sigmoid(self.H(y1, *sigma)) - 1)
        x2 = (y2 - self.G(y1, *sigma)) / torch.exp(s)
        return torch.cat((y1 - self.F(x2, *sigma), x2), 1)


def textbook(net: InvRescaleNet) -> InvRescaleNet:
    """A copy of a network with the same parameters, but textbook blocks in NCHW."""
    return use_textbook_blocks(copy.deepcopy(net))


def use_textbook_blocks(net: InvRescaleNet) -> InvRescaleNet:
    """Give a network textbook blocks in NCHW around its own parameters."""
    for i, operation in enumerate(net.operations):
        if isinstance(operation, CouplingBlock):
            net.operations[i] = TextbookCouplingBlock(operation)
    return net.to(memory_format=torch.contiguous_format)


def randomise(module: nn.Module, std: float = 0.05, seed: int = 0) -> nn.Module:
    """Add noise to every trainable parameter: a fresh coupling block, the identity, would hide faults."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(std * torch.randn(parameter.shape, generator=generator).to(parameter))
    return module
