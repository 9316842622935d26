"""Checks a whole option file, before anything starts.

In a file of `model_type: IRNSigmaModel` every key is judged, except in blocks whose class is not known or does not say
what it takes (:func:`unchecked_blocks`). In a file of another model only the blocks whose type is the plugin's are.

What classes there are is handed in as `registered`: those of BasicSR's registries `arch`, `dataset`, `loss` and
`metric`, by name.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any, Callable, NamedTuple

import torch
from torch import nn

from irnsigma_plugin.checkpoints.weights import CheckpointError, check_arguments, check_fits, read_checkpoint
from irnsigma_plugin.checks import Rule, each, is_whole
from irnsigma_plugin.options.keys import BASICSR, PATH, REFUSED_TYPES, TABLES, TOP, Key
from irnsigma_plugin.options.rules import (
    anything,
    asked,
    block,
    constructed,
    default_of,
    takes_all,
    type_faults,
    value_at,
    without_type,
)
from irnsigma_plugin.options.stored_images import DATA_SETS, stored_faults
from irnsigma_plugin.options.train_val import input_size_faults, train_faults, val_faults

Registered = Mapping[str, Mapping[str, Callable[..., Any]]]

MODEL = 'IRNSigmaModel'

# Blocks with a `type`, or blocks of such blocks: BasicSR's registry, and a type to name as an example.
_BLOCKS = {
    'network_g': ('arch', 'InvRescaleNet'),
    'network_d': ('arch', 'IRNDiscriminator'),
    'train.mixture_opt': ('loss', 'MixtureLoss'),
    'train.perceptual_opt': ('loss', 'PerSamplePerceptualLoss'),
    'train.gan_opt': ('loss', 'GANLoss'),
}


class _Component(NamedTuple):
    """A block with a `type`."""

    name: str  # with dots
    registry: str
    example: str  # of a type
    value: Any
    type: str  # empty where it has none
    cls: Any  # class or function; none where nobody has registered it

    def rule(self) -> Rule | None:
        """What judges the block; none where nobody says what the class takes."""
        if self.type in BASICSR[self.registry]:
            return BASICSR[self.registry][self.type]
        if self.registry == 'dataset':
            return functools.partial(asked, self.cls) if hasattr(self.cls, 'check') else None
        given = ('img', 'img2') if self.registry == 'metric' else ()
        return None if self.cls is None else constructed(self.cls, given)

    def faults(self) -> Iterator[str]:
        """What is wrong with the block."""
        rule, refused = self.rule(), REFUSED_TYPES.get(self.name, {})
        if self.type in refused:
            yield f'{self.name}.type: {refused[self.type]}'
        elif rule is not None:
            yield from rule(self.name, self.value if self.registry == 'dataset' else without_type(self.value))
            if default_of(self.cls, 'better') == 'lower' and 'better' not in self.value:
                yield f'{self.name}.better is missing: BasicSR takes `higher` for it.'


def is_training(opt: Mapping[str, Any]) -> bool:
    """Whether an option file is for `basicsr.train`; otherwise it is for `basicsr.test`."""
    return 'train' in opt or value_at(opt, 'datasets.train') is not None


def option_faults(opt: Any, is_train: bool, registered: Registered) -> list[str]:
    """Everything that is wrong with an option file in itself; nothing outside it is looked at.

    Args:
        opt: The option file, as read or as BasicSR has completed it.
        is_train: Whether it is used for training.
        registered: The classes that there are.

    Returns:
        One sentence for each fault.
    """
    if not isinstance(opt, Mapping):
        return ['An option file is a block of keys; this one is not.']
    if not isinstance(opt.get('model_type'), str):
        return [f'model_type is missing or no text: {MODEL}, or a model of BasicSR or of an extension.']
    faults: list[str] = []
    for component in _judged(opt, registered):
        faults += type_faults(component.name, component.value, component.example)
        faults += component.faults()
    if opt['model_type'] == MODEL:
        faults += [*_agreement_faults(opt, registered), *_file_faults(opt, is_train)]
    return list(dict.fromkeys(faults))


def outside_faults(opt: Mapping[str, Any], registered: Registered, resumes: bool = False) -> list[str]:
    """Everything that is wrong with the files that an option file names: images, checkpoints, training states.

    Data sets and networks with faults of their own are left to :func:`option_faults`.

    Args:
        opt: The option file.
        registered: The classes that there are.
        resumes: Whether the networks come from a training that goes on, and not from `path.pretrain_network_...`.
    """
    faults: list[str] = []
    judged = list(_judged(opt, registered))
    for data_set in judged:
        if data_set.type in DATA_SETS and not any(data_set.faults()):
            saves_pictures = data_set.value['phase'] != 'train' and value_at(opt, 'val.save_img') is True
            faults += stored_faults(data_set.name, data_set.value, saves_pictures)
    if opt.get('model_type') == MODEL and not any(block(PATH)('path', opt.get('path'))):
        state = None if opt.get('auto_resume') else opt['path'].get('resume_state')  # which that does not look at
        if state is not None and not os.path.isfile(os.path.expanduser(state)):
            faults.append(f'path.resume_state: there is no training state at {state}.')
        if state is None and not resumes:
            for network in judged:
                faults += _checkpoint_faults(opt['path'], network) if network.registry == 'arch' else ()
    return faults


def unchecked_blocks(opt: Mapping[str, Any], registered: Registered) -> list[str]:
    """Names and types of the blocks of which nobody says what they take, typing errors perhaps among them."""
    types = {} if opt.get('model_type') == MODEL else {'model_type': str(opt.get('model_type'))}
    judged = list(_judged(opt, registered))
    for component in _components(opt, registered):
        takes_anything = component.type not in BASICSR[component.registry] and takes_all(component.cls)
        if component.type and (component not in judged or component.rule() is None or takes_anything):
            types[component.name] = component.type
    known = {MODEL, *itertools.chain(*registered.values(), *BASICSR.values())}
    return [f'{name} ({kind}{_similar(kind, known)})' for name, kind in types.items()]


def _similar(kind: str, known: set[str]) -> str:
    """Ask whether a very similar type was meant; empty where there is none."""
    nearest = [] if kind in known else difflib.get_close_matches(kind, known, n=1, cutoff=0.88)
    return f': did you mean {nearest[0]}?' if nearest else ''


def block_types(opt: Mapping[str, Any]) -> dict[str, str]:
    """The type of every network, data set, loss and metric, by the name of its block."""
    return {component.name: component.type for component in _components(opt, {}) if component.type}


def data_sets(opt: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and options of every data set, with the `phase` and the `scale` that BasicSR adds to them."""
    blocks = opt.get('datasets')
    for key, value in blocks.items() if isinstance(blocks, Mapping) else ():
        if isinstance(value, Mapping):
            scale = {'scale': opt['scale']} if is_whole(opt.get('scale')) else {}
            value = {**value, 'phase': str(key).partition('_')[0], **scale}
        yield f'datasets.{key}', value


