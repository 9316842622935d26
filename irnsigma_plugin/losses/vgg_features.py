"""Features of the VGG networks trained on ImageNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from basicsr.archs.vgg_arch import NAMES
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from irnsigma_plugin.imagenet_weights import imagenet_weights

CONFIGURATIONS = {'vgg16': 'D', 'vgg19': 'E'}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class VGGFeatures(nn.Module):
    """Frozen VGG convolution stack that returns the output of the named layers.

        image in [0, 1] -> ImageNet normalisation -> conv1_1 -> relu1_1 -> ... -> last requested layer

    `convX_Y` is the output of that convolution, before its ReLU. The weights never train and the module stays
    in evaluation mode; the gradient flows to the image.

    Args:
        layers: Names of BasicSR's table, such as `conv5_4`, `relu2_1`, `pool3`.
        vgg_type: `vgg16` or `vgg19`.
        weights: `imagenet` (see :func:`irnsigma_plugin.imagenet_weights.imagenet_weights`), or `random` for tests,
            where the values do not matter. There is no silent change from one to the other.

    Shapes:
        (N, 3, H, W) float RGB in [0, 1] -> `{layer: (N, C, H', W')}`. H and W are at least 2 ** (number of
        poolings up to the last layer): 16 for conv5_Y.

    Raises:
        ValueError: Unknown `vgg_type`, layer or `weights`.
        WeightsError: The ImageNet weights are missing or damaged.
    """

    def __init__(self, layers: Sequence[str], vgg_type: str = 'vgg19', weights: str = 'imagenet') -> None:
        super().__init__()
        if vgg_type not in CONFIGURATIONS:
            raise ValueError(f'vgg_type is {vgg_type!r}: expected one of {", ".join(CONFIGURATIONS)}')
        if weights not in ('imagenet', 'random'):
            raise ValueError(f'weights is {weights!r}: expected imagenet or random')
        names = NAMES[vgg_type]
        if not layers or not set(layers) <= set(names):
            raise ValueError(f'{vgg_type} layers are {list(layers)}: expected some of {", ".join(names)}')

        self.layers = tuple(layers)
        self.names = names[: 1 + max(names.index(layer) for layer in layers)]
        self.min_size = 2 ** sum(name.startswith('pool') for name in self.names)
        # An entry of the configuration is a pooling or a convolution with its ReLU.
        entries = sum(not name.startswith('relu') for name in self.names)
        self.net = make_layers(cfgs[CONFIGURATIONS[vgg_type]][:entries])[: len(self.names)]
        if weights == 'imagenet':
            state = imagenet_weights(vgg_type)
            self.net.load_state_dict({key: state[f'features.{key}'] for key in self.net.state_dict()})
        for module in self.net:
            if isinstance(module, nn.ReLU):
                module.inplace = False  # in place it would overwrite the convolution output that is returned
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
                f'{self.names[-1]} needs images (N, 3, H, W) with H, W >= {self.min_size}, got '
                f'{tuple(image.shape)}'
            )
        features = {}
        x = (image - self.mean) / self.std
        for name, layer in zip(self.names, self.net):
            x = layer(x)
            if name in self.layers:
                features[name] = x.to(image.dtype)  # autocast computes them in lower precision
        return features
