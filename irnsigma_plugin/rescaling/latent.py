"""The latent of an image: noise that is reproducible in each of its parts, and the sigma of each of its cells."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from irnsigma_plugin.archs.grid import Region, Size, magnify
from irnsigma_plugin.sigma import check_sigma

# Side of a block: at x4 it takes about 1 ms to draw one, and a hundredth of that to seed it.
BLOCK = 64


class SigmaMapError(ValueError):
    """A map of sigma cannot be used."""


def draw_epsilon(shape: Sequence[int], seed: int, name: str, region: Region | None = None) -> Tensor:
    """Draw epsilon ~ N(0, 1) for the latent of an image, or for a region of it.

    The latent is divided into blocks of 64x64 cells, each drawn from a generator seeded by (seed, name, block
    row, block column). So an image is restored alike whatever the order, the process, the windows or the number
    of sigmas, and a region costs no more than the blocks it touches.

    Args:
        shape: (..., h, w), the shape of the whole latent.
        name: Name of the image, without folder and extension.
        region: Rows and columns; all by default.

    Returns:
        float32 tensor on the CPU, (..., rows, columns): that part of the whole.
    """
    *leading, height, width = shape
    rows, columns = region or (slice(0, height), slice(0, width))
    epsilon = torch.empty(*leading, rows.stop - rows.start, columns.stop - columns.start)
    for top in range(rows.start // BLOCK * BLOCK, rows.stop, BLOCK):
        for left in range(columns.start // BLOCK * BLOCK, columns.stop, BLOCK):
            # The name stands last, since it may hold any character, and any byte that a file's can.
            key = f'{seed}/{top // BLOCK}/{left // BLOCK}/{name}'.encode(errors='surrogateescape')
            digest = hashlib.sha256(key).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], 'little', signed=True))
            block_shape = (*leading, min(BLOCK, height - top), min(BLOCK, width - left))
            block = torch.randn(block_shape, generator=generator)
            (rows_to, rows_from), (columns_to, columns_from) = _overlap(rows, top), _overlap(columns, left)
            epsilon[..., rows_to, columns_to] = block[..., rows_from, columns_from]
    return epsilon


def _overlap(wanted: slice, start: int) -> tuple[slice, slice]:
    """What a region and the block from `start` share: counted from the region's start, and from the block's."""
    first, last = max(wanted.start, start), min(wanted.stop, start + BLOCK)
    return slice(first - wanted.start, last - wanted.start), slice(first - start, last - start)


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
        sigma = sigma.detach().cpu()
        sigma = (sigma.float() if sigma.dtype == torch.bfloat16 else sigma).numpy()  # NumPy has no bfloat16
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
        found = f'goes from {sigma.min():g} to {sigma.max():g}'
        raise SigmaMapError(f'A sigma map must be from 0 (faithful) to 1 (sharp) everywhere, but {found}.')
    return plane


def sigma_of_cells(sigma: float | np.ndarray, area: Region, lr_size: Size, scale: int) -> float | Tensor:
    """The sigma of the lr cells of an area: the mean of the map over the scale x scale hr pixels of each.

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
