"""Read photographs as 8-bit RGB, or say by name why not."""

from __future__ import annotations

import os

import numpy as np

from irnsigma_plugin.images.picture import ImageReadError, Picture, decode_picture, read_picture, to_8_bit


def read_rgb_image(path: str | os.PathLike) -> np.ndarray:
    """Read an image file as 8-bit RGB.

    Grey images and palettes become three channels; 16 bits per sample become 8 by rounding v / 257; an alpha channel
    that is opaque everywhere is dropped, any other is refused.

    Args:
        path: Image file.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageReadError: The file cannot be read, has transparent pixels, or `decode_picture` refuses it.
    """
    return _to_rgb(read_picture(path), os.fspath(path))


def decode_rgb_image(content: bytes, name: str) -> np.ndarray:
    """Decode an encoded image as 8-bit RGB; see :func:`read_rgb_image`.

    Args:
        content: Bytes of an image file.
        name: What to call the image in error messages.
    """
    return _to_rgb(decode_picture(content, name), name)


def _to_rgb(picture: Picture, name: str) -> np.ndarray:
    if picture.alpha is not None and (picture.alpha != np.iinfo(picture.alpha.dtype).max).any():
        raise ImageReadError(f'{name}: has transparent pixels, whose colour is undefined; put it on a '
                             'background and save it without alpha channel.')
    pixels = to_8_bit(picture.pixels)
    return np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels
