"""MATLAB-style bicubic resizing by whole factors.

The values are those of MATLAB's `imresize` with antialiasing and of BasicSR's `matlab_functions.imresize`, which is
several times slower. For a whole factor s every output pixel uses the same weights, so resizing is a convolution with
stride s (down) or its transpose (up) of the image continued symmetrically at its borders. In units of 1 / (16 s^4) the
weights are whole numbers: the 8-bit functions compute with those, without any rounding error before the last step, so
their result depends neither on the order of summation nor on whether the whole image or a part is resized.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from irnsigma_plugin.archs.rescaling_net import RescalingNet, reflection_pad
from irnsigma_plugin.checks import raise_faults, whole

# 255 times the square of the sum of the weights has to stay below 2^53 to be exact in float64.
MAX_EXACT_SCALE = 16


def imresize(images: Tensor, scale_factor: float) -> Tensor:
    """Resize float images bicubically, antialiased when they become smaller; differentiable, not clamped.

    Args:
        images: (N, C, H, W), floating point, any range.
        scale_factor: A whole number s to enlarge s times or 1 / s to shrink s times.

    Returns:
        (N, C, s·H, s·W) or (N, C, ceil(H / s), ceil(W / s)).

    Raises:
        ValueError: The factor is neither a whole number nor one divided by a whole number.
    """
    scale = round(scale_factor if scale_factor >= 1 else 1 / scale_factor) if scale_factor > 0 else 0
    if scale < 1 or abs(scale_factor - (scale if scale_factor >= 1 else 1 / scale)) > 1e-6 * scale_factor:
        raise ValueError(f'scale_factor must be a whole number or 1 / a whole number, got {scale_factor}.')
    if scale_factor >= 1:
        return _upscale(images, scale, 16 * scale**3)
    height, width = images.shape[-2:]
    return _downscale(images, scale, 0, 0, height, width, 16 * scale**4)


def bicubic_downscale(image: np.ndarray, scale: int) -> np.ndarray:
    """Shrink an 8-bit image: the exact bicubic value, clamped and rounded (halves up).

    Args:
        image: (H, W, C) uint8, H and W multiples of `scale`; becomes (H / scale, W / scale, C).
        scale: Whole factor from 1 to 16.

    Raises:
        ValueError: The image or the scale is another.
    """
    return _downscale_part(image, scale, 0, 0, *image.shape[:2])


def bicubic_downscale_crop(image: np.ndarray, scale: int, top: int, left: int, size: int) -> np.ndarray:
    """Shrink the square part of an 8-bit image from `top`, `left` with the values that it has in the whole shrunk.

    Only these are computed: the pixels around the part take part, not its mirrored border. `top`, `left` and `size`
    are multiples of `scale`, in pixels of `image`; all else as for :func:`bicubic_downscale`.
    """
    if top % scale or left % scale or size % scale or size < 1:
        raise ValueError(f'top, left and size must be multiples of the scale {scale}, got {top}, {left}, {size}.')
    if top < 0 or left < 0 or top + size > image.shape[0] or left + size > image.shape[1]:
        part = f'The part of {size}x{size} pixels at row {top}, column {left}'
        raise ValueError(f'{part} is not inside the image of {image.shape[0]}x{image.shape[1]} pixels.')
    return _downscale_part(image, scale, top, left, size, size)


def bicubic_upscale(image: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge an 8-bit image (H, W, C) to (scale · H, scale · W, C), otherwise as :func:`bicubic_downscale`."""
    return _to_array(_upscale(_to_tensor(image, scale), scale), (16 * scale**3) ** 2)


def _integer_taps(scale: int) -> tuple[list[int], int]:
    """Weights of the cubic (a = -1/2), stretched by the scale, times 16 scale^3: whole numbers whose sum is 16 scale^4.

    Also the place of the first, counted from the first of the `scale` fine pixels that a coarse pixel covers.
    """
    # Fine pixel t lies (2 t - scale + 1) / 2 fine pixels from the centre of coarse pixel 0. The argument x of
    # the cubic is that distance over the scale: m / (2 scale) with a whole m. Support: |x| < 2.
    doubled = range(1 - 4 * scale + scale % 2, 4 * scale, 2)
    taps = []
    for m in map(abs, doubled):
        if m <= 2 * scale:  # 1.5 x³ - 2.5 x² + 1
            taps.append(3 * m**3 - 10 * scale * m**2 + 16 * scale**3)
        else:  # -0.5 x³ + 2.5 x² - 4 x + 2
            taps.append(-(m**3) + 10 * scale * m**2 - 32 * scale**2 * m + 32 * scale**3)
    return taps, (doubled[0] + scale - 1) // 2


