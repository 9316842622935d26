"""Write a file completely or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def atomic_path(final: str | os.PathLike) -> Iterator[str]:
    """Yield a temporary path that becomes `final` when the block ends without an error.

    The data is flushed to the disk before the rename, so that after a kill or a power loss `final` holds
    either its old content or the whole new one. On an error the temporary file is removed and `final` is
    left as it was.

    Args:
        final: Path of the finished file. Its directory must exist.

    Yields:
        Path to write to: a hidden sibling (same file system, so the rename is atomic) with the same
        extension (so that writers which choose a format by extension still work).

    Raises:
        OSError: The file could not be written, flushed or renamed.
    """
    final = os.path.realpath(final)  # a link stays; what it points to is replaced
    folder, name = os.path.split(final)
    temporary = os.path.join(folder, f'.{os.getpid()}.{name}')
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, final)
        _flush(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def atomic_write(final: str | os.PathLike, content: bytes) -> None:
    """Write `content` to `final` completely or not at all. Errors as of :func:`atomic_path`."""
    with atomic_path(final) as temporary, open(temporary, 'wb') as file:
        file.write(content)


def _flush(path: str) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
