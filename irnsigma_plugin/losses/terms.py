"""The distances of the training losses, one value per sample."""

from __future__ import annotations

import torch
from torch import Tensor

CHARBONNIER_EPS = 1e-6


def charbonnier(prediction: Tensor, target: Tensor, eps: float = CHARBONNIER_EPS) -> Tensor:
    """Smooth L1 distance, summed per sample: `sum over C,H,W of sqrt((prediction - target)^2 + eps)`.

    Args:
        prediction: (N, ...) tensor.
        target: Tensor of the same shape.
        eps: Added under the root, so that the gradient at 0 exists. IRN's value by default.

    Returns:
        (N,) tensor.

    Raises:
        ValueError: The shapes differ.
    """
    return (_difference(prediction, target).square() + eps).sqrt().flatten(1).sum(1)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared L2 distance, summed per sample. Shapes as in :func:`charbonnier`."""
    return _difference(prediction, target).square().flatten(1).sum(1)


def latent_energy(latent: Tensor) -> Tensor:
    """`sum of z^2` per sample: the negative log-likelihood of z under N(0, I), up to scale and constant.

    Args:
        latent: (N, ...) tensor.

    Returns:
        (N,) tensor.
    """
    return torch.square(latent).flatten(1).sum(1)


def _difference(prediction: Tensor, target: Tensor) -> Tensor:
    if prediction.shape != target.shape:
        raise ValueError(f'Expected tensors of the same shape, but got {tuple(prediction.shape)} and '
                         f'{tuple(target.shape)}.')
    return prediction - target
