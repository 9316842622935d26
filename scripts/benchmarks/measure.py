"""Time and memory of a call, and what the machine can do."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Callable, NamedTuple, Union

import torch
from torch.nn import functional as F

MEBI = 2**20

Moment = Union[float, torch.cuda.Event]


class Machine(NamedTuple):
    """Where it runs.

    Attributes:
        device: CPU or GPU.
        product: float32 GFLOP/s of a matrix product.
        convolution: float32 GFLOP/s of a 3x3 convolution of 128 channels: where this is more, the
            library of matrix products is not the machine's limit.
    """

    device: torch.device
    product: float
    convolution: float

    @property
    def peak(self) -> float:
        """GFLOP/s that the machine can reach."""
        return max(self.product, self.convolution)


def moment(device: torch.device) -> Moment:
    """Now; on a GPU an event among its work, for which nothing waits."""
    if device.type != 'cuda':
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def elapsed(start: Moment, end: Moment) -> float:
    """Seconds between two moments; waits until a GPU has reached the second."""
    if isinstance(start, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Time of one call."""
    start = moment(device)
    work()
    return elapsed(start, moment(device))


def medians(device: torch.device, works: Mapping[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median seconds of each of several works that take turns. Each has to have been called before, to warm up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(runs):
        for name, work in works.items():
            times[name].append(seconds(device, work))
    return {name: statistics.median(taken) for name, taken in times.items()}


def peak_memory(device: torch.device, work: Callable[[], object]) -> float | None:
    """MiB that a call needs at most beyond what was in use before; None where the system does not tell."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MEBI
    try:
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)  # freed memory would hide what the call takes
        Path('/proc/self/clear_refs').write_text('5')  # resets the peak
    except (AttributeError, OSError):
        work()
        return None
    before = _resident('VmRSS')
    work()
    return _resident('VmHWM') - before


def _resident(key: str) -> float:
    """Memory of this process in MiB, from the kernel."""
    line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def measure_machine(device: torch.device, runs: int) -> Machine:
    """How fast the machine multiplies and convolves."""
    a = torch.rand(2048, 2048, device=device)
    image = torch.rand(1, 128, 160, 240, device=device).to(memory_format=torch.channels_last)
    weight = torch.rand(128, 128, 3, 3, device=device).to(memory_format=torch.channels_last)
    works = {'product': lambda: a @ a, 'convolution': lambda: F.conv2d(image, weight, padding=1)}
    with torch.inference_mode():
        for work in works.values():
            work()
        taken = medians(device, works, runs)
    return Machine(
        device,
        2 * 2048**3 / taken['product'] / 1e9,
        2 * weight.numel() * image[0, 0].numel() / taken['convolution'] / 1e9,
    )
