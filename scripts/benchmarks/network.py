"""The network alone beside its textbook form: both directions, and a training step of IRN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Callable

import torch
from torch import Tensor, nn

from benchmarks.measure import Machine, medians, peak_memory
from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.formats.openvino import CompiledNet
from irnsigma_plugin.rescaling.precision import autocast

Engine = Mapping[str, Mapping[str, Callable[..., object]]]

COLUMNS = (
    ('work', 'what', '{}'),
    ('seconds', 'seconds', '{:.3f}'),
    ('textbook', 'textbook_seconds', '{:.3f}'),
    ('faster', 'speedup', '{:.2f}'),
    ('GFLOP/s', 'gflops', '{:.0f}'),
    ('of the product', 'fraction_of_matrix_product', '{:.0%}'),
    ('of the peak', 'fraction_of_peak', '{:.0%}'),
    ('MiB', 'memory_mib', '{:.0f}'),
    ('textbook', 'textbook_memory_mib', '{:.0f}'),
    ('ratio', 'memory_ratio', '{:.2f}'),
)


def benchmark_inference(
    machine: Machine,
    nets: dict[str, InvRescaleNet],
    size: tuple[int, int],
    runs: int,
    precisions: Sequence[str],
    engine: Engine,
) -> Iterator[dict]:
    """Both directions of an image of the given width and height, in each precision, beside the textbook in float32.

    `engine` has more works by direction and name; see :func:`openvino_engine`.
    """
    width, height = size
    hr = torch.rand(1, 3, height, width, device=machine.device)
    gflop = flop_per_pixel(nets['plugin']) * height * width / 1e9
    with torch.inference_mode():
        lr, z = nets['plugin'].downscale(hr)
    directions = {'downscale': lambda net: net.downscale(hr), 'upscale': lambda net: net.upscale(lr, z)}
    for direction, call in directions.items():

        def in_precision(precision: str, call: Callable = call) -> None:
            with autocast(precision, machine.device):
                call(nets['plugin'])

        works = {'textbook': partial(call, nets['textbook'])}
        works.update((precision, partial(in_precision, precision)) for precision in precisions)
        inputs = (hr,) if direction == 'downscale' else (lr, z)
        works.update((name, partial(infer, *inputs)) for name, infer in engine.get(direction, {}).items())
        with torch.inference_mode():
            memory = {name: peak_memory(machine.device, work) for name, work in works.items()}
            taken = medians(machine.device, works, runs)
        for name in list(works)[1:]:
            both = ({'plugin': each[name], 'textbook': each['textbook']} for each in (taken, memory))
            what = f'{direction} {width}x{height}' + (name != 'fp32') * f', {name}'
            yield row(machine, what, *both, gflop)


def openvino_engine(net: InvRescaleNet, precisions: Sequence[str]) -> Engine:
    """Both halves of a network, as `Rescaler(engine='openvino')` computes them; upscaling takes sigma 1."""
    compiled = {f'openvino {precision}': CompiledNet(net, precision) for precision in precisions}
    return {
        'downscale': {name: each.downscale for name, each in compiled.items()},
        'upscale': {name: partial(each.restore, sigma=1.0) for name, each in compiled.items()},
    }


def benchmark_training(
    machine: Machine, nets: dict[str, InvRescaleNet], batch: int, patch: int, runs: int
) -> list[dict]:
    """A training step of the network alone, and with recomputed blocks."""
    hr = torch.rand(batch, 3, patch, patch, device=machine.device)
    # Both directions; the gradients of inputs and of weights cost as much again each.
    gflop = 3 * 2 * flop_per_pixel(nets['plugin']) * hr[:, 0].numel() / 1e9
    works, memory = {}, {}
    for name, net in nets.items():
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-6)
        works[name] = partial(_train, net, optimizer, hr)

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
    again = row(
        machine,
        f'training step {batch}x{patch}x{patch}, checkpoint_blocks',
        {'plugin': taken['checkpoint_blocks'], 'textbook': taken['textbook']},
        {'plugin': memory['checkpoint_blocks'], 'textbook': memory['textbook']},
        gflop,
    )
    return [plain, again]


def row(machine: Machine, what: str, taken: dict[str, float], memory: dict[str, float | None], gflop: float) -> dict:
    """Figures of one kind of work."""
    figures = {
        'what': what,
        'seconds': taken['plugin'],
        'gflops': gflop / taken['plugin'],
        'fraction_of_peak': gflop / taken['plugin'] / machine.peak,
        'fraction_of_matrix_product': gflop / taken['plugin'] / machine.product,
        'memory_mib': memory['plugin'],
    }
    if 'textbook' in taken:
        figures['textbook_seconds'] = taken['textbook']
        figures['speedup'] = taken['textbook'] / taken['plugin']
        figures['textbook_memory_mib'] = memory['textbook']
        figures['memory_ratio'] = memory['plugin'] / memory['textbook'] if memory['plugin'] is not None else None
    return figures


def flop_per_pixel(net: InvRescaleNet) -> float:
    """Floating-point operations of the convolutions in one direction, per hr pixel."""
    return sum(
        2 * module.weight.numel() / factor**2
        for block, factor in net.coupling_blocks()
        for module in block.modules()
        if isinstance(module, nn.Conv2d)
    )


def _train(net: InvRescaleNet, optimizer: torch.optim.Optimizer, hr: Tensor) -> None:
    """One training step of IRN."""
    result = net(hr, 1.0)
    loss = (result.restored - hr).abs().mean() + (result.lr - 0.5).square().mean() + result.latent.square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
