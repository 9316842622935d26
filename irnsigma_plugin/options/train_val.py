"""Typed view of the plugin's keys in `train` and `val` of an option file.

These blocks mix keys of BasicSR with keys of the plugin. Whatever belongs to neither is a typing error and is
refused, for BasicSR would pass over it in silence.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from irnsigma_plugin.checks import either, finite, flag, integer, is_whole, iterations, list_of, one_of, whole
from irnsigma_plugin.evaluation.measures import LR_METRICS, hr_metrics
from irnsigma_plugin.losses.mixture_loss import MixtureLoss
from irnsigma_plugin.options import keys
from irnsigma_plugin.options.keys import Key
from irnsigma_plugin.options.rules import anything, block, constructed, default_of, prefixed, refuse, value_at
from irnsigma_plugin.rescaling.precision import PRECISIONS
from irnsigma_plugin.sigma import SigmaSampler, sigma_value

FAKE_WEIGHTINGS = ('sigma', 'all')
AMP_MODES = ('auto', 'off', 'bf16', 'fp16')
_SIGMAS = list_of(sigma_value, '[0, 0.5, 1]')
_AMP = either(False, one_of(*AMP_MODES))  # False: how YAML reads a plain `off`


def _field(*arguments: Any) -> Any:
    """Field of an option key, given by the arguments of :class:`Key`."""
    key = Key(*arguments)
    if key.default is ...:
        return dataclasses.field(metadata={'key': key})
    return dataclasses.field(default_factory=lambda: key.default, metadata={'key': key})


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """The plugin's keys in `train`."""

    mixture_opt: Mapping[str, Any] = _field(anything, 'type and arguments of the loss, see `MixtureLoss`')
    sigma: Mapping[str, Any] = _field(constructed(SigmaSampler), 'arguments of `SigmaSampler`', {})
    fake_weighting: str = _field(
        one_of(*FAKE_WEIGHTINGS), 'weights of restored images for the discriminator: `sigma`, or `all` alike', 'sigma'
    )
    grad_clip: float | None = _field(finite(above=0), "bound of the generator's gradient norm, or none", None)
    max_skipped_steps: int = _field(whole(), 'non-finite steps in a row that end the training', 10)
    amp: str = _field(
        _AMP,
        'precision of the convolutions: float32 (`off`), `bf16`, `fp16` (loss scaled), or `auto`: `bf16` where it is '
        'faster, else `off`',
        'off',
    )
    accumulate: int = _field(whole(), 'parts into which the batch of an iteration is split, one at a time in memory', 1)
    channels_last: bool = _field(flag, 'whether images, G, VGG and a U-Net D keep their channels innermost', False)
    compile: bool | str = _field(
        one_of(False, True, 'blocks'), 'whether torch compiles the generator, or the dense `blocks` in it', False
    )
    cuda_graph: bool = _field(flag, "whether a GPU records the generator's gradients once and replays them", False)
    checkpoint_blocks: bool = _field(flag, 'whether the generator recomputes its blocks in the backward pass', False)

    def __post_init__(self) -> None:
        if self.amp is False:
            object.__setattr__(self, 'amp', 'off')

    def sigma_sampler(self) -> SigmaSampler:
        """The sampler that `train.sigma` describes."""
        return SigmaSampler(**self.sigma)


@dataclasses.dataclass(frozen=True)
class ValOptions:
    """The plugin's keys in `val`."""

    sigmas: tuple[float, ...] = _field(_SIGMAS, 'the sigma at which every image is restored', (0.0, 0.5, 1.0))
    seed: int = _field(integer, "seed of the detail's noise; with the image's name it fixes the noise of that image", 0)
    precision: str = _field(one_of(*PRECISIONS), 'of the convolutions; `auto`: bf16 where it is faster', 'fp32')
    lr_metrics: Mapping[str, Any] = _field(
        keys.LR_METRICS, 'metrics of the lr image against bicubic, as `metrics` of the restored one; or `paper`', {}
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, 'sigmas', tuple(float(sigma) for sigma in self.sigmas))


def _keys(cls: type) -> dict[str, Key]:
    return {field.name: field.metadata['key'] for field in dataclasses.fields(cls)}


#: All keys of `train` and `val`, BasicSR's and the plugin's.
TRAIN = {**_keys(TrainOptions), **keys.TRAIN}
VAL = {**_keys(ValOptions), **keys.VAL}


def expand_metrics(opt: Any) -> None:
    """Put what they stand for in the place of `metrics: paper`, `paper+dists` and `lr_metrics: paper` in `val`."""
    val, scale = value_at(opt, 'val'), value_at(opt, 'scale')
    if isinstance(val, dict):
        scale = scale if is_whole(scale) else 1
        hr_sets = {('metrics', f'paper{end}'): hr_metrics(scale, dists=bool(end)) for end in ('', '+dists')}
        for (key, name), metrics in {**hr_sets, ('lr_metrics', 'paper'): LR_METRICS}.items():
            if val.get(key) == name:
                val[key] = copy.deepcopy(metrics)


def read_train_options(opt: Mapping[str, Any]) -> TrainOptions:
    """Read and check `train` of an option file and what must agree with it; an OptionError names all faults."""
    refuse(train_faults(opt))
    return TrainOptions(**_given(TrainOptions, opt['train']))


