"""How much memory there is, and how much a network needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from irnsigma_plugin.archs.rescaling_net import RescalingNet

HOST_ALLOCATOR = "can't allocate memory"
# (limit, use) of the control group that a container runs in, versions 2 and 1.
CGROUP_FILES = (('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory.current'),
                ('/sys/fs/cgroup/memory/memory.limit_in_bytes', '/sys/fs/cgroup/memory/memory.usage_in_bytes'))


def available_memory(device: torch.device) -> int:
    """Bytes that can be allocated on a device.

    On the CPU the least of what the system has available and what the control group of a container leaves.
    """
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    available = [_system_memory()]
    for limit_file, use_file in CGROUP_FILES:
        try:
            available.append(int(Path(limit_file).read_text()) - int(Path(use_file).read_text()))
        except (OSError, ValueError):  # no such group, or its limit is 'max'
            continue
    return max(0, min(available))


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error tells that the memory, of a GPU or of the machine, did not suffice."""
    # What torch's allocator for the CPU raises is a mere RuntimeError.
    return (isinstance(error, (MemoryError, torch.OutOfMemoryError))
            or isinstance(error, RuntimeError) and HOST_ALLOCATOR in str(error))


def _system_memory() -> int:
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable:'))
    except (OSError, StopIteration):
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2


def bytes_per_pixel(net: RescalingNet) -> float:
    """Upper estimate of the memory that a network takes for each hr pixel, in either direction, in bytes.

    `200 + 8 · c`, c the channels that the widest convolution reads, divided by the hr pixels to one of its level
    (the features of a dense block are there twice, as they are and put together; 200 is for everything else):
    474 for x4 with growth 32, 346 with growth 16, 282 with growth 8, of which 395, 303 and 214 were measured. 2000
    for a network that is no InvRescaleNet.
    """
    # Not at the top: who only asks for the available memory, as to read an image, needs no network.
    from irnsigma_plugin.archs.irn_arch import InvRescaleNet
    from irnsigma_plugin.rescaling.grid import coupling_blocks

    if not isinstance(net, InvRescaleNet):
        return 2000
    return 200 + 8 * max(conv.in_channels / factor**2 for block, factor in coupling_blocks(net)
                         for conv in block.modules() if isinstance(conv, nn.Conv2d))
