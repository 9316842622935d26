"""The invertible rescaling network of IRN and IRN_sigma, from its layers to the whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from irnsigma_plugin.archs.dense_block import DenseBlock, ResidualBlock, cast_once, subnets
from irnsigma_plugin.archs.rescaling_net import RescaleResult, RescalingNet, reflection_pad, scale_noise
from irnsigma_plugin.checks import finite, flag, is_whole, one_of, raise_faults, whole


class InvertibleModule(nn.Module):
    """A bijection between tensors (N, C, H, W) of as many elements: `module.inverse(module(x)) == x`, up to rounding.

    `forward` is the direction of downscaling. Nothing is kept on the module from one call to the next.
    """

    factor = 1  # how many times smaller the sides become

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def inverse(self, y: Tensor) -> Tensor:
        raise NotImplementedError


class HaarDownsampling(InvertibleModule):
    """Split an image into its 2x2 mean and three detail bands (horizontal, vertical, diagonal).

    For a 2x2 block [[a, b], [c, d]]: `(a+b+c+d)/4, (a-b+c-d)/4, (a+b-c-d)/4, (a-b-c+d)/4`. The channels of
    the result are ordered band first: all means, then all horizontal details, and so on.

    Shape:
        (N, channels, 2H, 2W) -> (N, 4·channels, H, W).
    """

    factor = 2

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        signs = [[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]  # of a, b, c, d
        bands = torch.tensor(signs * channels).view(-1, 1, 2, 2)  # on `meta`, Tensor.repeat would import sympy
        # A frozen Parameter, no buffer: checkpoints of the original IRN list it among the parameters.
        self.haar_weights = nn.Parameter(bands, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # the transform is exact in the image's precision
            bands = F.conv2d(x, self.haar_weights, stride=2, groups=self.channels) / 4
        return _swap_channel_order(bands, self.channels, 4)

    def inverse(self, y: Tensor) -> Tensor:
        bands = _swap_channel_order(y, 4, self.channels)
        with torch.autocast(y.device.type, enabled=False):
            return F.conv_transpose2d(bands, self.haar_weights, stride=2, groups=self.channels)


def _swap_channel_order(x: Tensor, outer: int, inner: int) -> Tensor:
    """Reorder channels from (outer, inner) to (inner, outer)."""
    return x.unflatten(1, (outer, inner)).transpose(1, 2).flatten(1, 2)


class LearnableDownsampling(InvertibleModule):
    """Move each `factor` x `factor` block into the channels and mix its pixels by a learnable matrix.

    The matrix M has shape (factor², factor²) and is shared by all colours: `y = M · pixels(block)`, undone by
    `M⁻¹`. It starts as the identity with a first row of 1/factor², so that the first band is the block's
    mean. Channels are ordered band first, as in the Haar transform.

    Shape:
        (N, C, factor·H, factor·W) -> (N, factor²·C, H, W).
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        matrix = torch.eye(factor**2)
        matrix[0] = 1 / factor**2
        self.conv_weights = nn.Parameter(matrix)

    def forward(self, x: Tensor) -> Tensor:
        pixels = F.pixel_unshuffle(x, self.factor).unflatten(1, (-1, self.factor**2))
        with torch.autocast(x.device.type, enabled=False):  # what lower precision loses here, no inverse brings back
            return torch.einsum('bp,ncphw->nbchw', self.conv_weights, pixels).flatten(1, 2)

    def inverse(self, y: Tensor) -> Tensor:
        bands = y.unflatten(1, (self.factor**2, -1))
        with torch.autocast(y.device.type, enabled=False):
            pixels = torch.einsum('pb,nbchw->ncphw', self.inverse_matrix(), bands)
        return F.pixel_shuffle(pixels.flatten(1, 2), self.factor)

    def inverse_matrix(self) -> Tensor:
        """M⁻¹, (factor², factor²)."""
        return torch.linalg.inv_ex(self.conv_weights)[0]  # inv would wait for the GPU, to check the result


