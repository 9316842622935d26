"""Checks a whole option file, before anything starts.

In a file of `model_type: IRNSigmaModel` every key is judged, except in blocks whose class is not known or does not say
what it takes (:func:`unchecked_blocks`). In a file of another model only the blocks whose type is the plugin's are.

What classes there are is handed in as `registered`: those of BasicSR's registries `arch`, `dataset`, `loss` and
`metric`, by name.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from typing import Any, Callable

import torch
from torch import nn

from irnsigma_plugin.checkpoints.weights import CheckpointError, check_arguments, check_fits, read_checkpoint
from irnsigma_plugin.checks import Rule, each, is_whole
from irnsigma_plugin.options.keys import BASICSR, PATH, REFUSED_TYPES, TOP
from irnsigma_plugin.options.rules import (
    anything,
    block,
    constructed,
    default_of,
    prefixed,
    takes_all,
    type_faults,
    value_at,
    without_type,
)
from irnsigma_plugin.options.stored_images import DATA_SETS, stored_faults
from irnsigma_plugin.options.train_val import input_size_faults, train_faults, val_faults

Registered = Mapping[str, Mapping[str, Callable[..., Any]]]

MODEL = 'IRNSigmaModel'

# Blocks with a `type`: BasicSR's registry, and a type to name as an example.
_NETWORKS = {'network_g': ('arch', 'InvRescaleNet'), 'network_d': ('arch', 'IRNDiscriminator')}
_LOSSES = {
    'train.mixture_opt': ('loss', 'MixtureLoss'),
    'train.perceptual_opt': ('loss', 'PerSamplePerceptualLoss'),
    'train.gan_opt': ('loss', 'GANLoss'),
}
_METRICS = {'val.metrics': ('metric', 'calculate_psnr'), 'val.lr_metrics': ('metric', 'calculate_psnr')}

_NEEDED = {
    'name': 'the name of the folder for what comes out',
    'scale': 'the factor between hr and lr',
    'num_gpu': 'auto, or 0 for the CPU',
    'datasets': 'the images',
    'network_g': 'for example {type: InvRescaleNet, scale: 4}',
    'path': 'a block; {} where nothing is to be loaded',
}
_NEEDED_TO_TRAIN = {
    'datasets.train': 'the images to train on',
    'datasets.train.batch_size_per_gpu': 'how many images a step takes',
    'datasets.train.num_worker_per_gpu': 'how many processes read images; 0 for none',
    'train': 'how to train',
    'train.total_iter': 'how many iterations',
    'train.optim_g': 'for example {type: Adam, lr: !!float 1e-4}',
    'train.scheduler': 'for example {type: MultiStepLR, milestones: [50000], gamma: 0.5}',
    'logger': 'how often to log and to save',
    'logger.print_freq': 'iterations between messages',
    'logger.save_checkpoint_freq': 'iterations between checkpoints',
    'logger.use_tb_logger': 'true or false',
}
_NEEDED_TO_VALIDATE = {'val.val_freq': 'iterations between validations', 'val.save_img': 'true or false'}
_NEEDED_TO_TEST = {'val': 'what to measure', 'val.save_img': 'true or false'}


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
    faults = list(_file_faults(opt, is_train)) if opt['model_type'] == MODEL else []
    for name, registry, example, value in _components(opt):
        if opt['model_type'] == MODEL:
            faults += type_faults(name, value, example)
        faults += _component_faults(opt, name, registry, value, registered)
    if opt['model_type'] == MODEL:
        faults += _agreement_faults(opt, registered)
    return list(dict.fromkeys(faults))


def outside_faults(opt: Mapping[str, Any], registered: Registered, resumes: bool = False) -> list[str]:
    """Everything that is wrong with the files that an option file names: images, checkpoints, training states.

    Data sets and networks with faults of their own are left to :func:`option_faults`.

    Args:
        opt: The option file.
        registered: The classes that there are.
        resumes: Whether the networks come from a training that goes on, and not from `path.pretrain_network_...`.
    """
    faults = []
    for name, value in data_sets(opt):
        rule = _rule(opt, 'dataset', value_at(value, 'type'), registered)
        if rule is not None and value['type'] in DATA_SETS and not any(rule(name, value)):
            validated = value['phase'] != 'train'
            faults += stored_faults(name, value, validated and value_at(opt, 'val.save_img') is True)
    if opt.get('model_type') == MODEL and not any(block(PATH)('path', opt.get('path'))):
        state = None if opt.get('auto_resume') else opt['path'].get('resume_state')  # which that does not look at
        if state is not None and not os.path.isfile(os.path.expanduser(state)):
            faults.append(f'path.resume_state: there is no training state at {state}.')
        if state is None and not resumes:
            for network in _NETWORKS:
                faults += _checkpoint_faults(opt, network, registered)
    return faults


def unchecked_blocks(opt: Mapping[str, Any], registered: Registered) -> list[str]:
    """Names and types of the blocks of which nobody says what they take, typing errors perhaps among them."""
    known = {MODEL, *(name for names in (*registered.values(), *BASICSR.values()) for name in names)}
    types = {} if opt.get('model_type') == MODEL else {'model_type': opt.get('model_type')}
    for name, registry, _, value in _components(opt):
        kind = value_at(value, 'type')
        if isinstance(kind, str) and _rule(opt, registry, kind, registered) is None:
            types[name] = kind
    return [f'{name} ({kind}{_similar(kind, known)})' for name, kind in types.items()]


def _similar(kind: Any, known: set[str]) -> str:
    """Ask whether a very similar type was meant; empty where there is none."""
    nearest = [] if kind in known else difflib.get_close_matches(str(kind), known, n=1, cutoff=0.88)
    return f': did you mean {nearest[0]}?' if nearest else ''


def block_types(opt: Mapping[str, Any]) -> dict[str, str]:
    """The type of every network, data set, loss and metric, by the name of its block."""
    types = {name: value_at(value, 'type') for name, _, _, value in _components(opt)}
    return {name: kind for name, kind in types.items() if isinstance(kind, str)}


def data_sets(opt: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and options of every data set, with the `phase` and the `scale` that BasicSR adds to them."""
    blocks = opt.get('datasets')
    for key, value in blocks.items() if isinstance(blocks, Mapping) else ():
        if isinstance(value, Mapping):
            scale = {'scale': opt['scale']} if is_whole(opt.get('scale')) else {}
            value = {**value, 'phase': str(key).partition('_')[0], **scale}
        yield f'datasets.{key}', value


