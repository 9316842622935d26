"""Which files are images, told from their names alone."""

from __future__ import annotations

IMAGE_EXTENSIONS = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.pbm', '.pnm', '.gif')


def is_image_name(name: str) -> bool:
    """Whether a file name has the extension of an image (and is not hidden)."""
    return not name.startswith('.') and name.lower().endswith(IMAGE_EXTENSIONS)
