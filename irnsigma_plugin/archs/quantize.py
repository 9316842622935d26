"""8-bit rounding that lets gradients through."""

from __future__ import annotations

import torch
from torch import Tensor


class _StraightThroughQuantize(torch.autograd.Function):

    @staticmethod
    def forward(ctx, image: Tensor) -> Tensor:
        return (image.clamp(0, 1) * 255).round() / 255

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


def quantize(image: Tensor) -> Tensor:
    """Round an image to what an 8-bit file holds: clamp to [0, 1], round to multiples of 1/255.

    The gradient passes unchanged, where the image was clamped, too (straight-through estimator).

    Args:
        image: Tensor of any shape, nominally in [0, 1].

    Returns:
        Tensor of the same shape, with values k/255, k = 0..255, in float32 at least: shorter types cannot hold them.
    """
    return _StraightThroughQuantize.apply(image.to(torch.promote_types(image.dtype, torch.float32)))
