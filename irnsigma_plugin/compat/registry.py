"""What this plugin puts into BasicSR's registries, and which option files and classes are its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from irnsigma_plugin.options.check import block_types
from irnsigma_plugin.options.rules import value_at

# The registry that has the types of a block, by the beginning of its name.
_KIND_OF = {'model': 'model', 'network': 'arch', 'datasets': 'dataset', 'train': 'loss', 'val': 'metric'}
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


def registered() -> dict[str, dict[str, Any]]:
    """What BasicSR's registries `arch`, `dataset`, `loss`, `metric` and `model` hold, by registry and name."""
    import basicsr  # noqa: F401  which fills them
    from basicsr.utils import registry

    found = {}
    for kind in set(_KIND_OF.values()):
        known = dict(iter(getattr(registry, f'{kind.upper()}_REGISTRY')))
        # BasicSR finds a class by its name without this ending, too.
        found[kind] = {**{name.removesuffix('_basicsr'): each for name, each in known.items()}, **known}
    return found


def unregistered(opt: Any) -> Iterator[tuple[str, str, list[str]]]:
    """The types in an option file that nobody has registered: name of the block, type, and those that there are."""
    known = registered()
    types = {'model_type': value_at(opt, 'model_type'), **block_types(opt)}
    for name, wanted in types.items():
        kind = _KIND_OF[name.partition('.')[0].partition('_')[0]]
        if isinstance(wanted, str) and wanted not in known[kind]:
            yield name, wanted, list(known[kind])


def uses_plugin(opt: Any) -> bool:
    """Whether an option file belongs to this plugin.

    It does when it has `imports`, or when any `type` or `model_type` in it names something registered by this plugin,
    or a class of another package that is derived from a class of this plugin.
    """
    known = registered().values()
    found = (classes[name] for name in _type_names(opt) for classes in known if name in classes)
    return value_at(opt, 'imports') is not None or any(map(is_of_plugin, found))


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
    models, name = registered()['model'], opt.get('model_type')
    return name in models and is_of_plugin(models[name])
