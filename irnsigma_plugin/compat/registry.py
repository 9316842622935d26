"""What this plugin puts into BasicSR's registries, and which option files and classes are its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from irnsigma_plugin.options.check import block_types
from irnsigma_plugin.options.rules import value_at

# The registry that has the types of a block, by the beginning of its name.
_KIND_OF = {'model': 'model', 'network': 'arch', 'datasets': 'dataset', 'train': 'loss', 'val': 'metric'}


def register_all() -> None:
    """Register every network, loss, metric, data set and model of this plugin with BasicSR, once."""
    from basicsr.utils import registry

    from irnsigma_plugin.archs import bicubic, irn_arch
    from irnsigma_plugin.evaluation import dists, lpips
    from irnsigma_plugin.losses import mixture_loss, perceptual_loss
    from irnsigma_plugin.training import discriminator, hr_image_dataset, model

    for known, *objects in (
        (registry.ARCH_REGISTRY, irn_arch.InvRescaleNet, bicubic.BicubicRescaleNet, discriminator.IRNDiscriminator),
        (registry.LOSS_REGISTRY, mixture_loss.MixtureLoss, perceptual_loss.PerSamplePerceptualLoss),
        (registry.METRIC_REGISTRY, lpips.calculate_lpips, dists.calculate_dists),
        (registry.DATASET_REGISTRY, hr_image_dataset.HRImageDataset),
        (registry.MODEL_REGISTRY, model.IRNSigmaModel),
    ):
        for each in objects:
            if each.__name__ not in known:
                known.register(each)


def registered() -> dict[str, dict[str, Any]]:
    """What BasicSR's registries `arch`, `dataset`, `loss`, `metric` and `model` hold, by registry and name."""
    import basicsr  # noqa: F401  which fills them
    from basicsr.utils import registry

    known = {kind: dict(iter(getattr(registry, f'{kind.upper()}_REGISTRY'))) for kind in _KIND_OF.values()}
    # BasicSR finds a class by its name without this ending, too.
    return {
        kind: {**{name.removesuffix('_basicsr'): each for name, each in objects.items()}, **objects}
        for kind, objects in known.items()
    }


def unregistered(opt: Any) -> Iterator[tuple[str, str, list[str]]]:
    """The types in an option file that nobody has registered: name of the block, type, and those that there are."""
    known = registered()
    for name, wanted in {'model_type': value_at(opt, 'model_type'), **block_types(opt)}.items():
        kind = _KIND_OF[name.partition('.')[0].partition('_')[0]]
        if isinstance(wanted, str) and wanted not in known[kind]:
            yield name, wanted, list(known[kind])


def uses_plugin(opt: Any) -> bool:
    """Whether an option file belongs to this plugin.

    It does when it has `imports`, or when any `type` or `model_type` in it names a class or function of this plugin, or
    a class derived from one.
    """
    known = registered().values()
    found = (classes[name] for name in _type_names(opt) for classes in known if name in classes)
    return value_at(opt, 'imports') is not None or any(map(_is_of_plugin, found))


def _type_names(opt: Any) -> Iterator[str]:
    if isinstance(opt, dict):
        yield from (opt[key] for key in ('type', 'model_type') if isinstance(opt.get(key), str))
        opt = list(opt.values())
    for value in opt if isinstance(opt, list) else ():
        yield from _type_names(value)


def _is_of_plugin(obj: Any) -> bool:
    """Whether a class, or a class that it is derived from, or a function is this plugin's."""
    return any(base.__module__.partition('.')[0] == 'irnsigma_plugin' for base in getattr(obj, '__mro__', (obj,)))


def has_model_of_plugin(opt: dict[str, Any]) -> bool:
    """Whether the model of an option file is this plugin's, or derived from it."""
    models, name = registered()['model'], opt.get('model_type')
    return isinstance(name, str) and name in models and _is_of_plugin(models[name])
