"""The keys of option files, as tables to read: their defaults and meanings, asked of those who own them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, Callable

from irnsigma_plugin.options.keys import GAN_LOSS, HR_ROOT, LOADING, LOGGER, PATCHES, PATH, TOP, TRAIN, VAL, Key
from irnsigma_plugin.options.train_val import TrainOptions, ValOptions
from irnsigma_plugin.sigma import SigmaSampler

Row = tuple[str, Any, str]  # key, default or `...` where there is none, meaning


def tables(registered: Mapping[str, Mapping[str, Callable[..., Any]]]) -> dict[str, list[Row]]:
    """The rows of each block, by its name and type. For `registered` see :mod:`irnsigma_plugin.options.check`."""
    classes = {
        'network_g': ('arch', 'InvRescaleNet', 'BicubicRescaleNet'),
        'network_d': ('arch', 'IRNDiscriminator'),
        'train.mixture_opt': ('loss', 'MixtureLoss'),
        'train.perceptual_opt': ('loss', 'PerSamplePerceptualLoss'),
        'val.metrics': ('metric', 'calculate_lpips'),
    }
    found = {
        'the file': [*_of_keys(TOP)],
        'datasets, type: HRImageDataset': [*_of_keys({**HR_ROOT, **PATCHES, **LOADING})],
        'path': [*_of_keys(PATH)],
        'logger': [*_of_keys(LOGGER)],
        'train': [*_of_class(TrainOptions), *_of_keys(TRAIN)],
        'train.sigma': [*_of_class(SigmaSampler)],
        'train.gan_opt, type: GANLoss': [*_of_keys(GAN_LOSS)],
        'val': [*_of_class(ValOptions), *_of_keys(VAL)],
    }
    for block, (kind, *names) in classes.items():
        found.update({f'{block}, type: {name}': [*_of_class(registered[kind][name])] for name in names})
    return found


def markdown(registered: Mapping[str, Mapping[str, Callable[..., Any]]]) -> str:
    """All tables in Markdown."""
    text = []
    for title, rows in tables(registered).items():
        text += ['', f'**`{title}`**', '', '| key | default | meaning |', '|---|---|---|']
        text += [f'| `{key}` | {_shown(default)} | {meaning} |' for key, default, meaning in rows]
    return '\n'.join(text[1:])


def _of_keys(keys: Mapping[str, Any]) -> Iterator[Row]:
    for name, key in keys.items():
        if isinstance(key, Key):
            yield name, ... if key.default is None else key.default, f'{key.meaning[0].upper()}{key.meaning[1:]}.'


def _of_class(cls: Callable[..., Any]) -> Iterator[Row]:
    """Arguments of a class or function, each with what its docstring says of it."""
    plain = re.sub(r':\w+:`~?(?:\w+\.)*(\w+)`', r'`\1`', inspect.getdoc(cls) or '')
    meanings = dict(re.findall(r'^ {4}(\w+): (.*(?:\n {8}.*)*)', plain, flags=re.MULTILINE))
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in meanings:
            no_default = parameter.default is parameter.empty or repr(parameter.default) == '<factory>'
            yield name, ... if no_default else parameter.default, ' '.join(meanings[name].split())


def _shown(default: Any) -> str:
    if default is ... or default is None:
        return '' if default is ... else 'none'
    return f'`{list(default) if isinstance(default, tuple) else default}`'.replace('True', 'true').replace(
        'False', 'false'
    )
