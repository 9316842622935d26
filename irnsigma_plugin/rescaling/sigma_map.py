"""A sigma for every pixel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from irnsigma_plugin.archs.grid import Region, Size, magnify
from irnsigma_plugin.sigma import check_sigma


class SigmaMapError(ValueError):
    """A map of sigma cannot be used."""


def check_sigma_map(sigma: float | np.ndarray | Tensor, hr_size: Size, lr_size: Size) -> float | np.ndarray:
    """Return sigma as a number, or as a map (height, width) of the hr or of the lr image's size.

    Args:
        sigma: Number in [0, 1], or a map: floating point in [0, 1], or uint8 or uint16 (white = 1 = sharp, black =
            0 = faithful); leading dimensions of 1 are dropped.

    Raises:
        ValueError: The number is outside of [0, 1] or none.
        SigmaMapError: A value of the map is, or it has another size or type.
    """
    if isinstance(sigma, Tensor):
        sigma = sigma.detach().cpu().numpy()
    if not isinstance(sigma, np.ndarray) or sigma.ndim == 0:
        return check_sigma(sigma.item() if isinstance(sigma, np.ndarray) else sigma)
    plane = sigma.reshape(sigma.shape[-2:]) if sigma.size == np.prod(sigma.shape[-2:]) else sigma
    if plane.shape not in (hr_size, lr_size):
        own = f'{sigma.shape[1]}x{sigma.shape[0]}' if sigma.ndim == 2 else f'the shape {sigma.shape}'
        raise SigmaMapError(
            f'A sigma map must have the size of the large image, {hr_size[1]}x{hr_size[0]} pixels, or '
            f'of the small image, {lr_size[1]}x{lr_size[0]}, but has {own}.'
        )
    if sigma.dtype not in (np.uint8, np.uint16) and sigma.dtype.kind != 'f':
        raise SigmaMapError(f'A sigma map must be floating point, uint8 or uint16, but is {sigma.dtype}.')
    if sigma.dtype.kind == 'f' and not (sigma.min() >= 0 and sigma.max() <= 1):
        raise SigmaMapError(
            'A sigma map must be from 0 (faithful) to 1 (sharp) everywhere, '
            f'but goes from {sigma.min():g} to {sigma.max():g}.'
        )
    return plane


def sigma_of_cells(sigma: float | np.ndarray, area: Region, lr_size: Size, scale: int) -> float | Tensor:
    """The sigma of some lr cells: the mean of the map over the scale x scale hr pixels of each.

    At the lower and right border it is the mean over those inside the image; a map of the lr size is taken as it
    is. The mean is exact before it is rounded to float32, so a map of one value gives just that value, bit for bit.

    Args:
        sigma: From :func:`check_sigma_map`.
        area: Rows and columns, in lr pixels.
        lr_size: Size of the whole lr image.
        scale: Rescaling factor.

    Returns:
        The number, or (1, 1, rows, columns) float32.
    """
    if not isinstance(sigma, np.ndarray):
        return sigma
    factor = 1 if sigma.shape == lr_size else scale
    part = sigma[magnify(area, factor, (sigma.shape[0], sigma.shape[1]))]
    unit = 1 if part.dtype.kind == 'f' else np.iinfo(part.dtype).max
    part = part.astype(np.float32).astype(np.float64)
    counts = np.ones(part.shape)
    for axis in (0, 1):
        starts = np.arange(0, part.shape[axis], factor)
        part, counts = (np.add.reduceat(values, starts, axis) for values in (part, counts))
    return torch.from_numpy((part / (counts * unit)).astype(np.float32))[None, None]