def _components(opt: Mapping[str, Any], registered: Registered) -> Iterator[_Component]:
    blocks = [(name, *of_class, value_at(opt, name)) for name, of_class in _BLOCKS.items()]
    blocks += [(name, 'dataset', 'HRImageDataset', value) for name, value in data_sets(opt)]
    for parent in ('val.metrics', 'val.lr_metrics'):
        metrics = value_at(opt, parent)
        for key, value in metrics.items() if isinstance(metrics, Mapping) else ():
            blocks.append((f'{parent}.{key}', 'metric', 'calculate_psnr', value))
    for name, registry, example, value in blocks:
        kind = value_at(value, 'type')
        kind = kind if isinstance(kind, str) else ''
        if value is not None or name not in _BLOCKS:
            yield _Component(name, registry, example, value, kind, registered.get(registry, {}).get(kind))


def _judged(opt: Mapping[str, Any], registered: Registered) -> Iterator[_Component]:
    """All components, but in files of other models only those that are the plugin's own."""
    for component in _components(opt, registered):
        module = getattr(component.cls, '__module__', '')
        if opt.get('model_type') == MODEL or module.partition('.')[0] == __name__.partition('.')[0]:
            yield component


def _checkpoint_faults(paths: Mapping[str, Any], network: _Component) -> Iterator[str]:
    key, suffix = f'pretrain_{network.name}', network.name[-2:]
    path, param_key = paths.get(key), paths.get(f'param_key{suffix}', 'params')
    if path is None:
        return
    try:
        found = read_checkpoint(os.path.expanduser(path), param_key, device='meta')
        net = None if paths.get(f'strict_load{suffix}') is False else _outline(network)
        if net is not None:
            check_fits(net, found.state_dict, path)
            check_arguments(found, network.value)
    except CheckpointError as error:
        yield f'path.{key}: {error}'


