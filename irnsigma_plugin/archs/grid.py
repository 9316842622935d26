"""How an image is divided: cells of a fixed grid, and the windows around them that a network has to see."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

Size = tuple[int, int]  # height, width
Region = tuple[slice, slice]  # rows, columns


class Window(NamedTuple):
    """A part of an image to work on."""

    area: Region  # what the network sees
    core: Region  # the part of `area` whose result is kept


def windows(height: int, width: int, cell: int, overlap: int) -> Iterator[Window]:
    """Divide an image into windows, whose cores cover it exactly once.

    Each side is cut into as few cells of at most `cell` pixels as will do, alike but for one pixel, so that none is
    narrow. A window reaches `overlap` pixels beyond its cell, but not beyond the image.
    """
    for rows, columns in itertools.product(_cells(height, cell), _cells(width, cell)):
        yield Window((_widen(rows, overlap, height), _widen(columns, overlap, width)), (rows, columns))


def magnify(region: Region, factor: int, size: Size) -> Region:
    """A region of lr pixels in hr pixels, as far as it is inside an hr image of this size."""
    rows, columns = (slice(factor * part.start, min(factor * part.stop, side)) for part, side in zip(region, size))
    return rows, columns


def relative(region: Region, area: Region) -> Region:
    """A region, counted from the start of an area."""
    rows, columns = (slice(part.start - whole.start, part.stop - whole.start) for part, whole in zip(region, area))
    return rows, columns


def _cells(size: int, cell: int) -> list[slice]:
    count = -(-size // cell)
    return [slice(size * i // count, size * (i + 1) // count) for i in range(count)]


def _widen(part: slice, margin: int, size: int) -> slice:
    return slice(max(part.start - margin, 0), min(part.stop + margin, size))
