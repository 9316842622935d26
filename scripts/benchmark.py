#!/usr/bin/env python
"""Time and memory of the network beside its textbook form (tests/oracle.py), in one run.

Every figure is the median of runs that take turns, so that a machine that changes its speed changes both.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tests'))

from invertibility import randomise
from oracle import textbook

from irnsigma_plugin.archs.coupling import CouplingBlock
from irnsigma_plugin.archs.irn_arch import InvRescaleNet

MEBI = 2**20


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


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Time of one call; on a GPU by events."""
    if device.type == 'cuda':
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def medians(device: torch.device, works: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median seconds of each of several works that take turns, after one round of warming up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(runs + 1):
        for name, work in works.items():
            taken = seconds(device, work)
            if turn:
                times[name].append(taken)
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
        return None
    before = resident('VmRSS')
    work()
    return resident('VmHWM') - before


def resident(key: str) -> float:
    """Memory of this process in MiB, from the kernel."""
    line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def measure_machine(device: torch.device) -> Machine:
    """How fast the machine multiplies and convolves."""
    a = torch.rand(2048, 2048, device=device)
    image = torch.rand(1, 128, 160, 240, device=device).to(memory_format=torch.channels_last)
    weight = torch.rand(128, 128, 3, 3, device=device).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        works = {'product': lambda: a @ a, 'convolution': lambda: F.conv2d(image, weight, padding=1)}
        taken = medians(device, works, 9)
    return Machine(device, 2 * 2048**3 / taken['product'] / 1e9,
                   2 * weight.numel() * image[0, 0].numel() / taken['convolution'] / 1e9)


def flop_per_pixel(net: InvRescaleNet) -> float:
    """Floating-point operations of the convolutions in one direction, per hr pixel."""
    total, pixels = 0.0, 1.0
    for operation in net.operations:
        if isinstance(operation, CouplingBlock):
            weights = sum(module.weight.numel() for module in operation.modules() if isinstance(module, nn.Conv2d))
            total += 2 * weights * pixels
        else:
            pixels /= 4 if operation.__class__.__name__ == 'HaarDownsampling' else operation.scale**2
    return total


def step(net: InvRescaleNet, optimizer: torch.optim.Optimizer, hr: Tensor) -> None:
    """One training step of IRN."""
    result = net(hr, 1.0)
    loss = (result.hr - hr).abs().mean() + (result.lr - 0.5).square().mean() + result.latent.square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def benchmark_inference(machine: Machine, nets: dict[str, InvRescaleNet], size: tuple[int, int], runs: int,
                        ) -> list[dict]:
    """Both directions of an image of the given width and height."""
    width, height = size
    hr = torch.rand(1, 3, height, width, device=machine.device)
    gflop = flop_per_pixel(nets['plugin']) * height * width / 1e9
    rows = []
    with torch.inference_mode():
        lr, z = nets['plugin'].downscale(hr)
        directions = {'downscale': lambda net: net.downscale(hr), 'upscale': lambda net: net.upscale(lr, z)}
        for direction, call in directions.items():
            works = {name: partial(call, net) for name, net in nets.items()}
            memory = {name: peak_memory(machine.device, work) for name, work in works.items()}
            taken = medians(machine.device, works, runs)
            rows.append(row(machine, f'{direction} {width}x{height}', taken, memory, gflop))
    return rows


def benchmark_training(machine: Machine, nets: dict[str, InvRescaleNet], batch: int, patch: int, runs: int,
                       ) -> list[dict]:
    """A training step of the network alone, and with recomputed blocks."""
    hr = torch.rand(batch, 3, patch, patch, device=machine.device)
    # Both directions; the gradients of inputs and of weights cost as much again each.
    gflop = 3 * 2 * flop_per_pixel(nets['plugin']) * hr[:, 0].numel() / 1e9
    works, memory = {}, {}
    for name, net in nets.items():
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-6)
        works[name] = partial(step, net, optimizer, hr)

    def checkpointed() -> None:
        nets['plugin'].checkpoint_blocks = True
        works['plugin']()
        nets['plugin'].checkpoint_blocks = False

    every = {**works, 'checkpoint_blocks': checkpointed}
    for name, work in every.items():
        work()  # the optimiser's state is not of the step
        memory[name] = peak_memory(machine.device, work)
    taken = medians(machine.device, every, runs)
    plain = row(machine, f'training step {batch}x{patch}x{patch}', taken, memory, gflop)
    again = row(machine, f'training step {batch}x{patch}x{patch}, checkpoint_blocks',
                {'plugin': taken['checkpoint_blocks'], 'textbook': taken['textbook']},
                {'plugin': memory['checkpoint_blocks'], 'textbook': memory['textbook']}, gflop)
    return [plain, again]


