"""The training states of an experiment: which one to resume from, which may go."""

from __future__ import annotations

import contextlib
import logging
import os
import os.path as osp
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from irnsigma_plugin.checks import one_line

_ENTRIES = {'epoch', 'iter', 'optimizers', 'schedulers'}  # of every state that BasicSR resumes from
_logger = logging.getLogger(__package__)


def newest_whole_state(opt: Mapping[str, Any], folder: str) -> tuple[str | None, dict[str, Any] | None]:
    """Path and content of the newest state in a folder that is whole, with all networks; others are named in the log.

    Two times None where there is none.
    """
    for iteration in iterations(folder):
        path = osp.join(folder, f'{iteration}.state')
        try:
            for file in (*_network_files(opt, iteration), path):
                _check_whole(file)
            state = read_state(path)
            _check_content(opt, state, iteration)
            return path, state
        except Exception as error:
            if opt['rank'] == 0:
                _logger.warning('Skip training state %s: %s', path, one_line(error))
    return None, None


def read_state(path: str) -> dict[str, Any]:
    """Read a training state to the CPU, weights-only: nothing in it can run code."""
    import torch

    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError:
        # The cause stays out of the message: torch advises to load the file in a way that runs code in it.
        raise RuntimeError('it is damaged, or holds more than plain values, which could run code') from None


def prune(opt: Mapping[str, Any], keep_last: int, saved: int) -> None:
    """Remove what is older than the newest `keep_last` whole states up to iteration `saved`, with its networks.

    States after `saved`, the newest of this training, are of another one: this one has started from an older state.
    """
    folder = opt['path']['training_states']
    whole = 0
    for iteration in iterations(folder):
        if iteration > saved:
            continue
        # The state is the last to go: it leads the next call to the networks, should this one be killed.
        files = [*_network_files(opt, iteration), osp.join(folder, f'{iteration}.state')]
        if whole >= keep_last:
            for path in files:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        else:
            whole += all(zipfile.is_zipfile(path) for path in files)


def iterations(folder: str) -> list[int]:
    """Iterations of the training states in a folder, newest first."""
    names = os.listdir(folder) if osp.isdir(folder) else []
    return sorted((int(name[: -len('.state')]) for name in names if re.fullmatch(r'\d+\.state', name)), reverse=True)


def _network_files(opt: Mapping[str, Any], iteration: int) -> Iterator[str]:
    """The networks that are resumed together with a state."""
    ignored = opt['path'].get('ignore_resume_networks') or ()
    for key in opt:
        if key.startswith('network_') and key not in ignored:
            yield osp.join(opt['path']['models'], f'net_{key[len("network_") :]}_{iteration}.pth')


def _check_whole(path: str) -> None:
    """Check the archive that torch.save writes, with its checksums."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f'{path} is missing or incomplete')
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise ValueError(f'{path} is damaged')


def _check_content(opt: Mapping[str, Any], state: Any, iteration: int) -> None:
    if not isinstance(state, dict) or not state.keys() >= _ENTRIES:
        raise ValueError('it is no training state')
    if state['iter'] != iteration:
        raise ValueError(f'it is of iteration {state["iter"]}')
    if state.get('model_type', opt['model_type']) != opt['model_type']:
        raise ValueError(f'it is of {state["model_type"]}, not of {opt["model_type"]}')
    trained = [network for network in state.get('networks', ()) if network not in opt]
    if trained:
        raise ValueError(f'it is of a training with {trained[0]}')
