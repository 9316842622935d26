"""Reading network weights from files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from irnsigma_plugin.atomic import atomic_path

StateDict = Mapping[str, Tensor]


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, or is of another network."""


def read_state_dict(path: str | os.PathLike, param_key: str | None = 'params') -> dict[str, Tensor]:
    """Read a network's weights from a BasicSR checkpoint or a bare state dict.

    Args:
        path: File written by `torch.save`. It is loaded weights-only: nothing in it can run code.
        param_key: Entry of a BasicSR checkpoint, `params` or `params_ema`. Where it is missing, `params`
            is read instead, also for none. A bare state dict, as the original IRN saves, has no entries; it is
            read as a whole, whatever the key.

    Returns:
        The state dict, on the CPU, without the `module.` prefix of wrapped networks.

    Raises:
        CheckpointError: The file is missing, damaged, or holds no weights.
    """
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f'There is no checkpoint at {path}.') from None
    except Exception as error:  # damaged files raise almost anything
        # The cause stays out of the message: torch advises to load the file in a way that runs code in it.
        raise CheckpointError(f'{path} is no readable PyTorch checkpoint: damaged, incomplete, or of another kind. '
                              'Fetch or save it again.') from error
    entries = content if isinstance(content, Mapping) else {}
    state_dict = next((entries[key] for key in (param_key, 'params') if isinstance(entries.get(key), Mapping)), entries)
    if not state_dict or not all(isinstance(key, str) and isinstance(value, Tensor)
                                 for key, value in state_dict.items()):
        found = f'it has {", ".join(map(repr, entries))}' if entries else 'it has nothing of the kind'
        raise CheckpointError(f'{path} holds no network weights: expected a state dict, or one under '
                              f"'{param_key or 'params'}', but {found}.")
    return {key.removeprefix('module.'): value for key, value in state_dict.items()}


def check_fits(net: nn.Module, state_dict: StateDict, path: str | os.PathLike) -> None:
    """Check that a state dict has just the keys and shapes of a network.

    Raises:
        CheckpointError: It has others; the message names the first of each kind.
    """
    own = net.state_dict()
    faults = []
    missing = [key for key in own if key not in state_dict]
    unknown = [key for key in state_dict if key not in own]
    if missing:
        faults.append(f'{len(missing)} keys are missing (first: {missing[0]})')
    if unknown:
        faults.append(f'{len(unknown)} keys are unknown (first: {unknown[0]})')
    for key in own:
        if key in state_dict and own[key].shape != state_dict[key].shape:
            faults.append(f'{key} has shape {tuple(state_dict[key].shape)} instead of {tuple(own[key].shape)}')
            break
    if faults:
        raise CheckpointError(f'The checkpoint {path} is not of this {type(net).__name__}: {"; ".join(faults)}. '
                              'Make the network block of the option file that of the checkpoint.')


@contextlib.contextmanager
def atomic_saves() -> Iterator[None]:
    """Make `torch.save` to a path atomic within the block.

    BasicSR saves straight to the final name, so a kill in the middle leaves a truncated file that
    resuming would pick.
    """
    original = torch.save

    def save(obj, f, *args, **kwargs):
        if not isinstance(f, (str, os.PathLike)):
            return original(obj, f, *args, **kwargs)
        with atomic_path(f) as temporary:
            return original(obj, temporary, *args, **kwargs)

    torch.save = save
    try:
        yield
    finally:
        torch.save = original