class CouplingBlock(InvertibleModule):
    """Additive coupling on the low band, affine coupling on the details (Xiao et al., ECCV 2020).

    With x1 the first `split` channels and x2 the others::

        y1 = x1 + F(x2)
        y2 = x2 · exp(s) + G(y1),    s = clamp · (2 · sigmoid(H(y1)) - 1)

    F, G and H may be any networks: the inverse needs them in the forward direction only. What `inverse` is given
    beside y, it gives to each of them: it undoes `forward` where that has no effect.

    Args:
        channels: Of the input and of the result.
        subnet: `subnet(in_channels, out_channels)` builds F, G and H.
        split: Channels of x1; 3, the low-resolution image's, in IRN.
        clamp: Bound of the log-scale |s|, > 0.
        shared: Let one network GH give G(y1) and H(y1), side by side, as in RealNVP and Glow.
    """

    G: nn.Module
    H: nn.Module
    GH: nn.Module

    def __init__(
        self,
        channels: int,
        subnet: Callable[[int, int], nn.Module],
        split: int = 3,
        clamp: float = 1.0,
        shared: bool = False,
    ) -> None:
        super().__init__()
        self.split_sizes = (split, channels - split)
        self.clamp = clamp
        self.shared = shared
        self.F = subnet(channels - split, split)
        for name in ('GH',) if shared else ('G', 'H'):
            setattr(self, name, subnet(split, len(name) * (channels - split)))

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = self._split(x)
        y1 = x1 + self.F(x2)
        shift, log_scale = self._shift_and_log_scale(y1)
        y2 = x2 * log_scale.exp() + shift
        return torch.cat((y1, y2), 1)

    def inverse(self, y: Tensor, *sigma: Tensor) -> Tensor:
        y1, y2 = self._split(y)
        shift, log_scale = self._shift_and_log_scale(y1, *sigma)
        x2 = (y2 - shift) * (-log_scale).exp()
        x1 = y1 - self.F(x2, *sigma)
        return torch.cat((x1, x2), 1)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x1, x2 = (part.contiguous(memory_format=torch.channels_last) for part in x.split(self.split_sizes, dim=1))
        return x1, x2  # in the layout of the sub-networks

    def _shift_and_log_scale(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """G, and s of H."""
        g, h = self.GH(*inputs).chunk(2, 1) if self.shared else (self.G(*inputs), self.H(*inputs))
        # In the image's precision: under autocast H comes in a lower one, whose errors exp would magnify.
        return g, self.clamp * (2 * torch.sigmoid(h.to(inputs[0].dtype)) - 1)


IMAGE_CHANNELS = 3
# By scale: factor of each downsampling layer, and the number of coupling blocks after it in the paper.
LEVELS = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}
DEFAULT_BLOCK_NUM = {2: (8,), 3: (12,), 4: (8, 8), 8: (8, 8, 8)}
#: Entry of a state dict that tells the clamp of an :class:`InvRescaleNet`, where it is not 1.
CLAMP_KEY = 'log_scale_clamp'
#: Sub-networks of the coupling blocks by name, and whether one gives both G and H.
SUBNETS: dict[str, tuple[type[nn.Module], bool]] = {'dense': (DenseBlock, False), 'residual': (ResidualBlock, True)}
#: What sigma = 1 is to the sub-networks. Their weights of it start at zero, beside trained ones: with a larger input
#: they learn faster than those.
SIGMA_GAIN = 4.0


