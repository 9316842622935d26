"""Haar wavelet transform as an invertible downsampling layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from irnsigma_plugin.archs.invertible import InvertibleModule


class HaarDownsampling(InvertibleModule):
    """Split an image into its 2x2 mean and three detail bands (horizontal, vertical, diagonal).

    For a 2x2 block [[a, b], [c, d]]: `(a+b+c+d)/4, (a-b+c-d)/4, (a+b-c-d)/4, (a-b-c+d)/4`. The channels of
    the result are ordered band first: all means, then all horizontal details, and so on.

    Args:
        channels: Number of channels C of the image.

    Shape:
        forward: (N, C, 2H, 2W) -> (N, 4C, H, W); inverse: the other way round.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        bands = torch.tensor([
            [[1., 1.], [1., 1.]],
            [[1., -1.], [1., -1.]],
            [[1., 1.], [-1., -1.]],
            [[1., -1.], [-1., 1.]],
        ]).unsqueeze(1)
        # A frozen Parameter, no buffer: checkpoints of the original IRN list it among the parameters.
        self.haar_weights = nn.Parameter(bands.repeat(channels, 1, 1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # the transform is exact in the image's precision
            bands = F.conv2d(x, self.haar_weights, stride=2, groups=self.channels) / 4
        return _swap_channel_order(bands, self.channels, 4)

    def inverse(self, y: Tensor) -> Tensor:
        bands = _swap_channel_order(y, 4, self.channels)
        with torch.autocast(y.device.type, enabled=False):
            return F.conv_transpose2d(bands, self.haar_weights, stride=2, groups=self.channels)


def _swap_channel_order(x: Tensor, outer: int, inner: int) -> Tensor:
    """Reorder channels from (outer, inner) to (inner, outer)."""
    return x.unflatten(1, (outer, inner)).transpose(1, 2).flatten(1, 2)
