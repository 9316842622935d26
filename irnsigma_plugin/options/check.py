"""Checks a whole option file, before anything starts.

In a file of `model_type: IRNSigmaModel` every key is judged, except in blocks whose class is not known or does not say
what it takes (:func:`unchecked_blocks`). In a file of another model only the blocks whose type is the plugin's are.

What classes there are is handed in as `registered`: those of BasicSR's registries `arch`, `dataset`, `loss` and
`metric`, by name.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable, NamedTuple

import torch
from torch import nn

from irnsigma_plugin.archs.rescaling_net import RescalingNet
from irnsigma_plugin.checkpoints.weights import CheckpointError, check_arguments, check_fits, read_checkpoint
from irnsigma_plugin.checks import Rule, did_you_mean, is_whole
from irnsigma_plugin.evaluation.measures import smallest_size
from irnsigma_plugin.options import keys, rules
from irnsigma_plugin.options.rules import default_of, value_at
from irnsigma_plugin.options.stored_images import DATA_SETS, stored_faults
from irnsigma_plugin.options.train_val import TRAIN, VAL, input_size_faults, train_faults, val_faults

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
_TABLES = {'': keys.TOP, 'datasets': keys.SETS, 'train': TRAIN, 'val': VAL, 'path': keys.PATH, 'logger': keys.LOGGER}


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
        if self.type in keys.BASICSR[self.registry]:
            return keys.BASICSR[self.registry][self.type]
        if self.registry == 'dataset':
            return functools.partial(rules.asked, self.cls) if hasattr(self.cls, 'check') else None
        given = ('img', 'img2') if self.registry == 'metric' else ()
        return None if self.cls is None else rules.constructed(self.cls, given)

    def faults(self) -> Iterator[str]:
        """What is wrong with the block."""
        yield from rules.type_faults(self.name, self.value, self.example)
        rule, refused = self.rule(), keys.REFUSED_TYPES.get(self.name, {})
        if self.type in refused:
            yield f'{self.name}.type: {self.type} {refused[self.type]}'
        elif self.name == 'network_g' and isinstance(self.cls, type) and not issubclass(self.cls, RescalingNet):
            yield f'{self.name}.type: {self.type} is no rescaling network. Use InvRescaleNet, or another RescalingNet.'
        elif rule is not None:
            yield from rule(self.name, self.value if self.registry == 'dataset' else rules.without_type(self.value))
            if default_of(self.cls, 'better') == 'lower' and 'better' not in self.value:
                yield f'{self.name}.better is missing: BasicSR takes `higher` for it.'


def is_training(opt: Mapping[str, Any]) -> bool:
    """Whether an option file is for `basicsr.train`; otherwise it is for `basicsr.test`."""
    return 'train' in opt or value_at(opt, 'datasets.train') is not None


def option_faults(opt: Any, is_train: bool, registered: Registered) -> list[str]:
    """Everything that is wrong with an option file in itself, a sentence each; nothing outside it is looked at.

    The file may be as it was read, or as BasicSR has completed it.
    """
    if not isinstance(opt, Mapping):
        return ['An option file is a block of keys; this one is not.']
    if not isinstance(opt.get('model_type'), str):
        return [f'model_type is missing or no text: {MODEL}, or a model of BasicSR or of an extension.']
    faults = [fault for component in _judged(opt, registered) for fault in component.faults()]
    if opt['model_type'] == MODEL:
        faults += [*_agreement_faults(opt, registered), *_file_faults(opt, is_train)]
    return list(dict.fromkeys(faults))


def outside_faults(opt: Mapping[str, Any], registered: Registered, resumes: bool = False) -> list[str]:
    """Everything that is wrong with the files that an option file names: images, checkpoints, training states.

    Data sets and networks with faults of their own are left to :func:`option_faults`. In a training that goes on, which
    `resumes`, the networks do not come from `path.pretrain_network_...`.
    """
    faults: list[str] = []
    judged = list(_judged(opt, registered))
    for data_set in judged:
        if data_set.type in DATA_SETS and not any(data_set.faults()):
            saves_pictures = data_set.value['phase'] != 'train' and value_at(opt, 'val.save_img') is True
            sizes = list(_measured_sizes(judged, data_set.value['scale']))
            faults += stored_faults(data_set.name, data_set.value, saves_pictures, sizes)
    if opt.get('model_type') == MODEL and not any(rules.block(keys.PATH)('path', opt.get('path'))):
        state = None if opt.get('auto_resume') else opt['path'].get('resume_state')  # which that does not look at
        if state is not None and not os.path.isfile(os.path.expanduser(state)):
            faults.append(f'path.resume_state: there is no training state at {state}.')
        if state is None and not resumes:
            for network in judged:
                faults += _checkpoint_faults(opt, network) if network.registry == 'arch' else ()
    return faults


def _measured_sizes(judged: Iterable[_Component], scale: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """What each metric takes, and the sides of hr images that have that when cut to a multiple of the scale."""
    for metric in judged:
        if metric.registry == 'metric' and metric.cls and not any(metric.faults()):
            unit = scale if 'lr_metrics' in metric.name else 1
            short, long = (-(-side * unit // scale) * scale for side in smallest_size(metric.value, metric.cls))
            yield f'{metric.name} takes, {short}x{long}', (short, long)


def unchecked_blocks(opt: Mapping[str, Any], registered: Registered) -> list[str]:
    """Names and types of the blocks of which nobody says what they take, typing errors perhaps among them."""
    types = {} if opt.get('model_type') == MODEL else {'model_type': str(opt.get('model_type'))}
    judged = list(_judged(opt, registered))
    for component in _components(opt, registered):
        takes_anything = component.type not in keys.BASICSR[component.registry] and rules.takes_all(component.cls)
        if component.type and (component not in judged or component.rule() is None or takes_anything):
            types[component.name] = component.type
    known = {MODEL, *itertools.chain(*registered.values(), *keys.BASICSR.values())}
    hints = {kind: '' if kind in known else did_you_mean(kind, known, 0.88) for kind in types.values()}
    return [f'{name} ({kind}{hints[kind] and "." + hints[kind]})' for name, kind in types.items()]


def block_types(opt: Mapping[str, Any]) -> dict[str, str]:
    """The type of every network, data set, loss and metric, by the name of its block."""
    return {component.name: component.type for component in _components(opt, {}) if component.type}


def data_sets(opt: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and options of every data set, with the `phase` and the `scale` that BasicSR adds to them."""
    for name, value in _blocks_in(opt, 'datasets'):
        if isinstance(value, Mapping):
            scale = {'scale': opt['scale']} if is_whole(opt.get('scale')) else {}
            value = {**value, 'phase': name.split('.', 1)[1].partition('_')[0], **scale}
        yield name, value


