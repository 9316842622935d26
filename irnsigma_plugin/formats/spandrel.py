"""Checkpoints of this plugin and of the original IRN as models of spandrel, which map an image to an image."""

from __future__ import annotations

import hashlib
from typing import Any

try:
    from spandrel import MAIN_REGISTRY, Architecture, ArchSupport, ImageModelDescriptor, ModelTiling, StateDict
    from spandrel.util import KeyCondition
except ImportError as error:
    raise ImportError('register_spandrel needs spandrel 0.4 or later: pip install spandrel') from error
import torch
from torch import Tensor, nn

from irnsigma_plugin.archs.irn_arch import IMAGE_CHANNELS
from irnsigma_plugin.archs.rescaling_net import RescalingNet, quantize
from irnsigma_plugin.checkpoints.weights import DEFAULT_CLAMP, Checkpoint, build_network
from irnsigma_plugin.checks import number
from irnsigma_plugin.rescaling.latent import draw_epsilon
from irnsigma_plugin.sigma import check_sigma


class Upscaler(nn.Module):
    """`lr -> upscale(lr, sigma · epsilon)`, with an epsilon of its own for every image, always the same one.

    It is that of `draw_epsilon` with seed 0 and, as a name, the SHA-256 of the image's pixels, rounded to 8 bit.
    (N, 3, h, w) in [0, 1] -> (N, 3, scale·h, scale·w), not clamped. The attribute `sigma` can be changed at any time.
    """

    def __init__(self, net: RescalingNet, sigma: float) -> None:
        super().__init__()
        self.net = net
        self.sigma = sigma

    def forward(self, lr: Tensor) -> Tensor:
        shape = self.net.latent_shape(lr.shape)
        if self.sigma == 0:
            return self.net.restore(lr, lr.new_zeros(shape), 0.0)
        levels = (quantize(lr.detach().float()) * 255).round().byte().cpu()
        names = (hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest() for image in levels)
        epsilon = torch.cat([draw_epsilon((1, *shape[1:]), 0, name) for name in names]).to(lr)
        return self.net.restore(lr, epsilon, self.sigma)


class UpscalerDescriptor(ImageModelDescriptor[Upscaler]):
    """The descriptor of a model whose sigma changes: tags and tiling are those of now, and setting them is in vain."""

    tags: Any = property(lambda it: [f'sigma {it.model.sigma:g}'], lambda *_: None)
    # The drawn detail of neighbouring tiles does not fit together.
    tiling: Any = property(lambda it: ModelTiling['DISCOURAGED' if it.model.sigma else 'SUPPORTED'], lambda *_: None)


class IRNArchitecture(Architecture[Upscaler]):
    """How spandrel recognises and loads :class:`~irnsigma_plugin.archs.irn_arch.InvRescaleNet`.

    `sigma` and, where the weights do not tell it, `clamp` are those of models loaded from now on.
    """

    sigma = 0.0
    clamp = DEFAULT_CLAMP

    def __init__(self) -> None:
        super().__init__(
            id='IRNsigma',
            name='IRN_sigma',
            detect=KeyCondition.has_all(
                KeyCondition.has_any('operations.0.haar_weights', 'operations.0.conv_weights'),
                *(f'operations.1.{subnet}.conv{k}.weight' for subnet in 'FGH' for k in (1, 5)),
            ),
        )

    def load(self, state_dict: StateDict) -> ImageModelDescriptor[Upscaler]:
        """Build the model; a CheckpointError tells of weights that are missing or of other shapes."""
        net = build_network(Checkpoint(state_dict), self.clamp)
        model = Upscaler(net, self.sigma)
        return UpscalerDescriptor(
            model,
            model.state_dict(),
            self,
            purpose='SR',
            tags=[],
            # Each block multiplies the rounding errors of those before it.
            supports_half=False,
            supports_bfloat16=False,
            scale=net.scale,
            input_channels=IMAGE_CHANNELS,
            output_channels=IMAGE_CHANNELS,
        )


_ARCHITECTURE = IRNArchitecture()


def register_spandrel(sigma: float = 0.0, clamp: float = 1.0) -> None:
    """Let spandrel load checkpoints of this plugin and of the original IRN, as upscalers at a fixed sigma.

    A repeated call sets `sigma` and `clamp` of the models that are loaded after it.

    Args:
        sigma: In [0, 1]. Of a loaded model it can be changed: `descriptor.model.sigma = 0.5`.
        clamp: That of `network_g` in the training, for files from before it was stored among the weights.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> irnsigma_plugin.register_spandrel()
        >>> hr = spandrel.ModelLoader().load_from_file('net_g_latest.pth')(lr)
    """
    _ARCHITECTURE.sigma = check_sigma(sigma)
    _ARCHITECTURE.clamp = number('clamp', clamp, above=0)
    MAIN_REGISTRY.add(ArchSupport.from_architecture(_ARCHITECTURE), ignore_duplicates=True)
