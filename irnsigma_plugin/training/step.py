"""Ways to make the training step faster or smaller: mixed precision, parts of a batch, compilation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from irnsigma_plugin.checks import one_line

AMP_DTYPES = {'off': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
# GradScaler starts at 2**16 and halves after each overflow, so this many in a row are no sign of divergence.
SCALER_HALVINGS = 16


class MicroBatch(NamedTuple):
    """A part of an iteration's batch.

    Attributes:
        hr: (n, 3, H, W) original images.
        lr_ref: (n, 3, h, w) their bicubic reductions.
        sigma: (n,).
        share: Its share of the batch's samples: the weight of its mean losses.
        is_last: Whether it is the last one of the iteration.
    """

    hr: Tensor
    lr_ref: Tensor
    sigma: Tensor
    share: float
    is_last: bool


def split_batch(hr: Tensor, lr_ref: Tensor, sigma: Tensor, count: int) -> list[MicroBatch]:
    """Split a batch into at most `count` parts, as equal as the number of samples allows."""
    parts = list(zip(*(tensor.chunk(count) for tensor in (hr, lr_ref, sigma))))
    return [
        MicroBatch(*part, share=len(part[0]) / len(hr), is_last=index == len(parts))
        for index, part in enumerate(parts, 1)
    ]


def gradient_sync(net: nn.Module, enabled: bool) -> AbstractContextManager[None]:
    """Let processes average the gradients of `net` or not; once, in the last backward pass of a step, is enough."""
    if isinstance(net, DistributedDataParallel) and not enabled:
        return net.no_sync()
    return nullcontext()


def full_precision(prediction: Tensor | list) -> Tensor | list:
    """A discriminator's output (nested lists of tensors, too) in float32 at least, which autocast makes shorter."""
    if isinstance(prediction, Tensor):
        return prediction.to(torch.promote_types(prediction.dtype, torch.float32))
    return [full_precision(each) for each in prediction]


@contextmanager
def explained_compile_errors() -> Iterator[None]:
    """Say what to do where `torch.compile` fails, which it does at the first use of a network.

    Raises:
        RuntimeError: In the place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        # By name, since importing these modules takes seconds.
        if not type(error).__module__.startswith(('torch._dynamo.', 'torch._inductor.')):
            raise
        cause = one_line(error)  # without torch's advice on debugging itself
        raise RuntimeError(
            'torch cannot compile the generator on this machine (train.compile needs a C++ compiler, and Triton for a '
            f'GPU). Install what is missing, or set train.compile: false. The cause: {cause}'
        ) from error
