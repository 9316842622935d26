"""What this plugin puts into BasicSR's registries, and which option files and classes are its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from irnsigma_plugin.options.check import is_of_plugin
from irnsigma_plugin.options.rules import value_at


def own_components() -> list[tuple[str, str, Any]]:
    """Networks, losses, metrics, data sets and models of this plugin.

    Each as the block of an option file that names it, BasicSR's registry, and the class or function.
    """
    from irnsigma_plugin.archs import bicubic, irn_arch
    from irnsigma_plugin.evaluation import dists, lpips
    from irnsigma_plugin.losses import mixture_loss, perceptual_loss
    from irnsigma_plugin.training import discriminator, hr_image_dataset, model

    return [
        ('network_g', 'arch', irn_arch.InvRescaleNet),
        ('network_g', 'arch', bicubic.BicubicRescaleNet),
        ('network_d', 'arch', discriminator.IRNDiscriminator),
        ('train.mixture_opt', 'loss', mixture_loss.MixtureLoss),
        ('train.perceptual_opt', 'loss', perceptual_loss.PerSamplePerceptualLoss),
        ('val.metrics', 'metric', lpips.calculate_lpips),
        ('val.metrics', 'metric', dists.calculate_dists),
        ('datasets', 'dataset', hr_image_dataset.HRImageDataset),
        ('', 'model', model.IRNSigmaModel),
    ]


def register_all() -> None:
    """Register every one of :func:`own_components` with BasicSR, once."""
    from basicsr.utils import registry

    for _, kind, component in own_components():
        known = getattr(registry, f'{kind.upper()}_REGISTRY')
        if component.__name__ not in known:
            known.register(component)


def registered() -> dict[str, dict[str, Any]]:
    """What BasicSR's registries `arch`, `dataset`, `loss`, `metric` and `model` hold, by registry and name."""
    import basicsr  # noqa: F401  which fills them
    from basicsr.utils import registry

    kinds = ('arch', 'dataset', 'loss', 'metric', 'model')
    known = {kind: dict(iter(getattr(registry, f'{kind.upper()}_REGISTRY'))) for kind in kinds}
    # BasicSR finds a class by its name without this ending, too.
    return {
        kind: {**{name.removesuffix('_basicsr'): each for name, each in objects.items()}, **objects}
        for kind, objects in known.items()
    }


def uses_plugin(opt: Any) -> bool:
    """Whether an option file belongs to this plugin.

    It does when it has `imports`, or when any `type` or `model_type` in it names a class or function of this plugin, or
    a class derived from one.
    """
    known = registered().values()
    found = (classes[name] for name in _type_names(opt) for classes in known if name in classes)
    return value_at(opt, 'imports') is not None or any(map(is_of_plugin, found))


def _type_names(opt: Any) -> Iterator[str]:
    if isinstance(opt, dict):
        yield from (opt[key] for key in ('type', 'model_type') if isinstance(opt.get(key), str))
        opt = list(opt.values())
    for value in opt if isinstance(opt, list) else ():
        yield from _type_names(value)
