"""Rescaling of whole pictures: pixels by the network, whatever else a file holds, and the note for the way back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from irnsigma_plugin import __version__
from irnsigma_plugin.archs.bicubic import imresize
from irnsigma_plugin.checkpoints import builtin
from irnsigma_plugin.checks import whole_number
from irnsigma_plugin.images.picture import Picture, check_memory, to_8_bit
from irnsigma_plugin.rescaling.rescaler import Rescaler


class LrNote(NamedTuple):
    """Text of an lr file."""

    height: int  # of the original, in pixels
    width: int
    bits: int  # per sample of the original, 8 or 16
    scale: int  # of the model that made the lr
    model: str  # hash of its weights
    overlap: int | None = None  # as of Rescaler.downscale
    version: str = __version__
    quality: int | None = None  # of its file, if that loses detail

    def to_text(self) -> str:
        """The note as text, in ASCII."""
        return json.dumps(self._asdict())


def read_note(text: str) -> LrNote | None:
    """The inverse of :meth:`LrNote.to_text`, more entries allowed; None of a restored picture; else a ValueError."""
    entries = json.loads(text)
    if not isinstance(entries, dict):
        raise ValueError(f'a note must be an object, but got {text!r}.')
    if 'sigma' in entries:
        return None
    fields: dict[str, Any] = {name: entries.get(name) for name in LrNote._fields}
    note = LrNote(**fields)
    for name in ('height', 'width', 'scale'):
        whole_number(name, getattr(note, name))
    if note.bits not in (8, 16) or not isinstance(note.model, str):
        raise ValueError(f'bits must be 8 or 16 and model a hash, but got {note.bits!r} and {note.model!r}.')
    return note


def is_small(picture: Picture) -> bool:
    """Whether a picture has the note of a small one, be it damaged; a restored one has another."""
    try:
        return picture.text is not None and read_note(picture.text) is not None
    except (ValueError, RecursionError):
        return True


def settings_of(
    rescaler: Rescaler, overlap: int | None = None, sigma: float | np.ndarray | None = None, seed: int = 0
) -> dict[str, Any]:
    """What a picture depends on beside its source.

    A restored one on sigma (a map: its hash), above 0 on the seed, and, in its last bits, on precision and engine.
    """
    named: Any = sigma if sigma is None or isinstance(sigma, np.ndarray) else float(sigma)
    if isinstance(sigma, np.ndarray):
        named = f'map {hashlib.sha256(repr(sigma.shape).encode() + sigma.tobytes()).hexdigest()[:16]}'
    restored = {} if sigma is None else {'precision': rescaler.precision, 'engine': rescaler.engine}
    seeded = {'seed': seed} if named else {}
    return {'model': rescaler.model_hash, 'sigma': named, **seeded, 'overlap': overlap, **restored}


def note_quality(picture: Picture, quality: int) -> Picture:
    """A picture that notes the quality of its file, in which it loses detail."""
    return picture._replace(text=json.dumps({**json.loads(picture.text or '{}'), 'quality': quality}))


def other_settings(text: str | None, wanted: Mapping[str, Any]) -> str | None:
    """How the settings in a picture's text differ from those wanted; empty if they do not, None if there are none."""
    try:
        found = {'sigma': None, **json.loads(text or '')}  # an lr has none
        found['model']
    except (KeyError, RecursionError, TypeError, ValueError):
        return None
    differing = (key for key, value in wanted.items() if found.get(key, value) != value)
    return ', '.join(f'{key} {found[key]} instead of {wanted[key]}' for key in differing)


def downscale_picture(rescaler: Rescaler, hr: Picture, overlap: int | None = None) -> Picture:
    """Downscale a picture; the result notes what :func:`upscale_picture` has to know.

    `hr` is of any size, grey or RGB, of 8 or 16 bits, the result of 8. Opacity is reduced bicubically. `overlap` is
    that of :meth:`Rescaler.downscale`.
    """
    height, width = hr.pixels.shape[:2]
    note = LrNote(height, width, hr.bits, rescaler.scale, rescaler.model_hash, overlap)
    return hr._replace(
        pixels=rescaler.downscale(_fill_transparent(hr.pixels, hr.alpha), overlap),
        alpha=hr.alpha if hr.alpha is None else _resize(hr.alpha, 1 / rescaler.scale, np.uint8),
        text=note.to_text(),
    )


