"""Metrics of one image and of a data set: what the field reports, and how to compute it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Callable

import numpy as np

from irnsigma_plugin.evaluation.restore import RescaledImage

MetricOptions = Mapping[str, Mapping[str, Any]]  # name -> `type` and arguments, as BasicSR's `val.metrics`

# The papers' metrics of low-resolution images, against bicubic ones.
LR_METRICS: MetricOptions = {
    'psnr_y': {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': True},
    'ssim_y': {'type': 'calculate_ssim', 'crop_border': 0, 'test_y_channel': True},
}
SSIM_WINDOW = 11  # pixels, of BasicSR's


def hr_metrics(scale: int, lpips: bool = True, dists: bool = False) -> MetricOptions:
    """The papers' metrics of restored images, and DISTS: PSNR and SSIM without a border of `scale` pixels."""
    return {
        'psnr': {'type': 'calculate_psnr', 'crop_border': scale, 'test_y_channel': False},
        **{name: {**metric, 'crop_border': scale} for name, metric in LR_METRICS.items()},
        **({'lpips': {'type': 'calculate_lpips', 'net': 'alex', 'better': 'lower'}} if lpips else {}),
        **({'dists': {'type': 'calculate_dists', 'better': 'lower'}} if dists else {}),
    }


def lower_is_better(metric: Mapping[str, Any]) -> bool:
    """Whether a metric, an entry of `val.metrics`, is a distance."""
    return metric.get('better') == 'lower'


def perception_distortion_axes(metrics: MetricOptions) -> tuple[str, str] | None:
    """Names of the metrics of distortion, a PSNR (that of Y first), and of perception, LPIPS; none without both."""
    distortion = [name for name, metric in metrics.items() if 'psnr' in metric['type']]
    distortion.sort(key=lambda name: not metrics[name].get('test_y_channel'))
    perception = [name for name, metric in metrics.items() if 'lpips' in metric['type']]
    return (distortion[0], perception[0]) if distortion and perception else None


@dataclasses.dataclass(frozen=True)
class ImageScore:
    """Metrics of one image restored at one sigma; those of its low-resolution image are the same at all."""

    image: str
    sigma: float
    hr: Mapping[str, float]
    lr: Mapping[str, float]


@dataclasses.dataclass
class Scores:
    """All metrics of one data set: `images` has an entry for each image and sigma."""

    dataset: str
    sigmas: tuple[float, ...]
    images: list[ImageScore] = dataclasses.field(default_factory=list)

    def hr_means(self, sigma: float) -> dict[str, float]:
        """Mean of each metric of the restored images at one sigma."""
        return _means([score.hr for score in self.images if score.sigma == sigma])

    def lr_means(self) -> dict[str, float]:
        """Mean of each metric of the low-resolution images against bicubic."""
        return _means([score.lr for score in self.images if score.sigma == self.sigmas[0]])

    def flat_means(self) -> dict[str, float]:
        """All means under unique names: `sigma_0.5/psnr_y`, ..., `lr/psnr_y`, ..."""
        groups = {**{f'sigma_{sigma:g}': self.hr_means(sigma) for sigma in self.sigmas}, 'lr': self.lr_means()}
        return {f'{group}/{name}': mean for group, means in groups.items() for name, mean in means.items()}

    @property
    def image_count(self) -> int:
        """Number of images."""
        return len(self.images) // len(self.sigmas)


def _means(metrics: list[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(each[name] for each in metrics) for name in (metrics[0] if metrics else ())}


def score_image(
    image: RescaledImage, original: np.ndarray, lr_ref: np.ndarray, metrics: MetricOptions, lr_metrics: MetricOptions
) -> list[ImageScore]:
    """:func:`measure` an image at every sigma against its original, and its low-resolution image against `lr_ref`."""
    (lr,) = measure(lr_metrics, [image.lr], lr_ref)
    hr = measure(metrics, list(image.restored.values()), original)
    return [ImageScore(image.name, sigma, values, lr) for sigma, values in zip(image.restored, hr)]


def measure(metrics: MetricOptions, images: Sequence[np.ndarray], reference: np.ndarray) -> list[dict[str, float]]:
    """Metrics of each image against one reference, by a metric's own `many(images, reference)` where it has one.

    Images and reference are uint8 HWC BGR, all of one size. ValueError: they are too small for a metric.
    """
    from basicsr.utils.registry import METRIC_REGISTRY

    columns: dict[str, list[float]] = {}
    height, width = reference.shape[:2]
    for name, metric in metrics.items():
        smallest = 2 * metric.get('crop_border', 0) + (SSIM_WINDOW if metric['type'] == 'calculate_ssim' else 1)
        if min(height, width) < smallest:  # where BasicSR gives no number, or fails
            remedy = f'which takes {smallest}x{smallest} or more; use a larger one.'
            raise ValueError(f'an image of {width}x{height} pixels is too small for {name}, {remedy}')
        function = METRIC_REGISTRY.get(metric['type'])
        options = {key: value for key, value in metric.items() if key != 'type'}
        if hasattr(function, 'many'):
            values = function.many(images, reference, **options)
        else:
            values = (function(img=image, img2=reference, **options) for image in images)
        columns[name] = list(map(float, values))
    return [{name: values[index] for name, values in columns.items()} for index in range(len(images))]


def distances(
    images: Sequence[np.ndarray],
    reference: np.ndarray,
    features: Callable[[np.ndarray], Any],
    distance: Callable[[Any, Any], Any],
) -> list[float]:
    """`distance(features(image), features(reference))` of each image; the reference's features are computed once.

    A ValueError if an image is not of the reference's shape.
    """
    for image in images:
        if image.shape != reference.shape:
            raise ValueError(f'expected images of one shape, got {image.shape} and {reference.shape}')
    target = features(reference)
    return [float(distance(features(image), target)) for image in images]  # one at a time, to save memory
