"""Bicubic resizing under the contract of a rescaling network: the baseline of every comparison."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from irnsigma_plugin.archs.rescaling_net import RescalingNet, reflection_pad
from irnsigma_plugin.bicubic import imresize
from irnsigma_plugin.checks import whole_number


class BicubicRescaleNet(RescalingNet):
    """MATLAB-style bicubic down and up. It has no parameters and no latent, so sigma has no effect.

    Args:
        scale: Rescaling factor, a whole number.
    """

    def __init__(self, scale: int = 4) -> None:
        super().__init__()
        self.scale = whole_number('BicubicRescaleNet: scale', scale)

    def downscale(self, hr: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`RescalingNet.downscale`."""
        lr = imresize(reflection_pad(hr, self.scale), 1 / self.scale)
        return lr, lr.new_empty(self.latent_shape(lr.shape))

    def upscale(self, lr: Tensor, latent: Tensor) -> Tensor:
        """See :meth:`RescalingNet.upscale`; the latent is empty."""
        return imresize(lr, self.scale)

    def latent_shape(self, lr_shape: Sequence[int]) -> tuple[int, ...]:
        """(N, 0, h, w): nothing is kept of the lost detail."""
        n, _, height, width = lr_shape
        return (n, 0, height, width)

    def receptive_field(self) -> int:
        """The kernel spans four lr pixels."""
        return 2 * self.scale