def _downscale(images: Tensor, scale: int, top: int, left: int, height: int, width: int, unit: int = 1) -> Tensor:
    """Shrink `height` x `width` pixels from `top`, `left` with the weights divided by `unit`; sides are rounded up."""
    taps, first = _integer_taps(scale)
    for dim, start, size in ((2, top, height), (3, left, width)):
        beyond_last = -(-size // scale) * scale - scale + len(taps)
        images = _mirrored(images, dim, start + first, start + first + beyond_last)
    return _convolve(images, [tap / unit for tap in taps], scale, transposed=False)


def _upscale(images: Tensor, scale: int, unit: int = 1) -> Tensor:
    height, width = images.shape[-2:]
    for dim in (2, 3):  # two coarse pixels beyond the border reach inside it
        images = _mirrored(images, dim, -2, images.shape[dim] + 2)
    taps, first = _integer_taps(scale)
    start = 2 * scale - first
    enlarged = _convolve(images, [tap / unit for tap in taps], scale, transposed=True)
    return enlarged[..., start : start + scale * height, start : start + scale * width]


def _mirrored(images: Tensor, dim: int, start: int, stop: int) -> Tensor:
    """The pixels start … stop - 1 along a dimension, mirrored at the borders (border pixel included)."""
    length = images.shape[dim]
    position = torch.arange(start, stop, device=images.device) % (2 * length)
    return images.index_select(dim, torch.minimum(position, 2 * length - 1 - position))


def _convolve(images: Tensor, taps: list[float], scale: int, transposed: bool) -> Tensor:
    """Filter columns then rows with stride `scale`; 8-bit images in float64."""
    planes = images.flatten(0, 1).unsqueeze(1)
    planes = planes if planes.is_floating_point() else planes.double()
    weight = planes.new_tensor(taps)
    apply = functional.conv_transpose2d if transposed else functional.conv2d
    planes = apply(planes, weight.view(1, 1, -1, 1), stride=(scale, 1))
    planes = apply(planes, weight.view(1, 1, 1, -1), stride=(1, scale))
    return planes.unflatten(0, images.shape[:2]).squeeze(2)


def _downscale_part(image: np.ndarray, scale: int, top: int, left: int, height: int, width: int) -> np.ndarray:
    images = _to_tensor(image, scale)
    if image.shape[0] % scale or image.shape[1] % scale or not image.size:
        remedy = f'its sides must be multiples of {scale}; cut it first.'
        raise ValueError(f'An image of {image.shape[0]}x{image.shape[1]} pixels cannot be shrunk by {scale}: {remedy}')
    return _to_array(_downscale(images, scale, top, left, height, width), (16 * scale**4) ** 2)


def _to_tensor(image: np.ndarray, scale: int) -> Tensor:
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(f'Expected an image of type uint8 and shape (H, W, C), got {image.dtype} {image.shape}.')
    if not 1 <= scale <= MAX_EXACT_SCALE:
        raise ValueError(f'scale must be a whole number from 1 to {MAX_EXACT_SCALE}, got {scale}.')
    return torch.from_numpy(np.require(image, requirements=['C', 'W'])).permute(2, 0, 1)[None]


def _to_array(images: Tensor, unit: int) -> np.ndarray:
    rounded = torch.floor((images[0] + unit // 2) / unit).clamp_(0, 255)
    return np.ascontiguousarray(rounded.to(torch.uint8).permute(1, 2, 0).numpy())


class BicubicRescaleNet(RescalingNet):
    """MATLAB-style bicubic down and up. It has no parameters and no latent, so sigma has no effect.

    Args:
        scale: Rescaling factor, a whole number.
    """

    def __init__(self, scale: int = 4) -> None:
        super().__init__()
        raise_faults('BicubicRescaleNet', BicubicRescaleNet.check(scale))
        self.scale = scale

    @staticmethod
    def check(scale: Any) -> Iterator[str]:
        yield from whole()('scale', scale)

    def downscale(self, hr: Tensor) -> tuple[Tensor, Tensor]:
        lr = imresize(reflection_pad(hr, self.scale), 1 / self.scale)
        return lr, lr.new_empty(self.latent_shape(lr.shape))

    def upscale(self, lr: Tensor, latent: Tensor) -> Tensor:
        return imresize(lr, self.scale)

    def latent_shape(self, lr_shape: Sequence[int]) -> tuple[int, ...]:
        return (lr_shape[0], 0, *lr_shape[2:])

    def receptive_field(self) -> int:
        return 2 * self.scale  # the kernel spans four lr pixels
