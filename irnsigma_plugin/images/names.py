"""Which files are images, told from their names alone, and the search for them."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

IMAGE_EXTENSIONS: tuple[str, ...] = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.pbm')
IMAGE_EXTENSIONS += ('.pnm', '.gif', '.avif', '.heic', '.heif', '.hif')
LOSSY = ('jpg', 'webp', 'avif')  # what results may be beside png; they lose detail
DEFAULT_QUALITY = 90


def is_image_name(name: str) -> bool:
    """Whether a file name has the extension of an image (and is not hidden)."""
    return not name.startswith('.') and name.lower().endswith(IMAGE_EXTENSIONS)


def find_images(sources: Iterable[str], leave_out: Path | None = None) -> list[tuple[Path, Path]]:
    """Find image files: each file, and its path below its source.

    Args:
        sources: Files (of any name), folders (all image names in them and below, none hidden, links followed) and
            globs (likewise; what comes before the first wildcard is the source).
        leave_out: Folder in which nothing is looked for, but for sources that lie in it.

    Raises:
        ValueError: A source has no images.
        OSError: A source does not exist, or a folder cannot be read; the message names it.
    """
    left_out = leave_out and Path(os.path.realpath(leave_out))
    found = []
    for source in sources:
        if os.path.isdir(source):
            base, files = Path(source), list(_image_files(Path(source)))
        elif os.path.lexists(source):
            found.append((Path(source), Path(Path(source).name)))
            continue
        elif glob.has_magic(source):
            base = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(source).parts))
            files = [Path(hit) for hit in sorted(glob.glob(source, recursive=True)) if not os.path.isdir(hit)]
            if '**' in Path(source).parts:
                turning = {folder for folder in {file.parent for file in files} if _turns_back(folder, base)}
                files = [file for file in files if file.parent not in turning]
        else:
            raise FileNotFoundError(f'{source}: there is no such file or folder; check the path.')
        around = Path(os.path.realpath(base))
        inner = None if left_out in (around, *around.parents) else left_out
        images = [
            (file, file.relative_to(base))
            for file in files
            if is_image_name(file.name) and inner not in Path(os.path.realpath(file)).parents
        ]
        if not images:
            raise ValueError(f'{source}: there are no images ({", ".join(IMAGE_EXTENSIONS)}); check the path.')
        found += images
    return found


def _turns_back(folder: Path, base: Path) -> bool:
    """Whether the way from `base` to a folder in it leads to one place twice, but by `..`: by a link, then."""
    been = {os.path.realpath(base)}
    for part in folder.relative_to(base).parts:
        base = base / part
        place = os.path.realpath(base)
        if place in been and part != '..':
            return True
        been.add(place)
    return False


def _image_files(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """The images in and below a folder, in order of names; `above` are the real paths of those that it was found in."""
    real = os.path.realpath(folder)
    if real in above:  # a link that leads nowhere new
        return
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise OSError(f'{folder}: the folder cannot be read ({error.strerror}); check the rights.') from error
    for path in (folder / name for name in names if not name.startswith('.')):
        if os.path.isdir(path):
            yield from _image_files(path, above | {real})
        elif is_image_name(path.name):
            yield path
