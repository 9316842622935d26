"""Typed view of the plugin's keys in an option file.

An option file's blocks mix keys of BasicSR with keys of the plugin. Whatever belongs to neither is a typing
error and is refused, for BasicSR would pass over it in silence.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from irnsigma_plugin.checks import number, whole_number
from irnsigma_plugin.sigma import SigmaSampler, check_sigma

BASICSR_TRAIN_KEYS = ('total_iter', 'warmup_iter', 'ema_decay', 'optim_g', 'optim_d', 'scheduler', 'net_d_iters',
                      'net_d_init_iters', 'perceptual_opt', 'gan_opt')
BASICSR_VAL_KEYS = ('val_freq', 'save_img', 'suffix', 'metrics', 'pbar')
FAKE_WEIGHTINGS = ('sigma', 'all')
AMP_MODES = ('off', 'bf16', 'fp16')

Block = TypeVar('Block')


class OptionError(ValueError):
    """A key or value of the option file is wrong."""


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

    mixture_opt: Mapping[str, Any]
    sigma: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fake_weighting: str = 'sigma'
    grad_clip: float | None = None
    max_skipped_steps: int = 10
    amp: str = 'off'
    accumulate: int = 1
    channels_last: bool = False
    compile: bool = False
    checkpoint_blocks: bool = False

    def __post_init__(self) -> None:
        if self.amp is False:  # how YAML reads a plain `off`
            object.__setattr__(self, 'amp', 'off')
        if self.amp not in AMP_MODES:
            raise OptionError(f'train.amp must be one of {list(AMP_MODES)}, but is {self.amp!r}.')
        for name in ('channels_last', 'compile', 'checkpoint_blocks'):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f'train.{name} must be true or false, but is {getattr(self, name)!r}.')
        if self.fake_weighting not in FAKE_WEIGHTINGS:
            raise OptionError(f'train.fake_weighting must be one of {list(FAKE_WEIGHTINGS)}, '
                              f'but is {self.fake_weighting!r}.')
        try:
            if self.grad_clip is not None:
                number('train.grad_clip', self.grad_clip, above=0)
            whole_number('train.max_skipped_steps', self.max_skipped_steps)
            whole_number('train.accumulate', self.accumulate)
        except ValueError as error:
            raise OptionError(str(error)) from None

    def sigma_sampler(self) -> SigmaSampler:
        """The sampler that `train.sigma` describes."""
        if not isinstance(self.sigma, Mapping):
            raise OptionError('train.sigma must be a block such as {strategy: points, values: [0, 0.5, 1]}, but is '
                              f'{self.sigma!r}.')
        check_keys(self.sigma, 'train.sigma', ('strategy', 'values', 'per'))
        try:
            return SigmaSampler(**self.sigma)
        except ValueError as error:
            raise OptionError(f'train.{error}') from error


@dataclasses.dataclass(frozen=True)
class ValOptions:
    """The plugin's keys in `val`.

    Attributes:
        sigmas: The sigma at which every image is restored.
        seed: Seed of the detail's noise; with the image's name it fixes the noise of that image.
        lr_metrics: Metrics of the low-resolution image against bicubic, described as BasicSR's `metrics`.
    """

    sigmas: tuple[float, ...] = (0.0, 0.5, 1.0)
    seed: int = 0
    lr_metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.sigmas, (str, int, float)) or not self.sigmas:
            raise OptionError(f'val.sigmas must be a list such as [0, 0.5, 1], but is {self.sigmas!r}.')
        try:
            object.__setattr__(self, 'sigmas', tuple(check_sigma(sigma) for sigma in self.sigmas))
        except ValueError as error:
            raise OptionError(f'val.sigmas: {error}') from error
        if len(set(self.sigmas)) < len(self.sigmas):
            raise OptionError(f'val.sigmas must differ from each other, but are {list(self.sigmas)}.')
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise OptionError(f'val.seed must be an integer, but is {self.seed!r}.')


def read_train_options(opt: Mapping[str, Any]) -> TrainOptions:
    """Read and check `train` and what must agree with it.

    Args:
        opt: The whole option file.

    Raises:
        OptionError: A key is unknown or missing, or a value is wrong.
    """
    train = opt['train']
    if not train.get('mixture_opt'):
        raise OptionError('train.mixture_opt is missing: it names the loss, for example {type: MixtureLoss}.')
    options = _read(TrainOptions, train, 'train', BASICSR_TRAIN_KEYS)
    adversarial = options.mixture_opt.get('distribution', 'adversarial') == 'adversarial'
    needs = {'network_d': bool(opt.get('network_d')), 'train.gan_opt': bool(train.get('gan_opt')),
             'train.optim_d': bool(train.get('optim_d')), 'distribution: adversarial': adversarial}
    if len(set(needs.values())) > 1:
        absent = [name for name, present in needs.items() if not present]
        raise OptionError(f'An adversarial loss needs {", ".join(needs)}; missing: {", ".join(absent)}. Without a '
                          'discriminator leave out all of them and set train.mixture_opt.distribution: latent.')
    _check_patch_size(opt)
    return options


def read_val_options(opt: Mapping[str, Any]) -> ValOptions:
    """Read and check `val`. Errors as in :func:`read_train_options`."""
    return _read(ValOptions, opt.get('val') or {}, 'val', BASICSR_VAL_KEYS)


def read_keep_last(opt: Mapping[str, Any]) -> int | None:
    """Read and check `logger.keep_last`: how many of the newest training states stay; none for all."""
    value = opt['logger'].get('keep_last')
    if value is None:
        return None
    try:
        return whole_number('logger.keep_last', value)
    except ValueError as error:
        raise OptionError(str(error)) from None


def check_keys(block: Mapping[str, Any], name: str, known: tuple[str, ...]) -> None:
    """Refuse keys that nothing reads.

    Raises:
        OptionError: Names the first such key, and the nearest known one.
    """
    for key in block:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1)
            hint = f'Did you mean {nearest[0]}? ' if nearest else ''
            raise OptionError(f'Unknown key {name}.{key}. {hint}Known keys: {", ".join(sorted(known))}.')


def _read(cls: type[Block], block: Mapping[str, Any], name: str, basicsr_keys: tuple[str, ...]) -> Block:
    own = tuple(field.name for field in dataclasses.fields(cls))
    check_keys(block, name, own + basicsr_keys)
    # A key that is left empty (`~`) takes its default.
    return cls(**{key: block[key] for key in own if block.get(key) is not None})


def _check_patch_size(opt: Mapping[str, Any]) -> None:
    size = opt.get('datasets', {}).get('train', {}).get('gt_size')
    if size is None:
        return
    scale = opt.get('scale', 1)
    if not isinstance(size, int) or size % scale:
        raise OptionError(f'datasets.train.gt_size must be a multiple of the scale, {scale}, but is {size!r}.')
    expected = (opt.get('network_d') or {}).get('input_size', size)
    if size != expected:
        raise OptionError(f'datasets.train.gt_size is {size}, but network_d.input_size is {expected}: make them equal.')
