"""The fast ways to compute a sub-network, with and without gradients, on the hardware at hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from irnsigma_plugin.archs.grid import windows

NEGATIVE_SLOPE = 0.2
CONVOLUTIONS = 5
Merge = Callable[[Tensor, Tensor, int], Tensor]
# Largest side of the cells in which an image is walked through where no gradient is recorded. What one needs
# stays in a processor's cache, and memory no longer grows with the image; smaller ones would spend more
# on their margins. GPUs have no such cache, but want large pieces of work.
CELL = {'cpu': 128, 'cuda': 1024}
# Bytes that a processor computes with at once; kernels of convolutions compute so many outputs. None: not known.
VECTOR_BYTES = {'AVX2': 32, 'AVX512': 64}.get(torch.backends.cpu.get_cpu_capability())
# Tensor cores read channels by so many in half precision; otherwise cuDNN copies every input anew to pad it.
ALIGNED_CHANNELS = 8


def dense(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """What a :class:`~irnsigma_plugin.archs.dense_block.DenseBlock` computes.

    Args:
        x: (N, C, H, W), channels-last.
        weights, biases: Of conv_1 to conv_5, of the type of `x`.
    """
    if not (torch.is_grad_enabled() or _is_traced()):
        return _in_windows(x, weights, biases, _concatenate)
    if x.device.type == 'cuda' and x.dtype.itemsize == 2:
        return _in_one_piece(*aligned(x, weights, biases))[:, : weights[-1].shape[0]]
    return _in_one_piece(x, *weights, *biases)


def residual(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """What a :class:`~irnsigma_plugin.archs.dense_block.ResidualBlock` computes, of what :func:`dense` takes."""
    if not (torch.is_grad_enabled() or _is_traced()):
        return _in_windows(x, weights, biases, _add)
    *others, last = zip(weights, biases)
    for k, (weight, bias) in enumerate(others, 1):
        new = F.leaky_relu(F.conv2d(x, weight, bias, padding=1), NEGATIVE_SLOPE)
        x = _add(x, new, k)
    return F.conv2d(x, *last, padding=1)


def _concatenate(x: Tensor, new: Tensor, k: int) -> Tensor:
    return torch.cat((x, new), 1)


def _add(x: Tensor, new: Tensor, k: int) -> Tensor:
    return x + new if k > 1 else new


def _in_one_piece(x: Tensor, *parameters: Tensor) -> Tensor:
    if _is_traced():
        return _whole(x, parameters[:CONVOLUTIONS], parameters[CONVOLUTIONS:])[0]
    return _DenseFunction.apply(x, *parameters)


def aligned(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    """The same block with zeros up to multiples of `ALIGNED_CHANNELS` after the channels of x_0 and of the result."""
    channels = x.shape[1]
    more, more_outputs = -channels % ALIGNED_CHANNELS, -weights[-1].shape[0] % ALIGNED_CHANNELS
    # A convolution takes [x_0, x_1, ...]: the zeros come between. conv_1 takes x_0 alone.
    x, first, *heads = (F.pad(each[:, :channels], (0, 0) * 2 + (0, more)) for each in (x, *weights))
    *others, last = (torch.cat((head, weight[:, channels:]), 1) for head, weight in zip(heads, weights[1:]))
    last, bias = F.pad(last, (0, 0) * 3 + (0, more_outputs)), F.pad(biases[-1], (0, more_outputs))
    return [x, first, *others, last, *biases[:-1], bias]


def _is_traced() -> bool:
    """Whether a compiler or an exporter is at work; these look for a plan of their own."""
    return torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A padded 3x3 convolution.

    The 3 outputs of an image, or 9, would leave much of a processor's vectors unused. So where there are few, each
    column of the kernel gets outputs of its own: three times as many, for a third of the kernel, and zeros up to
    whole vectors. A second convolution, with ones and zeros, moves them to their places and adds them up.
    """
    outputs = weight.shape[0]
    if not is_narrow(outputs, x):
        return F.conv2d(x, weight, bias, padding=1)
    unused = -3 * outputs % _vector_length(x)
    columns = F.pad(weight.permute(3, 0, 1, 2).flatten(0, 1).unsqueeze(-1), (0, 0) * 3 + (0, unused))
    # shifts[i, k · outputs + j, 0, k] = 1 where i = j: output j of column k is one of the three summands of j.
    shifts = torch.eye(3 * outputs, 3 * outputs + unused, dtype=x.dtype).unflatten(0, (3, outputs)).permute(1, 2, 0)
    return F.conv2d(F.conv2d(x, columns, padding=(1, 0)), shifts.unsqueeze(2), bias, padding=(0, 1))


def is_narrow(outputs: int, x: Tensor) -> bool:
    """Whether a convolution by columns takes clearly fewer vectors. Half precision would round in between."""
    if x.device.type != 'cpu' or VECTOR_BYTES is None or x.dtype.itemsize < 4 or _is_traced():
        return False
    length = _vector_length(x)
    at_once, by_columns = 9 * math.ceil(outputs / length), 3 * math.ceil(3 * outputs / length)
    return by_columns <= 0.75 * at_once


def _vector_length(x: Tensor) -> int:
    return (VECTOR_BYTES or 1) // x.dtype.itemsize


