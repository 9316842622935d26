"""LPIPS, the learned perceptual image distance (Zhang et al., CVPR 2018), version 0.1."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irnsigma_plugin.checks import one_of, raise_faults, whole
from irnsigma_plugin.evaluation.measures import distances, from_bgr
from irnsigma_plugin.imagenet.weights import imagenet_weights

# LPIPS name -> torchvision name, and the shortest side (pixels) that survives the network's strides
BACKBONES = {'alex': ('alexnet', 31), 'vgg': ('vgg16', 16), 'squeeze': ('squeezenet1_1', 17)}


def calculate_lpips(
    img: np.ndarray, img2: np.ndarray, net: str = 'alex', crop_border: int = 0, better: str = 'lower'
) -> float:
    """LPIPS of two images, 0 for equal ones; on the GPU if the process uses one. The network is loaded once.

    Args:
        img, img2: uint8 images of one shape: (H, W, 3) BGR, or (H, W) or (H, W, 1) grey.
        net: `alex` (the one papers report), `vgg` or `squeeze`.
        crop_border: Pixels to cut off each side. The protocol uses the full image: 0.
        better: `lower`: BasicSR's key beside each metric, which it takes for `higher` when it is absent.

    Raises:
        ValueError: Images of different or unsuitable shape or type; unknown `net`; `better` is not `lower`.
        WeightsError: The ImageNet weights are missing or damaged.
    """
    return lpips_of_many([img], img2, net, crop_border, better)[0]


@torch.no_grad()
def lpips_of_many(
    images: Sequence[np.ndarray], reference: np.ndarray, net: str = 'alex', crop_border: int = 0, better: str = 'lower'
) -> list[float]:
    """:func:`calculate_lpips` of each image and one reference, whose features are computed once."""
    raise_faults('calculate_lpips', _check(net, crop_border, better))
    features = functools.partial(_features, crop_border=crop_border, net=net)
    return distances(images, reference, features, functools.partial(_distance, net=net))


def _check(net: Any, crop_border: Any, better: Any) -> Iterator[str]:
    yield from one_of(*BACKBONES)('net', net)
    yield from whole(0)('crop_border', crop_border)
    yield from one_of('lower')('better', better)


#: What is wrong with the arguments, see :mod:`irnsigma_plugin.checks`.
calculate_lpips.check = _check  # type: ignore[attr-defined]
#: The optional interface to the validator, for metrics that can save work on images of one reference.
calculate_lpips.many = lpips_of_many  # type: ignore[attr-defined]
#: The shortest side, in pixels, that is measured.
calculate_lpips.smallest = lambda net='alex', **_: BACKBONES[net][1]  # type: ignore[attr-defined]
#: The network whose ImageNet weights it needs.
calculate_lpips.imagenet = lambda net='alex', **_: BACKBONES[net][0]  # type: ignore[attr-defined]


def _features(image: np.ndarray, crop_border: int, net: str) -> list[Tensor]:
    """Outputs of the backbone's layers, each pixel's channels scaled to length 1."""
    tensor = from_bgr(image, crop_border)
    min_size = BACKBONES[net][1]
    if min(tensor.shape[-2:]) < min_size:
        raise ValueError(f'LPIPS with {net} needs images (1, 3, H, W), H, W >= {min_size}, got {tuple(tensor.shape)}')
    model = _load_lpips(net, tensor.device)
    from lpips import normalize_tensor

    return [normalize_tensor(layer) for layer in model.net(model.scaling_layer(2 * tensor - 1))]


def _distance(features: list[Tensor], target: list[Tensor], net: str) -> Tensor:
    """Squared differences, weighted by channel, averaged over the pixels, added over the layers: (1,)."""
    layers = zip(_load_lpips(net, target[0].device).lins, features, target)
    terms = (weighting((ours - theirs).square()).mean((1, 2, 3)) for weighting, ours, theirs in layers)
    return sum(terms, torch.zeros(()))


@functools.cache
def _load_lpips(net: str, device: torch.device):  # -> lpips.LPIPS, which has no types
    backbone = imagenet_weights(BACKBONES[net][0])
    # A training whose first validation gets here must not notice the random initial values, nor the warnings.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        import lpips

        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    # slice2.3.weight of the package is features.3.weight of torchvision.
    model.net.load_state_dict({key: backbone['features.' + key.split('.', 1)[1]] for key in model.net.state_dict()})
    return model.requires_grad_(False).to(device)
