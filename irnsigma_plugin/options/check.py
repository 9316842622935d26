"""Checks a whole option file, before anything starts.

In a file of `model_type: IRNSigmaModel`, or of a model derived from it, every key is judged, except in blocks whose
class is not known or does not say what it takes (:func:`unchecked_blocks`). In a file of another model only the blocks
whose type is the plugin's are, and the checkpoints if the model is BasicSR's.

What classes there are is handed in as `registered`: those of BasicSR's registries `arch`, `dataset`, `loss`, `metric`
and `model`, by name.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable, NamedTuple

import torch
from torch import nn

from irnsigma_plugin.archs.rescaling_net import RescalingNet
from irnsigma_plugin.checkpoints.training_states import read_named_state
from irnsigma_plugin.checkpoints.weights import CheckpointError, check_arguments, check_fits, read_checkpoint
from irnsigma_plugin.checks import Rule, did_you_mean, is_whole
from irnsigma_plugin.evaluation.measures import smallest_size
from irnsigma_plugin.imagenet.weights import WeightsError, check_weights
from irnsigma_plugin.options import keys, rules
from irnsigma_plugin.options.rules import default_of, value_at
from irnsigma_plugin.options.stored_images import DATA_SETS, stored_faults
from irnsigma_plugin.options.train_val import TRAIN, VAL, input_size_faults, recompute_faults, train_faults, val_faults

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

    def argument(self, name: str) -> Any:
        """The value of an argument of the class, or its default."""
        value = value_at(self.value, name)
        return default_of(self.cls, name) if value is None else value

    def imagenet_network(self) -> str | None:
        """Whose ImageNet weights a block without faults needs."""
        needed = getattr(self.cls, 'imagenet', None)
        return needed(**rules.without_type(self.value)) if needed else None


def is_training(opt: Mapping[str, Any]) -> bool:
    """Whether an option file is for `basicsr.train`; otherwise it is for `basicsr.test`."""
    if isinstance(opt.get('is_train'), bool):  # BasicSR has read it, and says so
        return opt['is_train']
    names = {name.partition('_')[0] for name, _ in data_sets(opt)}
    named = names & {'datasets.train', 'datasets.test'}
    return named == {'datasets.train'} if len(named) == 1 else 'train' in opt


def is_of_plugin(obj: Any) -> bool:
    """Whether a class, or a class that it is derived from, or a function is this plugin's."""
    modules = (getattr(base, '__module__', '') for base in getattr(obj, '__mro__', (obj,)))
    return any(module.partition('.')[0] == __name__.partition('.')[0] for module in modules)


def has_model_of_plugin(opt: Any, registered: Registered) -> bool:
    """Whether the model of an option file is this plugin's, or derived from it."""
    name = value_at(opt, 'model_type')
    return name == MODEL or isinstance(name, str) and is_of_plugin(registered.get('model', {}).get(name))


def results_folder(opt: Mapping[str, Any]) -> str:
    """The folder for what comes out, which BasicSR makes, and renames where there is one already."""
    kind, key = ('experiments', 'experiments_root') if is_training(opt) else ('results', 'results_root')
    return os.path.relpath(value_at(opt, f'path.{key}') or os.path.join(kind, str(opt.get('name'))))


def is_inside(path: str, folder: str) -> bool:
    """Whether a path leads into a folder."""
    return os.path.realpath(os.path.expanduser(path)).startswith(os.path.realpath(folder) + os.sep)


def option_faults(opt: Any, is_train: bool, registered: Registered) -> list[str]:
    """Everything that is wrong with an option file in itself, a sentence each; nothing outside it is looked at.

    The file may be as it was read, or as BasicSR has completed it. :func:`unknown_types` are not among the faults.
    """
    if not isinstance(opt, Mapping):
        return ['An option file is a block of keys; this one is not.']
    if not isinstance(opt.get('model_type'), str) or not opt['model_type']:
        return [f'model_type is missing or no text: {MODEL}, or a model of BasicSR or of an extension.']
    faults = [fault for component in _judged(opt, registered) for fault in component.faults()]
    if has_model_of_plugin(opt, registered):
        faults += [*_agreement_faults(opt, registered), *_file_faults(opt, is_train)]
    return list(dict.fromkeys(faults))


def unknown_types(opt: Mapping[str, Any], registered: Registered) -> dict[str, str]:
    """What to say of types that neither BasicSR nor this plugin nor an extension has registered, by name of block."""
    types = [('model_type', 'model', opt.get('model_type'))]
    if has_model_of_plugin(opt, registered):  # others may read their blocks in other ways
        types += [(block.name, block.registry, block.type) for block in _components(opt, registered)]
    remedy = 'If it is of an extension, install that, or name it in imports.'
    return {
        name: f'{name}: there is no {kind}.{did_you_mean(kind, registered[registry])} {remedy}'
        for name, registry, kind in types
        if isinstance(kind, str) and kind and kind not in registered[registry]
    }


