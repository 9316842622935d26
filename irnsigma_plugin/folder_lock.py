"""A folder that one process at a time works in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows: no lock there
    fcntl = None


class FolderInUseError(RuntimeError):
    """Another process works in the folder."""


@contextlib.contextmanager
def exclusive(folder: str | os.PathLike) -> Iterator[None]:
    """Keep others that ask out of an existing folder until the end of the block, or of the process.

    The lock is the system's (flock) and leaves no file behind, so a kill releases it, too. File systems that know no
    such locks go without.

    Raises:
        FolderInUseError: Another process has it.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(f'another process works in {folder}.') from None
        except OSError:  # not supported there
            pass
        if not _is_at(folder, descriptor):
            raise FolderInUseError(f'another process has just removed {folder}.')
        yield
    finally:
        os.close(descriptor)


def _is_at(folder: str | os.PathLike, descriptor: int) -> bool:
    """Whether an opened folder still has its name."""
    try:
        return os.path.samestat(os.stat(folder), os.fstat(descriptor))
    except FileNotFoundError:
        return False
