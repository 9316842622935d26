"""Saving networks and training states: completely or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from irnsigma_plugin.checks import one_line
from irnsigma_plugin.files import atomic_path


class SaveError(RuntimeError):
    """A checkpoint or training state could not be saved."""


def save_atomically(content: Mapping[str, Any], path: str | os.PathLike) -> None:
    """`torch.save` to a path, which holds the old content until the new one is complete.

    Raises:
        SaveError: The file could not be saved; the message names the reason and the remedy.
    """
    try:
        # To a file object, for torch's own writer does not say what the system's error was.
        with atomic_path(path) as temporary, open(temporary, 'wb') as file:
            torch.save(content, file)
    except Exception as error:
        cause: BaseException = error
        while not isinstance(cause, OSError) and cause.__context__ is not None:
            cause = cause.__context__
        reason = cause.strerror if isinstance(cause, OSError) else one_line(error)
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
            reason = f'{reason}; {free / 2**20:,.0f} MiB are free there'
        raise SaveError(
            f'Cannot save {os.fspath(path)} ({reason}), so the training stops. Make room or mend access, and resume '
            'with --auto_resume: what was saved before is whole.'
        ) from error


def weights_to_save(net: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network on the CPU, without the `module.` prefix of wrapped networks."""
    state_dict = net.state_dict()
    for key in list(state_dict):  # in place, for it has the versions of the modules as well
        state_dict[key.removeprefix('module.')] = state_dict.pop(key).cpu()
    return state_dict
