"""The invertible block that the network is a stack of."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor, nn

from irnsigma_plugin.archs.invertible import InvertibleModule


class CouplingBlock(InvertibleModule):
    """Additive coupling on the low band, affine coupling on the details (Xiao et al., ECCV 2020).

    With x1 the first `split` channels and x2 the others::

        y1 = x1 + F(x2)
        y2 = x2 · exp(s) + G(y1),    s = clamp · (2 · sigmoid(H(y1)) - 1)

    F, G and H may be any networks: the inverse needs them in the forward direction only.

    Args:
        channels: Number of channels.
        subnet: `subnet(in_channels, out_channels)` builds F, G and H.
        split: Channels of x1; 3, the low-resolution image's, in IRN.
        clamp: Bound of the log-scale |s|, > 0.

    Shape:
        (N, channels, H, W) in both directions.
    """

    def __init__(self, channels: int, subnet: Callable[[int, int], nn.Module], split: int = 3,
                 clamp: float = 1.0) -> None:
        super().__init__()
        self.split_sizes = (split, channels - split)
        self.clamp = clamp
        self.F = subnet(channels - split, split)
        self.G = subnet(split, channels - split)
        self.H = subnet(split, channels - split)

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = self._split(x)
        y1 = x1 + self.F(x2)
        y2 = x2 * self._log_scale(y1).exp() + self.G(y1)
        return torch.cat((y1, y2), 1)

    def inverse(self, y: Tensor) -> Tensor:
        y1, y2 = self._split(y)
        x2 = (y2 - self.G(y1)) * (-self._log_scale(y1)).exp()
        x1 = y1 - self.F(x2)
        return torch.cat((x1, x2), 1)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # The layout of the sub-networks, see DenseBlock.
        x1, x2 = x.split(self.split_sizes, dim=1)
        return (x1.contiguous(memory_format=torch.channels_last), x2.contiguous(memory_format=torch.channels_last))

    def _log_scale(self, y1: Tensor) -> Tensor:
        # In the image's precision: under autocast H comes in a lower one, which exp would magnify.
        return self.clamp * (2 * torch.sigmoid(self.H(y1).to(y1.dtype)) - 1)
