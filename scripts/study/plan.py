"""What the study trains and measures: option files, derived from the shipped ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from irnsigma_plugin.options.file import read_option_file
from irnsigma_plugin.options.rules import refuse, value_at

OPTIONS = Path(__file__).resolve().parents[2] / 'options'
SIGMAS = [0, 0.25, 0.5, 0.75, 1]
SAMPLINGS = {  # of Fig. 2a, by the name of the training
    'IRNsigma_3-point': {'strategy': 'points', 'values': [0, 0.5, 1]},
    'IRNsigma_2-point': {'strategy': 'points', 'values': [0, 1]},
    'IRNsigma_uniform': {'strategy': 'uniform'},
}
IRN_SIGMA = next(iter(SAMPLINGS))  # the paper's, for all else
START = 'IRN_start'
PLUS = 'train_IRN+_x4.yml'
LAST_LAYERS = {'vgg16': 'conv5_3', 'vgg19': 'conv5_4'}
OTHERS = {'RCAN': 'test_RCAN_x4.yml', 'ESRGAN': 'test_ESRGAN_x4.yml'}


def short_name(sampling: str) -> str:
    """What the command line and the report call one of :data:`SAMPLINGS`."""
    return sampling.partition('_')[2]


class Budget(NamedTuple):
    """Shipped option files, changes by dotted key, and how `irnsigma prepare` cuts the photographs."""

    irn: str
    irnsigma: str
    photographs: str  # the folder, where none is named
    crop: int
    step: int
    changes: Mapping[str, Any] = {}  # of all trainings
    start: int | None = None  # iterations, where not those of the file
    arms: int | None = None  # of what begins there
    samplings: Sequence[str] = tuple(SAMPLINGS)  # of IRN_sigma
    authors_plus: bool = False  # IRN+ with the weights of its authors' loss, where the arms' are others

    @property
    def arm_names(self) -> tuple[str, ...]:
        """What is compared."""
        return ('IRN', 'IRN+', *self.samplings)


SMALL = Budget('train_IRN_x4_small.yml', 'train_IRNsigma_x4_small.yml', 'BSDS400', 240, 120)
_WIDE = {
    'network_g.block_num': [8, 8],
    'datasets.train.gt_size': 112,
    'datasets.train.batch_size_per_gpu': 16,
    'datasets.train.num_worker_per_gpu': 4,
}
_TINY = {
    'network_g.block_num': [1, 1],
    'network_g.growth_channels': 4,
    'network_d.num_feat': 4,
    'train.perceptual_opt.weights': 'random',
    'train.perceptual_opt.layer_weights': {'conv1_2': 0.03},
    'train.amp': 'off',
    'datasets.train.gt_size': 32,
    'datasets.train.batch_size_per_gpu': 2,
    'datasets.train.num_worker_per_gpu': 0,
    'logger.save_checkpoint_freq': 1,
    'logger.print_freq': 1,
    'logger.use_tb_logger': False,
}


BUDGETS = {
    'small': SMALL,
    'medium': SMALL._replace(changes=_WIDE, start=10_000, arms=20_000),
    'paper': Budget('train_IRN_x4.yml', 'train_IRNsigma_x4.yml', 'DIV2K_train_HR', 480, 240),
    # For tests: trained in seconds, nothing to see.
    'tiny': SMALL._replace(changes=_TINY, start=3, arms=6, crop=48, step=48),
}


class Start(NamedTuple):
    """Checkpoints from which all arms start; without the first, a training of IRN makes it."""

    network: Path | None = None
    discriminator: Path | None = None


def forced(entries: Sequence[str]) -> dict[str, Any]:
    """The changes that `--force_yml` of BasicSR's commands means, as `train:amp=off`.

    Raises:
        ValueError: An entry is not KEY=VALUE.
    """
    changes = {}
    for entry in entries:
        key, equals, value = entry.partition('=')
        if not (key and equals):
            raise ValueError(f'--force_yml {entry}: write KEY=VALUE, with the blocks of a key parted by colons')
        changes[key.strip().replace(':', '.')] = _value(value)
    return changes


def _value(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str):  # of 1e-4, too, which YAML takes for text
        with suppress(ValueError):
            return float(value)
    return value


class OptionFile(NamedTuple):
    """An option file of the study, and the shipped one that it is derived from."""

    name: str
    source: str
    options: dict[str, Any]

    @property
    def differences(self) -> list[str]:
        """What is not as in the shipped file, a key or block a line."""
        return list(_differences(_shipped(self.source), self.options))

    @property
    def text(self) -> str:
        """The content of the file, the differences at its top."""
        head = ''.join(f'#   {line}\n' for line in self.differences)
        return f'# options/{self.source}, but\n{head}\n' + yaml.safe_dump(self.options, sort_keys=False)


def _differences(before: Any, after: Any, name: str = '') -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from _differences(before.get(key, _ABSENT), after.get(key, _ABSENT), f'{name}.{key}'.lstrip('.'))
    elif before != after:
        yield f'{name}: ' + ' -> '.join('{...}' if isinstance(each, dict) else str(each) for each in (before, after))


_ABSENT = '(none)'


def _shipped(name: str) -> dict[str, Any]:
    return read_option_file(OPTIONS / name)


def _change(options: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Set dotted keys, in blocks that there are."""
    for key, value in changes.items():
        block, _, last = key.rpartition('.')
        if (found := value_at(options, block) if block else options) is not None:
            found[last] = copy.deepcopy(value)


