"""The keys of option files that BasicSR reads itself, or its classes whose signatures do not tell, each with its rule.

Those of the plugin in `train` and `val` are in :mod:`irnsigma_plugin.options.train_val`. Networks, losses, metrics and
data sets own theirs, see :mod:`irnsigma_plugin.checks`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from irnsigma_plugin.checks import Rule, each, either, finite, flag, is_whole, iterations, list_of, one_of, text, whole
from irnsigma_plugin.options.rules import anything, block, file_name, join, prefixed, typed, value_at


@dataclasses.dataclass(frozen=True)
class Key:
    """A key and what there is to know of it; one that is left empty (`~`) counts as absent."""

    rule: Rule
    meaning: str = ''  # in one line; empty for keys that BasicSR sets, or that are like the one before
    default: Any = ...  # `...` where there is none
    needed: tuple[str, ...] = ()  # for 'train' or 'test', where BasicSR would end with a KeyError without it

    def __call__(self, name: str, value: Any) -> Iterator[str]:
        return iter(()) if value is None else self.rule(name, value)


ALWAYS = ('train', 'test')
TRAINING = ('train',)


def missing(name: str, keys: Mapping[str, Key], value: Any, training: bool, reason: str = '') -> Iterator[str]:
    """Keys that a block, if it is one, needs in training or otherwise."""
    for key, known in keys.items() if isinstance(value, Mapping) else ():
        if ('train' if training else 'test') in known.needed and value.get(key) is None:
            yield f'{join(name, key)} is missing: {reason or known.meaning}.'


GAN_LOSS = {
    'gan_type': Key(one_of('vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge'), 'kind of adversarial loss'),
    'real_label_val': Key(finite(), 'target of real images', 1.0),
    'fake_label_val': Key(finite(), 'target of restored images', 0.0),
    'loss_weight': Key(finite(), "factor of the generator's loss", 1.0),
}
_GAN_LOSS = block({name: key.rule for name, key in GAN_LOSS.items()}, ['gan_type'])  # to which `~` is a value
_ADAM: dict[str, Rule] = {
    'lr': finite(above=0),
    'weight_decay': finite(smallest=0),
    'betas': list_of(finite(smallest=0, largest=1), '[0.9, 0.999]', 2, 2),
    'eps': finite(smallest=0),
    **dict.fromkeys(('foreach', 'fused'), Key(flag)),
    **dict.fromkeys(('amsgrad', 'maximize', 'capturable', 'differentiable', 'decoupled_weight_decay'), flag),
}
_OTHERS = dict.fromkeys(('AdamW', 'Adamax', 'SGD', 'ASGD', 'RMSprop', 'Rprop'), anything)  # of BasicSR's git master
OPTIMIZER = typed({'Adam': block(_ADAM, ['lr']), **_OTHERS})
_WEIGHTS = list_of(finite(smallest=0), '[1]')
_MULTI_STEP = {
    'milestones': list_of(iterations(), '[50000, 100000]', 0),
    'gamma': finite(above=0),
    'restarts': list_of(whole(0), '[0]'),
    'restart_weights': _WEIGHTS,
}
_COSINE = {'periods': list_of(iterations(), '[400000]'), 'restart_weights': _WEIGHTS, 'eta_min': finite(smallest=0)}
_STEPS = dict.fromkeys(('MultiStepLR', 'MultiStepRestartLR'), block(_MULTI_STEP, ['milestones']))
SCHEDULER = typed({**_STEPS, 'CosineAnnealingRestartLR': block(_COSINE, ['periods'])})
TRAIN: dict[str, Key] = {
    'total_iter': Key(iterations(), 'how many iterations', needed=TRAINING),
    'warmup_iter': Key(iterations(-1), 'iterations in which the learning rate rises; -1 for none', -1),
    'ema_decay': Key(finite(smallest=0, largest=1), 'decay of averaged weights, which validation then uses', 0),
    'optim_g': Key(OPTIMIZER, 'for example {type: Adam, lr: !!float 1e-4}', needed=TRAINING),
    'optim_d': Key(OPTIMIZER, 'the same of the discriminator'),
    'scheduler': Key(SCHEDULER, 'for example {type: MultiStepLR, milestones: [50000], gamma: 0.5}', needed=TRAINING),
    'net_d_iters': Key(whole(), "steps of the discriminator to one of the generator's", 1),
    'net_d_init_iters': Key(iterations(0), 'iterations in which the discriminator learns alone', 0),
    'perceptual_opt': Key(anything, 'type and arguments of the perceptual loss'),
    'gan_opt': Key(anything, 'type and arguments of the adversarial loss'),
}

_METRIC = {
    'better': one_of('higher', 'lower'),
    'crop_border': whole(0),
    'input_order': one_of('HWC', 'CHW'),
    'test_y_channel': flag,
}
METRICS = either('paper', either('paper+dists', each(anything)))
LR_METRICS = either('paper', each(anything))
VAL: dict[str, Key] = {
    'val_freq': Key(iterations(), 'iterations between validations', needed=TRAINING),
    'save_img': Key(flag, 'true or false: whether to save the images', needed=ALWAYS),
    'suffix': Key(text, 'end of the names of saved images; in a test the `name` of the file by default'),
    'metrics': Key(METRICS, 'metrics of the restored images, at every sigma; or `paper`, `paper+dists`'),
    'pbar': Key(flag, 'whether to show progress', True),
}

MAX_CORRUPT = 10
HR_ROOT = {'dataroot_gt': Key(text, 'folder or LMDB of the hr images', needed=ALWAYS)}
LR_ROOT = {'dataroot_lq': Key(text, 'folder or LMDB of the lr images', needed=ALWAYS)}
PATCHES: dict[str, Key] = {
    'gt_size': Key(whole(), 'side of the hr patch in training, a multiple of the scale', needed=TRAINING),
    'use_hflip': Key(flag, 'whether to mirror half of the patches', True),
    'use_rot': Key(flag, 'whether to flip half of the patches upside down, and to transpose half of them', True),
    'max_corrupt': Key(whole(0), 'unreadable images that a training passes over', MAX_CORRUPT),
}
IMAGES: dict[str, Key] = {  # read by every data set
    'io_backend': Key(block({'type': one_of('disk', 'lmdb')}, ['type']), '{type: disk} or {type: lmdb}', ..., ALWAYS),
    'meta_info_file': Key(text, 'list of file names, one to a line'),
    'scale': Key(whole(), needed=ALWAYS),  # copied by BasicSR, as is the phase
    'phase': Key(one_of('train', 'val', 'test'), needed=ALWAYS),
}
LOADING: dict[str, Key] = {  # read around a data set: building, sampling, loading
    'type': Key(text, 'the class of the data set'),
    'name': Key(text, 'what to call the data set', needed=ALWAYS),
    'use_shuffle': Key(flag, 'without effect: images to train on are drawn in random order'),
    'num_worker_per_gpu': Key(whole(0), 'how many processes read images; 0 for none', needed=TRAINING),
    'batch_size_per_gpu': Key(whole(), 'how many images a step takes', needed=TRAINING),
    'dataset_enlarge_ratio': Key(finite(above=0), 'repetitions of the images in an epoch', 1),
    'prefetch_mode': Key(one_of('cpu', 'cuda'), '`cuda` sends batches to the GPU ahead of time; `cpu` has no effect'),
    'num_prefetch_queue': Key(whole(), 'without effect, as `prefetch_mode: cpu`: workers read ahead in any case'),
    'pin_memory': Key(flag, 'whether batches can be sent to a GPU while it works', False),
    'persistent_workers': Key(flag, 'whether worker processes outlive an epoch', False),
}
_IN_UNIT_RANGE = 'the network takes images in [0, 1]; remove it'
_REFUSED = {'mean': _IN_UNIT_RANGE, 'std': _IN_UNIT_RANGE, 'color': 'the network takes RGB; remove it'}


def data_set_faults(opt: Mapping[str, Any], own: Mapping[str, Key], hints: Mapping[str, str] = {}) -> Iterator[str]:
    """What is wrong with the options of a data set, as BasicSR hands them over; `own` are the keys of its class."""
    keys, training = {**own, **IMAGES}, opt.get('phase') == 'train'
    yield from block({**keys, **LOADING}, hints={**_REFUSED, **hints})('', opt)
    yield from missing('', keys, opt, training, f'a {opt.get("type")} needs it')
    if training:
        yield from patch_faults(opt.get('gt_size'), opt.get('scale'))
        if 'dataroot_gt' not in own:
            yield f'type: {opt.get("type")} has no originals to train on. Use HRImageDataset or PairedImageDataset.'
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


SETS = {'train': Key(anything, 'the images to train on', needed=TRAINING)}
_FILENAMES = {'filename_tmpl': Key(text, 'name of the lr file, {} for that of the hr file', '{}')}
_AUGMENTED = {key: dataclasses.replace(PATCHES[key], needed=TRAINING) for key in ('use_hflip', 'use_rot')}
_PAIRS = {**HR_ROOT, **LR_ROOT, **_FILENAMES, **PATCHES, **_AUGMENTED}


def _data_set(own: Mapping[str, Key]) -> Rule:
    return lambda name, value: prefixed(name, data_set_faults(value, own))


#: Rules of BasicSR's classes and functions, by registry and name.
BASICSR: dict[str, dict[str, Rule]] = {
    'arch': {},
    'loss': dict.fromkeys(('GANLoss', 'MultiScaleGANLoss'), _GAN_LOSS),
    'metric': dict.fromkeys(('calculate_psnr', 'calculate_ssim'), block(_METRIC, ['crop_border'])),
    'dataset': {'PairedImageDataset': _data_set(_PAIRS), 'SingleImageDataset': _data_set(LR_ROOT)},
}
#: Types that exist but cannot be used in a block: why.
REFUSED_TYPES: dict[str, Mapping[str, str]] = {
    'train.mixture_opt': dict.fromkeys(
        ('L1Loss', 'MSELoss', 'CharbonnierLoss', 'PerceptualLoss', 'GANLoss'),
        'is no loss of a rescaling network. Use type: MixtureLoss.',
    ),
    'train.perceptual_opt': {
        'PerceptualLoss': 'averages over the batch, but sigma weights every sample. Use type: PerSamplePerceptualLoss.'
    },
}
_WANDB = block({'project': Key(text), 'resume_id': Key(text)})
LOGGER: dict[str, Key] = {
    'print_freq': Key(iterations(), 'iterations between messages', needed=TRAINING),
    'save_checkpoint_freq': Key(iterations(), 'iterations between checkpoints', needed=TRAINING),
    'keep_last': Key(whole(), 'how many training states are kept; all of them without it'),
    'use_tb_logger': Key(flag, 'true or false: whether to write events for TensorBoard', needed=TRAINING),
    'wandb': Key(_WANDB, '{project: ..., resume_id: ...} of Weights & Biases'),
}
PATH: dict[str, Key] = {
    'pretrain_network_g': Key(text, "checkpoint to start from, or a built-in model's name"),
    'param_key_g': Key(text, 'entry of the checkpoint: `params` or `params_ema`; ~ for weights alone', 'params'),
    'strict_load_g': Key(flag, 'whether it has to fit the network', True),
    'pretrain_network_d': Key(text, 'the same of the discriminator'),
    'param_key_d': Key(text),
    'strict_load_d': Key(flag),
    'resume_state': Key(text, 'training state to go on from; better: --auto_resume'),
    'ignore_resume_networks': Key(list_of(text, '[network_d]', 0), 'networks that a resumed training starts anew'),
    **dict.fromkeys(('experiments_root', 'models', 'training_states', 'log'), Key(anything)),  # set by BasicSR
    **dict.fromkeys(('visualization', 'results_root'), Key(anything)),
}


TOP: dict[str, Key] = {
    'name': Key(file_name, 'the name of the folder for what comes out', needed=ALWAYS),
    'model_type': Key(text, 'IRNSigmaModel'),
    'scale': Key(whole(), 'the factor between hr and lr', needed=ALWAYS),
    'num_gpu': Key(either('auto', whole(0)), '`auto`, or 0 for the CPU; several GPUs: --launcher', needed=ALWAYS),
    'manual_seed': Key(whole(0, 2**32 - 1), 'of all random numbers', 'random'),
    'find_unused_parameters': Key(flag, 'for networks of which not every part is used in every step', False),
    'path': Key(block(PATH), 'a block; {} where nothing is to be loaded', needed=ALWAYS),
    'logger': Key(block(LOGGER), 'how often to log and to save', needed=TRAINING),
    'dist_params': Key(block({'backend': Key(text), 'port': Key(whole())}), '{backend: nccl, port: 29500}'),
    # Judged by themselves:
    'imports': Key(anything, 'modules and files to import first: [my_net, ./my_loss.py]'),
    'datasets': Key(each(anything), 'the images', needed=ALWAYS),
    'network_g': Key(anything, 'for example {type: InvRescaleNet, scale: 4}', needed=ALWAYS),
    'network_d': Key(anything, 'for example {type: IRNDiscriminator}; none without adversarial loss'),
    'train': Key(anything, 'how to train', needed=TRAINING),
    'val': Key(anything, 'what to measure', needed=('test',)),
    # Set by BasicSR:
    **dict.fromkeys(('dist', 'rank', 'world_size', 'auto_resume', 'is_train', 'root_path'), Key(anything)),
}
