"""Registers the networks that work without BasicSR, whose import takes longer than torch's, with BasicSR."""

from basicsr.utils.registry import ARCH_REGISTRY

from irnsigma_plugin.archs.bicubic_arch import BicubicRescaleNet
from irnsigma_plugin.archs.irn_arch import InvRescaleNet

ARCH_REGISTRY.register(InvRescaleNet)
ARCH_REGISTRY.register(BicubicRescaleNet)
