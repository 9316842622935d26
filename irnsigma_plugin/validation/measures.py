"""Metrics of one image: what the field reports, and how to compute it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from basicsr.metrics import calculate_metric
from basicsr.utils.registry import METRIC_REGISTRY

MetricOptions = Mapping[str, Mapping[str, Any]]

# Of low-resolution images, against bicubic ones.
LR_METRICS: MetricOptions = {
    'psnr_y': {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': True},
    'ssim_y': {'type': 'calculate_ssim', 'crop_border': 0, 'test_y_channel': True},
}
# Shortest side of what is left inside the border. BasicSR's SSIM has a window of 11 pixels.
SMALLEST = {'calculate_ssim': 11}


def hr_metrics(scale: int, lpips: bool = True) -> MetricOptions:
    """The papers' metrics of restored images, described as BasicSR's `val.metrics`.

    Args:
        scale: Of the rescaling: so many pixels are cropped from every border.
        lpips: Whether LPIPS is among them, which needs the weights of AlexNet.
    """
    metrics = {
        'psnr': {'type': 'calculate_psnr', 'crop_border': scale, 'test_y_channel': False},
        'psnr_y': {'type': 'calculate_psnr', 'crop_border': scale, 'test_y_channel': True},
        'ssim_y': {'type': 'calculate_ssim', 'crop_border': scale, 'test_y_channel': True},
    }
    if lpips:
        metrics['lpips'] = {'type': 'calculate_lpips', 'net': 'alex', 'better': 'lower'}
    return metrics


def measure(metrics: MetricOptions, images: Sequence[np.ndarray], reference: np.ndarray) -> list[dict[str, float]]:
    """Metrics of each image against one reference, by a metric's own `many(images, reference)` where it has one.

    Args:
        metrics: Described as BasicSR's `val.metrics`.
        images, reference: uint8 HWC BGR of the same size.

    Raises:
        ValueError: They are too small for a metric.
    """
    measured = [{} for _ in images]
    height, width = reference.shape[:2]
    for name, metric in metrics.items():
        smallest = SMALLEST.get(metric['type'], 1) + 2 * metric.get('crop_border', 0)
        if min(height, width) < smallest:  # where BasicSR gives no number, or fails
            raise ValueError(f'an image of {width}x{height} pixels is too small for {name}, which takes '
                             f'{smallest}x{smallest} or more; use a larger one.')
        many = getattr(METRIC_REGISTRY.get(metric['type']), 'many', None)
        if many:
            values = many(images, reference, **{key: value for key, value in metric.items() if key != 'type'})
        else:
            values = [calculate_metric({'img': image, 'img2': reference}, metric) for image in images]
        for each, value in zip(measured, values):
            each[name] = float(value)
    return measured
