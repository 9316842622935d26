"""The weights of an `InvRescaleNet`, from its arguments alone, without torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from irnsigma_plugin.archs.irn_arch import DEFAULT_BLOCK_NUM, LEVELS


def inv_rescale_net_shapes(
    scale: int = 4, block_num: Sequence[int] | None = None, growth_channels: int = 32
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights, in the order of the state dict.

    Args:
        scale: 2, 3, 4 or 8.
        block_num: Coupling blocks of each level; the paper's by default.
        growth_channels: Growth of the dense blocks.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    operation = itertools.count()
    channels = 3
    for factor, blocks in zip(LEVELS[scale], block_num or DEFAULT_BLOCK_NUM[scale]):
        if factor == 2:
            shapes[f'operations.{next(operation)}.haar_weights'] = (4 * channels, 1, 2, 2)
        else:
            shapes[f'operations.{next(operation)}.conv_weights'] = (factor**2, factor**2)
        channels *= factor**2
        for block in itertools.islice(operation, blocks):
            for subnet, inputs, outputs in (('F', channels - 3, 3), ('G', 3, channels - 3), ('H', 3, channels - 3)):
                for layer in range(5):
                    name = f'operations.{block}.{subnet}.conv{layer + 1}'
                    width = growth_channels if layer < 4 else outputs
                    shapes[f'{name}.weight'] = (width, inputs + layer * growth_channels, 3, 3)
                    shapes[f'{name}.bias'] = (width,)
    return shapes
