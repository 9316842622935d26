"""Images in either of two forms, arrays of whole numbers or tensors, and the parts of them that a network sees.

An array is (H, W) or (H, W, 3), uint8 or uint16; a tensor is (3, H, W), floating point. The network sees
(1, 3, h, w), float32, in [0, 1].
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from irnsigma_plugin.archs.grid import Region, Size

Image = TypeVar('Image', np.ndarray, Tensor)

LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # of red, green, blue, ITU-R BT.601
TOLERANCE = 0.5 / 255  # of values outside [0, 1]: rounding in 16-bit floating point stays below half an 8-bit level
PIXELS_AT_ONCE = 1 << 22  # a comparison of the whole would need as much memory as the image


def check_image(name: str, image: Image, dtypes: tuple[type, ...]) -> None:
    """Raise a ValueError for what is no tensor in [0, 1] or array of one of `dtypes`, or of another shape or empty."""
    if isinstance(image, Tensor):
        fits = image.ndim == 3 and image.shape[0] == 3 and image.is_floating_point() and image.numel() > 0
        expected = 'a floating-point tensor (3, H, W) or (N, 3, H, W)'
    else:
        fits = isinstance(image, np.ndarray) and image.dtype in dtypes and image.size > 0
        fits = fits and (image.ndim == 2 or image.ndim == 3 and image.shape[2] == 3)
        expected = f'an array (H, W) or (H, W, 3) of {" or ".join(np.dtype(dtype).name for dtype in dtypes)}'
    if not fits:
        found = f'{image.dtype} {tuple(image.shape)}' if hasattr(image, 'shape') else repr(image)
        raise ValueError(f'{name} must be {expected}, but got {found}.')
    if isinstance(image, Tensor) and not (image.min() >= -TOLERANCE and image.max() <= 1 + TOLERANCE):
        found = f'goes from {image.min():g} to {image.max():g}: divide levels by 255, and clamp what overshoots'
        raise ValueError(f'{name} must be from 0 (black) to 1 (white) everywhere, but {found}.')


def check_count(name: str, images: Tensor) -> None:
    """Raise a ValueError for a batch of no images."""
    if len(images) == 0:
        raise ValueError(f'{name} must hold one image or more, but got the shape {tuple(images.shape)}.')


def height_width(image: Image) -> Size:
    """Size of an image."""
    height, width = image.shape[-2:] if isinstance(image, Tensor) else image.shape[:2]
    return height, width


def empty_like(like: Image, size: Size, dtype: type) -> Image:
    """An image to be filled, of the form, channels and device of another: an array of `dtype`, or a float tensor."""
    if isinstance(like, Tensor):
        return torch.empty(3, *size, device=like.device)
    return np.empty((*size, *like.shape[2:]), dtype)


def read_region(image: Image, region: Region) -> Tensor:
    """A part of an image, as the network sees it.

    Its memory is always laid out in the same way: the layout decides which kernels torch uses, and so the last bit.
    """
    if isinstance(image, Tensor):
        part = image[:, region[0], region[1]].float()
    else:
        part = torch.from_numpy(image[region].astype(np.float32) / np.iinfo(image.dtype).max)
        part = part.expand(3, -1, -1) if part.ndim == 2 else part.permute(2, 0, 1)
    return part[None].contiguous()


def check_result(pixels: Tensor) -> Tensor:
    """Return what a network made of an image as float32; if a value is not finite, raise a FloatingPointError."""
    if not pixels.isfinite().all():
        remedy = 'use another model, or fp32 where the precision was fp16.'
        raise FloatingPointError(f'the network makes infinite values or no numbers of this image; {remedy}')
    return pixels.float()


def write_region(image: Image, region: Region, pixels: Tensor) -> None:
    """Put a part back, clamped to [0, 1], into an array rounded."""
    pixels = pixels[0].clamp(0, 1)
    if isinstance(image, Tensor):
        image[:, region[0], region[1]] = pixels
    else:
        values = (pixels * np.iinfo(image.dtype).max).round().cpu().numpy()
        image[region] = values[0] if image.ndim == 2 else values.transpose(1, 2, 0)


def is_grey(image: Image) -> bool:
    """Whether all channels of an image are equal."""
    if image.ndim == 2:
        return True
    channels = image if isinstance(image, Tensor) else image.transpose(2, 0, 1)
    height, width = height_width(image)
    rows = max(1, PIXELS_AT_ONCE // width)
    parts = (channels[:, top : top + rows] for top in range(0, height, rows))
    return all((part[:1] == part[1:]).all() for part in parts)


def luma(images: Tensor) -> Tensor:
    """`0.299 R + 0.587 G + 0.114 B` in every channel: what a network makes of a grey image, grey again.

    It goes between the network and the rounding, after downscaling and after upscaling alike. (N, 3, H, W) stays so.
    """
    weights = torch.tensor(LUMA_WEIGHTS, dtype=images.dtype, device=images.device).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True).expand_as(images)
