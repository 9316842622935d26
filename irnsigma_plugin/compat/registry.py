"""What this plugin puts into BasicSR's registries, and which option files and classes are its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from irnsigma_plugin.options.check import block_types
from irnsigma_plugin.options.rules import value_at

# BasicSR's registries, and the keys of an option file whose types are in them.
_KINDS = {
    'model': ('model_type',),
    'arch': ('network_g', 'network_d'),
    'dataset': ('datasets',),
    'loss': ('train',),
    'metric': ('val',),
}
_PACKAGE = __name__.partition('.')[0]


def register_all() -> None:
    """Register every network, loss, metric, data set and model of this plugin with BasicSR, once."""
    from basicsr.utils import registry

    from irnsigma_plugin.archs.bicubic import BicubicRescaleNet
    from irnsigma_plugin.archs.irn_arch import InvRescaleNet
    from irnsigma_plugin.evaluation.lpips import calculate_lpips
    from irnsigma_plugin.losses.mixture_loss import MixtureLoss
    from irnsigma_plugin.losses.perceptual_loss import PerSamplePerceptualLoss
    from irnsigma_plugin.training.discriminator import IRNDiscriminator
    from irnsigma_plugin.training.hr_image_dataset import HRImageDataset
    from irnsigma_plugin.training.model import IRNSigmaModel

    objects_of = {
        registry.ARCH_REGISTRY: (InvRescaleNet, BicubicRescaleNet, IRNDiscriminator),
        registry.LOSS_REGISTRY: (MixtureLoss, PerSamplePerceptualLoss),
        registry.METRIC_REGISTRY: (calculate_lpips,),
        registry.DATASET_REGISTRY: (HRImageDataset,),
        registry.MODEL_REGISTRY: (IRNSigmaModel,),
    }
    for known, objects in objects_of.items():
        for each in objects:
            if each.__name__ not in known:
                known.register(each)


def registered(kind: str) -> dict[str, Any]:
    """All that is registered with BasicSR, by name: kind `arch`, `dataset`, `loss`, `metric` or `model`."""
    from basicsr.utils import registry

    return dict(iter(getattr(registry, f'{kind.upper()}_REGISTRY')))


def find_class(kind: str, name: Any) -> Any:
    """The class or function that is registered with BasicSR under a name; None where there is none."""
    known = registered(kind)
    return known.get(name, known.get(f'{name}_basicsr'))


def unregistered(opt: Any) -> Iterator[tuple[str, str, list[str]]]:
    """The types in an option file that nobody has registered: name of the block, type, and those that there are."""
    types = {'model_type': value_at(opt, 'model_type'), **block_types(opt)}
    for kind, keys in _KINDS.items():
        for name, wanted in types.items():
            if name.partition('.')[0] in keys and isinstance(wanted, str) and find_class(kind, wanted) is None:
                yield name, wanted, list(registered(kind))


def uses_plugin(opt: Any) -> bool:
    """Whether an option file belongs to this plugin.

    It does when it has `imports`, or when any `type` or `model_type` in it names something registered by this plugin,
    or a class of another package that is derived from a class of this plugin.
    """
    found = (find_class(kind, name) for name in _type_names(opt) for kind in _KINDS)
    return value_at(opt, 'imports') is not None or any(each is not None and is_of_plugin(each) for each in found)


def _type_names(opt: Any) -> Iterator[str]:
    if isinstance(opt, dict):
        for key, value in opt.items():
            if key in ('type', 'model_type') and isinstance(value, str):
                yield value
            yield from _type_names(value)
    elif isinstance(opt, list):
        for value in opt:
            yield from _type_names(value)


def is_of_plugin(obj: type | Any) -> bool:
    """Whether a class, or a class that it is derived from, or a function is this plugin's."""
    return any(base.__module__.partition('.')[0] == _PACKAGE for base in getattr(obj, '__mro__', (obj,)))


def has_model_of_plugin(opt: dict[str, Any]) -> bool:
    """Whether the model of an option file is this plugin's, or derived from it."""
    model = find_class('model', opt.get('model_type'))
    return model is not None and is_of_plugin(model)
