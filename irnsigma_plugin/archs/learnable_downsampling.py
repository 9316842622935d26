"""Learnable invertible downsampling by any integer factor."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from irnsigma_plugin.archs.invertible import InvertibleModule


class LearnableDownsampling(InvertibleModule):
    """Move each `scale` x `scale` block into the channels and mix its pixels by a learnable matrix.

    The matrix M has shape (scale², scale²) and is shared by all colours: `y = M · pixels(block)`, undone by
    `M⁻¹`. It starts as the identity with a first row of 1/scale², so that the first band is the block's
    mean. Channels are ordered band first, as in the Haar transform.

    Args:
        scale: Side of a block.

    Shape:
        forward: (N, C, scale·H, scale·W) -> (N, scale²·C, H, W); inverse: the other way round.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        matrix = torch.eye(scale**2)
        matrix[0] = 1 / scale**2
        self.conv_weights = nn.Parameter(matrix)

    def forward(self, x: Tensor) -> Tensor:
        pixels = F.pixel_unshuffle(x, self.scale).unflatten(1, (-1, self.scale**2))
        with torch.autocast(x.device.type, enabled=False):  # what lower precision loses here, no inverse brings back
            return torch.einsum('bp,ncphw->nbchw', self.conv_weights, pixels).flatten(1, 2)

    def inverse(self, y: Tensor) -> Tensor:
        bands = y.unflatten(1, (self.scale**2, -1))
        with torch.autocast(y.device.type, enabled=False):
            pixels = torch.einsum('pb,nbchw->ncphw', self.inverse_matrix(), bands)
        return F.pixel_shuffle(pixels.flatten(1, 2), self.scale)

    def inverse_matrix(self) -> Tensor:
        """M⁻¹, (scale², scale²)."""
        return torch.linalg.inv_ex(self.conv_weights)[0]  # inv would wait for the GPU, to check the result
