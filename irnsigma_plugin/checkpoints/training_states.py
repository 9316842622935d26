"""What a training saves, completely or not at all; which of its states is resumed, which may go; whose they are."""

from __future__ import annotations

import contextlib
import logging
import os
import os.path as osp
import pickle
import re
import shutil
import socket
import zipfile
from collections.abc import Mapping, Sequence
from io import FileIO
from typing import Any

import torch
from torch import Tensor, nn

from irnsigma_plugin.checks import one_line
from irnsigma_plugin.files import atomic_path, lock

_logger = logging.getLogger(__package__)
_lock: FileIO | None = None  # of this process's training


class SaveError(RuntimeError):
    """A checkpoint or training state could not be saved."""


def occupy(root: str) -> None:
    """Keep other processes from training in an experiment's folder, until this one ends or starts another training.

    Raises:
        RuntimeError: One does, of which the message tells the number.
    """
    global _lock
    _release()
    parent, name = osp.split(root)
    path = osp.join(parent, f'.{name}.lock')  # not in the folder, which BasicSR renames
    try:
        os.makedirs(parent, exist_ok=True)
        _lock = lock(path)
    except OSError as error:
        _logger.warning('A second training of this name would not be refused, for %s: %s', path, error.strerror)
        return
    if _lock is None:
        owner = 'another process'
        with contextlib.suppress(OSError), open(path, encoding='utf-8', errors='replace') as file:
            owner = file.read().strip() or owner
        fault = f'{root}: {owner} trains there, or has and goes on, as a notebook'
        remedy = f'give this training another `name`. Where that process is gone with its machine, remove {path}.'
        raise RuntimeError(f'{fault}. Wait for it or end it, or {remedy}')
    with contextlib.suppress(OSError):  # of a full disk, or of a file of somebody else
        _lock.truncate(0)
        _lock.write(f'process {os.getpid()} on {socket.gethostname()}\n'.encode())


def _release() -> None:
    global _lock
    if _lock is not None:
        _lock.close()
    _lock = None


if hasattr(os, 'register_at_fork'):  # data workers may outlive a killed training by seconds
    os.register_at_fork(after_in_child=_release)


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
            free = shutil.disk_usage(osp.dirname(osp.abspath(path))).free
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


def newest_whole_state(opt: Mapping[str, Any], folder: str) -> tuple[str | None, dict[str, Any] | None]:
    """Path and content of the newest state that is whole with its networks, or None twice; the log names the others."""
    for iteration in iterations(folder):
        files = _files(opt, folder, iteration)
        try:
            return files[-1], _read_whole(opt, files, iteration)
        except Exception as error:
            if opt['rank'] == 0:
                _logger.warning('Skip training state %s: %s', files[-1], one_line(error))
    return None, None


def read_state(path: str) -> dict[str, Any]:
    """Read a training state to the CPU, weights-only: nothing in it can run code."""
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError:
        # The cause stays out of the message: torch advises to load the file in a way that runs code in it.
        raise RuntimeError('it is damaged, or holds more than plain values, which could run code') from None


def read_named_state(opt: Mapping[str, Any], path: str, models: str) -> dict[str, Any]:
    """Read the state that `path.resume_state` names, or raise a RuntimeError; its networks are in `models`."""
    try:
        state = _check_state(opt, read_state(osp.expanduser(path)))
        for network in _files({**opt, 'path': {**opt['path'], 'models': models}}, '', state['iter'])[:-1]:
            if not osp.isfile(network):
                raise ValueError(f'{network}, which goes with it, is not there; `name` must be that of its training')
    except Exception as error:
        remedy = 'Name a whole one, or use --auto_resume, which finds the newest whole one itself.'
        raise RuntimeError(f'path.resume_state: cannot resume {path}: {one_line(error)}. {remedy}') from error
    return state


def prune(opt: Mapping[str, Any], keep_last: int, saved: int) -> None:
    """Remove what is older than the newest `keep_last` whole states up to iteration `saved`, with its networks.

    States after `saved`, the newest of this training, are of another one: this one has started from an older state.
    """
    folder = opt['path']['training_states']
    whole = 0
    for iteration in iterations(folder):
        if iteration > saved:
            continue
        if whole < keep_last:
            whole += all(zipfile.is_zipfile(path) for path in _files(opt, folder, iteration))
            continue
        # The state last: it leads the next call to the networks, should this one be killed.
        for path in _files(opt, folder, iteration, ignored=()):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def network_keys(opt: Mapping[str, Any]) -> list[str]:
    """The keys of a training's networks, all of which it saves; one that is left empty counts as absent."""
    return [key for key, block in opt.items() if key.startswith('network_') and block]


def iterations(folder: str) -> list[int]:
    """Iterations of the training states in a folder, newest first."""
    names = os.listdir(folder) if osp.isdir(folder) else []
    return sorted((int(osp.splitext(name)[0]) for name in names if re.fullmatch(r'\d+\.state', name)), reverse=True)


def _files(opt: Mapping[str, Any], folder: str, iteration: int, ignored: Sequence[str] | None = None) -> list[str]:
    """The networks that are resumed together with a state, all but those `ignored`, and the state, last."""
    if ignored is None:
        ignored = opt['path'].get('ignore_resume_networks') or ()
    labels = [key[len('network_') :] for key in network_keys(opt) if key not in ignored]
    networks = [osp.join(opt['path']['models'], f'net_{label}_{iteration}.pth') for label in labels]
    return [*networks, osp.join(folder, f'{iteration}.state')]


def _read_whole(opt: Mapping[str, Any], files: Sequence[str], iteration: int) -> dict[str, Any]:
    """Read the last of some files, a training state, if all are whole and it is of this training."""
    for path in files:
        if not zipfile.is_zipfile(path):
            raise ValueError(f'{path} is missing or incomplete')
        with zipfile.ZipFile(path) as archive:  # of torch.save, with checksums
            if archive.testzip() is not None:
                raise ValueError(f'{path} is damaged')
    state = _check_state(opt, read_state(files[-1]))
    if state['iter'] != iteration:
        raise ValueError(f'it is of iteration {state["iter"]}')
    return state


def _check_state(opt: Mapping[str, Any], state: Any) -> dict[str, Any]:
    """Return what was read, or raise a ValueError where it is no state of this training."""
    if not isinstance(state, dict) or not state.keys() >= {'epoch', 'iter', 'optimizers', 'schedulers'}:
        raise ValueError('it is no training state')
    if state.get('model_type', opt['model_type']) != opt['model_type']:
        raise ValueError(f'it is of {state["model_type"]}, not of {opt["model_type"]}')
    for network in state.get('networks', ()):
        if network not in network_keys(opt):
            raise ValueError(f'it is of a training with {network}')
    return state
