"""Checkpoints of this plugin and of the original IRN as models of spandrel, which map an image to an image."""

from __future__ import annotations

import os
from typing import Any

try:
    from spandrel import MAIN_REGISTRY, Architecture, ArchSupport, ImageModelDescriptor, ModelTiling, StateDict
    from spandrel.util import KeyCondition
except ImportError as error:
    raise ImportError('register_spandrel needs spandrel 0.4 or later: pip install spandrel') from error
from torch import Tensor, nn

from irnsigma_plugin.archs.irn_arch import IMAGE_CHANNELS
from irnsigma_plugin.archs.rescaling_net import RescalingNet
from irnsigma_plugin.checkpoints.weights import DEFAULT_CLAMP, Checkpoint, build_network
from irnsigma_plugin.checks import number
from irnsigma_plugin.formats.onnx import restore_alone
from irnsigma_plugin.sigma import check_sigma


class Upscaler(nn.Module):
    """:func:`~irnsigma_plugin.formats.onnx.restore_alone` as a module.

    (N, 3, h, w) in [0, 1] -> (N, 3, scale·h, scale·w), not clamped. The attribute `sigma` can be changed at any time.
    """

    def __init__(self, net: RescalingNet, sigma: float) -> None:
        super().__init__()
        self.net = net
        self.sigma = sigma

    def forward(self, lr: Tensor) -> Tensor:
        return restore_alone(self.net, lr, self.sigma)


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
                'operations.1.F.conv1.weight',
                KeyCondition.has_any(
                    KeyCondition.has_all(*(f'operations.1.{subnet}.conv5.weight' for subnet in 'FGH')),
                    'operations.1.GH.conv4.weight',
                ),
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


def register_spandrel(sigma: float | None = None, clamp: float = DEFAULT_CLAMP) -> None:
    """Let spandrel load checkpoints of this plugin and of the original IRN, as upscalers at a fixed sigma.

    The import of spandrel has called it already; another call sets `sigma` and `clamp` of the models loaded after it.

    Args:
        sigma: In [0, 1]; by default what the environment variable IRNSIGMA_SIGMA says, or 0. Of a loaded model it can
            be changed: `descriptor.model.sigma = 0.5`.
        clamp: That of `network_g` in the training, for files from before it was stored among the weights.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> irnsigma_plugin.register_spandrel()
        >>> hr = spandrel.ModelLoader().load_from_file('net_g_latest.pth')(lr)
    """
    if sigma is None:
        try:
            sigma = check_sigma(float(os.environ.get('IRNSIGMA_SIGMA') or 0))
        except ValueError as error:
            raise ValueError(f'IRNSIGMA_SIGMA in the environment: {error}') from None
    _ARCHITECTURE.sigma = check_sigma(sigma)
    _ARCHITECTURE.clamp = number('clamp', clamp, above=0)
    MAIN_REGISTRY.add(ArchSupport.from_architecture(_ARCHITECTURE), ignore_duplicates=True)


register_spandrel()
