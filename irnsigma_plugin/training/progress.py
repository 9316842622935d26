"""What a training has reached: its random numbers, and the wish to stop it."""

from __future__ import annotations

import random
import signal
import time
import weakref
from types import FrameType
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger
from torch import distributed as dist


def random_state() -> dict[str, Any]:
    """The generators of Python, numpy and torch, as tensors, numbers and lists; CUDA's where a GPU is in use."""
    name, keys, *rest = np.random.get_state()
    return {
        'python': list(random.getstate()),
        'numpy': [name, keys.tolist(), *rest],
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators back into a state of :func:`random_state`; CUDA's where it has one, and a GPU is in use."""
    version, numbers, gauss = state['python']
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    if state['cuda'] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state['cuda'])


SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_REQUEST = 2.0  # seconds: a terminal and torchrun both pass on one Ctrl-C
ITERATIONS_PER_ROUND = 10  # between questions to the other processes, on GPUs, which each of them interrupts


class StopRequest:
    """Takes note of the first signal; the second ends the process at once, as without this class.

    Args:
        device: Of the training. All processes of a distributed training have to call :meth:`arrived` alike.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._number = 0
        self._time = 0.0
        self._previous: dict[int, Any] = {}

    def listen(self) -> None:
        """Take over the signals, until :meth:`close` or the end of this object. Harmless when repeated."""
        if self._previous:
            return
        request, previous = weakref.ref(self), self._previous

        def handle(number: int, frame: FrameType | None) -> None:
            alive = request()
            if alive is None or not alive._takes(number):
                signal.signal(number, previous[number])
                signal.raise_signal(number)

        for number in SIGNALS:
            try:
                previous[number] = signal.signal(number, handle) or signal.SIG_DFL
            except ValueError:  # not the main thread: whoever has that one handles signals
                return

    def close(self) -> None:
        """Give the signals back."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def arrived(self, current_iter: int | None = None) -> int:
        """The signal that came to any process by now, or 0; the same answer in all processes.

        Args:
            current_iter: Iteration. On several GPUs the answer is 0 in most iterations, so as not to wait for them.
                None, at the end, asks in any case.
        """
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return self._number
        if self.device.type != 'cpu' and current_iter is not None and current_iter % ITERATIONS_PER_ROUND:
            return 0
        number = torch.tensor(self._number, device=self.device)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return int(number)

    def _takes(self, number: int) -> bool:
        now = time.monotonic()
        if self._number:
            return now - self._time < SAME_REQUEST
        self._number, self._time = number, now
        get_root_logger().info(
            f'{signal.Signals(number).name}: the training stops and saves its state after this '
            'iteration. Once more ends it at once.'
        )
        return True
