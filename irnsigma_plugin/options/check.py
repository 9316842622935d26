"""Checks a whole option file, before anything starts.

In a file of `model_type: IRNSigmaModel` every key is judged, except in blocks whose type belongs to an extension or to
BasicSR. In a file of another model only the blocks whose type is the plugin's are.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from irnsigma_plugin.archs.irn_shapes import LEVELS, inv_rescale_net_shapes
from irnsigma_plugin.checkpoints.weights import CheckpointError, clamp_mismatch, read_outline, shape_mismatch
from irnsigma_plugin.options.keys import (
    DATA_SETS,
    JUDGED_TYPES,
    METRICS,
    NETWORK_D,
    NETWORK_G,
    OWN_TYPES,
    PATH,
    TOP,
    data_set,
    is_whole,
)
from irnsigma_plugin.options.rules import anything, block, each, value_at
from irnsigma_plugin.options.stored_images import stored_faults
from irnsigma_plugin.options.train_val import train_faults, val_faults

MODEL = 'IRNSigmaModel'

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


def option_faults(opt: Any, is_train: bool) -> list[str]:
    """Everything that is wrong with an option file in itself; nothing outside it is looked at.

    Args:
        opt: The option file, as read or as BasicSR has completed it.
        is_train: Whether it is used for training.

    Returns:
        One sentence for each fault.
    """
    if not isinstance(opt, Mapping):
        return ['An option file is a block of keys; this one is not.']
    if not isinstance(opt.get('model_type'), str):
        return [f'model_type is missing or no text: {MODEL}, or a model of BasicSR or of an extension.']
    faults = _file_faults(opt, is_train) if opt['model_type'] == MODEL else _own_block_faults(opt)
    return list(dict.fromkeys(faults))


def outside_faults(opt: Mapping[str, Any], resumes: bool = False) -> list[str]:
    """Everything that is wrong with the files that an option file names: images, checkpoints, training states.

    Data sets and networks with faults of their own are left to :func:`option_faults`.

    Args:
        opt: The option file.
        resumes: Whether the networks come from a training that goes on, and not from `path.pretrain_network_...`.
    """
    faults = []
    for name, value in data_sets(opt):
        kind = value_at(value, 'type')
        if kind in tuple(DATA_SETS) and _is_judged(opt, kind) and not any(data_set(name, value)):
            validated = value['phase'] != 'train'
            faults += stored_faults(name, value, validated and value_at(opt, 'val.save_img') is True)
    if opt.get('model_type') == MODEL and not any(block(PATH)('path', opt.get('path'))):
        state = None if opt.get('auto_resume') else opt['path'].get('resume_state')  # which that does not look at
        if state is not None and not os.path.isfile(os.path.expanduser(state)):
            faults.append(f'path.resume_state: there is no training state at {state}.')
        if state is None and not resumes:
            faults += _checkpoint_faults(opt, 'network_g')
            faults += _checkpoint_faults(opt, 'network_d')
    return faults


def unjudged(opt: Mapping[str, Any]) -> list[str]:
    """Names and types of the blocks that are left to BasicSR or to an extension, typing errors perhaps among them."""
    types = {'model_type': opt.get('model_type'), **block_types(opt)}
    known = (MODEL, *JUDGED_TYPES)
    return [
        f'{name} ({kind}{_similar(kind, known)})'
        for name, kind in types.items()
        if kind != MODEL and not _is_judged(opt, kind)
    ]


def _similar(kind: str, known: Iterable[str]) -> str:
    """Ask whether a very similar type was meant; empty where there is none."""
    nearest = difflib.get_close_matches(kind, known, n=1, cutoff=0.88)
    return f': did you mean {nearest[0]}?' if nearest and nearest[0] != kind else ''


def block_types(opt: Mapping[str, Any]) -> dict[str, str]:
    """The type of every network, data set, loss and metric, by the name of its block."""
    blocks = {
        name: value_at(opt, name)
        for name in ('network_g', 'network_d', 'train.mixture_opt', 'train.perceptual_opt', 'train.gan_opt')
    }
    for parent in ('datasets', 'val.metrics', 'val.lr_metrics'):
        children = value_at(opt, parent)
        if isinstance(children, Mapping):
            blocks.update((f'{parent}.{key}', value) for key, value in children.items())
    types = {name: value_at(value, 'type') for name, value in blocks.items()}
    return {name: kind for name, kind in types.items() if isinstance(kind, str)}


def _is_judged(opt: Mapping[str, Any], kind: Any) -> bool:
    return kind in (JUDGED_TYPES if opt.get('model_type') == MODEL else OWN_TYPES)


def _checkpoint_faults(opt: Mapping[str, Any], network: str) -> Iterator[str]:
    key, suffix = f'pretrain_{network}', network[-2:]
    path, param_key = opt['path'].get(key), opt['path'].get(f'param_key{suffix}', 'params')
    if path is None or opt.get(network) is None:
        return
    try:
        found = read_outline(os.path.expanduser(path), param_key)
    except CheckpointError as error:
        yield f'path.{key}: {error}'
        return
    options = opt[network]
    if (
        value_at(options, 'type') != 'InvRescaleNet'
        or any(_network_faults(opt))
        or any(NETWORK_G(network, options))
        or opt['path'].get(f'strict_load{suffix}') is False
    ):
        return
    arguments = {name: value for name, value in options.items() if name not in ('type', 'clamp')}
    for mismatch in (
        shape_mismatch(options['type'], inv_rescale_net_shapes(**arguments), found.shapes, path),
        clamp_mismatch(found.network, options, path),
    ):
        if mismatch:
            yield f'path.{key}: {mismatch}'


def data_sets(opt: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and options of every data set, with the `phase` and the `scale` that BasicSR adds to them."""
    blocks = opt.get('datasets')
    for key, value in blocks.items() if isinstance(blocks, Mapping) else ():
        if isinstance(value, Mapping):
            scale = {'scale': opt['scale']} if is_whole(opt.get('scale')) else {}
            value = {**value, 'phase': str(key).partition('_')[0], **scale}
        yield f'datasets.{key}', value