def _outline(network: _Component) -> nn.Module | None:
    """A network without values; none where it cannot be built, whose faults are named elsewhere."""
    try:
        # Random numbers of the training must not depend on it.
        with torch.random.fork_rng(devices=[]), torch.device('meta'):
            return network.cls(**without_type(network.value))
    except Exception:  # its arguments are wrong, or it has to have values
        return None


def _file_faults(opt: Mapping[str, Any], is_train: bool) -> Iterator[str]:
    yield from block(TOP)('', opt)
    yield from _data_faults(opt, is_train)
    if is_train and opt.get('train') is not None:
        yield from train_faults(opt)
    if opt.get('val') is not None:
        yield from val_faults(opt)
    if is_train and isinstance(opt.get('datasets'), Mapping) and opt['datasets'].get('train') is None:
        yield 'datasets.train is missing: the images to train on.'
    for parent, keys in TABLES.items():  # those without which BasicSR would end with a KeyError
        present = value_at(opt, parent) if parent else opt
        for key, rule in keys.items() if isinstance(present, Mapping) else ():
            if isinstance(rule, Key) and ('train' if is_train else 'test') in rule.needed and present.get(key) is None:
                yield f'{parent}{"." * bool(parent)}{key} is missing: {rule.meaning}.'
    if value_at(opt, 'logger.wandb.project') is not None and value_at(opt, 'logger.use_tb_logger') is not True:
        yield 'logger.wandb.project needs logger.use_tb_logger: true.'


def _data_faults(opt: Mapping[str, Any], is_train: bool) -> Iterator[str]:
    if opt.get('datasets') is not None:
        yield from each(anything)('datasets', opt['datasets'])
    phases = ('train', 'val') if is_train else ('test', 'val')
    names: dict[str, str] = {}
    for name, value in data_sets(opt):
        if isinstance(value, Mapping):
            if value['phase'] not in phases or value['phase'] == 'train' and name != 'datasets.train':
                yield (
                    f'{name}: a {"training" if is_train else "test"} takes data sets named {phases[0]} and '
                    f'{phases[1]}, {phases[1]}_2 and so on.'
                )
            if value.get('name') is None:
                yield f'{name}.name is missing: what to call the data set.'
            elif value['phase'] != 'train' and isinstance(value['name'], str):
                other = names.setdefault(value['name'], name)
                if other != name:
                    yield f'{name}.name is also that of {other}, and their results would be mixed: rename one.'
            if value.get('prefetch_mode') == 'cuda' and opt.get('num_gpu') == 0:
                yield f'{name}.prefetch_mode: cuda needs a GPU, but num_gpu is 0 (auto: there is none); remove it.'


def _agreement_faults(opt: Mapping[str, Any], registered: Registered) -> Iterator[str]:
    """Arguments of networks, the defaults too, that do not agree with the rest of the file."""
    networks = {component.name: component for component in _components(opt, registered)}

    def argument(network: str, name: str) -> Any:
        value = value_at(opt, f'{network}.{name}')
        return default_of(networks[network].cls, name) if value is None and network in networks else value

    own_scale, scale = argument('network_g', 'scale'), opt.get('scale')
    if is_whole(scale) and is_whole(own_scale) and scale != own_scale:
        yield f'network_g.scale is {own_scale}, but scale is {scale}: make them equal.'
    yield from input_size_faults(value_at(opt, 'datasets.train.gt_size'), argument('network_d', 'input_size'))
