"""The sub-network inside a coupling block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEGATIVE_SLOPE = 0.2


class DenseBlock(nn.Module):
    """Five 3x3 convolutions, each of which sees the input and the outputs of all before it.

    `x_k = LeakyReLU(conv_k([x, x_1, ..., x_{k-1}]))` for k = 1..4; the result is
    `conv_5([x, x_1, ..., x_4])`. conv_5 starts at zero, so a fresh block returns 0 and a fresh coupling
    block is the identity; the others start at Xavier x 0.1.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the result.
        growth_channels: Channels that each of conv_1 to conv_4 adds.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, growth_channels: int = 32) -> None:
        super().__init__()
        for k in range(1, 5):
            conv = nn.Conv2d(in_channels + (k - 1) * growth_channels, growth_channels, 3, padding=1)
            nn.init.xavier_normal_(conv.weight, gain=0.1)
            nn.init.zeros_(conv.bias)
            self.add_module(f'conv{k}', conv)
        self.conv5 = nn.Conv2d(in_channels + 4 * growth_channels, out_channels, 3, padding=1)
        nn.init.zeros_(self.conv5.weight)
        nn.init.zeros_(self.conv5.bias)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            features.append(F.leaky_relu(conv(torch.cat(features, 1)), NEGATIVE_SLOPE, inplace=True))
        return self.conv5(torch.cat(features, 1))
