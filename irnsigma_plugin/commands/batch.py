"""Work on many files: one that fails is reported in a line, and the others are still done."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, NamedTuple

import torch
from tqdm import tqdm

from irnsigma_plugin.files import make_folder
from irnsigma_plugin.images import lossy
from irnsigma_plugin.images.names import DEFAULT_QUALITY, find_images
from irnsigma_plugin.images.picture import Picture, fitted, read_picture, read_text, write_picture
from irnsigma_plugin.memory import is_lack_of_memory
from irnsigma_plugin.rescaling.pictures import note_quality, other_settings

CUT = 'cut the image into parts'
Rescale = Callable[[Picture, Path], Picture]  # makes a result of a picture and its source's path


class Job(NamedTuple):
    """An image file, and the file that comes of it."""

    source: Path
    target: Path


def plan_jobs(sources: Sequence[str], destination: str, kinds: Sequence[str] = ('png',)) -> list[Job]:
    """Find the images of `sources` and name their results, before anything is written.

    One file becomes the file `destination`, whose name ends as one of `kinds` ('png', 'jpg', ...), unless that is a
    folder or ends in `/`. Otherwise the results are files of the first of `kinds` in the folder `destination`, arranged
    as below each source. What lies there is no source, even if it is inside of one. A file given twice is one job.

    Raises:
        ValueError: There is no image, or the results would replace their sources or one another.
        OSError: A source does not exist, or a folder cannot be read.
    """
    folder = Path(destination)
    one_file = len(sources) == 1 and os.path.lexists(sources[0]) and not os.path.isdir(sources[0])
    if one_file and not folder.is_dir() and not destination.endswith(('/', os.sep)):
        if folder.suffix.lower().replace('.jpeg', '.jpg')[1:] not in kinds:
            names = f'{", ".join(kinds).upper()} file; name it .{", .".join(kinds)}'
            raise ValueError(f'{destination}: the result is a {names}, or a folder with / at its end.')
        jobs = [Job(Path(sources[0]), folder)]
    else:
        if os.path.lexists(folder) and not folder.is_dir():
            raise ValueError(f'{destination} is a file, but DST must be a folder for these sources; name a folder.')
        for source in sources:
            if os.path.isdir(source) and os.path.realpath(folder) == os.path.realpath(source):
                raise ValueError(f'{source} is both SRC and DST; choose another folder for the results.')
        found = find_images(sources, folder)
        jobs = [Job(file, folder / relative.with_suffix(f'.{kinds[0]}')) for file, relative in found]
    originals = {os.path.realpath(job.source) for job in jobs}
    by_target: dict[Path, Path] = {}
    for file, target in jobs:
        other = by_target.setdefault(target, file)
        if other != file and os.path.realpath(other) != os.path.realpath(file):
            remedy = 'rename one, or give them different folders as DST. Nothing has been written.'
            raise ValueError(f'{other} and {file} would both become {target}; {remedy}')
        if os.path.realpath(target) in originals:
            remedy = 'choose another folder as DST. Nothing has been written.'
            raise ValueError(f'{target} would replace a source; {remedy}')
    return [Job(file, target) for target, file in by_target.items()]


class Batch:
    """Counts `total` files, shows a progress bar, and at the end says how many were done, skipped and failed.

    `remedy` is what to do about a lack of the machine's memory.
    """

    def __init__(self, total: int, skipped: int = 0, remedy: str = CUT) -> None:
        self._remedy = remedy
        self.done, self.skipped, self.failed, self.others = 0, skipped, 0, 0  # others: skipped, of other settings
        self._start = time.monotonic()
        self._bar = tqdm(total=total, initial=skipped, unit='image', disable=None)  # none where nobody watches

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        others = f', {self.others} of other or unknown settings' if self.others else ''
        why = f' (their results exist{others}; --overwrite replaces them)' if self.skipped else ''
        seconds = time.monotonic() - self._start
        print(f'{self.done} done, {self.skipped} skipped{why}, {self.failed} failed in {seconds:.1f} s')

    @contextlib.contextmanager
    def guard(self, path: Path) -> Iterator[None]:
        """Count the file as failed, and say why, if the block raises an error."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, MemoryError, FloatingPointError) as error:
            remedy = 'use --device cpu' if isinstance(error, torch.OutOfMemoryError) else self._remedy
            no_memory = f'there is not enough memory; {remedy}.'
            self.say('error', path, no_memory if is_lack_of_memory(error) else str(error))
            self.failed += 1
            self._bar.update()

    def finish(self) -> None:
        """Count a file as done."""
        self.done += 1
        self._bar.update()

    def say(self, kind: str, path: Path, message: str) -> None:
        """Print an error or a warning about a file in one line."""
        line = ' '.join(message.split())
        named = line if str(path) in line else f'{path}: {line}'
        self._bar.write(f'irnsigma: {kind}: {named}', file=sys.stderr)