def _blocks_in(opt: Mapping[str, Any], parent: str) -> Iterator[tuple[str, Any]]:
    blocks = value_at(opt, parent)
    for key, value in blocks.items() if isinstance(blocks, Mapping) else ():
        yield f'{parent}.{key}', value


def _components(opt: Mapping[str, Any], registered: Registered) -> Iterator[_Component]:
    given = {name: value_at(opt, name) for name in _BLOCKS}
    blocks = [(name, *_BLOCKS[name], value) for name, value in given.items() if value is not None]
    blocks += [(name, 'dataset', 'HRImageDataset', value) for name, value in data_sets(opt)]
    for parent in ('val.metrics', 'val.lr_metrics'):
        blocks += [(name, 'metric', 'calculate_psnr', value) for name, value in _blocks_in(opt, parent)]
    for name, registry, example, value in blocks:
        kind = value_at(value, 'type')
        kind = kind if isinstance(kind, str) else ''
        yield _Component(name, registry, example, value, kind, registered.get(registry, {}).get(kind))


def _judged(opt: Mapping[str, Any], registered: Registered) -> Iterator[_Component]:
    """All components, but in files of other models only those that are the plugin's own."""
    for component in _components(opt, registered):
        module = getattr(component.cls, '__module__', '')
        if opt.get('model_type') == MODEL or module.partition('.')[0] == __name__.partition('.')[0]:
            yield component


