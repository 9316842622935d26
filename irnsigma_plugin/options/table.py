"""The keys of option files, as tables to read: their defaults and meanings, asked of those who own them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, Callable

from irnsigma_plugin.options.keys import GAN_LOSS, HR_ROOT, LOADING, LOGGER, PATCHES, PATH, TOP, TRAIN, VAL, Key
from irnsigma_plugin.options.train_val import TrainOptions, ValOptions
from irnsigma_plugin.sigma import SigmaSampler

Row = tuple[str, Any, str]  # key, default or `...` where there is none, meaning


def tables(registered: Mapping[str, Mapping[str, Callable[..., Any]]]) -> Iterator[tuple[str, list[Row]]]:
    """Title and rows of each block.

    Args:
        registered: See :mod:`irnsigma_plugin.options.check`.
    """
    arch, loss = registered['arch'], registered['loss']
    yield 'the file', _of_keys(TOP)
    for name in ('InvRescaleNet', 'BicubicRescaleNet'):
        yield f'network_g, type: {name}', _of_class(arch[name])
    yield 'network_d, type: IRNDiscriminator', _of_class(arch['IRNDiscriminator'])
    yield 'datasets, type: HRImageDataset', _of_keys({'dataroot_gt': HR_ROOT, **PATCHES, **LOADING})
    yield 'path', _of_keys(PATH)
    yield 'train', [*_of_class(TrainOptions), *_of_keys(TRAIN)]
    yield 'train.sigma', _of_class(SigmaSampler)
    yield 'train.mixture_opt, type: MixtureLoss', _of_class(loss['MixtureLoss'])
    yield 'train.perceptual_opt, type: PerSamplePerceptualLoss', _of_class(loss['PerSamplePerceptualLoss'])
    yield 'train.gan_opt, type: GANLoss', _of_keys(GAN_LOSS)
    yield 'val', [*_of_class(ValOptions), *_of_keys(VAL)]
    yield 'val.metrics, type: calculate_lpips', _of_class(registered['metric']['calculate_lpips'])[2:]
    yield 'logger', _of_keys(LOGGER)


def markdown(registered: Mapping[str, Mapping[str, Callable[..., Any]]]) -> str:
    """All tables in Markdown."""
    text = []
    for title, rows in tables(registered):
        text += [f'**`{title}`**', '', '| key | default | meaning |', '|---|---|---|']
        text += [f'| `{key}` | {_shown(default)} | {_sentence(meaning)} |' for key, default, meaning in rows] + ['']
    return '\n'.join(text).rstrip()


def _of_keys(keys: Mapping[str, Any]) -> list[Row]:
    return [
        (name, ... if key.default is None else key.default, key.meaning)
        for name, key in keys.items()
        if isinstance(key, Key)
    ]


def _of_class(cls: Callable[..., Any]) -> list[Row]:
    """Arguments of a class or function, each with what its docstring says of it."""
    described = re.findall(r'^ {4}(\w+): (.*(?:\n {8}.*)*)', inspect.getdoc(cls) or '', flags=re.MULTILINE)
    meanings = {name: ' '.join(meaning.split()) for name, meaning in described}
    factories = {
        field.name: field.default_factory
        for field in (dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ())
    }
    rows = []
    for name, parameter in inspect.signature(cls).parameters.items():
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        if factories.get(name, dataclasses.MISSING) is not dataclasses.MISSING:
            default = ...
        rows.append((name, default, meanings.get(name, '')))
    return rows


def _sentence(meaning: str) -> str:
    plain = re.sub(r':\w+:`~?(?:\w+\.)*(\w+)`', r'`\1`', meaning)
    return plain and f'{plain[0].upper()}{plain[1:].rstrip(".")}.'


def _shown(default: Any) -> str:
    if default is ...:
        return ''
    if default is None:
        return 'none'
    if isinstance(default, bool):
        return f'`{str(default).lower()}`'
    return f'`{list(default) if isinstance(default, tuple) else default}`'
