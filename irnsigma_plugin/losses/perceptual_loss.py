"""The perceptual term L_p of the mixture loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from irnsigma_plugin.checks import number
from irnsigma_plugin.losses.terms import charbonnier
from irnsigma_plugin.losses.vgg_features import VGGFeatures

DEFAULT_LAYER = {'vgg16': 'conv5_3', 'vgg19': 'conv5_4'}


@LOSS_REGISTRY.register()
class PerSamplePerceptualLoss(nn.Module):
    """Distance of VGG features, one value per sample.

        L_p = sum over layers of w_layer * sum over C,H,W of sqrt((phi(prediction) - phi(target))^2 + 1e-6)

    It is neither averaged over the batch nor weighted by lambda: the mixture loss needs it per sample, to
    weight it by sigma.

    Args:
        layer_weights: Weight of each VGG layer, as in BasicSR's PerceptualLoss. By default the last
            convolution before its ReLU, weight 1: `conv5_4` of vgg19, `conv5_3` of vgg16.
        vgg_type: `vgg19` or `vgg16`.
        weights: `imagenet`, or `random` for tests (:class:`VGGFeatures`).

    Shapes:
        prediction, target: (N, 3, H, W) RGB in [0, 1], H and W at least 16 for conv5_Y -> (N,)

    Raises:
        ValueError: Unknown `vgg_type`, layer or `weights`; a layer weight that is not a positive number.
        WeightsError: The ImageNet weights are missing or damaged.
    """

    def __init__(
        self,
        layer_weights: Mapping[str, float] | None = None,
        vgg_type: str = 'vgg19',
        weights: str = 'imagenet',
    ) -> None:
        super().__init__()
        if layer_weights is None:
            layer_weights = {DEFAULT_LAYER[vgg_type]: 1.0} if vgg_type in DEFAULT_LAYER else {}
        for layer, weight in layer_weights.items():
            number(f'layer_weights.{layer}', weight, above=0)
        self.layer_weights = dict(layer_weights)
        self.vgg = VGGFeatures(list(layer_weights), vgg_type, weights)

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """VGG features of (N, 3, H, W) images, for :meth:`distance`."""
        return self.vgg(image)

    def distance(self, prediction: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """L_p of two sets of :meth:`features`: (N,)."""
        return sum(
            weight * charbonnier(prediction[layer], target[layer])
            for layer, weight in self.layer_weights.items()
        )

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            target_features = self.features(target)
        return self.distance(self.features(prediction), target_features)
