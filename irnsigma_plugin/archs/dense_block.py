"""The sub-network inside a coupling block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from irnsigma_plugin.archs.dense_kernels import CONVOLUTIONS, DenseFunction, in_windows, is_traced, plain


class DenseBlock(nn.Module):
    """Five 3x3 convolutions, each of which sees the input and the outputs of all before it.

    `x_k = LeakyReLU(conv_k([x_0, x_1, ..., x_{k-1}]))` for k = 1..4, with x_0 the input; the result is
    `conv_5([x_0, x_1, ..., x_4])`. conv_5 starts at zero, so a fresh block returns 0 and a fresh coupling
    block is the identity; the others start at Xavier x 0.1.

    Convolutions of few channels are fastest with the channels innermost, so everything is channels-last. Where
    a gradient is recorded, see :class:`DenseFunction`. Where none is, an image is walked through in windows.
    An output pixel depends on the input up to five pixels away, one per convolution: a window starts with
    a margin of five, each convolution uses one of it up, and no value differs from the whole image's.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the result.
        growth_channels: Channels that each of conv_1 to conv_4 adds.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, growth_channels: int = 32) -> None:
        super().__init__()
        for k in range(1, CONVOLUTIONS):
            conv = nn.Conv2d(in_channels + (k - 1) * growth_channels, growth_channels, 3, padding=1)
            nn.init.xavier_normal_(conv.weight, gain=0.1)
            nn.init.zeros_(conv.bias)
            self.add_module(f'conv{k}', conv)
        self.conv5 = nn.Conv2d(in_channels + 4 * growth_channels, out_channels, 3, padding=1)
        nn.init.zeros_(self.conv5.weight)
        nn.init.zeros_(self.conv5.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        convolutions = (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5)
        tensors = [x, *(conv.weight for conv in convolutions), *(conv.bias for conv in convolutions)]
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            tensors = [tensor.to(dtype) for tensor in tensors]
        x = tensors[0].contiguous(memory_format=torch.channels_last)
        weights, biases = tensors[1 : 1 + CONVOLUTIONS], tensors[1 + CONVOLUTIONS :]
        with torch.autocast(x.device.type, enabled=False):
            if is_traced():
                return plain(x, weights, biases)[0]
            if torch.is_grad_enabled():
                return DenseFunction.apply(x, *weights, *biases)
            return in_windows(x, weights, biases)
