"""The generator's gradients as a CUDA graph: recorded once, replayed for every batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

import torch
from torch import nn

from irnsigma_plugin.checks import one_line

WARM_UPS = 3  # in which cuDNN chooses its kernels and compilers work; neither can be recorded


def record_cuda_graph(work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """Record the kernels of `work`: its result, undefined at first, and a function that computes it, in place.

    Raises:
        RuntimeError: Something in `work` cannot be recorded.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        # thread_local: meanwhile the data loader's thread pins memory, which would be forbidden otherwise.
        with torch.cuda.graph(graph, capture_error_mode='thread_local'):
            result = work()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RuntimeError(
            'the step of the generator cannot be recorded: something in the network or a loss waits for the GPU. Set '
            f'train.cuda_graph: false. The cause: {one_line(error)}'
        ) from error
    return result, graph.replay


class Replay:
    """Does what `compute(batch)` does by replaying the kernels that the first batch has launched.

    A processor takes longer to launch the many small kernels of a step than a large GPU to compute them. All but the
    values of tensors stays as it was recorded: `compute` is to depend on nothing else, and not to wait for the GPU. A
    batch of another shape is computed.

    Args:
        compute: Adds to the gradients of the first network, and returns restored images and losses.
        nets: All networks that it uses.
        record: As :func:`record_cuda_graph`.
    """

    def __init__(self, compute: Callable[[Any], Any], nets: Sequence[nn.Module], record=record_cuda_graph) -> None:
        self.compute, self.nets, self.record = compute, nets, record
        self.parameters = [parameter for parameter in nets[0].parameters() if parameter.requires_grad]
        self.batch: Any = None  # what a replay reads

    def __call__(self, batch: Any) -> Any:
        """What `compute` returns, in tensors that the next call overwrites."""
        if self.batch is None:
            self._record(batch)
        elif batch.hr.shape != self.batch.hr.shape:
            return self.compute(batch)
        for own, given in zip(self.batch[:3], batch[:3]):  # hr, lr_ref, sigma
            own.copy_(given, non_blocking=True)
        self._replay()
        for parameter, gradient in zip(self.parameters, self._gradients):
            parameter.grad = gradient
        return self._result

    def _record(self, batch: Any) -> None:
        self.batch = batch._replace(hr=batch.hr.clone(), lr_ref=batch.lr_ref.clone(), sigma=batch.sigma.clone())
        buffers = [buffer for net in self.nets for buffer in net.buffers()]
        before = [buffer.clone() for buffer in buffers]
        with torch.random.fork_rng([batch.hr.device] if batch.hr.is_cuda else []):
            (self._result, self._gradients), self._replay = self.record(self._work)
        for buffer, value in zip(buffers, before):  # warming up changes running means and random numbers
            buffer.copy_(value)

    def _work(self) -> tuple[Any, list[Any]]:
        for parameter in self.parameters:
            parameter.grad = None  # a replay is to write gradients, not to add to them
        return self.compute(self.batch), [parameter.grad for parameter in self.parameters]
