"""Saving networks and training states: completely or not at all, with what belongs to them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, Callable

import torch

from irnsigma_plugin.atomic import atomic_path


class SaveError(RuntimeError):
    """A checkpoint or training state could not be saved."""


@contextlib.contextmanager
def atomic_saves() -> Iterator[None]:
    """Make `torch.save` to a path atomic within the block, and a failure of it the block's failure.

    BasicSR saves straight to the final name, so a kill in the middle leaves a truncated file that
    resuming would pick. It tries three times to save a file and then goes on without it.

    Raises:
        SaveError: At the end of the block: a file could not be saved. From then on nothing else was.
    """
    original = torch.save
    failed: dict[str, SaveError] = {}

    def save(obj, f, *args, **kwargs):
        if not isinstance(f, (str, os.PathLike)):
            return original(obj, f, *args, **kwargs)
        path = os.fspath(f)
        if failed.keys() - {path}:
            raise next(iter(failed.values()))
        try:
            # To a file object, for torch's own writer does not say what the system's error was.
            with atomic_path(path) as temporary, open(temporary, 'wb') as file:
                original(obj, file, *args, **kwargs)
        except Exception as error:
            failed[path] = SaveError(_explain_failed_save(path, error))
            raise failed[path] from error
        failed.pop(path, None)

    with _torch_save_replaced(save):
        yield
    if failed:
        raise next(iter(failed.values()))


@contextlib.contextmanager
def saves_with(entries: Mapping[str, Any]) -> Iterator[None]:
    """Let whatever mapping is given to `torch.save` within the block have these entries, too."""
    original = torch.save

    def save(obj, f, *args, **kwargs):
        return original({**obj, **entries}, f, *args, **kwargs)

    with _torch_save_replaced(save):
        yield


@contextlib.contextmanager
def _torch_save_replaced(save: Callable) -> Iterator[None]:
    original = torch.save
    torch.save = save
    try:
        yield
    finally:
        torch.save = original


def _explain_failed_save(path: str, error: BaseException) -> str:
    cause = error
    while not isinstance(cause, OSError) and cause.__context__ is not None:
        cause = cause.__context__
    reason = cause.strerror if isinstance(cause, OSError) else ' '.join(str(error).split())
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
        reason = f'{reason}; {free / 2**20:,.0f} MiB are free there'
    return (f'Cannot save {path} ({reason}), so the training stops. Make room or mend access, and resume with '
            '--auto_resume: what was saved before is whole.')
