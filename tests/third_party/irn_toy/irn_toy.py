"""A rescaling network, a loss and a metric for BasicSR and irnsigma_plugin."""

import numpy as np
import torch
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY
from torch import nn
from torch.nn import functional

from irnsigma_plugin.archs.rescaling_net import RescalingNet, reflection_pad
from irnsigma_plugin.losses.mixture_loss import MixtureLoss


@ARCH_REGISTRY.register()
class ToyNet(RescalingNet):
    """lr: the mean of each block of pixels, corrected by a convolution of the latent, the deviations from the mean."""

    def __init__(self, scale=4, kernel_size=3):
        super().__init__()
        self.scale = scale
        self.correct = nn.Conv2d(3 * (scale**2 - 1), 3, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.zeros_(self.correct.weight)

    def downscale(self, hr):
        blocks = functional.pixel_unshuffle(reflection_pad(hr, self.scale), self.scale).unflatten(1, (3, -1))
        mean = blocks.mean(2)
        latent = (blocks[:, :, 1:] - mean[:, :, None]).flatten(1, 2)
        return mean + self.correct(latent), latent

    def upscale(self, lr, latent):
        mean = (lr - self.correct(latent))[:, :, None]
        deviations = latent.unflatten(1, (3, -1))
        first = -deviations.sum(2, keepdim=True)  # deviations add up to 0
        blocks = mean + torch.cat((first, deviations), 2)
        return functional.pixel_shuffle(blocks.flatten(1, 2), self.scale)


@LOSS_REGISTRY.register()
class ToyLoss(MixtureLoss):
    """The loss of IRN_sigma, with sigma to a power in the weights of its terms."""

    def __init__(self, power=2.0, lambda_reconstruction=1.0):
        super().__init__(lambda_reconstruction)
        self.power = power

    def weights(self, sigma):
        return super().weights(sigma**self.power)


@METRIC_REGISTRY.register()
def calculate_mae(img, img2, **kwargs):
    """Mean absolute difference of two 8-bit images."""
    return np.abs(img.astype(float) - img2).mean()
