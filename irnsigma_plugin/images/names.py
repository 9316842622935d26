"""Which files are images, told from their names alone, and the search for them."""

from __future__ import annotations

import os
from collections.abc import Iterator

IMAGE_EXTENSIONS = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.pbm', '.pnm', '.gif')


def is_image_name(name: str) -> bool:
    """Whether a file name has the extension of an image (and is not hidden)."""
    return not name.startswith('.') and name.lower().endswith(IMAGE_EXTENSIONS)


def image_files(folder: str, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Find the images in a folder and in all folders in it, linked ones too, but none hidden; in order of their names.

    Args:
        folder: Where to look.
        above: Real paths of the folders that it was found in; a link to one of them leads nowhere new.

    Raises:
        OSError: A folder cannot be read; the message names it.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise OSError(f'{folder}: the folder cannot be read ({error.strerror}); check the rights.') from error
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            if not name.startswith('.'):
                yield from image_files(path, above | {real})
        elif is_image_name(name):
            yield path
