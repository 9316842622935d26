"""Typed view of the plugin's keys in `train` and `val` of an option file.

These blocks mix keys of BasicSR with keys of the plugin. Whatever belongs to neither is a typing error and is
refused, for BasicSR would pass over it in silence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from irnsigma_plugin.options.keys import (
    DEFAULT_PATCH,
    GAN_OPT,
    METRICS,
    MIXTURE_OPT,
    OPTIMIZER,
    PERCEPTUAL_OPT,
    SCHEDULER,
    SIGMA,
    patch_size,
    sigma_value,
)
from irnsigma_plugin.options.rules import (
    Rule,
    arguments,
    block,
    either,
    flag,
    integer,
    iterations,
    list_of,
    number,
    one_of,
    refuse,
    text,
    value_at,
    whole,
)
from irnsigma_plugin.sigma import SigmaSampler

FAKE_WEIGHTINGS = ('sigma', 'all')
AMP_MODES = ('off', 'bf16', 'fp16')

Options = TypeVar('Options')


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

    mixture_opt: Mapping[str, Any] = _key(MIXTURE_OPT)
    sigma: Mapping[str, Any] = _key(arguments(SIGMA), {})
    fake_weighting: str = _key(one_of(*FAKE_WEIGHTINGS), 'sigma')
    grad_clip: float | None = _key(number(above=0), None)
    max_skipped_steps: int = _key(whole(), 10)
    amp: str = _key(either(one_of(False), one_of(*AMP_MODES)), 'off')
    accumulate: int = _key(whole(), 1)
    channels_last: bool = _key(flag, False)
    compile: bool = _key(flag, False)
    checkpoint_blocks: bool = _key(flag, False)

    def __post_init__(self) -> None:
        if self.amp is False:  # how YAML reads a plain `off`
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
    lr_metrics: Mapping[str, Any] = _key(METRICS, {})

    def __post_init__(self) -> None:
        object.__setattr__(self, 'sigmas', tuple(float(sigma) for sigma in self.sigmas))


def _rules(cls: type) -> dict[str, Rule]:
    return {field.name: field.metadata['rule'] for field in dataclasses.fields(cls)}


BASICSR_TRAIN_KEYS = {
    'total_iter': iterations(),
    'warmup_iter': iterations(-1),
    'ema_decay': number(smallest=0, largest=1),
    'optim_g': OPTIMIZER,
    'optim_d': OPTIMIZER,
    'scheduler': SCHEDULER,
    'net_d_iters': whole(),
    'net_d_init_iters': iterations(0),
    'perceptual_opt': PERCEPTUAL_OPT,
    'gan_opt': GAN_OPT,
}
BASICSR_VAL_KEYS = {'val_freq': iterations(), 'save_img': flag, 'suffix': text, 'metrics': METRICS, 'pbar': flag}
_TRAIN = block({**_rules(TrainOptions), **BASICSR_TRAIN_KEYS}, {'pixel_opt': 'its place is taken by mixture_opt'})
_VAL = block({**_rules(ValOptions), **BASICSR_VAL_KEYS})


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
        yield from _sigma_faults(train.get('sigma') or {})
        yield from _adversarial_faults(opt, train)
        yield from _schedule_faults(train)
    yield from _patch_faults(opt)


def val_faults(opt: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with `val`."""
    val = opt.get('val') or {}
    yield from _VAL('val', val)
    if value_at(val, 'lr_metrics') and not value_at(val, 'metrics'):
        yield 'val.lr_metrics needs val.metrics: without them nothing is measured.'
    sigmas = value_at(val, 'sigmas')
    if isinstance(sigmas, (list, tuple)) and any(sigmas.count(value) > 1 for value in sigmas):
        yield f'val.sigmas must differ from each other, but are {list(sigmas)}.'


def _sigma_faults(values: Any) -> Iterator[str]:
    if not any(arguments(SIGMA)('train.sigma', values)):
        try:
            SigmaSampler(**values)
        except ValueError as error:
            yield f'train.{error}'


def _adversarial_faults(opt: Mapping[str, Any], train: Mapping[str, Any]) -> Iterator[str]:
    mixture = train.get('mixture_opt')
    needs = {
        'network_d': bool(opt.get('network_d')),
        'train.gan_opt': bool(train.get('gan_opt')),
        'train.optim_d': bool(train.get('optim_d')),
    }
    if value_at(mixture, 'type') == 'MixtureLoss':
        needs['distribution: adversarial'] = mixture.get('distribution', 'adversarial') == 'adversarial'
    if len(set(needs.values())) > 1:
        absent = [name for name, present in needs.items() if not present]
        yield (
            f'An adversarial loss needs {", ".join(needs)}; missing: {", ".join(absent)}. Without a '
            'discriminator leave out all of them and set train.mixture_opt.distribution: latent.'
        )


def _schedule_faults(train: Mapping[str, Any]) -> Iterator[str]:
    scheduler, total = train.get('scheduler'), train.get('total_iter')
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


def _patch_faults(opt: Mapping[str, Any]) -> Iterator[str]:
    size = value_at(opt, 'datasets.train.gt_size')
    yield from patch_size('datasets.train', size, opt.get('scale'))
    default = DEFAULT_PATCH if value_at(opt, 'network_d.type') == 'IRNDiscriminator' else None
    expected = value_at(opt, 'network_d.input_size') or default
    if size is not None and expected is not None and size != expected:
        yield f'datasets.train.gt_size is {size}, but network_d.input_size is {expected}: make them equal.'