def read_val_options(opt: Mapping[str, Any]) -> ValOptions:
    """Read and check `val` of an option file, with metrics in their long form; an OptionError names all faults."""
    expand_metrics(opt)
    refuse(val_faults(opt))
    return ValOptions(**_given(ValOptions, opt.get('val') or {}))


def read_keep_last(opt: Mapping[str, Any]) -> int | None:
    """Read and check `logger.keep_last`: how many of the newest training states stay; none for all."""
    value = value_at(opt, 'logger.keep_last')
    refuse(keys.LOGGER['keep_last']('logger.keep_last', value))
    return value


def _given(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The plugin's keys without those that are left empty (`~`), which take their defaults."""
    return {key: values[key] for key in _keys(cls) if values.get(key) is not None}


def train_faults(opt: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with `train`, in itself and beside `network_d` and the training set."""
    train = opt['train']
    yield from block(TRAIN, hints={'pixel_opt': 'its place is taken by mixture_opt'})('train', train)
    if isinstance(train, Mapping):
        if not train.get('mixture_opt'):
            yield 'train.mixture_opt is missing: it names the loss, for example {type: MixtureLoss}.'
        yield from _adversarial_faults(opt, train)
        yield from _cuda_graph_faults(opt, train)
        yield from _schedule_faults(train)
    size, input_size = value_at(opt, 'datasets.train.gt_size'), value_at(opt, 'network_d.input_size')
    yield from prefixed('datasets.train', keys.patch_faults(size, opt.get('scale')))
    yield from input_size_faults(size, input_size)


def recompute_faults(net: Any) -> Iterator[str]:
    """A network, if there is one, has to be able to do what `train.checkpoint_blocks: true` asks for."""
    if getattr(net, 'checkpoint_blocks', False) is None:
        yield f'train.checkpoint_blocks: {type(net).__name__} cannot recompute blocks; leave it out, or use accumulate.'


def input_size_faults(gt_size: Any, input_size: Any) -> Iterator[str]:
    """A discriminator of fixed size takes patches of that size only."""
    if gt_size is not None and input_size is not None and gt_size != input_size:
        yield f'datasets.train.gt_size is {gt_size}, but network_d.input_size is {input_size}: make them equal.'


def val_faults(opt: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with `val`."""
    val = opt.get('val') or {}
    yield from block(VAL)('val', val)
    if value_at(val, 'lr_metrics') and not value_at(val, 'metrics'):
        yield 'val.lr_metrics needs val.metrics: without them nothing is measured.'
    sigmas = value_at(val, 'sigmas')
    if isinstance(sigmas, (list, tuple)) and any(sigmas.count(value) > 1 for value in sigmas):
        yield f'val.sigmas must differ from each other, but are {list(sigmas)}.'


def _adversarial_faults(opt: Mapping[str, Any], train: Mapping[str, Any]) -> Iterator[str]:
    mixture: Any = train.get('mixture_opt')
    needs = {'network_d': opt.get('network_d'), **{f'train.{key}': train.get(key) for key in ('gan_opt', 'optim_d')}}
    if value_at(mixture, 'type') == MixtureLoss.__name__:
        distribution = mixture.get('distribution', default_of(MixtureLoss, 'distribution'))
        needs['distribution: adversarial'] = distribution == 'adversarial'
    absent = [name for name, present in needs.items() if not present]
    if 0 < len(absent) < len(needs):
        remedy = 'leave out all of them and set train.mixture_opt.distribution: latent.'
        listed = f'{", ".join(needs)}; missing: {", ".join(absent)}'
        yield f'An adversarial loss needs {listed}. Without a discriminator {remedy}'
    for key in ('net_d_iters', 'net_d_init_iters') if len(absent) == len(needs) else ():
        if train.get(key) not in (None, TRAIN[key].default):
            yield f'train.{key} is {train[key]}, but there is no network_d: leave it out.'


def _cuda_graph_faults(opt: Mapping[str, Any], train: Mapping[str, Any]) -> Iterator[str]:
    possible = {'accumulate': (None, 1), 'checkpoint_blocks': (None, False), 'amp': (None, False, *AMP_MODES[:-1])}
    others = [f'train.{key}: {train[key]}' for key, values in possible.items() if train.get(key) not in values]
    others += ['--launcher'] * bool(opt.get('dist'))
    if others and train.get('cuda_graph') is True:
        yield f'train.cuda_graph: true does not work with {", ".join(others)}. Leave out the one or the other.'


def _schedule_faults(train: Mapping[str, Any]) -> Iterator[str]:
    scheduler: Any = train.get('scheduler')
    total: Any = train.get('total_iter')
    if any(keys.SCHEDULER('', scheduler)) or any(iterations()('', total)):
        return
    parts = 'periods' if 'periods' in scheduler else 'restarts'
    if len(scheduler.get(parts, (0,))) != len(scheduler.get('restart_weights', (1,))):
        yield f'train.scheduler: {parts} and restart_weights must be of the same length.'
    if parts == 'periods' and sum(scheduler['periods']) < total - 1:
        given = f'train.scheduler.periods add up to {sum(scheduler["periods"])} iterations'
        yield f'{given}, but train.total_iter is {total}: make them last to the end.'
