"""Rescaling of whole pictures: pixels by the network, and whatever else a file holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from irnsigma_plugin.bicubic import imresize
from irnsigma_plugin.images.picture import Picture, check_memory, to_8_bit
from irnsigma_plugin.rescaling.lr_note import LrNote, read_note

if TYPE_CHECKING:
    from irnsigma_plugin.rescaler import Rescaler


def downscale_picture(rescaler: Rescaler, hr: Picture, tile: int | str | None = None,
                      overlap: int | None = None) -> Picture:
    """Downscale a picture; the result notes what :func:`upscale_picture` has to know.

    Args:
        rescaler: Network.
        hr: Picture of any size, grey or RGB, 8 or 16 bits.
        tile, overlap: See :meth:`Rescaler.downscale`.

    Returns:
        Picture of 8 bits. Its opacity, if any, is reduced bicubically.
    """
    height, width = hr.pixels.shape[:2]
    note = LrNote(height, width, hr.bits, rescaler.scale, rescaler.model_hash)
    return hr._replace(pixels=rescaler.downscale(hr.pixels, tile=tile, overlap=overlap),
                       alpha=_resize(hr.alpha, 1 / rescaler.scale, np.uint8), text=note.to_text())


def upscale_picture(rescaler: Rescaler, lr: Picture, name: str, sigma: float | np.ndarray = 0.0, seed: int = 0,
                    tile: int | str | None = None, overlap: int | None = None) -> Picture:
    """Restore a picture: to its original's size and bits where it notes them, else to scale times its size.

    Args:
        rescaler: Network.
        lr: Picture; one of 16 bits is rounded to 8.
        name: Its file's name without folder and extension, which the restored detail depends on.
        sigma, seed, tile, overlap: See :meth:`Rescaler.upscale`.

    Returns:
        Picture without note. Its warnings tell of a note that does not fit the picture or the network.

    Raises:
        ValueError: The lr was made with another scale, `sigma` does not fit, or the memory does not suffice.
    """
    warnings = list(lr.warnings)
    height, width = (rescaler.scale * side for side in lr.pixels.shape[:2])
    dtype = lr.pixels.dtype
    note = _fitting_note(lr, warnings)
    if note:
        if note.scale != rescaler.scale:
            raise ValueError(f'was downscaled by {note.scale}, but this model is for scale {rescaler.scale}; use the '
                             f'model {note.model} that made it.')
        if note.model != rescaler.model_hash:
            warnings.append(f'it was downscaled by the model {note.model}, not by this one ({rescaler.model_hash}), '
                            'so the restored picture may be poor')
        height, width = note.height, note.width
        dtype = np.uint16 if note.bits == 16 else np.uint8
    check_memory(width, height, 2 * lr.pixels[0, 0].size * np.dtype(dtype).itemsize, 'the restored picture')
    pixels = rescaler.upscale(to_8_bit(lr.pixels), sigma=sigma, seed=seed, name=name, size=(height, width), tile=tile,
                              overlap=overlap, dtype=dtype)
    alpha = _resize(None if lr.alpha is None else to_8_bit(lr.alpha), rescaler.scale, dtype)
    return lr._replace(pixels=pixels, alpha=None if alpha is None else alpha[:height, :width], text=None,
                       warnings=tuple(warnings))


def _fitting_note(lr: Picture, warnings: list[str]) -> LrNote | None:
    """The note of an lr picture, unless it is damaged or of another picture, which costs a warning."""
    if lr.text is None:
        return None
    try:
        note = read_note(lr.text)
    except (ValueError, RecursionError):
        warnings.append('what it notes of its original is damaged')
        return None
    if lr.pixels.shape[:2] != (-(-note.height // note.scale), -(-note.width // note.scale)):
        warnings.append(f'it has been resized since it was downscaled from {note.width}x{note.height} pixels, whose '
                        'size is no longer of use')
        return None
    return note


def _resize(alpha: np.ndarray | None, factor: float, dtype: type) -> np.ndarray | None:
    """Resize opacity bicubically; a side that is no multiple of the scale is rounded up."""
    if alpha is None:
        return None
    opacity = torch.from_numpy(alpha.astype(np.float32) / np.iinfo(alpha.dtype).max)[None, None]
    largest = np.iinfo(dtype).max
    return (imresize(opacity, factor)[0, 0].clamp(0, 1) * largest).round().numpy().astype(dtype)
