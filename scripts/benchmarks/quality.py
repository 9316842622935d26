"""What each precision and engine costs in quality and gains in time, with a trained network on photographs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from benchmarks.measure import elapsed, moment
from irnsigma_plugin.evaluation.measures import hr_metrics, measure
from irnsigma_plugin.evaluation.restore import Restorer
from irnsigma_plugin.rescaling.rescaler import Rescaler

SIGMAS = (0.0, 1.0)
COLUMNS = (
    ('precision', 'precision', '{}'),
    ('σ', 'sigma', '{:g}'),
    ('psnr_y ↑', 'psnr_y', '{:.4f}'),
    ('lpips ↓', 'lpips', '{:.5f}'),
    ("lr against fp32's, dB", 'lr_psnr', '{:.1f}'),
    ("hr against fp32's, dB", 'hr_psnr', '{:.1f}'),
    ('s per image', 'seconds', '{:.3f}'),
)


def benchmark_quality(
    device: torch.device, model: str, images: Sequence[Path], precisions: Sequence[str], openvino: bool = False
) -> Iterator[dict]:
    """Rows of each precision and sigma, then of those by `openvino`; fp32 comes first.

    The seconds are of both directions, at all sigmas.
    """
    ways = {name: ('torch', name) for name in ('fp32', *precisions)}
    ways.update((f'openvino {name}', ('openvino', name)) for name in precisions if openvino)
    restorers = {
        name: Restorer(Rescaler.from_checkpoint(model, device, precision=precision, engine=engine), SIGMAS)
        for name, (engine, precision) in ways.items()
    }
    scale = restorers['fp32'].rescaler.scale
    metrics = {name: metric for name, metric in hr_metrics(scale).items() if name in ('psnr_y', 'lpips')}
    found: dict[tuple[str, float], list[dict]] = {(name, sigma): [] for name in ways for sigma in SIGMAS}
    for path in images:
        reference = None
        for name, restorer in restorers.items():
            start = moment(device)
            original, image = restorer.rescale_file(path)
            taken = elapsed(start, moment(device))
            reference = reference or image
            measured, _ = measure(metrics, list(image.restored.values()), original)
            for (sigma, restored), values in zip(image.restored.items(), measured):
                errors = {
                    'lr': squared_error(image.lr, reference.lr),
                    'hr': squared_error(restored, reference.restored[sigma]),
                }
                found[name, sigma].append({**values, **errors, 'seconds': taken})
    for (name, sigma), each in found.items():
        means = {key: fmean(values[key] for values in each) for key in each[0]}
        decibels = {f'{key}_psnr': 10 * math.log10(255**2 / means[key]) if means[key] else None for key in ('lr', 'hr')}
        yield {'precision': name, 'sigma': sigma, **means, **decibels}


def squared_error(image: np.ndarray, reference: np.ndarray) -> float:
    """Mean squared difference in levels."""
    return float(np.square(image.astype(np.float64) - reference).mean())