def _checkpoint_faults(opt: Mapping[str, Any], network: _Component) -> Iterator[str]:
    paths, key, suffix = opt['path'], f'pretrain_{network.name}', network.name[-2:]
    path, param_key = paths.get(key), paths.get(f'param_key{suffix}', 'params')
    if path is None:
        return
    folder = str(paths.get('experiments_root') or os.path.join('experiments', str(opt.get('name'))))
    if is_training(opt) and os.path.realpath(os.path.expanduser(path)).startswith(os.path.realpath(folder) + os.sep):
        yield f'path.{key}: BasicSR renames {folder} before it reads this: copy it elsewhere, or use --auto_resume.'
    try:
        found = read_checkpoint(os.path.expanduser(path), param_key, device='meta')
        net = None if paths.get(f'strict_load{suffix}') is False else _outline(network)
        if net is not None:
            check_fits(net, found.state_dict, path)
            check_arguments(found, network.value)
        read_checkpoint(os.path.expanduser(path), param_key)  # with values, now that their number is known
    except CheckpointError as error:
        yield f'path.{key}: {error}'


def _outline(network: _Component) -> nn.Module | None:
    """A network without values; none where it cannot be built, whose faults are named elsewhere."""
    try:
        # Random numbers of the training must not depend on it.
        with torch.random.fork_rng(devices=[]), torch.device('meta'):
            return network.cls(**rules.without_type(network.value))
    except Exception:  # its arguments are wrong, or it has to have values
        return None


def _file_faults(opt: Mapping[str, Any], is_train: bool) -> Iterator[str]:
    yield from rules.block(keys.TOP)('', opt)
    yield from _data_faults(opt, is_train)
    if is_train and opt.get('train') is not None:
        yield from train_faults(opt)
    yield from val_faults(opt)
    for name, table in _TABLES.items():
        yield from keys.missing(name, table, opt.get(name) if name else opt, is_train)
    if value_at(opt, 'logger.wandb.project') is not None and value_at(opt, 'logger.use_tb_logger') is not True:
        yield 'logger.wandb.project needs logger.use_tb_logger: true.'


def _data_faults(opt: Mapping[str, Any], is_train: bool) -> Iterator[str]:
    purpose, main = ('training', 'train') if is_train else ('test', 'test')
    names: dict[str, str] = {}
    for name, value in data_sets(opt):
        if isinstance(value, Mapping):
            phase, called = value['phase'], value.get('name')
            if phase not in (main, 'val') or phase == 'train' and name != 'datasets.train':
                yield f'{name}: a {purpose} takes data sets named {main} and val, val_2 and so on.'
            yield from keys.missing(name, keys.LOADING, value, is_train and phase == 'train')
            if phase != 'train' and isinstance(called, str) and names.setdefault(called, name) != name:
                yield f'{name}.name is also that of {names[called]}, and their results would be mixed: rename one.'
            if value.get('prefetch_mode') == 'cuda' and opt.get('num_gpu') == 0:
                yield f'{name}.prefetch_mode: cuda needs a GPU, but num_gpu is 0 (auto: there is none); remove it.'


def _agreement_faults(opt: Mapping[str, Any], registered: Registered) -> Iterator[str]:
    """Arguments of networks, the defaults too, that do not agree with the rest of the file."""

    def argument(network: str, name: str) -> Any:
        value = value_at(opt, f'{network}.{name}')
        cls = registered.get('arch', {}).get(block_types(opt).get(network, ''))
        return default_of(cls, name) if value is None else value

    own_scale, scale = argument('network_g', 'scale'), opt.get('scale')
    if is_whole(scale) and is_whole(own_scale) and scale != own_scale:
        yield f'network_g.scale is {own_scale}, but scale is {scale}: make them equal.'
    yield from input_size_faults(value_at(opt, 'datasets.train.gt_size'), argument('network_d', 'input_size'))