def outside_faults(opt: Mapping[str, Any], registered: Registered, resumes: bool = False) -> list[str]:
    """Everything that is wrong with the files that an option file needs: images, weights, training states.

    Data sets and losses with faults of their own are left to :func:`option_faults`. In a training that goes on, which
    `resumes`, the networks do not come from `path.pretrain_network_...`.
    """
    faults: list[str] = []
    judged = list(_judged(opt, registered))
    for block in judged:
        if block.type in DATA_SETS and not any(block.faults()):
            saves_pictures = block.value['phase'] != 'train' and value_at(opt, 'val.save_img') is True
            sizes = list(_measured_sizes(judged, block.value['scale']))
            faults += stored_faults(block.name, block.value, saves_pictures, opt.get('world_size') or 1, sizes)
        try:
            if not any(block.faults()) and (network := block.imagenet_network()):
                check_weights(network)
        except WeightsError as error:
            faults.append(f'{block.name}: {error}')
    model = registered.get('model', {}).get(opt['model_type'])
    is_own, is_basicsrs = has_model_of_plugin(opt, registered), getattr(model, '__module__', '').startswith('basicsr.')
    if not (is_own or is_basicsrs) or any(rules.block(keys.PATH)('path', opt.get('path'))):
        return faults
    state = None if opt.get('auto_resume') else opt['path'].get('resume_state')  # which that does not look at
    try:
        if state is not None:
            read_named_state(opt, state, os.path.join(results_folder(opt), 'models'))
    except RuntimeError as error:
        faults.append(str(error))
    for block in _components(opt, registered) if state is None and not resumes else ():
        faults += _checkpoint_faults(opt, block, is_own) if block.registry == 'arch' else ()
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
    types = {} if has_model_of_plugin(opt, registered) else {'model_type': str(opt.get('model_type'))}
    judged = list(_judged(opt, registered))
    for component in _components(opt, registered):
        takes_anything = component.type not in keys.BASICSR[component.registry] and rules.takes_all(component.cls)
        if component.type and (component not in judged or component.rule() is None or takes_anything):
            types[component.name] = component.type
    unknown = unknown_types(opt, registered)
    return [f'{name} ({kind})' for name, kind in types.items() if name not in unknown]


def data_sets(opt: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and options of every data set, with the `phase` and the `scale` that BasicSR adds to them."""
    for name, value in _blocks_in(opt, 'datasets'):
        if isinstance(value, Mapping):
            scale = {'scale': opt['scale']} if 'scale' in opt else {}
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
    """All components, but in files of other models only those that are the plugin's own, or derived from these."""
    has_model = has_model_of_plugin(opt, registered)
    return (component for component in _components(opt, registered) if has_model or is_of_plugin(component.cls))


def _checkpoint_faults(opt: Mapping[str, Any], network: _Component, is_own: bool) -> Iterator[str]:
    paths, key, suffix = opt['path'], f'pretrain_{network.name}', network.name[-2:]
    path, param_key = paths.get(key), paths.get(f'param_key{suffix}', 'params')
    if path is None:
        return
    folder = results_folder(opt)
    if is_training(opt) and is_inside(path, folder):
        yield f'path.{key}: BasicSR renames {folder} before it reads this: copy it elsewhere, or use --auto_resume.'
    try:
        found = read_checkpoint(os.path.expanduser(path), param_key, device='meta')
        if not is_own and (found.param_key is None) != (param_key is None):  # to BasicSR not the same
            yield f'path.param_key{suffix} must be {found.param_key or "~ (a bare state dict)"} for {path}.'
        strict = paths.get(f'strict_load{suffix}', True)
        net = _outline(network) if strict or strict is None and is_own else None
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
    # A derived model may have keys of its own; those of `train` and `val` its constructor reads.
    own: dict[str, Rule] = {} if opt['model_type'] == MODEL else dict.fromkeys(opt, rules.anything)
    yield from rules.block({**own, **keys.TOP})('', opt)
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
    for block in _components(opt, registered):
        own_scale, scale = block.argument('scale'), opt.get('scale')
        if block.name == 'network_d':
            yield from input_size_faults(value_at(opt, 'datasets.train.gt_size'), block.argument('input_size'))
        elif block.name == 'network_g' and is_whole(scale) and is_whole(own_scale) and scale != own_scale:
            yield f'network_g.scale is {own_scale}, but scale is {scale}: make them equal.'
        elif block.name == 'network_g' and value_at(opt, 'train.checkpoint_blocks') is True:
            yield from recompute_faults(_outline(block))
