"""The weights of a network as a safetensors file: plain numbers, which cannot run code."""

from __future__ import annotations

import json
import os

import torch
from safetensors.torch import save

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.archs.rescaling_net import RescalingNet
from irnsigma_plugin.checkpoints.weights import (
    DEFAULT_CLAMP,
    NETWORK_ENTRY,
    Checkpoint,
    CheckpointError,
    discover_network,
    model_hash,
    read_checkpoint,
)
from irnsigma_plugin.files import atomic_path


def export_safetensors(checkpoint: Checkpoint, net: RescalingNet, path: str | os.PathLike, half: bool = False) -> str:
    """Write the weights of a network, read them back, and only then give the file its name.

    The metadata has what rebuilding the network takes: its block of an option file, in JSON, as `network_g`, and the
    clamp of an InvRescaleNet by itself; and the model hash.

    Args:
        checkpoint: Where the network is from.
        net: The network.
        path: File to write, `.safetensors`.
        half: Round the weights to float16, which halves the file. The network is another one then, with a model hash
            of its own: what it downscales is not for the one before.

    Returns:
        Model hash of the network in the file.

    Raises:
        ValueError: A weight is out of float16's range.
        CheckpointError: The file does not hold what was written.
        WriteError: The file cannot be written.
    """
    network = {**checkpoint.network, 'type': type(net).__name__}
    if isinstance(net, InvRescaleNet):
        network = {'clamp': DEFAULT_CLAMP, **network, **discover_network(checkpoint)}
    own = {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
    weights = {key: value.half() if half and value.is_floating_point() else value for key, value in own.items()}
    for key, value in weights.items():
        if not torch.isfinite(value).all():
            raise ValueError(f'{checkpoint.path}: {key} has values that are no numbers, or too large for --half.')
    loaded_hash = model_hash({key: value.to(own[key].dtype) for key, value in weights.items()})
    metadata = {'format': 'pt', 'model_hash': loaded_hash, NETWORK_ENTRY: json.dumps(network, default=str)}
    if 'clamp' in network:
        metadata['clamp'] = str(network['clamp'])
    with atomic_path(path) as temporary:
        with open(temporary, 'wb') as file:
            file.write(save(weights, metadata))
        found = read_checkpoint(temporary)
        if model_hash(found.state_dict) != model_hash(weights) or found.network.get('clamp') != network.get('clamp'):
            raise CheckpointError(f'{path}: what was written reads back as something else; nothing is left of it.')
    return loaded_hash
