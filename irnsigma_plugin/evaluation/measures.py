"""Metrics of one image and of a data set: what the field reports, and how to compute it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Callable

import numpy as np
import torch
from torch import Tensor

from irnsigma_plugin.checks import name_some, one_line, printable
from irnsigma_plugin.evaluation.restore import RescaledImage
from irnsigma_plugin.imagenet.weights import WeightsError
from irnsigma_plugin.memory import is_lack_of_memory
from irnsigma_plugin.rescaling.rescaler import reproducible_convolutions

Measured = tuple[list[dict[str, float]], list[str]]  # metrics of each image, and what failed
MetricOptions = Mapping[str, Mapping[str, Any]]  # name -> `type` and arguments, as BasicSR's `val.metrics`

# The papers' metrics of low-resolution images, against bicubic ones.
LR_METRICS: MetricOptions = {
    'psnr_y': {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': True},
    'ssim_y': {'type': 'calculate_ssim', 'crop_border': 0, 'test_y_channel': True},
}
# Short and long side that BasicSR's metrics need after cropping, in pixels: SSIM's window, two of NIQE's blocks. Those
# of others may have a function `smallest` of their arguments, for both.
_SMALLEST = {'calculate_ssim': (11, 11), 'calculate_niqe': (96, 192)}


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
    faults: tuple[str, ...] = ()  # of :func:`measure`, of the image at any sigma


@dataclasses.dataclass
class Scores:
    """All metrics of one data set: `images` has an entry for each image and sigma."""

    dataset: str
    sigmas: tuple[float, ...]
    images: list[ImageScore] = dataclasses.field(default_factory=list)
    model: str = ''  # hash of the weights

    def hr_means(self, sigma: float) -> dict[str, float]:
        """Mean of each metric of the restored images at one sigma."""
        return mean_metrics([score.hr for score in self.images if score.sigma == sigma])

    def lr_means(self) -> dict[str, float]:
        """Mean of each metric of the low-resolution images against bicubic."""
        return mean_metrics([score.lr for score in self.images if score.sigma == self.sigmas[0]])

    def flat_means(self) -> dict[str, float]:
        """All means under unique names: `sigma_0.5/psnr_y`, ..., `lr/psnr_y`, ..."""
        groups = {**{f'sigma_{sigma:g}': self.hr_means(sigma) for sigma in self.sigmas}, 'lr': self.lr_means()}
        return {f'{group}/{name}': mean for group, means in groups.items() for name, mean in means.items()}

    def missing(self) -> str:
        """A sentence on the figures that are not in the means; empty where all are."""
        faults = [f'{printable(score.image)}: {fault}' for score in self.images for fault in score.faults]
        faults = list(dict.fromkeys(faults))
        return f'{len(faults)} figure(s) missing, in the means, too: {name_some(faults, "; ")}' if faults else ''

    @property
    def image_count(self) -> int:
        """Number of images."""
        return len(self.images) // len(self.sigmas)


def mean_metrics(metrics: list[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over images, without those that are missing (nan) in it."""
    names = metrics[0] if metrics else ()
    return {name: fmean([each[name] for each in metrics if each[name] == each[name]] or [math.nan]) for name in names}


def smallest_size(metric: Mapping[str, Any], function: Any) -> tuple[int, int]:
    """Short and long side of the smallest image that a metric takes, an entry of `val.metrics` and its function."""
    options = {key: value for key, value in metric.items() if key != 'type'}
    own = function.smallest(**options) if hasattr(function, 'smallest') else 1
    short, long = (side + 2 * options.get('crop_border', 0) for side in _SMALLEST.get(metric['type'], (own, own)))
    return short, long


def score_image(
    image: RescaledImage, original: np.ndarray, lr_ref: np.ndarray, metrics: MetricOptions, lr_metrics: MetricOptions
) -> list[ImageScore]:
    """:func:`measure` an image at every sigma against its original, and its low-resolution image against `lr_ref`."""
    (lr,), lr_faults = measure(lr_metrics, [image.lr], lr_ref)
    hr, faults = measure(metrics, list(image.restored.values()), original)
    faults += [f'lr {fault}' for fault in lr_faults]
    return [ImageScore(image.name, sigma, values, lr, tuple(faults)) for sigma, values in zip(image.restored, hr)]


def measure(metrics: MetricOptions, images: Sequence[np.ndarray], reference: np.ndarray) -> Measured:
    """Metrics of each image against one reference, by a metric's own `many(images, reference)` where it has one.

    Images and reference are uint8 HWC BGR, all of one size. A metric that fails is no number (nan), and one of the
    faults, which are returned, too; missing weights and lack of memory are raised.
    """
    from basicsr.utils.registry import METRIC_REGISTRY

    columns: dict[str, list[float]] = {}
    faults = []
    height, width = reference.shape[:2]
    for name, metric in metrics.items():
        function = METRIC_REGISTRY.get(metric['type'])
        options = {key: value for key, value in metric.items() if key != 'type'}
        try:
            short, long = smallest_size(metric, function)
            if min(height, width) < short or max(height, width) < long:
                raise ValueError(f'{width}x{height} pixels are too few, it takes {short}x{long} or more')
            if hasattr(function, 'many'):
                values = function.many(images, reference, **options)
            else:
                values = (function(img=image, img2=reference, **options) for image in images)
            columns[name] = list(map(float, values))
            if any(map(math.isnan, columns[name])):
                faults.append(f'{name}: it gives no number')
        except Exception as error:  # whatever a metric stumbles over
            if isinstance(error, WeightsError) or is_lack_of_memory(error):
                raise
            columns[name] = [math.nan] * len(images)
            faults.append(f'{name}: {one_line(error)}')
    return [{name: values[index] for name, values in columns.items()} for index in range(len(images))], faults


def distances(
    images: Sequence[np.ndarray],
    reference: np.ndarray,
    features: Callable[[np.ndarray], Any],
    distance: Callable[[Any, Any], Any],
) -> list[float]:
    """`distance(features(image), features(reference))` of each image; the reference's features are computed once.

    On a GPU convolutions are as exact as the network's. A ValueError if an image is not of the reference's shape.
    """
    for image in images:
        if image.shape != reference.shape:
            raise ValueError(f'expected images of one shape, got {image.shape} and {reference.shape}')
    with reproducible_convolutions(metric_device()):
        target = features(reference)
        return [float(distance(features(image), target)) for image in images]  # one at a time, to save memory


def metric_device() -> torch.device:
    """Where metrics' networks run: on the GPU if the process uses one, not on one that is left alone (num_gpu: 0)."""
    return torch.device('cuda' if torch.cuda.is_initialized() else 'cpu')


def from_bgr(image: np.ndarray, crop_border: int = 0) -> Tensor:
    """A uint8 image, (H, W, 3) BGR, or (H, W) or (H, W, 1) grey, as metrics' networks take it, without its border.

    (1, 3, H, W) RGB in [0, 1], on :func:`metric_device`.
    """
    if image.dtype != np.uint8 or image.ndim < 2 or image.shape[2:] not in ((), (1,), (3,)):
        wanted = 'uint8 of shape (H, W, 3), (H, W, 1) or (H, W)'
        raise ValueError(f'expected {wanted}, got {image.dtype} {image.shape}')
    height, width = image.shape[:2]
    rgb = np.atleast_3d(image)[crop_border : height - crop_border, crop_border : width - crop_border, ::-1]
    tensor = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1).float().div(255)
    return tensor.expand(3, -1, -1).unsqueeze(0).to(metric_device())
