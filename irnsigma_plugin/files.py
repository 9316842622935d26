"""Write a file completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from io import FileIO

TEMPORARY_NAME = re.compile(r'\.(\d+)\..')  # of atomic_path, with the number of the process
LONGEST_EXTENSION = 16  # no writer knows a longer one


class WriteError(OSError):
    """A file or folder cannot be written; the message names it, the reason and the remedy.

    `errno` and `strerror` are the system's.
    """

    def __str__(self) -> str:
        return (
            f'{self.filename}: cannot be written ({self.strerror}); check the rights and the free space there, or '
            'choose another place.'
        )


@contextlib.contextmanager
def atomic_path(final: str | os.PathLike) -> Iterator[str]:
    """Yield a temporary path that becomes `final` when the block ends without an error.

    The data is flushed to the disk before the rename, so that after a kill or a power loss `final` holds either its old
    content or the whole new one. On an error the temporary file is removed and `final` is left as it was.

    Args:
        final: Path of the finished file. Its directory must exist. A device or a pipe is written to as it is.

    Yields:
        Path to write to: a hidden sibling (same file system, so the rename is atomic) with the same extension (by
        which some writers choose the format).

    Raises:
        WriteError: The file could not be written, flushed or renamed: in place of any error of the system.
    """
    target = os.path.realpath(final)  # a link stays; what it points to is replaced
    folder, name = os.path.split(target)
    short = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]  # `name` may be as long as names can be
    is_file = not os.path.exists(target) or os.path.isfile(target) or os.path.isdir(target)
    temporary = os.path.join(folder, f'.{os.getpid()}.{short}{os.path.splitext(name)[1][:LONGEST_EXTENSION]}')
    try:
        yield temporary if is_file else target
        if not is_file:
            return
        _flush(temporary)
        os.replace(temporary, target)
        with contextlib.suppress(OSError):  # some file systems refuse it, and the file is there
            _flush(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            raise WriteError(error.errno, error.strerror, os.fspath(final)) from error
        raise


def atomic_write(final: str | os.PathLike, content: bytes) -> None:
    """Write `content` to `final` completely or not at all. Errors as of :func:`atomic_path`."""
    with atomic_path(final) as temporary, open(temporary, 'wb') as file:
        file.write(content)


def make_folder(path: str | os.PathLike) -> None:
    """Make a folder, with those that it lies in, if need be, and see that a file can be put into it.

    Raises:
        WriteError: It cannot.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=os.fspath(path)):
            pass
    except OSError as error:
        code = errno.ENOTDIR if isinstance(error, FileExistsError) else error.errno
        raise WriteError(code, os.strerror(code or errno.EIO), os.fspath(path)) from error


def lock(path: str | os.PathLike) -> FileIO | None:
    """Open a file, made where there is none, that is locked as long as it is open; None if it is locked already.

    The lock ends with the process, however that ends. On Windows, and on network drives without locks, the file is
    open, and that is all. A child process may be handed the file, and a forked one may close it: neither can be done
    with filelock's.
    """
    try:
        file = open(path, 'a+b', buffering=0)  # noqa: SIM115  it is to stay open
    except PermissionError:  # somebody else's, which can be locked all the same
        file = open(path, 'rb', buffering=0)  # noqa: SIM115
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the latter on drives of Windows servers
        file.close()
        return None
    except (ImportError, OSError):
        pass
    return file


def remove_leftovers(folders: Iterable[str]) -> None:
    """Remove the temporary files of :func:`atomic_path` that killed processes left.

    Call it before this process writes: a file of its own number is then one of a predecessor, as in containers.
    """
    for folder in filter(os.path.isdir, folders):
        for entry in os.scandir(folder):
            match = TEMPORARY_NAME.match(entry.name)
            if match and entry.is_file() and not _is_running(int(match[1])):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _is_running(process: int) -> bool:
    """Whether another process has this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's
        pass
    return process != os.getpid()


def _flush(path: str) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