def benchmark_sizes(machine: Machine, net: InvRescaleNet, largest: int, runs: int) -> list[dict]:
    """Downscaling of square images from 64 to `largest` pixels a side."""
    rows = []
    side = 64
    with torch.inference_mode():
        while side <= largest:
            hr = torch.rand(1, 3, side, side, device=machine.device)
            work = partial(net.downscale, hr)
            memory = peak_memory(machine.device, work)
            taken = medians(machine.device, {'plugin': work}, runs)
            gflop = flop_per_pixel(net) * side * side / 1e9
            rows.append(row(machine, f'downscale {side}x{side}', taken, {'plugin': memory}, gflop))
            show(rows[-1])
            side *= 2
    return rows


def row(machine: Machine, what: str, taken: dict[str, float], memory: dict[str, float | None], gflop: float) -> dict:
    """Figures of one kind of work."""
    figures = {'what': what, 'seconds': taken['plugin'], 'gflops': gflop / taken['plugin'],
               'fraction_of_peak': gflop / taken['plugin'] / machine.peak,
               'fraction_of_matrix_product': gflop / taken['plugin'] / machine.product, 'memory_mib': memory['plugin']}
    if 'textbook' in taken:
        figures['textbook_seconds'] = taken['textbook']
        figures['speedup'] = taken['textbook'] / taken['plugin']
        figures['textbook_memory_mib'] = memory['textbook']
        figures['memory_ratio'] = memory['plugin'] / memory['textbook'] if memory['plugin'] is not None else None
    return figures


HEADER = ('| work | seconds | textbook | faster | GFLOP/s | of the peak | MiB | textbook | ratio |\n'
          '|---|---|---|---|---|---|---|---|---|')


def show(figures: dict) -> None:
    """Print a row of the table."""

    def form(key: str, pattern: str) -> str:
        return pattern.format(figures[key]) if figures.get(key) is not None else '-'

    print(f'| {figures["what"]} | {form("seconds", "{:.3f}")} | {form("textbook_seconds", "{:.3f}")} '
          f'| {form("speedup", "{:.2f}")} | {form("gflops", "{:.0f}")} | {form("fraction_of_peak", "{:.0%}")} '
          f'| {form("memory_mib", "{:.0f}")} | {form("textbook_memory_mib", "{:.0f}")} '
          f'| {form("memory_ratio", "{:.2f}")} |', flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples:\n  python scripts/benchmark.py\n  python scripts/benchmark.py --device cuda --json gpu.json\n'
        '  python scripts/benchmark.py --parts sizes --largest 1024\n\n'
        'Leave the machine alone meanwhile. Oracle and network share weights and images; memory is what a call needs\n'
        'at most beyond weights and image.')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: cpu)')
    parser.add_argument('--threads', type=int, help="of the CPU (default: torch's)")
    parser.add_argument('--parts', nargs='+', default=['inference', 'training'],
                        choices=['inference', 'training', 'sizes'],
                        help='what to measure (default: inference training)')
    parser.add_argument('--scale', type=int, default=4, help='2, 3, 4 or 8 (default: 4)')
    parser.add_argument('--sizes', nargs='+', default=['480x320', '2040x1356'], metavar='WxH',
                        help='images of the inference (default: 480x320 2040x1356)')
    parser.add_argument('--batch', type=int, default=4, help='patches of a training step (default: 4)')
    parser.add_argument('--patch', type=int, default=144, help='their side (default: 144)')
    parser.add_argument('--largest', type=int, default=4096, help='largest side of the part `sizes` (default: 4096)')
    parser.add_argument('--runs', type=int, default=7, help='medians are of so many (default: 7)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all figures')
    return parser.parse_args()


def main() -> None:
    """Measure, print a table, and write the figures where asked to."""
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    machine = measure_machine(device)
    print(f'{device}, {torch.get_num_threads()} threads, torch {torch.__version__}: matrix product '
          f'{machine.product:.0f} GFLOP/s, 3x3 convolution of 128 channels {machine.convolution:.0f} GFLOP/s\n')
    print(HEADER, flush=True)
    net = randomise(InvRescaleNet(args.scale), std=0.01)
    nets = {'plugin': net.to(device), 'textbook': textbook(net).to(device)}
    rows = []
    if 'inference' in args.parts:
        for size in args.sizes:
            rows += benchmark_inference(machine, nets, tuple(map(int, size.split('x'))), args.runs)
            for figures in rows[-2:]:
                show(figures)
    if 'training' in args.parts:
        rows += benchmark_training(machine, nets, args.batch, args.patch, args.runs)
        for figures in rows[-2:]:
            show(figures)
    if 'sizes' in args.parts:
        rows += benchmark_sizes(machine, net, args.largest, args.runs)
    if args.json:
        about = {'device': str(device), 'threads': torch.get_num_threads(), 'torch': torch.__version__,
                 'processor': platform.processor() or platform.machine(), 'cores': os.cpu_count(),
                 'matrix_product_gflops': machine.product, 'convolution_gflops': machine.convolution, 'rows': rows}
        args.json.write_text(json.dumps(about, indent=1) + '\n')


if __name__ == '__main__':
    main()
