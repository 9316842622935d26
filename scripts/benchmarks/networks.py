"""Networks of different settings beside each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from benchmarks.network import flop_per_pixel
from benchmarks.textbook import randomise
from irnsigma_plugin.archs.irn_arch import InvRescaleNet

COLUMNS = (
    ('network', 'what', '{}'),
    ('parameters', 'parameters', '{:,}'),
    ('MFLOP per pixel', 'mflop_per_pixel', '{:.3f}'),
    ('downscale', 'downscale_seconds', '{:.3f}'),
    ('of the first', 'downscale_ratio', '{:.2f}'),
    ('upscale', 'upscale_seconds', '{:.3f}'),
    ('of the first', 'upscale_ratio', '{:.2f}'),
)


def benchmark_networks(networks: Sequence[Mapping[str, Any]], size: tuple[int, int], runs: int) -> Iterator[dict]:
    """Both directions of an image of the given width and height, on the CPU: median seconds of the processor's time.

    Args:
        networks: Arguments of each :class:`InvRescaleNet`.
    """
    nets = [randomise(InvRescaleNet(**settings), std=0.01) for settings in networks]
    hr = torch.rand(1, 3, size[1], size[0])
    taken: list[dict[str, list[float]]] = [{'downscale': [], 'upscale': []} for _ in nets]
    with torch.inference_mode():
        for run in range(runs + 1):  # the first warms up
            for net, times in zip(nets, taken):
                start = time.process_time()
                lr, z = net.downscale(hr)
                between = time.process_time()
                net.upscale(lr, z)
                if run:
                    times['downscale'].append(between - start)
                    times['upscale'].append(time.process_time() - between)
    for settings, net, times in zip(networks, nets, taken):
        figures: dict[str, Any] = {
            'what': ', '.join(f'{name} {value}' for name, value in settings.items()),
            'parameters': sum(parameter.numel() for parameter in net.parameters()),
            'mflop_per_pixel': flop_per_pixel(net) / 1e6,
        }
        for direction, each in times.items():
            figures[f'{direction}_seconds'] = statistics.median(each)
            figures[f'{direction}_ratio'] = statistics.median(each) / statistics.median(taken[0][direction])
        yield figures
