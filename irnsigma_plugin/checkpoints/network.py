"""The network that a checkpoint belongs to, told from the checkpoint alone."""

from __future__ import annotations

import os
import re
from typing import Any

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.archs.irn_shapes import LEVELS, inv_rescale_net_shapes
from irnsigma_plugin.checkpoints.reading import Checkpoint, StateDict, shapes_of
from irnsigma_plugin.checkpoints.shapes import DEFAULT_CLAMP, CheckpointError, differences

FACTORS = {'haar_weights': 2, 'conv_weights': 3}
EXPECTED = ('expected those of InvRescaleNet: operations.0.haar_weights (operations.0.conv_weights at scale 3), then '
            'operations.1.F.conv1.weight and so on')


def discover_network(state_dict: StateDict, path: str | os.PathLike = 'the checkpoint') -> dict[str, Any]:
    """Read the arguments of :class:`InvRescaleNet` from the names and shapes of its weights.

    Args:
        state_dict: Weights of this plugin or of the original IRN.
        path: What messages call the file.

    Returns:
        scale, block_num and growth_channels. The clamp leaves no trace in the weights.

    Raises:
        CheckpointError: The weights are of another network, or not all there.
    """
    factors, block_num = _levels(state_dict)
    scale = next((scale for scale, expected in LEVELS.items() if list(expected) == factors), None)
    if scale is None:
        names = list(state_dict)
        raise CheckpointError(f'{path} is not of InvRescaleNet, or incomplete: {EXPECTED}; found {len(names)} keys: '
                              f'{", ".join(names[:4])}{", ..." * (len(names) > 4)}.')
    first_conv = state_dict.get('operations.1.F.conv1.bias')
    settings = {'scale': scale, 'block_num': block_num,
                'growth_channels': 0 if first_conv is None else first_conv.numel()}
    if all(block_num):
        faults = differences(inv_rescale_net_shapes(**settings), shapes_of(state_dict))
    else:
        faults = 'every level needs a coupling block'
    if faults:
        found = ', '.join(f'{name} {value}' for name, value in settings.items())
        raise CheckpointError(f'{path} is not of InvRescaleNet, or incomplete. It looks like {found}, but '
                              f'{faults}.')
    return settings


def build_network(checkpoint: Checkpoint, clamp: float | None = None) -> InvRescaleNet:
    """Build the network of a checkpoint, with its weights, in evaluation mode.

    Args:
        checkpoint: See :func:`~irnsigma_plugin.checkpoints.reading.read_checkpoint`.
        clamp: Bound of the log-scale; by default the one saved with the weights, else 1, that of the original IRN.

    Raises:
        CheckpointError: The weights are of another network, or not all there.
        ValueError: The clamp is no number above 0.
    """
    network_type = checkpoint.network.get('type', InvRescaleNet.__name__)
    if network_type != InvRescaleNet.__name__:
        raise CheckpointError(f'{checkpoint.path} is of the network {network_type}, but only {InvRescaleNet.__name__} '
                              'can be built from a checkpoint alone. Name it in an option file and use '
                              'python -m basicsr.test.')
    settings = discover_network(checkpoint.state_dict, checkpoint.path)
    if clamp is None:
        clamp = checkpoint.network.get('clamp', DEFAULT_CLAMP)
    net = InvRescaleNet(**settings, clamp=clamp)
    net.load_state_dict(checkpoint.state_dict)
    return net.eval()


def _levels(state_dict: StateDict) -> tuple[list[int], list[int]]:
    """Factor of each downsampling layer, and the number of coupling blocks after it."""
    matches = (re.match(r'operations\.(\d+)\.(haar_weights|conv_weights|F|G|H)\b', key) for key in state_dict)
    kinds = {int(match[1]): match[2] for match in matches if match}
    factors, block_num = [], []
    # A missing layer counts as a block, so that it will be missed by name; no more layers than weights, though.
    for position in range(min(max(kinds, default=-1) + 1, len(state_dict))):
        kind = kinds.get(position)
        if kind in FACTORS:
            factors.append(FACTORS[kind])
            block_num.append(0)
        elif block_num:
            block_num[-1] += 1
    return factors, block_num
