"""The sub-networks inside a coupling block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from irnsigma_plugin.archs.dense_kernels import CONVOLUTIONS, dense, residual


class Subnet(nn.Module):
    """Base of F, G and H: padded 3x3 convolutions conv1 to convK. A subclass says in `compute` how they are connected.

    The last starts at zero, so that a fresh sub-network returns 0 and a fresh coupling block is the identity.

    Convolutions of few channels are fastest with the channels innermost, so everything is channels-last.

    Args:
        channels: (inputs, outputs) of each convolution; the first reads the input alone.
        gains: What Xavier's standard deviation is multiplied by at the start, for each but the last.
        sigma_readers: So many convolutions, from the first, read the input of the sub-network: where sigma is given, it
            is one more channel of theirs. The weights of it, `sigma1` and so on, start at zero.

    Shape:
        (N, in_channels, H, W) and, where there are `sigma_readers`, (N, 1, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, channels: Sequence[tuple[int, int]], gains: Sequence[float], sigma_readers: int) -> None:
        super().__init__()
        self.in_channels, self.convolutions, self.sigma_readers = channels[0][0], len(channels), sigma_readers
        self.casts: list[Tensor] = []  # of `tensors`, within `cast_once`
        for k, ((inputs, outputs), gain) in enumerate(zip(channels, (*gains, 0)), 1):
            conv = nn.Conv2d(inputs, outputs, 3, padding=1)
            if gain == 0:
                nn.init.zeros_(conv.weight)
            elif not conv.weight.is_meta:  # where it would import torch._dynamo, which takes seconds
                nn.init.xavier_normal_(conv.weight, gain=gain)
            nn.init.zeros_(conv.get_parameter('bias'))
            self.add_module(f'conv{k}', conv)
            if k <= sigma_readers:
                self.register_parameter(f'sigma{k}', nn.Parameter(torch.zeros(outputs, 1, 3, 3)))
        self.to(memory_format=torch.channels_last)

    def compute(self, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError

    def tensors(self) -> list[Tensor]:
        """The weights of the convolutions, their biases, and their weights of sigma."""
        convolutions = [getattr(self, f'conv{k}') for k in range(1, self.convolutions + 1)]
        of_sigma = [getattr(self, f'sigma{k}') for k in range(1, self.sigma_readers + 1)]
        return [*(conv.weight for conv in convolutions), *(conv.bias for conv in convolutions), *of_sigma]

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        half, count = torch.is_autocast_enabled(x.device.type), self.convolutions
        given = self.casts if half and self.casts else self.tensors()
        weights, biases, of_sigma = given[:count], given[count : 2 * count], given[2 * count :]
        if sigma is not None:
            x, c = torch.cat((x, sigma), 1), self.in_channels
            for k, (w, own) in enumerate(zip(weights, of_sigma)):
                weights[k] = torch.cat((w[:, :c], own, w[:, c:]), 1)
        tensors = [x, *weights, *biases]
        if half:
            dtype = torch.get_autocast_dtype(x.device.type)
            tensors = [tensor.to(dtype) for tensor in tensors]
        x = tensors[0].contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, enabled=False):
            return self.compute(x, tensors[1 : 1 + count], tensors[1 + count :])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        for name, own in self.named_parameters(recurse=False):  # of sigma, which a network without them ignores
            state_dict.setdefault(prefix + name, torch.zeros_like(own))  # in torch's own copy
        super()._load_from_state_dict(state_dict, prefix, *others)


