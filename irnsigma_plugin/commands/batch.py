"""Work on many files: one that fails is reported in a line, and the others are still done."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Callable

from tqdm import tqdm

from irnsigma_plugin.commands.sources import Job
from irnsigma_plugin.images.picture import Picture, read_picture, write_picture
from irnsigma_plugin.memory import is_lack_of_memory


class Batch:
    """Counts `total` files, shows a progress bar, and at the end says how many were done, skipped and failed."""

    def __init__(self, total: int) -> None:
        self.done = self.skipped = self.failed = 0
        self._start = time.monotonic()
        self._bar = tqdm(total=total, unit='image', disable=None)  # none where nobody watches

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        why = ' (their results exist; --overwrite replaces them)' if self.skipped else ''
        print(
            f'{self.done} done, {self.skipped} skipped{why}, {self.failed} failed in '
            f'{time.monotonic() - self._start:.1f} s'
        )

    @property
    def status(self) -> int:
        """Exit status: 1 if a file failed."""
        return int(self.failed > 0)

    def skip(self, count: int) -> None:
        """Count files as skipped."""
        self.skipped += count
        self._bar.update(count)

    def finish(self) -> None:
        """Count a file as done."""
        self.done += 1
        self._bar.update()

    @contextlib.contextmanager
    def guard(self, path: Path) -> Iterator[None]:
        """Count the file as failed, and say why, if the block raises an error."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, MemoryError) as error:
            message = str(error)
            if is_lack_of_memory(error):
                message = 'there is not enough memory; use fewer --workers.'
            self.failed += 1
            self.say('error', path, message)
            self._bar.update()

    def say(self, kind: str, path: Path, message: str) -> None:
        """Print an error or a warning about a file in one line."""
        message = ' '.join(message.split())
        if str(path) not in message:
            message = f'{path}: {message}'
        self._bar.write(f'irnsigma: {kind}: {message}', file=sys.stderr)


def rescale_files(
    jobs: Sequence[Job], rescale: Callable[[Picture, Path], Picture], overwrite: bool, workers: int
) -> int:
    """Read, rescale and write pictures; reading and writing go on in threads beside the network.

    After an interruption the files that are being written are finished, and no others begun.

    Args:
        jobs: What to do.
        rescale: Makes a result of a picture and its source's path.
        overwrite: Whether to replace results that exist; they are skipped otherwise.
        workers: Number of threads, and of pictures that wait before and behind the network.

    Returns:
        Exit status.
    """
    waiting = [job for job in jobs if overwrite or not job.target.is_file()]
    writes: deque[tuple[Job, Future[None]]] = deque()
    with Batch(len(jobs)) as batch, ThreadPoolExecutor(workers) as pool, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of Pillow, about what does no harm
        batch.skip(len(jobs) - len(waiting))
        for job, reading in _read_ahead(pool, waiting, workers):
            with batch.guard(job.source):
                result = rescale(reading.result(), job.source)
                for warning in result.warnings:
                    batch.say('warning', job.source, warning)
                writes.append((job, pool.submit(_write, result, job.target)))
            while len(writes) > workers:
                _settle(batch, *writes.popleft())
        while writes:
            _settle(batch, *writes.popleft())
    return batch.status


def _read_ahead(pool: ThreadPoolExecutor, jobs: Iterable[Job], count: int) -> Iterator[tuple[Job, Future[Picture]]]:
    """Yield every job with its picture to come, while `count` more are being read."""
    begun: deque[tuple[Job, Future[Picture]]] = deque()
    for job in jobs:
        begun.append((job, pool.submit(read_picture, job.source)))
        if len(begun) > count:
            yield begun.popleft()
    while begun:
        yield begun.popleft()


def _write(picture: Picture, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f'{target}: its folder cannot be made ({error.strerror}); choose another DST.') from error
    write_picture(picture, target)


def _settle(batch: Batch, job: Job, writing: Future[None]) -> None:
    with batch.guard(job.source):
        writing.result()
        batch.finish()
