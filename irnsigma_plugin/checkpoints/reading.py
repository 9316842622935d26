"""Reading network weights from files, and what is saved beside them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor, nn

from irnsigma_plugin.atomic import atomic_path
from irnsigma_plugin.checkpoints.shapes import CheckpointError, Shapes, differences, not_of
from irnsigma_plugin.checks import number

StateDict = Mapping[str, Tensor]

#: Entry of a checkpoint that holds the option file's block of the network, beside its weights.
NETWORK_ENTRY = 'network_g'
#: Bound of the log-scale where nothing says otherwise: that of the paper and of the original IRN.
DEFAULT_CLAMP = 1.0


class Checkpoint(NamedTuple):
    """What a file holds of a network.

    Attributes:
        state_dict: The weights, on the CPU, without the `module.` prefix of wrapped networks.
        param_key: Entry that they come from, `params_ema` or `params`; None for a bare state dict.
        network: The option file's block of the network, as far as it was saved with the weights. The clamp, for one,
            cannot be told from them.
        path: The file, for messages.
    """

    state_dict: dict[str, Tensor]
    param_key: str | None = None
    network: Mapping[str, Any] = {}
    path: str = 'the checkpoint'


def read_checkpoint(path: str | os.PathLike, param_key: str | None = 'params_ema') -> Checkpoint:
    """Read a network's weights from a BasicSR checkpoint, a bare state dict, or a safetensors file.

    Args:
        path: File written by `torch.save`, or one named `.safetensors`. It is loaded weights-only: nothing in it can
            run code.
        param_key: Entry of a BasicSR checkpoint, `params` or `params_ema`. Where it is missing, `params`
            is read instead, also for none. A bare state dict, as the original IRN saves, has no entries; it is
            read as a whole, whatever the key.

    Raises:
        CheckpointError: The file is missing, damaged, or holds no weights; or it is a safetensors file and the package
            safetensors is not installed.
    """
    content, network = (_read_safetensors if is_safetensors(path) else _read_torch)(path)
    entry = next((key for key in (param_key, 'params') if isinstance(content.get(key), Mapping)), None)
    state_dict = content if entry is None else content[entry]
    if not state_dict or not all(isinstance(key, str) and isinstance(value, Tensor)
                                 for key, value in state_dict.items()):
        found = f'it has {", ".join(map(repr, content))}' if content else 'it has nothing of the kind'
        raise CheckpointError(f'{path} holds no network weights: expected a state dict, or one under '
                              f"'{param_key or 'params'}', but {found}.")
    # Networks are trained channels-last and saved so; other formats and libraries expect the usual layout.
    state_dict = {key.removeprefix('module.'): value.contiguous() for key, value in state_dict.items()}
    return Checkpoint(state_dict, entry, network, os.fspath(path))


def read_state_dict(path: str | os.PathLike, param_key: str | None = 'params') -> dict[str, Tensor]:
    """The weights alone of :func:`read_checkpoint`, whose arguments and errors these are."""
    return read_checkpoint(path, param_key).state_dict


def is_safetensors(path: str | os.PathLike) -> bool:
    """Whether a file is a safetensors file, by its name."""
    return os.fspath(path).lower().endswith('.safetensors')


def _read_torch(path: str | os.PathLike) -> tuple[Mapping, Mapping]:
    """Content of a file of `torch.save`, and the network block in it."""
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f'There is no checkpoint at {path}.') from None
    except Exception as error:  # damaged files raise almost anything
        # The cause stays out of the message: torch advises to load the file in a way that runs code in it.
        raise CheckpointError(f'{path} is no readable PyTorch checkpoint: damaged, incomplete, or of another kind. '
                              'Fetch or save it again.') from error
    content = content if isinstance(content, Mapping) else {}
    network = content.get(NETWORK_ENTRY)
    return content, network if isinstance(network, Mapping) else {}


def _read_safetensors(path: str | os.PathLike) -> tuple[Mapping, Mapping]:
    """Tensors of a safetensors file, and the clamp in its metadata as network block."""
    try:
        from safetensors import safe_open
    except ImportError:
        raise CheckpointError(f'Reading {path} needs the package safetensors: pip install safetensors') from None
    try:
        with safe_open(os.fspath(path), framework='pt') as file:
            content = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no mapping
            clamp = (file.metadata() or {}).get('clamp')
    except FileNotFoundError:
        raise CheckpointError(f'There is no checkpoint at {path}.') from None
    except Exception as error:
        raise CheckpointError(f'{path} is no readable safetensors file: damaged, incomplete, or of another kind. '
                              'Fetch or save it again.') from error
    if clamp is None:
        return content, {}
    try:
        return content, {'clamp': number('clamp', float(clamp), above=0)}
    except ValueError:
        raise CheckpointError(f'{path}: clamp in its metadata must be a number, more than 0, but is {clamp!r}.') \
            from None


def model_hash(state_dict: StateDict) -> str:
    """Name of a set of weights: 16 hexadecimal digits of SHA-256 over names, shapes, types and values.

    The order of the names, the device and the memory layout make no difference.
    """
    digest = hashlib.sha256()
    for key in sorted(state_dict):
        value = state_dict[key].detach().cpu().contiguous()
        digest.update(f'{key} {tuple(value.shape)} {value.dtype}\n'.encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def shapes_of(state_dict: StateDict) -> Shapes:
    """Names and shapes of weights."""
    return {key: tuple(value.shape) for key, value in state_dict.items()}


def check_fits(net: nn.Module, state_dict: StateDict, path: str | os.PathLike) -> None:
    """Check that a state dict has just the keys and shapes of a network.

    Raises:
        CheckpointError: It has others; the message names the first of each kind.
    """
    faults = differences(shapes_of(net.state_dict()), shapes_of(state_dict))
    if faults:
        raise CheckpointError(not_of(type(net).__name__, path, faults))


def check_clamp(checkpoint: Checkpoint, network: Mapping[str, Any]) -> None:
    """Check that a checkpoint was saved with the clamp of an option file's block, which its weights do not show.

    Raises:
        CheckpointError: It was saved with another one.
    """
    if not checkpoint.network:
        return
    saved, wanted = (block.get('clamp', DEFAULT_CLAMP) for block in (checkpoint.network, network))
    if saved != wanted:
        raise CheckpointError(f'The checkpoint {checkpoint.path} was trained with clamp: {saved}, but network_g has '
                              f'clamp: {wanted}. Set network_g.clamp: {saved} in the option file.')


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