class DenseBlock(Subnet):
    """Five 3x3 convolutions, each of which sees the input and the outputs of all before it.

    `x_k = LeakyReLU(conv_k([x_0, x_1, ..., x_{k-1}]))` for k = 1..4, with x_0 the input and slope 0.2; the result is
    `conv_5([x_0, x_1, ..., x_4])`. conv_1 to conv_4 start at Xavier x 0.1.

    Args:
        in_channels, out_channels: Of the input and of the result.
        growth_channels: What each of conv_1 to conv_4 adds.
        sigma_input: Let x_0 have one more channel where it is given.
    """

    def __init__(
        self, in_channels: int, out_channels: int, growth_channels: int = 32, sigma_input: bool = False
    ) -> None:
        inputs = [in_channels + k * growth_channels for k in range(CONVOLUTIONS)]
        outputs = [growth_channels] * (CONVOLUTIONS - 1) + [out_channels]
        gains = [0.1] * (CONVOLUTIONS - 1)
        super().__init__(list(zip(inputs, outputs)), gains, CONVOLUTIONS if sigma_input else 0)

    def compute(self, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        return dense(x, weights, biases)


class ResidualBlock(Subnet):
    """Four 3x3 convolutions of equal width, the inner ones added to what they see.

    `x_1 = a(conv_1(x_0))` and `x_k = x_{k-1} + a(conv_k(x_{k-1}))` for k = 2, 3, with x_0 the input and a the
    LeakyReLU of slope 0.2; the result is `conv_4(x_3)`. conv_1 starts at Xavier, conv_2 and conv_3 at Xavier x 0.1.

    Args:
        in_channels, out_channels: Of the input and of the result.
        growth_channels: Width of x_1 to x_3.
        sigma_input: Let x_0 have one more channel where it is given.
    """

    def __init__(
        self, in_channels: int, out_channels: int, growth_channels: int = 32, sigma_input: bool = False
    ) -> None:
        widths = [in_channels, *[growth_channels] * 3, out_channels]
        super().__init__(list(zip(widths, widths[1:])), (1, 0.1, 0.1), int(sigma_input))

    def compute(self, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        return residual(x, weights, biases)


def subnets(net: nn.Module) -> list[Subnet]:
    """The sub-networks within a network."""
    return [module for module in net.modules() if isinstance(module, Subnet)]


class _Cast(torch.autograd.Function):
    """Tensors in another type; on a GPU in a few kernels in all, both ways."""

    @staticmethod
    def forward(ctx, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.own = tensors[0].dtype
        return _copies(tensors, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        copies = iter(_copies(tuple(each for each in gradients if each is not None), ctx.own))
        return (None, *(None if each is None else next(copies) for each in gradients))


def _copies(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    copies = tuple(torch.empty_like(each, dtype=dtype) for each in tensors)
    if copies:
        torch._foreach_copy_(copies, tensors)
    return copies


@contextmanager
def cast_once(net: nn.Module, device_type: str) -> Iterator[None]:
    """Let the calls of a sub-network share its parameters in autocast's type, where that and gradients are enabled.

    A training calls each sub-network in both directions, which would cast every parameter, and its gradient, twice.
    """
    is_needed = torch.is_grad_enabled() and torch.is_autocast_enabled(device_type)
    blocks = subnets(net) if is_needed else []
    if not blocks:
        yield
        return
    tensors = [block.tensors() for block in blocks]
    casts = iter(_Cast.apply(torch.get_autocast_dtype(device_type), *chain.from_iterable(tensors)))
    try:
        for block, own in zip(blocks, tensors):
            block.casts = list(islice(casts, len(own)))
        yield
    finally:
        for block in blocks:
            block.casts = []


def compile_blocks(net: nn.Module) -> None:
    """Let torch compile the sub-networks of a network, each kind once, for where gradients are recorded.

    Without them an image may have any size, and each would be compiled anew.
    """
    from torch._dynamo import config  # which takes seconds

    config.cache_size_limit = max(config.cache_size_limit, 32)  # kinds; torch gives up at 8, x4 with sigma has 9
    compiled = torch.compile(Subnet.forward, dynamic=False)

    def forward(self: Subnet, *inputs: Tensor) -> Tensor:
        return (compiled if torch.is_grad_enabled() else Subnet.forward)(self, *inputs)

    blocks: list[Any] = subnets(net)
    for block in blocks:
        block.forward = MethodType(forward, block)
