"""The sub-network inside a coupling block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from irnsigma_plugin.archs.dense_kernels import CONVOLUTIONS, dense


class DenseBlock(nn.Module):
    """Five 3x3 convolutions, each of which sees the input and the outputs of all before it.

    `x_k = LeakyReLU(conv_k([x_0, x_1, ..., x_{k-1}]))` for k = 1..4, with x_0 the input and slope 0.2; the result is
    `conv_5([x_0, x_1, ..., x_4])`. conv_5 starts at zero, so a fresh block returns 0 and a fresh coupling
    block is the identity; the others start at Xavier x 0.1.

    Convolutions of few channels are fastest with the channels innermost, so everything is channels-last.

    Args:
        in_channels, out_channels: Of the input and of the result.
        growth_channels: What each of conv_1 to conv_4 adds.
        sigma_input: Let x_0 have one more channel where it is given. Its weights, `sigma1` to `sigma5`, start at zero.

    Shape:
        (N, in_channels, H, W) and, for `sigma_input`, (N, 1, H, W) -> (N, out_channels, H, W).
    """

    def __init__(
        self, in_channels: int, out_channels: int, growth_channels: int = 32, sigma_input: bool = False
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        for k in range(1, CONVOLUTIONS + 1):
            inputs = in_channels + (k - 1) * growth_channels
            conv = nn.Conv2d(inputs, growth_channels if k < CONVOLUTIONS else out_channels, 3, padding=1)
            if k == CONVOLUTIONS:
                nn.init.zeros_(conv.weight)
            elif not conv.weight.is_meta:  # where it would import torch._dynamo, which takes seconds
                nn.init.xavier_normal_(conv.weight, gain=0.1)
            nn.init.zeros_(conv.get_parameter('bias'))
            self.add_module(f'conv{k}', conv)
            if sigma_input:
                self.register_parameter(f'sigma{k}', nn.Parameter(torch.zeros(conv.out_channels, 1, 3, 3)))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        convolutions = [getattr(self, f'conv{k}') for k in range(1, CONVOLUTIONS + 1)]
        weights = [conv.weight for conv in convolutions]
        if sigma is not None:
            x, c = torch.cat((x, sigma), 1), self.in_channels
            own = [self.get_parameter(f'sigma{k}') for k in range(1, CONVOLUTIONS + 1)]
            weights = [torch.cat((w[:, :c], s, w[:, c:]), 1) for w, s in zip(weights, own)]
        tensors = [x, *weights, *(conv.bias for conv in convolutions)]
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            tensors = [tensor.to(dtype) for tensor in tensors]
        x = tensors[0].contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, enabled=False):
            return dense(x, tensors[1 : 1 + CONVOLUTIONS], tensors[1 + CONVOLUTIONS :])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        for name, own in self.named_parameters(recurse=False):  # of sigma, which a network without them ignores
            state_dict.setdefault(prefix + name, torch.zeros_like(own))  # in torch's own copy
        super()._load_from_state_dict(state_dict, prefix, *others)
