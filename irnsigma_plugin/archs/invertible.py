"""What every building block of an invertible network promises."""

from __future__ import annotations

from torch import Tensor, nn


class InvertibleModule(nn.Module):
    """A bijection between tensors: `module.inverse(module(x)) == x`, up to rounding.

    Both directions map one (N, C, H, W) tensor to another with the same number of elements. Nothing is
    kept on the module from one call to the next.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The direction of downscaling."""
        raise NotImplementedError

    def inverse(self, y: Tensor) -> Tensor:
        """The direction of upscaling."""
        raise NotImplementedError