def trainings(budget: Budget, data: Path, start: Start, seed: int | None) -> list[OptionFile]:
    """The start's training, unless there is one, and the arms, which differ in nothing but the loss and its sigmas.

    `data` has what `irnsigma prepare` made under the name `train`. An OptionError if a change is of a block that no
    training has.
    """
    irn, irnsigma = _shipped(budget.irn), _shipped(budget.irnsigma)
    files = [] if start.network else [OptionFile(START, budget.irn, irn)]
    for name in budget.arm_names:
        options = copy.deepcopy(irnsigma)
        if name == 'IRN':
            del options['network_d']
            _change(options, {f'train.{key}': irn['train'][key] for key in ('sigma', 'mixture_opt')})
        elif name == 'IRN+':
            options['train'].update(sigma={'strategy': 'fixed', 'values': [1]}, fake_weighting='all')
            options['train']['mixture_opt']['weighting'] = 'equal'
            if budget.authors_plus:
                _set_authors_loss(options['train'])
        else:
            options['train']['sigma'] = {**SAMPLINGS[name], 'per': 'sample'}
        path = start.network or f'experiments/{START}/models/net_g_latest.pth'
        _change(options, {'path.pretrain_network_g': str(path), 'path.param_key_g': param_key(irn)})
        if start.discriminator and 'network_d' in options:
            options['path']['pretrain_network_d'] = str(start.discriminator)
        files.append(OptionFile(name, budget.irnsigma, options))
    for name, _, options in files:
        for key in [key for key in options['datasets'] if key != 'train']:  # `basicsr.test` comes afterwards
            del options['datasets'][key]
        del options['val']
        options['datasets']['train'].update(
            name='train', dataroot_gt=str(data / 'train_hr.lmdb'), dataroot_lq=str(data / 'train_lr_x4.lmdb')
        )
        _change(options, {'name': name, 'logger.keep_last': 2})
        if iterations := budget.start if name == START else budget.arms:
            _set_length(options['train'], iterations)
        _change(options, budget.changes)
        if 'network_d' not in options:
            for key in ('perceptual_opt', 'gan_opt', 'optim_d', 'fake_weighting', 'net_d_iters', 'net_d_init_iters'):
                options['train'].pop(key, None)
        if seed is not None:
            options['manual_seed'] = seed
    refuse(
        f'--force_yml {key}: no training has the block {block}.'
        for key in budget.changes
        if (block := key.rpartition('.')[0]) and all(value_at(each.options, block) is None for each in files)
    )
    return files


def _set_authors_loss(train: dict[str, Any]) -> None:
    """Weigh the loss as IRN+'s authors do, features of the last convolution of the study's own VGG alone among it."""
    train['mixture_opt'] = _shipped(PLUS)['train']['mixture_opt']
    train['perceptual_opt']['layer_weights'] = {LAST_LAYERS[train['perceptual_opt']['vgg_type']]: 1}


def _set_length(train: dict[str, Any], iterations: int) -> None:
    """Make a training so long; milestones stay, for those behind its end do no harm."""
    if 'net_d_init_iters' in train:
        train['net_d_init_iters'] = train['net_d_init_iters'] * iterations // train['total_iter']
    if 'periods' in train['scheduler']:
        train['scheduler']['periods'] = [iterations]
    train['total_iter'] = iterations


def param_key(options: Mapping[str, Any]) -> str:
    """Which weights of a training count."""
    return 'params_ema' if options['train'].get('ema_decay') else 'params'


def checkpoint(arm: str, sigma_gain: float = 1) -> Path:
    """The network of an arm in the study's folder; of IRN_sigma, where so asked, with multiplied weights of sigma."""
    models = Path('experiments', arm, 'models')
    if arm in SAMPLINGS and sigma_gain != 1:
        return models / f'sigma_gain{sigma_gain:g}' / 'net_g_latest.safetensors'
    return models / 'net_g_latest.pth'


def test_of(training: OptionFile, data_set: str, folder: Path, metrics: str, sigma_gain: float) -> OptionFile:
    """The test of an arm on a folder of originals; only what is blended or shown later is saved."""
    source = 'test_IRNsigma_x4.yml'
    options = _shipped(source)
    _change(options, {
        'path.pretrain_network_g': str(checkpoint(training.name, sigma_gain)),
        'path.param_key_g': param_key(training.options),
        'network_g': training.options['network_g'],
        'val.sigmas': {'IRN': [0, 1], 'IRN+': [1]}.get(training.name, SIGMAS),
        'val.save_img': training.name in ('IRN', 'IRN+', IRN_SIGMA),
        'val.metrics': metrics,
    })  # fmt: skip
    return _on(OptionFile(f'{training.name}_{data_set}', source, options), data_set, folder)


def test_of_other(name: str, checkpoint: Path, data_set: str, folder: Path) -> OptionFile:
    """Another network of BasicSR's on a folder of originals; BasicSR does not write its metrics, only pictures."""
    options = _shipped(OTHERS[name])
    options['path']['pretrain_network_g'] = str(checkpoint)
    del options['val']['metrics']
    return _on(OptionFile(f'{name}_{data_set}', OTHERS[name], options), data_set, folder)


def _on(file: OptionFile, data_set: str, folder: Path) -> OptionFile:
    images = {'name': data_set, 'type': 'HRImageDataset', 'dataroot_gt': str(folder), 'io_backend': {'type': 'disk'}}
    _change(file.options, {'name': file.name, 'datasets': {'test_1': images}, 'val.pbar': False})
    return file