def upscale_picture(
    rescaler: Rescaler,
    lr: Picture,
    name: str,
    sigma: float | np.ndarray = 0.0,
    seed: int = 0,
    overlap: int | None = None,
) -> Picture:
    """Restore a picture: to its original's size and bits where it notes them, else to scale times its size.

    An lr of 16 bits is rounded to 8. `name`, its file's without folder and extension, and all after it are those of
    :meth:`Rescaler.upscale`. The result notes its settings; its warnings tell of a note that does not fit the lr or
    the network.

    Raises:
        ValueError: The lr was made with another scale, `sigma` does not fit, or the memory does not suffice.
    """
    warnings = list(lr.warnings)
    height, width = (rescaler.scale * side for side in lr.pixels.shape[:2])
    bits = lr.bits
    note = _fitting_note(lr, warnings)
    if note:
        height, width, bits = note.height, note.width, note.bits
        if note.scale != rescaler.scale:
            remedy = f'use the model {note.model} that made it.'
            raise ValueError(f'was downscaled by {note.scale}, but this model is for scale {rescaler.scale}; {remedy}')
        if note.model != rescaler.model_hash:
            models = f'the model {note.model}, not by this one ({rescaler.model_hash})'
            warnings.append(f'it was downscaled by {models}, so the restored picture may be poor')
        if note.quality is not None:
            warnings.append(f'it lost detail in its file (quality {note.quality}), and the restored picture with it')
    dtype = np.uint16 if bits == 16 else np.uint8
    check_memory(width, height, 2 * lr.pixels[0, 0].size * bits // 8, 'the restored picture')
    small = to_8_bit(_fill_transparent(lr.pixels, lr.alpha))
    pixels = rescaler.upscale(small, sigma, seed, name, (height, width), overlap, dtype)
    alpha = lr.alpha if lr.alpha is None else _resize(to_8_bit(lr.alpha), rescaler.scale, dtype)[:height, :width]
    settings = {**settings_of(rescaler, overlap, sigma, seed), 'name': name, 'version': __version__}
    return lr._replace(pixels=pixels, alpha=alpha, text=json.dumps(settings, default=float), warnings=tuple(warnings))


def builtin_model(lr: Picture) -> str:
    """Name of the built-in model that made an lr picture, or of the default where it notes none.

    Raises:
        ValueError: It was made by a model that is not built in.
    """
    note = _fitting_note(lr, [])
    if note is None:
        return builtin.DEFAULT
    name = builtin.name_of(note.model)
    if name is None:
        remedy = f'name the file of that model; {builtin.DEFAULT}, by name, restores it all the same, but poorly.'
        raise ValueError(f'was downscaled by the model {note.model}, which is not built in: {remedy}')
    return name


def _fitting_note(lr: Picture, warnings: list[str]) -> LrNote | None:
    """The note of an lr picture, unless it is damaged or of another picture, which costs a warning."""
    if lr.text is None:
        return None
    try:
        note = read_note(lr.text)
    except (ValueError, RecursionError):
        warnings.append('what it notes of its original is damaged')
        return None
    if note and lr.pixels.shape[:2] != (-(-note.height // note.scale), -(-note.width // note.scale)):
        original = f'{note.width}x{note.height} pixels, whose size is no longer of use'
        warnings.append(f'it has been resized since it was downscaled from {original}')
        return None
    return note


def _fill_transparent(pixels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Give fully transparent pixels the mean colour of the 2 x 2, 4 x 4, ... around, by opacity, where there is any."""
    if alpha is None or alpha.all() or not alpha.any():
        return pixels if alpha is None or alpha.any() else np.zeros_like(pixels)
    alpha = alpha.reshape(*alpha.shape[:2], *(1,) * (pixels.ndim - 2))
    h, w = alpha.shape[:2]
    parts = [(np.s_[i::2, j::2], np.s_[: (h + 1 - i) // 2, : (w + 1 - j) // 2]) for i in (0, 1) for j in (0, 1)]
    weights, sums = (np.zeros(like[::2, ::2].shape, np.float32) for like in (alpha, pixels))
    for part, place in parts:  # every second row and column, and its place in the halved picture
        weights[place] += alpha[part]
        sums[place] += pixels[part] * alpha[part].astype(np.float32)
    means, filled = _fill_transparent(sums / np.maximum(weights, 1), weights), pixels.copy()
    for part, place in parts:
        np.copyto(filled[part], means[place].round(), 'unsafe', where=alpha[part] == 0)
    return filled


def _resize(alpha: np.ndarray, factor: float, dtype: type) -> np.ndarray:
    """Resize opacity bicubically; a side that is no multiple of the scale is rounded up."""
    opacity = torch.from_numpy(alpha.astype(np.float32) / np.iinfo(alpha.dtype).max)[None, None]
    largest = np.iinfo(dtype).max
    return (imresize(opacity, factor)[0, 0].clamp(0, 1) * largest).round().numpy().astype(dtype)
