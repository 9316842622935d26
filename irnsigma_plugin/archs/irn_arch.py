"""The invertible rescaling network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from irnsigma_plugin.archs.coupling import CouplingBlock
from irnsigma_plugin.archs.dense_block import DenseBlock
from irnsigma_plugin.archs.haar import HaarDownsampling
from irnsigma_plugin.archs.irn_shapes import DEFAULT_BLOCK_NUM, LEVELS
from irnsigma_plugin.archs.learnable_downsampling import LearnableDownsampling
from irnsigma_plugin.archs.rescaling_net import RescalingNet, reflection_pad
from irnsigma_plugin.checks import number, whole_number

IMAGE_CHANNELS = 3


class InvRescaleNet(RescalingNet):
    """IRN: "Invertible Image Rescaling" (Xiao et al., ECCV 2020), the network of IRN_sigma, too.

    A bijection between an image and (low-resolution image, latent)::

        hr (3, H, W) -> [downsampling -> coupling block x block_num[i]] per level -> lr (3, h, w)
                                                                                  -> z (3·scale² - 3, h, w)

    Downsampling is the Haar transform, once per factor of 2; for x3 a learnable one. The parameters have
    the names of the original implementation, so its checkpoints load (with `param_key_g: ~`).

    Args:
        scale: 2, 3, 4 or 8.
        block_num: Coupling blocks of each level. By default the paper's: [8] for x2, [12] for x3, [8, 8]
            for x4, [8, 8, 8] for x8.
        growth_channels: Growth of the dense blocks. Fewer are faster and weaker; prefer depth to width.
        clamp: Bound of a coupling block's log-scale.

    Attributes:
        checkpoint_blocks: Whether coupling blocks are computed a second time in the backward pass, so that only
            their inputs are kept in between (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016).

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> net = InvRescaleNet(scale=4)
        >>> lr, z = net.downscale(torch.rand(1, 3, 64, 48))
        >>> lr.shape, z.shape
        (torch.Size([1, 3, 16, 12]), torch.Size([1, 45, 16, 12]))
    """

    def __init__(self, scale: int = 4, block_num: Sequence[int] | None = None, growth_channels: int = 32,
                 clamp: float = 1.0) -> None:
        super().__init__()
        if not isinstance(scale, int) or scale not in LEVELS:
            raise ValueError(f'InvRescaleNet: scale must be one of {list(LEVELS)}, but got {scale!r}.')
        if block_num is None:
            block_num = DEFAULT_BLOCK_NUM[scale]
        levels = len(LEVELS[scale])
        if isinstance(block_num, str) or not isinstance(block_num, Sequence) or len(block_num) != levels \
                or not all(isinstance(count, int) and count > 0 for count in block_num):
            raise ValueError(f'InvRescaleNet: block_num at scale {scale} must be a list of {levels} positive whole '
                             f'number(s), such as {list(DEFAULT_BLOCK_NUM[scale])}, but got {block_num!r}.')
        whole_number('InvRescaleNet: growth_channels', growth_channels)
        number('InvRescaleNet: clamp', clamp, above=0)
        self.scale = scale
        self.checkpoint_blocks = False

        subnet = partial(DenseBlock, growth_channels=growth_channels)
        operations = []
        channels = IMAGE_CHANNELS
        for factor, blocks in zip(LEVELS[scale], block_num):
            operations.append(HaarDownsampling(channels) if factor == 2 else LearnableDownsampling(factor))
            channels *= factor**2
            operations.extend(CouplingBlock(channels, subnet, IMAGE_CHANNELS, clamp) for _ in range(blocks))
        self.operations = nn.ModuleList(operations)

    def downscale(self, hr: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`RescalingNet.downscale`; missing rows and columns are added by reflection."""
        x = reflection_pad(hr, self.scale)
        for operation in self.operations:
            x = self._run(operation, x)
        return x[:, :IMAGE_CHANNELS], x[:, IMAGE_CHANNELS:]

    def upscale(self, lr: Tensor, latent: Tensor) -> Tensor:
        """See :meth:`RescalingNet.upscale`."""
        y = torch.cat((lr, latent), 1)
        for operation in reversed(self.operations):
            y = self._run(operation.inverse, y)
        return y

    def coupling_blocks(self) -> Iterator[tuple[CouplingBlock, int]]:
        """The coupling blocks, each with the hr pixels (of a row) to one of its level."""
        factor = 1
        for operation in self.operations:
            if isinstance(operation, CouplingBlock):
                yield operation, factor
            else:
                factor *= 2 if isinstance(operation, HaarDownsampling) else operation.scale

    def receptive_field(self) -> int:
        """See :meth:`RescalingNet.receptive_field`.

        A coupling block reaches as far as F and then G or H, five 3x3 convolutions each: 10 pixels, of the level it
        is on. That is 480 hr pixels for x4 with [8, 8] (2·80 + 4·80), 160 for x2 with [8], 360 for x3 with [12] and
        1120 for x8 with [8, 8, 8].
        """
        return sum(factor * (_reach(block.F) + max(_reach(block.G), _reach(block.H)))
                   for block, factor in self.coupling_blocks())

    def bytes_per_pixel(self) -> float:
        """See :meth:`RescalingNet.bytes_per_pixel`.

        `200 + 8 · c`, c the channels that the widest convolution reads, divided by the hr pixels to one of its level
        (the features of a dense block are there twice, as they are and put together; 200 is for everything else):
        474 for x4 with growth 32, 346 with growth 16, 282 with growth 8, of which 395, 303 and 214 were measured.
        """
        return 200 + 8 * max(conv.in_channels / factor**2 for block, factor in self.coupling_blocks()
                             for conv in _convolutions(block))

    def _run(self, direction: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if self.checkpoint_blocks and torch.is_grad_enabled():
            return checkpoint(direction, x, use_reentrant=False, preserve_rng_state=False)
        return direction(x)


def _reach(subnet: nn.Module) -> int:
    return sum(conv.kernel_size[0] // 2 for conv in _convolutions(subnet))


def _convolutions(module: nn.Module) -> Iterator[nn.Conv2d]:
    return (each for each in module.modules() if isinstance(each, nn.Conv2d))
