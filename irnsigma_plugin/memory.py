"""How much memory there is, and what to say where there is too little."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

HOST_ALLOCATOR = "can't allocate memory"
OPENCV_NO_MEMORY = -4  # code of cv2.error
# (limit, use, prefix of the entries in memory.stat) of the control group that a container runs in, versions 2 and 1.
CGROUP_FILES = (
    ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory.current', ''),
    ('/sys/fs/cgroup/memory/memory.limit_in_bytes', '/sys/fs/cgroup/memory/memory.usage_in_bytes', 'total_'),
)


def available_memory() -> int:
    """Bytes of the machine that can be allocated, no more than the control group of a container leaves."""
    available = [_system_memory()]
    for limit_file, use_file, prefix in CGROUP_FILES:
        try:
            left = int(Path(limit_file).read_text()) - int(Path(use_file).read_text())
            stat = Path(use_file).with_name('memory.stat')
            entries = dict(line.split() for line in stat.read_text().splitlines()) if stat.exists() else {}
            # The use has the contents of files in it, which stay only for as long as nobody else needs the memory.
            available.append(left + sum(int(entries.get(f'{prefix}{kind}active_file', 0)) for kind in ('', 'in')))
        except (OSError, ValueError):  # no such group, or its limit is 'max'
            continue
    return max(0, min(available))


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error is OOM, of a GPU or of the machine: Python's, torch's or OpenCV's."""
    from_host = isinstance(error, RuntimeError) and HOST_ALLOCATOR in str(error)  # all that torch's CPU allocator says
    from_opencv = type(error).__module__ == 'cv2' and getattr(error, 'code', None) == OPENCV_NO_MEMORY
    return from_host or from_opencv or isinstance(error, (MemoryError, torch.OutOfMemoryError))


def _system_memory() -> int:
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable:'))
    except (OSError, StopIteration):
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2


@contextmanager
def oom_hint(what: str, remedy: str, is_training: bool = True) -> Iterator[None]:
    """Turn OOM, of a GPU or of the machine, within the block into one line: `what` needs it, `remedy` needs less.

    A training is told how to go on, too.

    Raises:
        MemoryError: In the place of torch's errors.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_lack_of_memory(error):
            raise
        where = 'GPU' if isinstance(error, torch.OutOfMemoryError) else 'machine'
        end = ' What was saved is untouched: resume with --auto_resume.' if is_training else ''
        raise MemoryError(
            f'The {what} needs more memory than the {where} has left: {remedy}, or end what else uses it.{end}'
        ) from None
