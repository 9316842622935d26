"""The perceptual term L_p of the mixture loss, and the VGG features that it compares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from irnsigma_plugin.checks import finite, one_of, raise_faults
from irnsigma_plugin.imagenet.weights import imagenet_weights
from irnsigma_plugin.losses.mixture_loss import charbonnier

VGG_STAGES = {'vgg16': (2, 2, 3, 3, 3), 'vgg19': (2, 2, 4, 4, 4)}  # convolutions between poolings
CONFIGURATIONS = {'vgg16': 'D', 'vgg19': 'E'}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGGFeatures(nn.Module):
    """Frozen VGG convolution stack that returns the output of the named layers.

        image in [0, 1] -> ImageNet normalisation -> conv1_1 -> relu1_1 -> ... -> last requested layer

    The weights never train and the module stays in evaluation mode; the gradient flows to the image.

    Args:
        layers: Names of BasicSR's table, such as `conv5_4` (before its ReLU), `relu2_1`, `pool3`.
        vgg_type, weights: See :class:`PerSamplePerceptualLoss`, also for errors.

    Shapes:
        (N, 3, H, W) float RGB in [0, 1] -> `{layer: (N, C, H', W')}`. H and W are at least 2 ** (number of
        poolings up to the last layer): 16 for conv5_Y.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layers: Sequence[str], vgg_type: str = 'vgg19', weights: str = 'imagenet') -> None:
        super().__init__()
        raise_faults('VGGFeatures', PerSamplePerceptualLoss.check(dict.fromkeys(layers, 1), vgg_type, weights))
        names = vgg_layers(vgg_type)
        self.layers = tuple(layers)
        self.names = names[: 1 + max(names.index(layer) for layer in layers)]
        self.min_size = 2 ** sum(name.startswith('pool') for name in self.names)
        # An entry of the configuration is a pooling or a convolution with its ReLU.
        entries = sum(not name.startswith('relu') for name in self.names)
        self.net = make_layers(cfgs[CONFIGURATIONS[vgg_type]][:entries])[: len(self.names)]
        if weights == 'imagenet':
            state = imagenet_weights(vgg_type)
            self.net.load_state_dict({key: state[f'features.{key}'] for key in self.net.state_dict()})
        for relu in (module for module in self.net if isinstance(module, nn.ReLU)):
            relu.inplace = False  # in place it would overwrite the convolution output that is returned
        self.register_buffer('mean', torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer('std', torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> VGGFeatures:
        """Stay in evaluation mode, also when a parent module is set to training."""
        return super().train(False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        if image.dim() != 4 or image.size(1) != 3 or min(image.shape[-2:]) < self.min_size:
            raise ValueError(
                f'{self.names[-1]} needs images (N, 3, H, W) with H, W >= {self.min_size}, got {tuple(image.shape)}'
            )
        features = {}
        x = (image - self.mean) / self.std
        for name, layer in zip(self.names, self.net):
            x = layer(x)
            if name in self.layers:
                features[name] = x.to(image.dtype)  # autocast computes them in lower precision
        return features


class PerSamplePerceptualLoss(nn.Module):
    """Distance of VGG features, one value per sample.

        L_p = sum over layers of w_layer * sum over C,H,W of sqrt((phi(prediction) - phi(target))^2 + 1e-6)

    Args:
        layer_weights: Weight of each VGG layer, as in BasicSR's PerceptualLoss. By default the last
            convolution before its ReLU, weight 1: `conv5_4` of vgg19, `conv5_3` of vgg16.
        vgg_type: `vgg19` or `vgg16`.
        weights: `imagenet`, or `random` for tests; never one in place of the other.

    Shapes:
        prediction, target: (N, 3, H, W) RGB in [0, 1], H and W at least 16 for conv5_Y -> (N,)

    Raises:
        ValueError: Unknown `vgg_type`, layer or `weights`; a layer weight that is not a positive number.
        WeightsError: The ImageNet weights are missing or damaged.
    """

    def __init__(
        self, layer_weights: Mapping[str, float] | None = None, vgg_type: str = 'vgg19', weights: str = 'imagenet'
    ) -> None:
        super().__init__()
        raise_faults('PerSamplePerceptualLoss', PerSamplePerceptualLoss.check(layer_weights, vgg_type, weights))
        self.layer_weights = {vgg_layers(vgg_type)[-3]: 1.0} if layer_weights is None else dict(layer_weights)
        self.vgg = VGGFeatures(list(self.layer_weights), vgg_type, weights)

    @staticmethod
    def imagenet(vgg_type: str = 'vgg19', weights: str = 'imagenet', **_: Any) -> str | None:
        """The network whose ImageNet weights a loss of these arguments needs, if any."""
        return vgg_type if weights == 'imagenet' else None

    @staticmethod
    def check(layer_weights: Any, vgg_type: Any, weights: Any) -> Iterator[str]:
        """What is wrong with the arguments, see :mod:`irnsigma_plugin.checks`."""
        type_faults = list(one_of(*VGG_STAGES)('vgg_type', vgg_type))
        yield from type_faults
        yield from one_of('imagenet', 'random')('weights', weights)
        known = () if type_faults else vgg_layers(vgg_type)
        is_block = isinstance(layer_weights, Mapping) and layer_weights
        if layer_weights is not None and not is_block:
            yield f'layer_weights must be a block such as {{conv5_4: 1}}, but is {layer_weights!r}.'
        for layer, weight in layer_weights.items() if is_block else ():
            yield from finite(above=0)(f'layer_weights.{layer}', weight)
            if known and layer not in known:
                yield f'layer_weights.{layer} is no layer of {vgg_type}; its last convolution is {known[-3]}.'

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            expected = self.vgg(target)
        found = self.vgg(prediction)
        first, *others = (
            weight * charbonnier(found[layer], expected[layer]) for layer, weight in self.layer_weights.items()
        )
        return sum(others, first)


def vgg_layers(vgg_type: str) -> list[str]:
    """Names of the layers of a VGG network, in order: conv1_1, relu1_1, ..., pool5."""
    names = []
    for stage, count in enumerate(VGG_STAGES[vgg_type], 1):
        names += [f'{kind}{stage}_{index}' for index in range(1, count + 1) for kind in ('conv', 'relu')]
        names.append(f'pool{stage}')
    return names
