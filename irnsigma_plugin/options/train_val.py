"""Typed view of the plugin's keys in `train` and `val` of an option file.

These blocks mix keys of BasicSR with keys of the plugin. Whatever belongs to neither is a typing error and is
refused, for BasicSR would pass over it in silence. Networks, losses and metrics are judged by
:mod:`irnsigma_plugin.options.check`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from irnsigma_plugin.checks import Rule, each, finite, flag, integer, is_whole, iterations, list_of, one_of, whole
from irnsigma_plugin.evaluation.measures import LR_METRICS, hr_metrics
from irnsigma_plugin.losses.mixture_loss import MixtureLoss
from irnsigma_plugin.options.keys import SCHEDULER, TRAIN, VAL, patch_faults
from irnsigma_plugin.options.rules import anything, block, constructed, default_of, prefixed, refuse, value_at
from irnsigma_plugin.sigma import SigmaSampler, sigma_value

FAKE_WEIGHTINGS = ('sigma', 'all')
AMP_MODES = ('off', 'bf16', 'fp16')

Options = TypeVar('Options')


def _amp(name: str, value: Any) -> Iterator[str]:
    return iter(()) if value is False else one_of(*AMP_MODES)(name, value)  # False: how YAML reads a plain `off`


def _key(rule: Rule, default: Any = dataclasses.MISSING) -> Any:
    """Field of an option key: what its value may be, and its default. A default block is an empty one."""
    metadata = {'rule': rule}
    if default == {}:
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """The plugin's keys in `train`.

    Attributes:
        mixture_opt: Type and arguments of the loss, see :class:`MixtureLoss`.
        sigma: Arguments of :class:`SigmaSampler`.
        fake_weighting: Which restored images the discriminator learns to tell from real ones: each with its
            sigma as weight (`sigma`), or all alike (`all`).
        grad_clip: Bound of the generator's gradient norm, or none.
        max_skipped_steps: Non-finite steps in a row that end the training.
        amp: Precision of the convolutions: float32 (`off`), `bf16`, or `fp16` with a scaled loss.
        accumulate: Number of parts into which the batch of an iteration is split, one at a time in memory.
        channels_last: Whether images, the generator and VGG keep their channels innermost.
        compile: Whether torch compiles the generator.
        checkpoint_blocks: Whether the generator recomputes its blocks in the backward pass instead of keeping them.
    """

    mixture_opt: Mapping[str, Any] = _key(anything)
    sigma: Mapping[str, Any] = _key(constructed(SigmaSampler), {})
    fake_weighting: str = _key(one_of(*FAKE_WEIGHTINGS), 'sigma')
    grad_clip: float | None = _key(finite(above=0), None)
    max_skipped_steps: int = _key(whole(), 10)
    amp: str = _key(_amp, 'off')
    accumulate: int = _key(whole(), 1)
    channels_last: bool = _key(flag, False)
    compile: bool = _key(flag, False)
    checkpoint_blocks: bool = _key(flag, False)

    def __post_init__(self) -> None:
        if self.amp is False:
            object.__setattr__(self, 'amp', 'off')

    def sigma_sampler(self) -> SigmaSampler:
        """The sampler that `train.sigma` describes."""
        return SigmaSampler(**self.sigma)


@dataclasses.dataclass(frozen=True)
class ValOptions:
    """The plugin's keys in `val`.

    Attributes:
        sigmas: The sigma at which every image is restored.
        seed: Seed of the detail's noise; with the image's name it fixes the noise of that image.
        lr_metrics: Metrics of the low-resolution image against bicubic, described as BasicSR's `metrics`.
    """

    sigmas: tuple[float, ...] = _key(list_of(sigma_value, '[0, 0.5, 1]'), (0.0, 0.5, 1.0))
    seed: int = _key(integer, 0)
    lr_metrics: Mapping[str, Any] = _key(each(anything), {})

    def __post_init__(self) -> None:
        object.__setattr__(self, 'sigmas', tuple(float(sigma) for sigma in self.sigmas))


def _rules(cls: type) -> dict[str, Rule]:
    return {field.name: field.metadata['rule'] for field in dataclasses.fields(cls)}


_TRAIN = block({**_rules(TrainOptions), **TRAIN}, {'pixel_opt': 'its place is taken by mixture_opt'})
_VAL = block({**_rules(ValOptions), **VAL})


def expand_metrics(opt: Any) -> None:
    """Put what they stand for in the place of `metrics: paper` and `lr_metrics: paper` in `val` of an option file."""
    val, scale = value_at(opt, 'val'), value_at(opt, 'scale')
    if isinstance(val, dict):
        for key, metrics in (('metrics', hr_metrics(scale if is_whole(scale) else 1)), ('lr_metrics', LR_METRICS)):
            if val.get(key) == 'paper':
                val[key] = copy.deepcopy(metrics)


def read_train_options(opt: Mapping[str, Any]) -> TrainOptions:
    """Read and check `train` and what must agree with it.

    Args:
        opt: The whole option file.

    Raises:
        OptionError: Keys are unknown or missing, or values are wrong.
    """
    refuse(train_faults(opt))
    return _read(TrainOptions, opt['train'])


def read_val_options(opt: Mapping[str, Any]) -> ValOptions:
    """Read and check `val`. Errors as in :func:`read_train_options`."""
    refuse(val_faults(opt))
    return _read(ValOptions, opt.get('val') or {})


def read_keep_last(opt: Mapping[str, Any]) -> int | None:
    """Read and check `logger.keep_last`: how many of the newest training states stay; none for all."""
    value = value_at(opt, 'logger.keep_last')
    if value is not None:
        refuse(whole()('logger.keep_last', value))
    return value


def _read(cls: type[Options], values: Mapping[str, Any]) -> Options:
    # A key that is left empty (`~`) takes its default.
    return cls(**{key: values[key] for key in _rules(cls) if values.get(key) is not None})


def train_faults(opt: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with `train`, in itself and beside `network_d` and the training set."""
    train = opt['train']
    yield from _TRAIN('train', train)
    if isinstance(train, Mapping):
        if not train.get('mixture_opt'):
            yield 'train.mixture_opt is missing: it names the loss, for example {type: MixtureLoss}.'
        yield from _adversarial_faults(opt, train)
        yield from _schedule_faults(train)
    size, input_size = value_at(opt, 'datasets.train.gt_size'), value_at(opt, 'network_d.input_size')
    yield from prefixed('datasets.train', patch_faults(size, opt.get('scale')))
    yield from input_size_faults(size, input_size)


