"""The contract between a rescaling network and everything that trains or uses one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class RescaleResult(NamedTuple):
    """One training cycle hr -> lr -> hr."""

    lr: Tensor  # (N, 3, h, w), before rounding
    lr_quantized: Tensor  # (N, 3, h, w), rounded to 8 bit: what a file holds
    latent: Tensor  # (N, ...), the detail z that the forward pass split off
    restored: Tensor  # (N, 3, H, W), made of `lr_quantized` and sampled detail


class RescalingNet(nn.Module):
    """A network that downscales images by `scale` and restores them with adjustable detail.

    Trainings and :class:`~irnsigma_plugin.rescaling.rescaler.Rescaler` use nothing but the members below: a subclass
    implements `downscale` and `upscale` (and `latent_shape`, if its latent is shaped in another way).

    Images are RGB, (N, 3, H, W) in [0, 1]; small ones (N, 3, h, w) with h = ceil(H / scale), w = ceil(W / scale).

    Attributes:
        scale: Rescaling factor.
        checkpoint_blocks: Whether the network computes parts of itself a second time in the backward pass instead of
            keeping them; None where it cannot.
        half_precision: Whether it keeps its accuracy under autocast, so that bf16 may be chosen where it is faster.
    """

    scale: int
    checkpoint_blocks: bool | None = None
    half_precision = False

    def downscale(self, hr: Tensor) -> tuple[Tensor, Tensor]:
        """Split an image of any size into a small image and the detail that it lost.

        Returns:
            lr: (N, 3, h, w), not rounded and not clamped.
            latent: z, of shape `latent_shape(lr.shape)`.
        """
        raise NotImplementedError

    def upscale(self, lr: Tensor, latent: Tensor) -> Tensor:
        """The inverse of :meth:`downscale`.

        Returns:
            (N, 3, scale·h, scale·w). Where H or W was no multiple of `scale`, cut it to the original size.
        """
        raise NotImplementedError

    def restore(self, lr: Tensor, epsilon: Tensor, sigma: Tensor | float) -> Tensor:
        """Upscale with sampled detail: `upscale(lr, sigma · epsilon)`, unless the network is told sigma besides.

        Args:
            lr: (N, 3, h, w), rounded.
            epsilon: Sample of N(0, 1) of the shape `latent_shape(lr.shape)`.
            sigma: In [0, 1]: number, (N,) or (N, 1, h, w), see :func:`scale_noise`.
        """
        return self.upscale(lr, scale_noise(epsilon, sigma))

    def latent_shape(self, lr_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the latent of an lr image (N, C, h, w): by default a bijection's, (N, (scale² - 1)·C, h, w)."""
        n, channels, height, width = lr_shape
        return (n, (self.scale**2 - 1) * channels, height, width)

    def receptive_field(self) -> int | None:
        """Radius of the receptive field, in hr pixels; by default None, not known: images are worked on in one piece.

        It is how far around a cell of scale x scale hr pixels the result in that cell depends on the image, in
        downscaling or in upscaling, whichever reaches further.
        """
        return None

    def forward(self, hr: Tensor, sigma: Tensor | float, epsilon: Tensor | None = None) -> RescaleResult:
        """The whole cycle in one call, since DistributedDataParallel sees gradients only through `forward`.

        `lr, z = downscale(hr)`; `hr' = restore(quantize(lr), epsilon, sigma)`, epsilon ~ N(0, 1).

        Args:
            hr: (N, 3, H, W).
            sigma: In [0, 1], see :func:`scale_noise`.
            epsilon: Noise of the latent's shape; drawn from torch's global generator by default.

        Returns:
            The images and the latent; the restored image is cut to (H, W).
        """
        lr, latent = self.downscale(hr)
        lr_quantized = quantize(lr)
        if epsilon is None:
            # Not randn_like, whose values depend on the memory layout.
            epsilon = torch.randn(latent.shape, dtype=latent.dtype, device=latent.device)
        restored = self.restore(lr_quantized, epsilon, sigma)
        return RescaleResult(lr, lr_quantized, latent, restored[..., : hr.shape[-2], : hr.shape[-1]])


def scale_noise(epsilon: Tensor, sigma: Tensor | float) -> Tensor:
    """`z_sigma = sigma · epsilon`, a sample of N(0, sigma²).

    Args:
        epsilon: (N, ...) sample of N(0, 1).
        sigma: Number, (N,) tensor, or tensor that broadcasts against `epsilon` from the left, such as (N, 1, h, w).
    """
    sigma = torch.as_tensor(sigma, dtype=epsilon.dtype, device=epsilon.device)
    return epsilon * sigma.reshape(sigma.shape + (1,) * (epsilon.dim() - sigma.dim()))


def reflection_pad(image: Tensor, multiple: int) -> Tensor:
    """Extend an image (..., H, W) at the bottom and right by reflection until both sides are multiples of `multiple`.

    Unlike `torch.nn.functional.pad` it has no smallest size: the reflection goes back and forth over images
    that are narrower than the padding.
    """
    for dim in (-2, -1):
        size = image.shape[dim]
        full = (size + multiple - 1) // multiple * multiple
        # A compiler or exporter takes it as it is for every size, which may be known only when the graph runs.
        if full != size or torch.compiler.is_compiling() or torch.jit.is_tracing():
            period = torch.full((), 2 * (size - 1), device=image.device).clamp(min=1)
            index = torch.arange(full, device=image.device) % period
            image = image.index_select(dim, torch.minimum(index, period - index))
    return image


class _StraightThroughQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image: Tensor) -> Tensor:
        return (image.clamp(0, 1) * 255).round() / 255

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


def quantize(image: Tensor) -> Tensor:
    """Round an image to what an 8-bit file holds: clamp to [0, 1], round to multiples of 1/255.

    The gradient passes unchanged, where the image was clamped, too (straight-through estimator). The result is in
    float32 at least: shorter types cannot hold the 256 values.
    """
    return _StraightThroughQuantize.apply(image.to(torch.promote_types(image.dtype, torch.float32)))
