"""Read photographs of any common kind as 8-bit RGB, or say by name why not."""

from __future__ import annotations

import io
import os

import cv2
import numpy as np
from PIL import Image, ImageOps

IMAGE_EXTENSIONS = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')

ORIENTATION_TAG = 0x0112
BITS_PER_SAMPLE_TAG = 258
GREY_AND_COLOUR_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'RGBX', 'YCbCr')


class ImageReadError(ValueError):
    """An image cannot be used; the message names it, the reason and the remedy."""


def is_image_name(name: str) -> bool:
    """Whether a file name has the extension of an image (and is not hidden)."""
    return not name.startswith('.') and name.lower().endswith(IMAGE_EXTENSIONS)


def read_rgb_image(path: str | os.PathLike) -> np.ndarray:
    """Read an image file: `decode_rgb_image` of its content.

    Args:
        path: Image file.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageReadError: The file cannot be read, or `decode_rgb_image` refuses it.
    """
    try:
        with open(path, 'rb') as file:
            content = file.read()
    except OSError as error:
        raise ImageReadError(f'{path}: cannot be read ({error.strerror}).') from error
    return decode_rgb_image(content, os.fspath(path))


def decode_rgb_image(content: bytes, name: str) -> np.ndarray:
    """Decode an encoded image completely and bring it to 8-bit RGB, the right way up.

    Grey images and palettes become three channels; 16 bits per sample become 8 by rounding v / 257; an
    alpha channel that is opaque everywhere is dropped; the orientation tag of cameras is applied. Anything
    that would need a choice (transparency, CMYK, floating point) is refused, and so is a truncated file.

    Args:
        content: Bytes of a PNG, JPEG, BMP, TIFF or WebP file.
        name: What to call the image in error messages.

    Returns:
        (H, W, 3) uint8 RGB, contiguous.

    Raises:
        ImageReadError: The image is damaged or of a kind that is refused.
    """
    if not content:
        raise ImageReadError(f'{name}: the file is empty; copy it again or remove it.')
    try:
        # Pillow, not OpenCV, because it refuses truncated files instead of filling them up.
        with Image.open(io.BytesIO(content)) as image:
            orientation = image.getexif().get(ORIENTATION_TAG, 1)
            image.load()
            bits = _bits_per_sample(image, content)
            upright = ImageOps.exif_transpose(image)
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        raise ImageReadError(f'{name}: damaged, or not a supported image ({error}); copy it again or '
                             f'remove it. Supported: {", ".join(IMAGE_EXTENSIONS)}.') from error
    if bits == 16:
        return _decode_16_bit(content, name, orientation)
    if upright.mode not in GREY_AND_COLOUR_MODES:
        raise ImageReadError(f'{name}: pixels of type {upright.mode} with {bits} bits per sample are not '
                             'supported; convert the image to 8-bit RGB.')
    if upright.mode in ('LA', 'PA', 'RGBA') or 'transparency' in upright.info:
        return _without_alpha(np.array(upright.convert('RGBA')), 255, name)
    return np.array(upright.convert('RGB'))


def _bits_per_sample(image: Image.Image, content: bytes) -> int:
    if image.format == 'PNG':
        return content[24]  # the bit depth in the header, which always stands first
    if image.format == 'TIFF':
        return max(image.tag_v2.get(BITS_PER_SAMPLE_TAG, (1,)))
    return 8


def _decode_16_bit(content: bytes, name: str, orientation: int) -> np.ndarray:
    """Decode with OpenCV, because Pillow keeps only the upper byte of 16-bit colour."""
    if orientation != 1:
        raise ImageReadError(f'{name}: 16-bit images with an orientation tag are not supported; '
                             'save it the right way up, or with 8 bits.')
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ImageReadError(f'{name}: this kind of 16-bit image is not supported; convert it to 8-bit RGB.')
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    if pixels.shape[2] == 4:
        pixels = _without_alpha(pixels, 65535, name)
    rounded = (pixels.astype(np.uint32) + 128) // 257
    return np.ascontiguousarray(rounded.astype(np.uint8)[:, :, ::-1])


def _without_alpha(pixels: np.ndarray, opaque: int, name: str) -> np.ndarray:
    if (pixels[:, :, 3] != opaque).any():
        raise ImageReadError(f'{name}: has transparent pixels, whose colour is undefined; put it on a '
                             'background and save it without alpha channel.')
    return np.ascontiguousarray(pixels[:, :, :3])