def input_size_faults(gt_size: Any, input_size: Any) -> Iterator[str]:
    """A discriminator of fixed size takes patches of that size only."""
    if gt_size is not None and input_size is not None and gt_size != input_size:
        yield f'datasets.train.gt_size is {gt_size}, but network_d.input_size is {input_size}: make them equal.'


def val_faults(opt: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with `val`."""
    val = opt.get('val') or {}
    yield from _VAL('val', val)
    if value_at(val, 'lr_metrics') and not value_at(val, 'metrics'):
        yield 'val.lr_metrics needs val.metrics: without them nothing is measured.'
    sigmas = value_at(val, 'sigmas')
    if isinstance(sigmas, (list, tuple)) and any(sigmas.count(value) > 1 for value in sigmas):
        yield f'val.sigmas must differ from each other, but are {list(sigmas)}.'


def _adversarial_faults(opt: Mapping[str, Any], train: Mapping[str, Any]) -> Iterator[str]:
    mixture: Any = train.get('mixture_opt')
    needs = {
        'network_d': opt.get('network_d'),
        'train.gan_opt': train.get('gan_opt'),
        'train.optim_d': train.get('optim_d'),
    }
    if value_at(mixture, 'type') == MixtureLoss.__name__:
        distribution = mixture.get('distribution', default_of(MixtureLoss, 'distribution'))
        needs['distribution: adversarial'] = distribution == 'adversarial'
    absent = [name for name, present in needs.items() if not present]
    if 0 < len(absent) < len(needs):
        yield (
            f'An adversarial loss needs {", ".join(needs)}; missing: {", ".join(absent)}. Without a '
            'discriminator leave out all of them and set train.mixture_opt.distribution: latent.'
        )


def _schedule_faults(train: Mapping[str, Any]) -> Iterator[str]:
    scheduler: Any = train.get('scheduler')
    total: Any = train.get('total_iter')
    if any(SCHEDULER('', scheduler)) or any(iterations()('', total)):
        return
    cosine = scheduler['type'] == 'CosineAnnealingRestartLR'
    parts, weights = ('periods', 'restart_weights') if cosine else ('restarts', 'restart_weights')
    if len(scheduler.get(parts, (0,))) != len(scheduler.get(weights, (1,))):
        yield f'train.scheduler: {parts} and {weights} must be of the same length.'
    if cosine and sum(scheduler['periods']) < total - 1:
        yield (
            f'train.scheduler.periods add up to {sum(scheduler["periods"])} iterations, but train.total_iter is '
            f'{total}: make them last to the end.'
        )
