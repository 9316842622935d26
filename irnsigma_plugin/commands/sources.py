"""Which images a command line means, and where their results go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from irnsigma_plugin.images.names import find_images


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
    originals = {os.path.realpath(job.source) for job in jobs}
    by_target: dict[Path, Path] = {}
    for file, target in jobs:
        other = by_target.setdefault(target, file)
        if other != file:
            raise ValueError(
                f'{other} and {file} would both become {target}; rename one, or give them different folders as DST. '
                'Nothing has been written.'
            )
        if os.path.realpath(target) in originals:
            raise ValueError(
                f'{target} would replace a source; choose another folder as DST. Nothing has been written.'
            )
    return jobs