def _components(opt: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """Name, registry, example of a type, and value of every block that has a `type`."""
    for name, (registry, example) in {**_NETWORKS, **_LOSSES}.items():
        if value_at(opt, name) is not None:
            yield name, registry, example, value_at(opt, name)
    for name, value in data_sets(opt):
        yield name, 'dataset', 'HRImageDataset', value
    for parent, (registry, example) in _METRICS.items():
        blocks = value_at(opt, parent)
        for key, value in blocks.items() if isinstance(blocks, Mapping) else ():
            yield f'{parent}.{key}', registry, example, value


def _rule(opt: Mapping[str, Any], registry: str, kind: Any, registered: Registered) -> Rule | None:
    """What judges a block with its `type`; none where nobody says what the class takes."""
    if not isinstance(kind, str):
        return None
    cls = registered.get(registry, {}).get(kind)
    if opt.get('model_type') != MODEL and (cls is None or not _is_ours(cls)):
        return None
    if kind in BASICSR[registry]:
        return BASICSR[registry][kind]
    check = getattr(cls, 'check', None)
    if cls is None or (check is None and (registry == 'dataset' or takes_all(cls))):
        return None
    if registry == 'dataset':
        return lambda name, value: prefixed(name, check(value))
    return _metric(cls) if registry == 'metric' else constructed(cls)


def _is_ours(cls: Callable[..., Any]) -> bool:
    return cls.__module__.partition('.')[0] == __name__.partition('.')[0]


def _metric(function: Callable[..., Any]) -> Rule:
    def rule(name: str, value: Any) -> Iterator[str]:
        yield from constructed(function, given=('img', 'img2'))(name, value)
        if default_of(function, 'better') == 'lower' and 'better' not in value:
            yield f'{name}.better is missing: BasicSR takes `higher` for it.'

    return rule


def _component_faults(
    opt: Mapping[str, Any], name: str, registry: str, value: Any, registered: Registered
) -> Iterator[str]:
    kind = value_at(value, 'type')
    rule = _rule(opt, registry, kind, registered)
    refused = REFUSED_TYPES.get(name, {})
    if kind in tuple(refused) and opt['model_type'] == MODEL:
        yield f'{name}.type: {refused[kind]}'
    elif rule is not None:
        yield from rule(name, value if registry == 'dataset' else without_type(value))


def _checkpoint_faults(opt: Mapping[str, Any], network: str, registered: Registered) -> Iterator[str]:
    key, suffix = f'pretrain_{network}', network[-2:]
    path, param_key = opt['path'].get(key), opt['path'].get(f'param_key{suffix}', 'params')
    if path is None or opt.get(network) is None:
        return
    try:
        found = read_checkpoint(os.path.expanduser(path), param_key, device='meta')
    except CheckpointError as error:
        yield f'path.{key}: {error}'
        return
    options = opt[network]
    net = None if opt['path'].get(f'strict_load{suffix}') is False else _outline(options, registered)
    if net is not None:
        for check in (lambda: check_fits(net, found.state_dict, path), lambda: check_arguments(found, options)):
            try:
                check()
            except CheckpointError as error:
                yield f'path.{key}: {error}'


def _outline(options: Any, registered: Registered) -> nn.Module | None:
    """A network without values; none where it cannot be built, whose faults are named elsewhere."""
    cls = registered.get('arch', {}).get(value_at(options, 'type'))
    if cls is None:
        return None
    try:
        # Random numbers of the training must not depend on it.
        with torch.random.fork_rng(devices=[]), torch.device('meta'):
            return cls(**without_type(options))
    except Exception:  # its arguments are wrong, or it has to have values
        return None


def _file_faults(opt: Mapping[str, Any], is_train: bool) -> Iterator[str]:
    yield from block(TOP)('', opt)
    yield from _missing(opt, _NEEDED)
    yield from _data_faults(opt, is_train)
    if is_train:
        yield from _missing(opt, _NEEDED_TO_TRAIN)
        if opt.get('train') is not None:
            yield from train_faults(opt)
    if opt.get('val') is not None:
        yield from val_faults(opt)
    yield from _missing(opt, _NEEDED_TO_VALIDATE if is_train else _NEEDED_TO_TEST)
    if value_at(opt, 'logger.wandb.project') is not None and value_at(opt, 'logger.use_tb_logger') is not True:
        yield 'logger.wandb.project needs logger.use_tb_logger: true.'


def _missing(opt: Mapping[str, Any], needed: Mapping[str, str]) -> Iterator[str]:
    """Keys that are absent from blocks that are there; BasicSR would end with a KeyError."""
    for key, meaning in needed.items():
        parent = key.rpartition('.')[0]
        if value_at(opt, key) is None and isinstance(value_at(opt, parent) if parent else opt, Mapping):
            yield f'{key} is missing: {meaning}.'


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
    own_scale, scale = _argument(opt, 'network_g', 'scale', registered), opt.get('scale')
    if is_whole(scale) and is_whole(own_scale) and scale != own_scale:
        yield f'network_g.scale is {own_scale}, but scale is {scale}: make them equal.'
    input_size = _argument(opt, 'network_d', 'input_size', registered)
    yield from input_size_faults(value_at(opt, 'datasets.train.gt_size'), input_size)


def _argument(opt: Mapping[str, Any], network: str, argument: str, registered: Registered) -> Any:
    cls = registered.get('arch', {}).get(str(value_at(opt, f'{network}.type')))
    value = value_at(opt, f'{network}.{argument}')
    return default_of(cls, argument) if cls is not None and value is None else value
