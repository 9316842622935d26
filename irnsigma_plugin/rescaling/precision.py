"""The precision and the engine in which a network is computed, and which ones a device is fastest in."""

from __future__ import annotations

import functools
import importlib.util
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line names the precisions before it needs torch, whose import takes seconds
    import torch

PRECISIONS = ('auto', 'fp32', 'bf16', 'fp16')
ENGINES = ('auto', 'torch', 'openvino')
CALIBRATIONS = 3  # of each precision, in turn; the least of their times counts
WORTHWHILE = 1.2  # times faster: native bf16 is 2 or more, and less than 1 where fewer numbers go at once


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """What a network is to be called in, also where the caller has an autocast of its own."""
    import torch

    dtype = {'bf16': torch.bfloat16, 'fp16': torch.float16}.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


@functools.cache
def native_precision(device: torch.device) -> str:
    """bf16 where a device computes it natively, else fp32; found once per process.

    GPUs do from compute capability 8.0. Of processors, some with AVX-512 do (AMX, avx512_bf16), and not all of them
    faster than float32: a dense block decides in 0.1 to 0.2 s, by the processor's time, which others do not lengthen.
    """
    import torch

    from irnsigma_plugin.archs.dense_block import DenseBlock

    if device.type == 'cuda':
        return 'bf16' if torch.cuda.get_device_capability(device) >= (8, 0) else 'fp32'
    if device.type != 'cpu' or torch.backends.cpu.get_cpu_capability() != 'AVX512':
        return 'fp32'
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        block, x = DenseBlock(3, 45), torch.rand(1, 3, 64, 64)

        def seconds(precision: str) -> float:
            start = time.process_time()
            with autocast(precision, device):
                block(x)
            return time.process_time() - start

        seconds('fp32'), seconds('bf16')  # kernels are made at their first use
        pairs = [(seconds('fp32'), seconds('bf16')) for _ in range(CALIBRATIONS)]
    full, half = map(min, zip(*pairs))
    return 'bf16' if full > WORTHWHILE * half else 'fp32'


def native_engine(device: torch.device, precision: str) -> str:
    """openvino where it is installed and was measured to be faster: in fp32, on processors with AVX-512; else torch.

    The environment variable IRNSIGMA_ENGINE=torch makes it torch in any case.
    """
    import torch

    if os.environ.get('IRNSIGMA_ENGINE') == 'torch':
        return 'torch'
    fast = device.type == 'cpu' and precision == 'fp32' and torch.backends.cpu.get_cpu_capability() == 'AVX512'
    return 'openvino' if fast and importlib.util.find_spec('openvino') else 'torch'