def rescale_files(
    jobs: Sequence[Job],
    rescale: Rescale,
    settings: Mapping[str, Any],
    overwrite: bool,
    workers: int,
    quality: int | None,
) -> int:
    """Read, rescale and write pictures; reading and writing go on in threads beside the network.

    Results that exist are skipped, unless `overwrite` is set; those that were made with other `settings` are named, and
    the exit status, which is returned, is 1 as where a picture fails. `workers` threads read and write, and as many
    pictures wait before and behind the network. After an interruption the files that are being written are finished,
    and no others begun. `quality` is that of files that lose detail, which note it; a ValueError if they do not.
    """
    is_lossy = jobs[0].target.suffix.lower() in lossy.KINDS
    if quality and not is_lossy:
        raise ValueError('--quality: PNG files lose nothing and have no quality; leave it out, or name another format.')
    quality = quality or DEFAULT_QUALITY
    settings = {**settings, 'quality': quality} if is_lossy else settings
    existing = dict.fromkeys(job for job in jobs if not overwrite and job.target.is_file())
    waiting = [job for job in jobs if job not in existing]
    are_others = False
    if waiting:
        make_folder(waiting[0].target.parent)  # before the work, not after it
    writes: deque[tuple[Path, Future[None]]] = deque()

    def settle(left: int) -> None:
        """Wait for the oldest pictures to be written, until so many are left."""
        while len(writes) > left:
            source, writing = writes.popleft()
            with batch.guard(source):
                writing.result()
                batch.finish()

    with (
        Batch(len(jobs), len(existing), 'use fewer --workers' if workers > 1 else CUT) as batch,
        ThreadPoolExecutor(workers) as pool,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter('ignore')  # of Pillow, about what does no harm
        for job in existing:
            difference = other_settings(read_text(job.target), {**settings, 'name': job.source.stem})
            if difference != '':
                how = f'has {difference}' if difference else 'does not say with which settings it was made'
                batch.say('error' if difference else 'warning', job.target, f'{how}; --overwrite replaces it.')
                batch.others += 1
                are_others |= difference is not None
        try:
            for job, reading in _read_ahead(pool, waiting, workers):
                with batch.guard(job.source):
                    result = rescale(reading.result(), job.source)
                    if is_lossy:
                        result = fitted(note_quality(result, quality), job.target)
                    for warning in result.warnings:
                        batch.say('warning', job.source, warning)
                    writes.append((job.source, pool.submit(_write, result, job.target, quality)))
                settle(workers)
        finally:  # after an interruption, too
            settle(0)
    return int(batch.failed > 0 or are_others)


def _read_ahead(pool: ThreadPoolExecutor, jobs: Iterable[Job], count: int) -> Iterator[tuple[Job, Future[Picture]]]:
    """Yield every job with its picture to come, while `count` more are being read."""
    begun: deque[tuple[Job, Future[Picture]]] = deque()
    for job in jobs:
        begun.append((job, pool.submit(read_picture, job.source)))
        if len(begun) > count:
            yield begun.popleft()
    while begun:
        yield begun.popleft()


def _write(picture: Picture, target: Path, quality: int) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f'{target}: its folder cannot be made ({error.strerror}); choose another DST.') from error
    write_picture(picture, target, quality)
