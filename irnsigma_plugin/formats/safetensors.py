"""The weights of a network as a safetensors file: plain numbers, which cannot run code."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.archs.rescaling_net import RescalingNet
from irnsigma_plugin.checkpoints import weights
from irnsigma_plugin.files import atomic_path


def export_safetensors(checkpoint: weights.Checkpoint, net: RescalingNet, path: Path, half: bool = False) -> str:
    """Write the weights of a checkpoint's network, read them back, and only then give the file its name.

    The metadata has what rebuilding the network takes: its block of an option file, in JSON, as `network_g`, and the
    clamp of an InvRescaleNet by itself; and the model hash.

    Args:
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
    if type(net) is InvRescaleNet:  # a subclass may have other arguments: those of the block that was saved
        network = {**network, **weights.discover_network(checkpoint), 'clamp': net.clamp}
    own = {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
    stored = {key: value.half() if half and value.is_floating_point() else value for key, value in own.items()}
    for key, value in stored.items():
        if not torch.isfinite(value).all():
            raise ValueError(f'{checkpoint.path}: {key} has values that are too large for --half; leave it out.')
    loaded_hash = weights.model_hash({key: value.to(own[key].dtype) for key, value in stored.items()})
    metadata = {'format': 'pt', 'model_hash': loaded_hash, weights.NETWORK_ENTRY: json.dumps(network, default=str)}
    if 'clamp' in network:
        metadata['clamp'] = str(network['clamp'])
    with atomic_path(path) as temporary:
        Path(temporary).write_bytes(save(stored, metadata))
        found = weights.read_checkpoint(temporary)
        is_same = weights.model_hash(found.state_dict) == weights.model_hash(stored)
        if not is_same or found.network.get('clamp') != network.get('clamp'):
            raise weights.CheckpointError(f'{path}: what was written reads back as something else; it is not kept.')
    return loaded_hash
