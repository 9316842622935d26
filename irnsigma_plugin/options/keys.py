"""The keys of option files that BasicSR reads itself, or its classes whose signatures do not tell, each with its rule.

Those of the plugin in `train` and `val` are in :mod:`irnsigma_plugin.options.train_val`. Networks, losses, metrics and
data sets own theirs, see :mod:`irnsigma_plugin.checks`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from irnsigma_plugin.checks import (
    Rule,
    each,
    empty_or,
    finite,
    flag,
    is_whole,
    iterations,
    list_of,
    one_of,
    text,
    whole,
)
from irnsigma_plugin.options.rules import NO_HINTS, anything, arguments, block, prefixed, typed, value_at


@dataclasses.dataclass(frozen=True)
class Key:
    """A rule, with the key's meaning in one line, BasicSR's default, and what BasicSR needs it for (train, test)."""

    rule: Rule
    meaning: str
    default: Any = None
    needed: tuple[str, ...] = ()

    def __call__(self, name: str, value: Any) -> Iterator[str]:
        return self.rule(name, value)


ALWAYS = ('train', 'test')


# ------------------------------------------------------------------------------------------- losses and optimisation

GAN_LOSS = {
    'gan_type': Key(one_of('vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge'), 'kind of adversarial loss'),
    'real_label_val': Key(finite(), 'target of real images', 1.0),
    'fake_label_val': Key(finite(), 'target of restored images', 0.0),
    'loss_weight': Key(finite(), "factor of the generator's loss", 1.0),
}
LOSSES = dict.fromkeys(('GANLoss', 'MultiScaleGANLoss'), arguments(GAN_LOSS, needed=['gan_type']))
_ADAM = {
    'lr': finite(above=0),
    'weight_decay': finite(smallest=0),
    'betas': list_of(finite(smallest=0, largest=1), '[0.9, 0.999]', 2, 2),
    'eps': finite(smallest=0),
    **dict.fromkeys(('foreach', 'fused'), empty_or(flag)),
    **dict.fromkeys(('amsgrad', 'maximize', 'capturable', 'differentiable', 'decoupled_weight_decay'), flag),
}
OPTIMIZER = typed(
    {
        'Adam': arguments(_ADAM, needed=['lr']),
        **dict.fromkeys(('AdamW', 'Adamax', 'SGD', 'ASGD', 'RMSprop', 'Rprop'), anything),  # of BasicSR's git master
    }
)
_WEIGHTS = list_of(finite(smallest=0), '[1]')
_MULTI_STEP = {
    'milestones': list_of(iterations(), '[50000, 100000]', 0),
    'gamma': finite(above=0),
    'restarts': list_of(whole(0), '[0]'),
    'restart_weights': _WEIGHTS,
}
_COSINE = {'periods': list_of(iterations(), '[400000]'), 'restart_weights': _WEIGHTS, 'eta_min': finite(smallest=0)}
SCHEDULER = typed(
    {
        **dict.fromkeys(('MultiStepLR', 'MultiStepRestartLR'), arguments(_MULTI_STEP, needed=['milestones'])),
        'CosineAnnealingRestartLR': arguments(_COSINE, needed=['periods']),
    }
)
TRAIN: dict[str, Rule] = {
    'total_iter': Key(iterations(), 'how many iterations', needed=('train',)),
    'warmup_iter': Key(iterations(-1), 'iterations in which the learning rate rises; -1 for none', -1),
    'ema_decay': Key(finite(smallest=0, largest=1), 'decay of averaged weights, which validation then uses', 0),
    'optim_g': Key(OPTIMIZER, 'for example {type: Adam, lr: !!float 1e-4}', needed=('train',)),
    'optim_d': Key(OPTIMIZER, 'the same of the discriminator'),
    'scheduler': Key(SCHEDULER, 'for example {type: MultiStepLR, milestones: [50000], gamma: 0.5}', needed=('train',)),
    'net_d_iters': Key(whole(), "steps of the discriminator to one of the generator's", 1),
    'net_d_init_iters': Key(iterations(0), 'iterations in which the discriminator learns alone', 0),
    'perceptual_opt': Key(anything, 'type and arguments of the perceptual loss'),
    'gan_opt': Key(anything, 'type and arguments of the adversarial loss'),
}

# ------------------------------------------------------------------------------------------- metrics

_METRIC = {
    'better': one_of('higher', 'lower'),
    'crop_border': whole(0),
    'input_order': one_of('HWC', 'CHW'),
    'test_y_channel': flag,
}
METRICS = dict.fromkeys(('calculate_psnr', 'calculate_ssim'), arguments(_METRIC, needed=['crop_border']))
VAL: dict[str, Rule] = {
    'val_freq': Key(iterations(), 'iterations between validations', needed=('train',)),
    'save_img': Key(flag, 'true or false: whether to save the images', needed=ALWAYS),
    'suffix': Key(text, 'end of the names of saved images', "the option file's name"),
    'metrics': Key(each(anything), 'metrics of the restored images, at every sigma; `paper` for the usual ones'),
    'pbar': Key(flag, 'whether to show progress', True),
}

# ------------------------------------------------------------------------------------------- data sets

PHASES = ('train', 'val', 'test')
MAX_CORRUPT = 10
PATCHES: dict[str, Rule] = {
    'gt_size': Key(whole(), 'side of the hr patch in training, a multiple of the scale'),
    'use_hflip': Key(flag, 'whether to mirror half of the patches', True),
    'use_rot': Key(flag, 'whether to flip and transpose half of the patches each', True),
    'max_corrupt': Key(whole(0), 'unreadable images that a training passes over', MAX_CORRUPT),
}
LOADING: dict[str, Rule] = {  # read around a data set: building, sampling, loading
    'type': Key(text, 'the class of the data set'),
    'name': Key(text, 'what to call it'),
    'scale': whole(),  # copied by BasicSR, as is the phase
    'phase': one_of(*PHASES),
    'io_backend': Key(arguments({'type': one_of('disk', 'lmdb')}, needed=['type']), '{type: disk} or {type: lmdb}'),
    'meta_info_file': Key(text, 'list of file names, one to a line'),
    'use_shuffle': Key(flag, 'whether to draw images in random order', True),
    'num_worker_per_gpu': Key(whole(0), 'how many processes read images; 0 for none', needed=('train',)),
    'batch_size_per_gpu': Key(whole(), 'how many images a step takes', needed=('train',)),
    'dataset_enlarge_ratio': Key(finite(above=0), 'repetitions of the images in an epoch', 1),
    'prefetch_mode': Key(one_of('cpu', 'cuda'), '`cuda` sends batches to the GPU ahead of time'),
    'num_prefetch_queue': Key(whole(), 'batches that `prefetch_mode: cpu` keeps', 1),
    'pin_memory': Key(flag, 'whether batches can be sent to a GPU while it works', False),
    'persistent_workers': Key(flag, 'whether worker processes outlive an epoch', False),
}
_IN_UNIT_RANGE = 'the network takes images in [0, 1]; remove it'
_REFUSED = {'mean': _IN_UNIT_RANGE, 'std': _IN_UNIT_RANGE, 'color': 'the network takes RGB; remove it'}
HR_ROOT: dict[str, Rule] = {'dataroot_gt': Key(text, 'folder or LMDB of the hr images')}
LR_ROOT: dict[str, Rule] = {'dataroot_lq': Key(text, 'folder or LMDB of the lr images')}
FILENAMES: dict[str, Rule] = {'filename_tmpl': Key(text, 'name of the lr file, {} for that of the hr file', '{}')}


def data_set_faults(
    opt: Mapping[str, Any],
    own: Mapping[str, Rule],
    needed: tuple[str, ...],
    needed_to_train: tuple[str, ...] = (),
    hints: Mapping[str, str] = NO_HINTS,
) -> Iterator[str]:
    """What is wrong with the options of a data set, as sentences of a class's `check`.

    Args:
        opt: As BasicSR hands them to the class, that is with `type`, and `scale` and `phase`.
        own: Rules of the class's own keys; those that BasicSR reads around it are known here.
        needed: Keys that it needs.
        needed_to_train: Those that it needs in training besides.
        hints: See :func:`~irnsigma_plugin.options.rules.block`.
    """
    training = opt.get('phase') == 'train'
    yield from block({**own, **LOADING}, {**_REFUSED, **hints})('', opt)
    for key in needed + needed_to_train * training:
        if opt.get(key) is None:
            yield f'{key} is missing: a {opt.get("type")} needs it.'
    if training:
        yield from patch_faults(opt.get('gt_size'), opt.get('scale'))
    if opt.get('meta_info_file') is not None and value_at(opt, 'io_backend.type') == 'lmdb':
        yield 'meta_info_file is for io_backend type disk; remove it: an LMDB has its own meta_info.txt.'
    if opt.get('prefetch_mode') == 'cuda' and opt.get('pin_memory') is not True:
        yield 'prefetch_mode: cuda needs pin_memory: true beside it.'
    if opt.get('persistent_workers') is True and (not training or opt.get('num_worker_per_gpu') == 0):
        others = 'remove it; images of validations and tests are read without.'
        remedy = 'set num_worker_per_gpu to 1 or more, or remove it.' if training else others
        yield f'persistent_workers needs workers: {remedy}'


def patch_faults(size: Any, scale: Any) -> Iterator[str]:
    """A patch has to be made of whole lr pixels."""
    if is_whole(size) and is_whole(scale) and size % scale:
        yield f'gt_size must be a multiple of the scale, {scale}, but is {size}.'


def _paired_images(name: str, value: Mapping[str, Any]) -> Iterator[str]:
    needed = 'dataroot_gt', 'dataroot_lq', 'io_backend', 'scale', 'phase'
    own = {**HR_ROOT, **LR_ROOT, **FILENAMES, **PATCHES}
    yield from prefixed(name, data_set_faults(value, own, needed, ('gt_size', 'use_hflip', 'use_rot')))


def _lr_images(name: str, value: Mapping[str, Any]) -> Iterator[str]:
    yield from prefixed(name, data_set_faults(value, LR_ROOT, ('dataroot_lq', 'io_backend')))
    if value.get('phase') == 'train':
        yield f'{name}.type: SingleImageDataset has no originals to train on. Use HRImageDataset or PairedImageDataset.'


DATA_SETS: dict[str, Rule] = {'PairedImageDataset': _paired_images, 'SingleImageDataset': _lr_images}

# ------------------------------------------------------------------------------------------- the rest of a file

#: Rules of BasicSR's classes and functions, by registry and name.
BASICSR: dict[str, Mapping[str, Rule]] = {'arch': {}, 'loss': LOSSES, 'metric': METRICS, 'dataset': DATA_SETS}
#: Types that exist but cannot be used in a block: why.
REFUSED_TYPES: dict[str, Mapping[str, str]] = {
    'train.mixture_opt': {
        loss: f'{loss} is no loss of a rescaling network. Use type: MixtureLoss.'
        for loss in ('L1Loss', 'MSELoss', 'CharbonnierLoss', 'PerceptualLoss', 'GANLoss')
    },
    'train.perceptual_opt': {
        'PerceptualLoss': 'PerceptualLoss averages over the batch, but sigma weights every sample. '
        'Use type: PerSamplePerceptualLoss.'
    },
}
LOGGER: dict[str, Rule] = {
    'print_freq': Key(iterations(), 'iterations between messages', needed=('train',)),
    'save_checkpoint_freq': Key(iterations(), 'iterations between checkpoints', needed=('train',)),
    'keep_last': Key(whole(), 'how many training states are kept; all of them without it'),
    'use_tb_logger': Key(flag, 'true or false: whether to write events for TensorBoard', needed=('train',)),
    'wandb': Key(block({'project': text, 'resume_id': text}), '{project: ..., resume_id: ...} of Weights & Biases'),
}
PATH: dict[str, Rule] = {
    'pretrain_network_g': Key(text, 'checkpoint to start from'),
    'param_key_g': Key(text, 'entry of the checkpoint: `params` or `params_ema`', 'params'),
    'strict_load_g': Key(flag, 'whether it has to fit the network', True),
    'pretrain_network_d': Key(text, 'the same of the discriminator'),
    'param_key_d': text,
    'strict_load_d': flag,
    'resume_state': Key(text, 'training state to go on from; better: --auto_resume'),
    'ignore_resume_networks': Key(list_of(text, '[network_d]', 0), 'networks that a resumed training starts anew'),
    # Set by BasicSR:
    **dict.fromkeys(
        ('experiments_root', 'models', 'training_states', 'log', 'visualization', 'results_root'), anything
    ),
}


def _gpus(name: str, value: Any) -> Iterator[str]:
    return iter(()) if value == 'auto' else whole(0)(name, value)


TOP: dict[str, Rule] = {
    'name': Key(text, 'the name of the folder for what comes out', needed=ALWAYS),
    'model_type': Key(text, 'IRNSigmaModel'),
    'scale': Key(whole(), 'the factor between hr and lr', needed=ALWAYS),
    'num_gpu': Key(_gpus, 'auto, or 0 for the CPU', needed=ALWAYS),
    'manual_seed': Key(whole(0), 'of all random numbers', 'random'),
    'find_unused_parameters': Key(flag, 'for networks of which not every part is used in every step', False),
    'path': Key(block(PATH), 'a block; {} where nothing is to be loaded', needed=ALWAYS),
    'logger': Key(block(LOGGER), 'how often to log and to save', needed=('train',)),
    'dist_params': Key(
        block({'backend': text, 'port': whole()}), '{backend: nccl, port: 29500}, for several processes'
    ),
    # Judged by themselves:
    'imports': Key(anything, 'modules and files to import first: [my_net, ./my_loss.py]'),
    'datasets': Key(anything, 'the images', needed=ALWAYS),
    'network_g': Key(anything, 'for example {type: InvRescaleNet, scale: 4}', needed=ALWAYS),
    'network_d': Key(anything, 'for example {type: IRNDiscriminator}; none without adversarial loss'),
    'train': Key(anything, 'how to train', needed=('train',)),
    'val': Key(anything, 'what to measure', needed=('test',)),
    # Set by BasicSR:
    **dict.fromkeys(('dist', 'rank', 'world_size', 'auto_resume', 'is_train', 'root_path'), anything),
}
#: The tables of BasicSR's keys, by the dotted name of the block.
TABLES: dict[str, Mapping[str, Rule]] = {
    '': TOP,
    'datasets.train': LOADING,
    'train': TRAIN,
    'val': VAL,
    'path': PATH,
    'logger': LOGGER,
}
