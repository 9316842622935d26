"""How time and memory grow with the image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from benchmarks.measure import Machine, medians, peak_memory
from benchmarks.network import flop_per_pixel, row
from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.evaluation.pictures import new_figure, png_bytes

SMALLEST = 64
LARGE = 2048  # from here on a call takes long, and times vary little
RUNS_IF_LARGE = 3
PANEL_INCHES = (4.5, 4.0)

COLUMNS = (
    ('work', 'what', '{}'),
    ('seconds', 'seconds', '{:.3f}'),
    ('per megapixel', 'seconds_per_megapixel', '{:.2f}'),
    ('exponent', 'exponent', '{:.2f}'),
    ('GFLOP/s', 'gflops', '{:.0f}'),
    ('of the peak', 'fraction_of_peak', '{:.0%}'),
    ('MiB', 'memory_mib', '{:.1f}'),
    ('MiB per megapixel', 'memory_mib_per_megapixel', '{:.0f}'),
)


def benchmark_sizes(machine: Machine, net: InvRescaleNet, largest: int, runs: int) -> Iterator[dict]:
    """Downscaling of square images from 64 to `largest` pixels a side, doubled each time.

    Yields:
        Figures of a size. `exponent` is e of seconds ~ pixels^e from the size before to this one.
    """
    before = None
    side = SMALLEST
    while side <= largest:
        hr = torch.rand(1, 3, side, side, device=machine.device)
        work = partial(net.downscale, hr)
        with torch.inference_mode():
            memory = peak_memory(machine.device, work)
            taken = medians(machine.device, {'plugin': work}, min(runs, RUNS_IF_LARGE) if side >= LARGE else runs)
        gflop = flop_per_pixel(net) * side**2 / 1e9
        figures = {**row(machine, f'downscale {side}x{side}', taken, {'plugin': memory}, gflop), 'pixels': side**2}
        figures['seconds_per_megapixel'] = figures['seconds'] / side**2 * 1e6
        figures['exponent'] = before and math.log(
            figures['seconds'] / before['seconds'], figures['pixels'] / before['pixels']
        )
        figures['memory_mib_per_megapixel'] = None if memory is None else memory / side**2 * 1e6
        yield figures
        before = figures
        side *= 2


def draw_sizes(sizes: Sequence[dict]) -> bytes:
    """Draw time and memory against pixels, beside lines of slope 1 through the largest image.

    Args:
        sizes: Figures of :func:`benchmark_sizes`.

    Returns:
        A PNG file's content.
    """
    panels = {'seconds': 'seconds', 'memory_mib': 'memory beyond weights and image (MiB)'}
    if any(figures['memory_mib'] is None for figures in sizes):
        del panels['memory_mib']
    figure = new_figure(PANEL_INCHES[0] * len(panels), PANEL_INCHES[1])
    pixels = [figures['pixels'] for figures in sizes]
    for place, (key, label) in enumerate(panels.items(), 1):
        values = [figures[key] for figures in sizes]
        plot = figure.add_subplot(1, len(panels), place)
        plot.plot(pixels, [values[-1] * count / pixels[-1] for count in pixels], '--', color='grey', label='linear')
        plot.plot(pixels, values, 'o-', color='tab:blue', label='downscale')
        plot.set_xscale('log')
        plot.set_yscale('log')
        plot.set_xticks(pixels, [f'{math.isqrt(count)}²' for count in pixels])
        plot.minorticks_off()
        plot.grid(alpha=0.3)
        plot.set_xlabel('pixels')
        plot.set_ylabel(label)
        plot.legend(frameon=False)
    return png_bytes(figure)