class InvRescaleNet(RescalingNet):
    """IRN: "Invertible Image Rescaling" (Xiao et al., ECCV 2020), the network of IRN_sigma, too.

    A bijection between an image and (low-resolution image, latent)::

        hr (3, H, W) -> [downsampling -> coupling block x block_num[i]] per level -> lr (3, h, w)
                                                                                  -> z (3·scale² - 3, h, w)

    Downsampling is the Haar transform, once per factor of 2; for x3 a learnable one. The parameters have
    the names of the original implementation, so its checkpoints load (with `param_key_g: ~`).

    A clamp other than 1 stands in the state dict, in characters, so that no cast rounds it. Strict loading refuses
    weights of another clamp; those without the entry, of the original or saved before there was one, always load.

    Args:
        scale: 2, 3, 4 or 8.
        block_num: Coupling blocks of each level. By default the paper's: [8] for x2, [12] for x3, [8, 8]
            for x4, [8, 8, 8] for x8.
        growth_channels: Growth of the dense blocks, or width of the residual ones. Fewer are faster and weaker; prefer
            depth to width.
        clamp: Bound of a coupling block's log-scale.
        sigma_input: Whether the sub-networks see sigma when they restore, as one more channel of their inputs. In the
            paper they know it by the spread of z alone, and learn slowly to tell one sigma from another. Downscaling,
            and `upscale` as its inverse, are as without it; so are weights that have none of it yet.
        subnet: `dense`, the paper's; `residual`, lighter ones, with one for both G and H.

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

    half_precision = True  # only the sub-networks are computed in it
    operations: Any  # nn.ModuleList, of InvertibleModule

    def __init__(
        self,
        scale: int = 4,
        block_num: Sequence[int] | None = None,
        growth_channels: int = 32,
        clamp: float = 1.0,
        sigma_input: bool = False,
        subnet: str = 'dense',
    ) -> None:
        super().__init__()
        faults = InvRescaleNet.check(scale, block_num, growth_channels, clamp, sigma_input, subnet)
        raise_faults('InvRescaleNet', faults)
        self.scale = scale
        self.sigma_input = sigma_input
        self.clamp = clamp
        self.checkpoint_blocks = False

        kind, shared = SUBNETS[subnet]
        build = partial(kind, growth_channels=growth_channels, sigma_input=sigma_input)
        operations: list[InvertibleModule] = []
        channels = IMAGE_CHANNELS
        for factor, blocks in zip(LEVELS[scale], block_num or DEFAULT_BLOCK_NUM[scale]):
            operations.append(HaarDownsampling(channels) if factor == 2 else LearnableDownsampling(factor))
            channels *= factor**2
            operations.extend(CouplingBlock(channels, build, IMAGE_CHANNELS, clamp, shared) for _ in range(blocks))
        self.operations = nn.ModuleList(operations)

    @staticmethod
    def check(
        scale: Any, block_num: Any, growth_channels: Any, clamp: Any, sigma_input: Any, subnet: Any
    ) -> Iterator[str]:
        scale_faults = list(one_of(*LEVELS)('scale', scale))
        yield from scale_faults
        if block_num is not None:
            example = list(DEFAULT_BLOCK_NUM[4 if scale_faults else scale])
            if not isinstance(block_num, (list, tuple)) or not all(is_whole(count) for count in block_num):
                yield f'block_num must be a list such as {example}, each a whole number from 1, but is {block_num!r}.'
            elif not scale_faults and len(block_num) != len(example):
                expected = f'a list of {len(example)} whole number(s), one for each level'
                yield f'block_num at scale {scale} must be {expected}, but is {list(block_num)}.'
        yield from whole()('growth_channels', growth_channels)
        yield from finite(above=0)('clamp', clamp)
        yield from flag('sigma_input', sigma_input)
        yield from one_of(*SUBNETS)('subnet', subnet)

    def downscale(self, hr: Tensor) -> tuple[Tensor, Tensor]:
        x = reflection_pad(hr, self.scale)
        for operation in self.operations:
            x = self._run(operation, x)
        return x[:, :IMAGE_CHANNELS], x[:, IMAGE_CHANNELS:]

    def upscale(self, lr: Tensor, latent: Tensor) -> Tensor:
        return self._upscale(lr, latent)

    def forward(self, hr: Tensor, sigma: Tensor | float, epsilon: Tensor | None = None) -> RescaleResult:
        # Not where blocks are computed again, outside of this: compiled ones would then save other tensors than before.
        with nullcontext() if self.checkpoint_blocks else cast_once(self, hr.device.type):
            return super().forward(hr, sigma, epsilon)

    def restore(self, lr: Tensor, epsilon: Tensor, sigma: Tensor | float) -> Tensor:
        if not self.sigma_input:
            return super().restore(lr, epsilon, sigma)
        plane = scale_noise(torch.full_like(lr[:, :1], SIGMA_GAIN), sigma)
        return self._upscale(lr, scale_noise(epsilon, sigma), plane)

    def _upscale(self, lr: Tensor, latent: Tensor, *sigma: Tensor) -> Tensor:
        y = torch.cat((lr, latent), 1)
        for operation in reversed(self.operations):
            if operation.factor == 1:  # a coupling block
                y = self._run(operation.inverse, y, *sigma)
            else:
                y = self._run(operation.inverse, y)
                sigma = tuple(F.interpolate(plane, scale_factor=operation.factor) for plane in sigma)
        return y

    @torch.no_grad()
    def amplify_sigma(self, gain: float) -> None:
        """Multiply the weights of sigma: it then is to the sub-networks what `gain · sigma` was.

        The spread of z stays, and so do downscaling and sigma = 0. A network whose training ended before it had learnt
        its whole range of sigma then reaches further than it was trained to.

        Raises:
            ValueError: The network has no such weights, or `gain` is no number above 0.
        """
        raise_faults('amplify_sigma', finite(above=0)('gain', gain))
        if not self.sigma_input:
            raise ValueError('amplify_sigma: the network was not trained with sigma_input.')
        for block in subnets(self):
            for weights_of_sigma in block.parameters(recurse=False):
                weights_of_sigma.mul_(gain)

    def coupling_blocks(self) -> Iterator[tuple[CouplingBlock, int]]:
        """The coupling blocks, each with the hr pixels (of a row) to one of its level."""
        factor = 1
        for operation in self.operations:
            factor *= operation.factor
            if isinstance(operation, CouplingBlock):
                yield operation, factor

    def receptive_field(self) -> int:
        """Sum over the coupling blocks of what each reaches: as far as F and then G or H.

        These are five 3x3 convolutions each, so that is 10 pixels of the level that the block is on: for x4 with
        [8, 8], 2·80 + 4·80 = 480 hr pixels. Residual ones have four: 384 hr pixels.
        """
        reaches = (
            (factor, {name: _reach(subnet) for name, subnet in block.named_children()})
            for block, factor in self.coupling_blocks()
        )
        return sum(factor * (reach.pop('F') + max(reach.values())) for factor, reach in reaches)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.clamp != 1:  # no buffer: no cast or broadcast is to touch it
            destination[prefix + CLAMP_KEY] = torch.tensor(list(repr(float(self.clamp)).encode()), dtype=torch.uint8)

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ) -> None:
        entry = state_dict.pop(prefix + CLAMP_KEY, None)  # of torch's own copy
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if entry is not None and stored_clamp(entry) != repr(float(self.clamp)):
            # Not as one of error_msgs, with which loading fails where it is not strict, too.
            told = f'{prefix}{CLAMP_KEY} {stored_clamp(entry)} (this network has clamp {self.clamp})'
            unexpected_keys.append(told)

    def _run(self, direction: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if self.checkpoint_blocks and torch.is_grad_enabled():
            return checkpoint(direction, *inputs, use_reentrant=False, preserve_rng_state=False)
        return direction(*inputs)


def stored_clamp(entry: Tensor) -> str:
    """The clamp in the entry :data:`CLAMP_KEY` of a state dict: its characters, whatever type a cast gave them."""
    return bytes(entry.byte().flatten().tolist()).decode(errors='replace')


def _reach(subnet: nn.Module) -> int:
    return sum(conv.kernel_size[0] // 2 for conv in subnet.modules() if isinstance(conv, nn.Conv2d))