def _whole(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The block's result, and x_0, ..., x_4."""
    inplace = not _is_traced()  # an exporter would have to undo it, which takes it as long as all the rest
    sources = [x]
    for k, (weight, bias) in enumerate(zip(weights[:-1], biases[:-1]), 1):
        new = F.leaky_relu(convolve(x, weight, bias), NEGATIVE_SLOPE, inplace=inplace)
        sources.append(new)
        if k < CONVOLUTIONS - 1:
            x = torch.cat((x, new), 1)
    # conv_5 takes x_4 by itself, which spares the widest concatenation.
    earlier, last = weights[-1].split((x.shape[1], new.shape[1]), 1)
    return convolve(x, earlier, biases[-1]) + convolve(new, last, None), sources


class _DenseFunction(torch.autograd.Function):
    """A dense block that keeps its features once for the backward pass, not once per convolution.

    With W_kj the part of conv_k's weight that reads x_j, and d_k the gradient of conv_k's result::

        conv_k = sum over j < k of W_kj * x_j    =>    gradient of x_j = sum over k > j of W_kjᵀ * d_k

    The sum is one convolution of [d_{j+1}, ..., d_5] with the weights of all consumers of x_j, side by side.
    So the gradient is a dense block again, which runs from d_5 to d_1.
    """

    @staticmethod
    def forward(ctx, x: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[:CONVOLUTIONS], parameters[CONVOLUTIONS:]
        result, sources = _whole(x, weights, biases)
        ctx.save_for_backward(*sources, *weights)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: every access would recompute them under checkpointing
        sources, weights = saved[:CONVOLUTIONS], saved[CONVOLUTIONS:]
        widths = [source.shape[1] for source in sources]
        parts = [weight.split(widths[:k], 1) for k, weight in enumerate(weights, 1)]  # parts[k - 1][j] is W_kj
        part_gradients: list[list[Tensor]] = [[] for _ in weights]

        def gather(gradients: Tensor, j: int, consumers: range) -> Tensor | None:
            """What some consumers of x_j, whose `gradients` are side by side, give to its gradient."""
            weight = torch.cat([parts[k][j] for k in consumers])
            wanted = j > 0 or ctx.needs_input_grad[0]
            x_gradient, weight_gradient = _convolution_backward(gradients, sources[j], weight, wanted)
            for k, part in zip(consumers, weight_gradient.split([weights[k].shape[0] for k in consumers])):
                part_gradients[k].insert(0, part)
            return x_gradient

        d = gradient.contiguous(memory_format=torch.channels_last)
        later = d  # [d_{j+1}, ..., d_5]
        bias_gradients = [d.sum((0, 2, 3))]
        for j in reversed(range(1, CONVOLUTIONS)):
            x_gradient = gather(later, j, range(j, CONVOLUTIONS))
            d = torch.ops.aten.leaky_relu_backward(x_gradient, sources[j], NEGATIVE_SLOPE, True)
            bias_gradients.insert(0, d.sum((0, 2, 3)))
            if j > 1:
                later = torch.cat((d, later), 1)
        # x_0 takes d_1 by itself, which spares the widest concatenation.
        x_gradient, first = gather(later, 0, range(1, CONVOLUTIONS)), gather(d, 0, range(1))
        if x_gradient is not None and first is not None:
            x_gradient += first
        weight_gradients = [torch.cat(each, 1) for each in part_gradients]
        return (x_gradient, *weight_gradients, *bias_gradients)


def _convolution_backward(gradient: Tensor, x: Tensor, weight: Tensor, x_wanted: bool) -> tuple[Tensor | None, Tensor]:
    """Gradients of a padded 3x3 convolution's input, if wanted, and weight."""
    narrow = is_narrow(x.shape[1], x)
    mask = [x_wanted and not narrow, True, False]
    # After the tensors: stride, padding, dilation, whether it is transposed, output padding, groups.
    settings = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    x_gradient, weight_gradient, _ = torch.ops.aten.convolution_backward(gradient, x, weight, None, *settings, mask)
    if x_wanted and narrow:
        x_gradient = convolve(gradient, weight.transpose(0, 1).flip(2, 3), None)
    return x_gradient, weight_gradient


def _in_windows(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], merge: Merge) -> Tensor:
    """The sub-network's result, without a gradient, window by window.

    An output pixel depends on the input one pixel further away for each convolution: a window starts with a margin of
    as many, each convolution uses one of it up, and no value differs from the whole image's.

    Args:
        merge: What conv_{k+1} sees, of what conv_k saw, its result after the activation, and k.
    """
    batch, _, height, width = x.shape
    shape = (batch, weights[-1].shape[0], height, width)
    result = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for area, (rows, columns) in windows(height, width, CELL.get(x.device.type, max(height, width)), len(weights)):
        # Pixels between the cell and the image's border, where every convolution pads with zeros.
        room = (rows.start, height - rows.stop, columns.start, width - columns.stop)
        result[..., rows, columns] = _window(x[(..., *area)], room, weights, biases, merge)
    return result


def _window(
    x: Tensor, room: Sequence[int], weights: Sequence[Tensor], biases: Sequence[Tensor], merge: Merge
) -> Tensor:
    """The result of a window, given with a margin of a pixel for each convolution or the `room` there is."""
    x = x.contiguous(memory_format=torch.channels_last)
    for k, (weight, bias) in enumerate(zip(weights, biases), 1):
        y = convolve(x, weight, bias)
        # A convolution's outermost pixels lack neighbours, unless they are the image's own.
        up, down, left, right = (int(pixels > len(weights) - k) for pixels in room)
        inside = (..., slice(up, x.shape[-2] - down), slice(left, x.shape[-1] - right))
        y = y[inside]
        x = merge(x[inside], F.leaky_relu(y, NEGATIVE_SLOPE, inplace=True), k) if k < len(weights) else y
    return x
