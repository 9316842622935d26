"""The noise of the restored detail, reproducible for each image and for each part of one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

# Side of a block: at x4 it takes about 1 ms to draw one, and a hundredth of that to seed it.
BLOCK = 64


def draw_epsilon(shape: Sequence[int], seed: int, name: str, region: tuple[slice, slice] | None = None) -> Tensor:
    """Draw epsilon ~ N(0, 1) for the latent of an image, or for a region of it.

    The latent is divided into blocks of 64x64 cells, each drawn from a generator seeded by (seed, name, block
    row, block column). So an image is restored alike whatever the order, the process, the windows or the number
    of sigmas, and a region costs no more than the blocks it touches.

    Args:
        shape: (..., h, w), the shape of the whole latent.
        seed: The user's seed.
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
            block_shape = (*leading, min(BLOCK, height - top), min(BLOCK, width - left))
            # The name stands last, since it may hold any character.
            block = _draw_block(block_shape, f'{seed}/{top // BLOCK}/{left // BLOCK}/{name}')
            target_rows, block_rows = _overlap(rows, top)
            target_columns, block_columns = _overlap(columns, left)
            epsilon[..., target_rows, target_columns] = block[..., block_rows, block_columns]
    return epsilon


def _draw_block(shape: Sequence[int], key: str) -> Tensor:
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], 'little', signed=True))
    return torch.randn(shape, generator=generator)


def _overlap(wanted: slice, start: int) -> tuple[slice, slice]:
    """What a region and the block from `start` share: counted from the region's start, and from the block's."""
    first, last = max(wanted.start, start), min(wanted.stop, start + BLOCK)
    return slice(first - wanted.start, last - wanted.start), slice(first - start, last - start)
