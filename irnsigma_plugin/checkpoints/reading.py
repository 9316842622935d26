"""Reading network weights from files, and what is saved beside them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from irnsigma_plugin.checkpoints.shapes import (
    CheckpointError,
    Shapes,
    clamp_mismatch,
    explained_read_errors,
    is_safetensors,
    network_block,
    safetensors_network,
    shape_mismatch,
    weights_entry,
)

StateDict = Mapping[str, Tensor]


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
    entry, state_dict = weights_entry(content, param_key, Tensor, path)
    # Networks are trained channels-last and saved so; other formats and libraries expect the usual layout.
    state_dict = {key.removeprefix('module.'): value.contiguous() for key, value in state_dict.items()}
    return Checkpoint(state_dict, entry, network, os.fspath(path))


def _read_torch(path: str | os.PathLike) -> tuple[Mapping, Mapping]:
    """Content of a file of `torch.save`, and the network block in it."""
    with explained_read_errors(path, 'PyTorch checkpoint'):
        content = torch.load(path, map_location='cpu', weights_only=True)
    content = content if isinstance(content, Mapping) else {}
    return content, network_block(content)


def _read_safetensors(path: str | os.PathLike) -> tuple[Mapping, Mapping]:
    """Tensors of a safetensors file, and the clamp in its metadata as network block."""
    try:
        from safetensors import safe_open
    except ImportError:
        raise CheckpointError(f'Reading {path} needs the package safetensors: pip install safetensors') from None
    with explained_read_errors(path, 'safetensors file'), safe_open(os.fspath(path), framework='pt') as file:
        content = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no mapping
        metadata = file.metadata()
    return content, safetensors_network(metadata, path)


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
    mismatch = shape_mismatch(type(net).__name__, shapes_of(net.state_dict()), shapes_of(state_dict), path)
    if mismatch:
        raise CheckpointError(mismatch)


def check_clamp(checkpoint: Checkpoint, network: Mapping[str, Any]) -> None:
    """Check that a checkpoint was saved with the clamp of an option file's block, which its weights do not show.

    Raises:
        CheckpointError: It was saved with another one.
    """
    mismatch = clamp_mismatch(checkpoint.network, network, checkpoint.path)
    if mismatch:
        raise CheckpointError(mismatch)
