"""Which images a command line means, and where their results go."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from irnsigma_plugin.images.names import IMAGE_EXTENSIONS, image_files, is_image_name


class Job(NamedTuple):
    """An image file, and the PNG file that comes of it."""

    source: Path
    target: Path


def plan_jobs(sources: Sequence[str], destination: str) -> list[Job]:
    """Find the images of `sources` and name their results, before anything is written.

    One file becomes the PNG file `destination`, unless that is a folder or ends in `/`. Otherwise the results lie in
    the folder `destination`, arranged as below each source.

    Args:
        sources: Files, folders (with all folders in them) and globs.
        destination: PNG file or folder. What lies in it is no source, even if it is inside of one.

    Raises:
        ValueError: There is no image, or the results would replace their sources or one another.
        OSError: A source does not exist, or a folder cannot be read.
    """
    folder = Path(destination)
    one_file = len(sources) == 1 and os.path.lexists(sources[0]) and not os.path.isdir(sources[0])
    if one_file and not folder.is_dir() and not destination.endswith(('/', os.sep)):
        if folder.suffix.lower() != '.png':
            raise ValueError(f'{destination}: the result is a PNG file; name it .png, or a folder with / at its end.')
        jobs = [Job(Path(sources[0]), folder)]
    else:
        if os.path.lexists(folder) and not folder.is_dir():
            raise ValueError(f'{destination} is a file, but DST must be a folder for these sources; name a folder.')
        for source in sources:
            if os.path.isdir(source) and os.path.realpath(folder) == os.path.realpath(source):
                raise ValueError(f'{source} is both SRC and DST; choose another folder for the results.')
        jobs = [Job(file, folder / relative.with_suffix('.png')) for file, relative in find_images(sources, folder)]
    _check_targets(jobs)
    return jobs


def find_images(sources: Iterable[str], leave_out: Path | None = None) -> list[tuple[Path, Path]]:
    """Find image files.

    Args:
        sources: Files (of any name), folders (all image names in it and below, none hidden, links followed) and globs
            (likewise).
        leave_out: Folder in which nothing is looked for.

    Returns:
        Each file, and its path below its source: the folder, or the part of the glob before the first wildcard.

    Raises:
        ValueError: A source has no images.
        OSError: A source does not exist, or a folder cannot be read.
    """
    left_out = leave_out and Path(os.path.realpath(leave_out))
    found = []
    for source in sources:
        if os.path.isdir(source):
            base, files = Path(source), map(Path, image_files(source))
        elif os.path.lexists(source):
            found.append((Path(source), Path(Path(source).name)))
            continue
        elif glob.has_magic(source):
            base = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(source).parts))
            files = [Path(hit) for hit in sorted(glob.glob(source, recursive=True)) if not os.path.isdir(hit)]
        else:
            raise FileNotFoundError(f'{source}: there is no such file or folder; check the path.')
        images = [
            (file, file.relative_to(base))
            for file in files
            if is_image_name(file.name) and left_out not in Path(os.path.realpath(file)).parents
        ]
        if not images:
            raise ValueError(f'{source}: there are no images ({", ".join(IMAGE_EXTENSIONS)}); check the path.')
        found += images
    return found


def _check_targets(jobs: list[Job]) -> None:
    sources = {os.path.realpath(job.source) for job in jobs}
    by_target: dict[Path, Path] = {}
    for job in jobs:
        other = by_target.setdefault(job.target, job.source)
        if other != job.source:
            raise ValueError(
                f'{other} and {job.source} would both become {job.target}; rename one, or give them '
                'different folders as DST. Nothing has been written.'
            )
        if os.path.realpath(job.target) in sources:
            raise ValueError(
                f'{job.target} would replace a source; choose another folder as DST. Nothing has been written.'
            )
