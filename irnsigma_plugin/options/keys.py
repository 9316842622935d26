"""The keys of every block that an option file of the plugin is made of, each with its rule.

Blocks of an extension package, and those of BasicSR that are not named here, are not judged. `train` and `val` are
in :mod:`irnsigma_plugin.options.train_val`, where their values are also read. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from irnsigma_plugin.archs.irn_shapes import LEVELS
from irnsigma_plugin.losses.mixture_loss import DISTRIBUTIONS, WEIGHTINGS
from irnsigma_plugin.losses.perceptual_loss import VGG_STAGES, vgg_layers
from irnsigma_plugin.options.rules import (
    Rule,
    anything,
    arguments,
    block,
    each,
    either,
    empty_or,
    flag,
    iterations,
    list_of,
    number,
    one_of,
    text,
    typed,
    value_at,
    whole,
)
from irnsigma_plugin.sigma import GRANULARITIES, STRATEGIES, check_sigma

# ------------------------------------------------------------------------------------------------------ networks

# Sides of IRNDiscriminator's images: five halvings, each rounding down, end at 4 x 4 pixels.
SMALLEST_PATCH, DEFAULT_PATCH, LARGEST_PATCH = 128, 144, 159

INV_RESCALE_NET = {
    'scale': one_of(*LEVELS),
    'block_num': empty_or(list_of(whole(), '[8, 8]')),
    'growth_channels': whole(),
    'clamp': number(above=0),
}
BICUBIC_RESCALE_NET = {'scale': whole()}


def _patch_side(name: str, value: Any) -> Iterator[str]:
    if not is_whole(value) or not SMALLEST_PATCH <= value <= LARGEST_PATCH:
        yield (
            f'{name} must be {SMALLEST_PATCH} to {LARGEST_PATCH} (and gt_size the same), but is {value!r}. '
            'For 256 use VGGStyleDiscriminator, for others UNetDiscriminatorSN.'
        )


IRN_DISCRIMINATOR = {'num_in_ch': whole(), 'num_feat': whole(), 'input_size': _patch_side}

NETWORK_G = typed({'InvRescaleNet': arguments(INV_RESCALE_NET), 'BicubicRescaleNet': arguments(BICUBIC_RESCALE_NET)})
NETWORK_D = typed({'IRNDiscriminator': arguments(IRN_DISCRIMINATOR)})

# ---------------------------------------------------------------------------------------- losses and optimisation


def sigma_value(name: str, value: Any) -> Iterator[str]:
    """A number in [0, 1]."""
    try:
        check_sigma(value)
    except ValueError as error:
        yield f'{name}: {error}'


SIGMA = {
    'strategy': one_of(*STRATEGIES),
    'values': empty_or(list_of(sigma_value, '[0, 0.5, 1]', shortest=0)),
    'per': one_of(*GRANULARITIES),
}

MIXTURE_LOSS = {
    'lambda_reconstruction': number(smallest=0),
    'lambda_guidance': number(smallest=0),
    'lambda_distribution': number(smallest=0),
    'lambda_perceptual': number(smallest=0),
    'weighting': one_of(*WEIGHTINGS),
    'distribution': one_of(*DISTRIBUTIONS),
}
PERCEPTUAL_LOSS = {
    'layer_weights': empty_or(each(number(above=0))),
    'vgg_type': one_of(*VGG_STAGES),
    'weights': one_of('imagenet', 'random'),
}
GAN_LOSS = {
    'gan_type': one_of('vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge'),
    'real_label_val': number(),
    'fake_label_val': number(),
    'loss_weight': number(),
}
_ADAM = {
    'lr': number(above=0),
    'weight_decay': number(smallest=0),
    'betas': list_of(number(smallest=0, largest=1), '[0.9, 0.999]', 2, 2),
    'eps': number(smallest=0),
    'amsgrad': flag,
    'maximize': flag,
    'foreach': empty_or(flag),
    'fused': empty_or(flag),
    'capturable': flag,
    'differentiable': flag,
    'decoupled_weight_decay': flag,
}
_RESTARTS = {'restarts': list_of(whole(0), '[0]'), 'restart_weights': list_of(number(smallest=0), '[1]')}
_MULTI_STEP = {'milestones': list_of(iterations(), '[50000, 100000]', 0), 'gamma': number(above=0), **_RESTARTS}
_COSINE = {
    'periods': list_of(iterations(), '[400000]'),
    'restart_weights': _RESTARTS['restart_weights'],
    'eta_min': number(smallest=0),
}


def _perceptual_loss(name: str, value: Mapping[str, Any]) -> Iterator[str]:
    yield from arguments(PERCEPTUAL_LOSS)(name, value)
    layers, vgg_type = value.get('layer_weights'), value.get('vgg_type', 'vgg19')
    if isinstance(layers, Mapping) and isinstance(vgg_type, str) and vgg_type in VGG_STAGES:
        known = vgg_layers(vgg_type)
        for layer in layers:
            if layer not in known:
                yield f'{name}.layer_weights.{layer} is no layer of {vgg_type}; its last convolution is {known[-3]}.'


MIXTURE_OPT = typed(
    {'MixtureLoss': arguments(MIXTURE_LOSS)},
    refused={
        loss: f'{loss} is no loss of a rescaling network. Use type: MixtureLoss.'
        for loss in ('L1Loss', 'MSELoss', 'CharbonnierLoss', 'PerceptualLoss', 'GANLoss')
    },
)
PERCEPTUAL_OPT = typed(
    {'PerSamplePerceptualLoss': _perceptual_loss},
    refused={
        'PerceptualLoss': 'PerceptualLoss averages over the batch, but sigma weights every sample. '
        'Use type: PerSamplePerceptualLoss.'
    },
)
GAN_OPT = typed({loss: arguments(GAN_LOSS, needed=('gan_type',)) for loss in ('GANLoss', 'MultiScaleGANLoss')})
OPTIMIZER = typed(
    {
        'Adam': arguments(_ADAM, needed=('lr',)),
        **dict.fromkeys(('AdamW', 'Adamax', 'SGD', 'ASGD', 'RMSprop', 'Rprop'), anything),  # of BasicSR's git master
    },
    closed=True,
)
SCHEDULER = typed(
    {
        **dict.fromkeys(('MultiStepLR', 'MultiStepRestartLR'), arguments(_MULTI_STEP, needed=('milestones',))),
        'CosineAnnealingRestartLR': arguments(_COSINE, needed=('periods',)),
    },
    closed=True,
)

# -------------------------------------------------------------------------------------------------------- metrics

_ANY_METRIC = {'better': one_of('higher', 'lower'), 'crop_border': whole(0)}
_PIXEL_METRIC = {**_ANY_METRIC, 'input_order': one_of('HWC', 'CHW'), 'test_y_channel': flag}
LPIPS_NETS = ('alex', 'vgg', 'squeeze')
LPIPS = {**_ANY_METRIC, 'better': one_of('lower'), 'net': one_of(*LPIPS_NETS)}
METRICS = each(
    typed(
        {
            'calculate_psnr': arguments(_PIXEL_METRIC, needed=('crop_border',)),
            'calculate_ssim': arguments(_PIXEL_METRIC, needed=('crop_border',)),
            'calculate_lpips': arguments(
                LPIPS, needed=('better',)
            ),  # BasicSR takes higher for better where it is absent
        }
    )
)

# ------------------------------------------------------------------------------------------------------ data sets

PHASES = ('train', 'val', 'test')
_BACKENDS = {'type': one_of('disk', 'lmdb')}
_LOADING = {  # read by BasicSR around a data set: building, sampling, loading; scale and phase are set by it
    'type': text,
    'name': text,
    'scale': whole(),
    'phase': one_of(*PHASES),
    'io_backend': arguments(_BACKENDS, needed=_BACKENDS),
    'meta_info_file': text,
    'use_shuffle': flag,
    'num_worker_per_gpu': whole(0),
    'batch_size_per_gpu': whole(),
    'dataset_enlarge_ratio': number(above=0),
    'prefetch_mode': one_of('cpu', 'cuda'),
    'num_prefetch_queue': whole(),
    'pin_memory': flag,
    'persistent_workers': flag,
}
MAX_CORRUPT = 10  # unless `max_corrupt` says otherwise
_PATCHES = {'gt_size': whole(), 'use_hflip': flag, 'use_rot': flag, 'max_corrupt': whole(0)}
_IN_UNIT_RANGE = 'the network takes images in [0, 1]; remove it'
_REFUSED = {'mean': _IN_UNIT_RANGE, 'std': _IN_UNIT_RANGE, 'color': 'the network takes RGB; remove it'}

HR_IMAGES = {'dataroot_gt': text, **_PATCHES, **_LOADING}
PAIRED_IMAGES = {'dataroot_gt': text, 'dataroot_lq': text, 'filename_tmpl': text, **_PATCHES, **_LOADING}
LR_IMAGES = {'dataroot_lq': text, **_LOADING}
DATA_SETS = {
    'HRImageDataset': block(
        HR_IMAGES,
        {
            **_REFUSED,
            'filename_tmpl': 'there are no lr files; remove it',
            'dataroot_lq': 'the lr is made from the hr image; remove it, or use type: PairedImageDataset for a stored lr',
        },
    ),
    'PairedImageDataset': block(PAIRED_IMAGES, _REFUSED),
    'SingleImageDataset': block(LR_IMAGES, _REFUSED),
}
_NEEDED = {
    'HRImageDataset': ('dataroot_gt', 'io_backend', 'scale', 'phase'),
    'PairedImageDataset': ('dataroot_gt', 'dataroot_lq', 'io_backend', 'scale', 'phase'),
    'SingleImageDataset': ('dataroot_lq', 'io_backend'),
}
_NEEDED_FOR_PATCHES = {'HRImageDataset': ('gt_size',), 'PairedImageDataset': ('gt_size', 'use_hflip', 'use_rot')}


def data_set(name: str, value: Any) -> Iterator[str]:
    """A data set as BasicSR hands it to its class, that is with `scale` and `phase`."""
    yield from typed(DATA_SETS)(name, value)
    if not isinstance(value, Mapping) or not isinstance(value.get('type'), str) or value['type'] not in DATA_SETS:
        return
    kind, training = value['type'], value.get('phase') == 'train'
    for key in _NEEDED[kind] + (_NEEDED_FOR_PATCHES.get(kind, ()) if training else ()):
        if value.get(key) is None:
            yield f'{name}.{key} is missing: a {kind} needs it.'
    if training and kind == 'SingleImageDataset':
        yield f'{name}.type: SingleImageDataset has no originals to train on. Use HRImageDataset or PairedImageDataset.'
    if training:
        yield from patch_size(name, value.get('gt_size'), value.get('scale'))
    if value.get('meta_info_file') is not None and value_at(value, 'io_backend.type') == 'lmdb':
        yield f'{name}.meta_info_file is for io_backend type disk; remove it: an LMDB has its own meta_info.txt.'
    if value.get('prefetch_mode') == 'cuda' and value.get('pin_memory') is not True:
        yield f'{name}.prefetch_mode: cuda needs pin_memory: true beside it.'
    if value.get('persistent_workers') is True and (not training or value.get('num_worker_per_gpu') == 0):
        yield (
            f'{name}.persistent_workers needs workers: '
            + (
                'set num_worker_per_gpu to 1 or more, or remove it.'
                if training
                else 'remove it; images of validations and tests are read without.'
            )
        )


def patch_size(name: str, size: Any, scale: Any) -> Iterator[str]:
    """A patch of the data set `name` has to be made of whole lr pixels."""
    if is_whole(size) and is_whole(scale) and size % scale:
        yield f'{name}.gt_size must be a multiple of the scale, {scale}, but is {size}.'


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number from 1, so that it can be compared with others."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


# ------------------------------------------------------------------------------------------------ the rest of a file

OWN_TYPES = (
    'InvRescaleNet',
    'BicubicRescaleNet',
    'IRNDiscriminator',
    'MixtureLoss',
    'PerSamplePerceptualLoss',
    'HRImageDataset',
    'calculate_lpips',
)
JUDGED_TYPES = (
    *OWN_TYPES,
    'GANLoss',
    'MultiScaleGANLoss',
    'PairedImageDataset',
    'SingleImageDataset',
    'calculate_psnr',
    'calculate_ssim',
)

LOGGER = {
    'print_freq': iterations(),
    'save_checkpoint_freq': iterations(),
    'keep_last': whole(),
    'use_tb_logger': flag,
    'wandb': block({'project': text, 'resume_id': text}),
}
PATH = {
    'pretrain_network_g': text,
    'param_key_g': text,
    'strict_load_g': flag,
    'pretrain_network_d': text,
    'param_key_d': text,
    'strict_load_d': flag,
    'resume_state': text,
    'ignore_resume_networks': list_of(text, '[network_d]', 0),
    # Set by BasicSR:
    **dict.fromkeys(
        ('experiments_root', 'models', 'training_states', 'log', 'visualization', 'results_root'), anything
    ),
}
TOP: dict[str, Rule] = {
    'name': text,
    'model_type': text,
    'scale': whole(),
    'num_gpu': either(one_of('auto'), whole(0)),
    'manual_seed': whole(0),
    'find_unused_parameters': flag,
    'network_g': NETWORK_G,
    'network_d': NETWORK_D,
    'path': block(PATH),
    'logger': block(LOGGER),
    'dist_params': block({'backend': text, 'port': whole()}),
    # Judged by themselves:
    'imports': anything,
    'datasets': anything,
    'train': anything,
    'val': anything,
    # Set by BasicSR:
    **dict.fromkeys(('dist', 'rank', 'world_size', 'auto_resume', 'is_train', 'root_path'), anything),
}
