"""DISTS, deep image structure and texture similarity (Ding et al., TPAMI 2020)."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from irnsigma_plugin.checks import one_of, raise_faults, whole
from irnsigma_plugin.evaluation.measures import distances, from_bgr
from irnsigma_plugin.imagenet.weights import WeightsError
from irnsigma_plugin.losses.perceptual_loss import VGGFeatures

LAYERS = ('relu1_2', 'relu2_2', 'relu3_3', 'relu4_3', 'relu5_3')
CHANNELS = (3, 64, 128, 256, 512, 512)  # of the image, which counts as a layer, and of LAYERS
STABILISER = 1e-6  # c1 and c2 of the paper


def calculate_dists(img: np.ndarray, img2: np.ndarray, crop_border: int = 0, better: str = 'lower') -> float:
    """DISTS of two images, from 0 for equal ones to 1 or so; on the GPU if the process uses one.

    The sum over feature maps, x of one image and y of the other, of
    `α (1 - (2 μx μy + c) / (μx² + μy² + c)) + β (1 - (2 σxy + c) / (σx² + σy² + c))`. The maps are the image and five
    layers of VGG16 with smooth pooling; α and β, trained ones whose sum is 1, come with the package dists-pytorch.

    Args:
        img, img2: uint8 images of one shape: (H, W, 3) BGR, or (H, W) or (H, W, 1) grey; 16 pixels a side or more.
        crop_border: Pixels to cut off each side. The full image is usual: 0.
        better: `lower`: BasicSR's key beside each metric, which it takes for `higher` when it is absent.

    Raises:
        ValueError: Images of different or unsuitable shape or type; `better` is not `lower`.
        WeightsError: The weights of VGG16 are missing or damaged, or the package is not installed.
    """
    return dists_of_many([img], img2, crop_border, better)[0]


def check_dists() -> None:
    """Raise a WeightsError where DISTS cannot be measured, before it is needed."""
    blank = np.zeros((16, 16, 3), np.uint8)
    calculate_dists(blank, blank)


@torch.no_grad()
def dists_of_many(
    images: Sequence[np.ndarray], reference: np.ndarray, crop_border: int = 0, better: str = 'lower'
) -> list[float]:
    """:func:`calculate_dists` of each image and one reference, whose features are computed once."""
    raise_faults('calculate_dists', _check(crop_border, better))
    return distances(images, reference, functools.partial(_features, crop_border=crop_border), _distance)


def _check(crop_border: Any, better: Any) -> Iterator[str]:
    yield from whole(0)('crop_border', crop_border)
    yield from one_of('lower')('better', better)


def _imagenet(**_: Any) -> str:
    _weights_file()  # which is needed, too
    return 'vgg16'


#: As those of `calculate_lpips`.
calculate_dists.check = _check  # type: ignore[attr-defined]
calculate_dists.many = dists_of_many  # type: ignore[attr-defined]
calculate_dists.smallest = lambda **_: 16  # type: ignore[attr-defined]
calculate_dists.imagenet = _imagenet  # type: ignore[attr-defined]


class L2Pool(nn.Module):
    """Root of the mean of squares under a Hann window of 3x3, at every second pixel: (N, C, H, W) -> halves of H, W."""

    def forward(self, x: Tensor) -> Tensor:
        window = x.new_tensor([0.25, 0.5, 0.25])
        kernel = torch.outer(window, window).expand(x.size(1), 1, 3, 3)
        return (F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.size(1)) + 1e-12).sqrt()


@functools.cache
def _load_vgg(device: torch.device) -> VGGFeatures:
    with torch.random.fork_rng(devices=[]):  # a training must not notice the random initial values
        vgg = VGGFeatures(LAYERS, 'vgg16')
    vgg.net = nn.Sequential(*(L2Pool() if isinstance(layer, nn.MaxPool2d) else layer for layer in vgg.net))
    return vgg.to(device)


def _weights_file() -> Path:
    package = importlib.util.find_spec('DISTS_pytorch')  # it is not imported
    if package is None or not package.submodule_search_locations:
        raise WeightsError('the weights of DISTS are in a package that is not installed: pip install dists-pytorch')
    return Path(package.submodule_search_locations[0], 'weights.pt')


@functools.cache
def _load_weights(device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """α and β of each layer, (1, C)."""
    state = torch.load(_weights_file(), map_location=device, weights_only=True)
    alpha, beta = (state[name].detach().flatten(1) for name in ('alpha', 'beta'))
    total = alpha.sum() + beta.sum()
    return list(zip((alpha / total).split(CHANNELS, 1), (beta / total).split(CHANNELS, 1)))


def _features(image: np.ndarray, crop_border: int) -> list[Tensor]:
    tensor = from_bgr(image, crop_border)
    return [tensor, *_load_vgg(tensor.device)(tensor).values()]


def _distance(features: list[Tensor], target: list[Tensor]) -> Tensor:
    total = target[0].new_zeros(())
    for x, y, (alpha, beta) in zip(features, target, _load_weights(target[0].device)):
        x_mean, y_mean = (each.mean((2, 3), keepdim=True) for each in (x, y))
        x, y = x - x_mean, y - y_mean
        texture = _likeness(x_mean, y_mean)
        structure = _likeness(x, y)
        total += (alpha * (1 - texture) + beta * (1 - structure)).sum()
    return total


def _likeness(x: Tensor, y: Tensor) -> Tensor:
    """`(2 xy + c) / (x² + y² + c)` of means over the pixels: (1, C, H, W) twice -> (1, C)."""
    xy, xx, yy = ((one * other).mean((2, 3)) for one, other in ((x, y), (x, x), (y, y)))
    return (2 * xy + STABILISER) / (xx + yy + STABILISER)