def _own_block_faults(opt: Mapping[str, Any]) -> Iterator[str]:
    for name, rule in (('network_g', NETWORK_G), ('network_d', NETWORK_D)):
        if value_at(opt, f'{name}.type') in OWN_TYPES:
            yield from rule(name, opt[name])
    for name, value in data_sets(opt):
        if value_at(value, 'type') in OWN_TYPES:
            yield from data_set(name, value)
    metrics = value_at(opt, 'val.metrics')
    if isinstance(metrics, Mapping):
        yield from METRICS(
            'val.metrics', {key: metric for key, metric in metrics.items() if value_at(metric, 'type') in OWN_TYPES}
        )


def _file_faults(opt: Mapping[str, Any], is_train: bool) -> Iterator[str]:
    yield from block(TOP)('', opt)
    yield from _missing(opt, _NEEDED)
    yield from _data_faults(opt, is_train)
    yield from _network_faults(opt)
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
        yield from data_set(name, value)
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


def _network_faults(opt: Mapping[str, Any]) -> Iterator[str]:
    network, scale = opt.get('network_g'), opt.get('scale')
    if value_at(network, 'type') not in OWN_TYPES:
        return
    own_scale = network.get('scale', 4)
    if is_whole(scale) and is_whole(own_scale) and scale != own_scale:
        yield f'network_g.scale is {own_scale}, but scale is {scale}: make them equal.'
    blocks = network.get('block_num')
    levels = len(LEVELS.get(own_scale, ())) if is_whole(own_scale) else 0
    if levels and isinstance(blocks, (list, tuple)) and len(blocks) != levels:
        yield (
            f'network_g.block_num at scale {own_scale} must be a list of {levels} whole number(s), one for each '
            f'level, but is {list(blocks)}.'
        )
