"""BasicSR's GAN losses, one value per sample."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor


def per_sample_gan_loss(
    criterion: Callable[..., Tensor], prediction: Tensor | list, target_is_real: bool, is_disc: bool
) -> Tensor:
    """Apply a GAN loss of BasicSR to each sample alone, so that samples can be weighted by their sigma: (N,).

    These losses average over the batch; applied to one sample they give that sample's term of the average, whatever
    the `gan_type`. BasicSR's own are computed for all samples at once, any other for one after the other.

    Args:
        criterion: BasicSR's `GANLoss`, `MultiScaleGANLoss` or a loss called in the same way.
        prediction: The discriminator's output: logits (N, ...), or nested lists of such tensors.
        target_is_real, is_disc: Whether the label is that of real images, and the loss the discriminator's.
    """
    from basicsr.losses.gan_loss import GANLoss, MultiScaleGANLoss

    if type(criterion) in (GANLoss, MultiScaleGANLoss):  # pure functions of tensors, which `torch.vmap` asks for
        return torch.vmap(lambda sample: criterion(sample, target_is_real, is_disc=is_disc))(prediction)
    return torch.stack([criterion(sample, target_is_real, is_disc=is_disc) for sample in _samples(prediction)])


def _samples(prediction: Tensor | list) -> list:
    if isinstance(prediction, Tensor):
        return list(prediction.split(1))
    return [list(parts) for parts in zip(*map(_samples, prediction))]
