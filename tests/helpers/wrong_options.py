"""Wrong option files: each is a released one with a single key changed."""

from __future__ import annotations

import copy
from pathlib import Path

from irnsigma_plugin.options.file import read_option_file
from irnsigma_plugin.options.train_val import expand_metrics

OPTION_FILES = sorted((Path(__file__).resolve().parents[2] / 'options').glob('*.yml'))


def read_long(name):
    """An option file of that name, with the long form of its metrics."""
    opt = read_option_file(next(file for file in OPTION_FILES if file.name == name))
    expand_metrics(opt)
    return opt


IRN_SIGMA = read_long('train_IRNsigma_x4.yml')
TEST = read_long('test_IRNsigma_x4.yml')
MISSING = object()
COSINE = {'type': 'CosineAnnealingRestartLR', 'periods': [400000], 'restart_weights': [1]}


#: Dotted key, its wrong value, and words that the message must contain beside the key.
WRONG_TRAINING_FILES = [
    # Keys that nothing reads.
    ('scael', 4, 'Did you mean scale?'),
    ('netwrok_g', {}, 'Did you mean network_g?'),
    ('<<', {}, 'Unknown key <<'),
    ('datasets.train.gt_sise', 144, 'Did you mean gt_size?'),
    ('datasets.train.use_flip', True, 'Did you mean use_hflip?'),
    ('datasets.train.color', 'y', 'the network takes RGB'),
    ('datasets.val.dataroot_lq', 'x', 'use type: PairedImageDataset'),
    ('network_g.growth_channel', 32, 'Did you mean growth_channels?'),
    ('network_g.zzz', 1, 'Known keys: block_num, clamp, growth_channels, scale, sigma_input, subnet.'),
    ('network_d.num_feats', 64, 'Did you mean num_feat?'),
    ('path.pretrained_network_g', 'x', 'Did you mean pretrain_network_g?'),
    ('path.strict_load', True, 'Did you mean strict_load_'),
    ('train.grad_clipp', 10, 'Did you mean grad_clip?'),
    ('train.pixel_opt', {'type': 'L1Loss'}, 'mixture_opt'),
    ('train.sigma.value', [1], 'Did you mean values?'),
    ('train.mixture_opt.lambda_reconstuction', 1, 'Did you mean lambda_reconstruction?'),
    ('train.perceptual_opt.layer_weight', {}, 'Did you mean layer_weights?'),
    ('train.gan_opt.gan_typ', 'vanilla', 'Did you mean gan_type?'),
    ('train.optim_g.beta', [0.9, 0.999], 'Did you mean betas?'),
    ('train.scheduler.milestone', [1], 'Did you mean milestones?'),
    ('val.sigma', [0], 'Did you mean sigmas?'),
    ('val.metrics.lpips.nett', 'alex', 'Did you mean net?'),
    ('val.metrics.psnr.crop_boarder', 4, 'Did you mean crop_border?'),
    ('logger.save_freq', 5000, 'Did you mean '),
    ('dist_params.backand', 'nccl', 'Did you mean backend?'),
    # Keys without which BasicSR stumbles.
    ('name', MISSING, 'is missing'),
    ('model_type', MISSING, 'is missing or no text: IRNSigmaModel'),
    ('model_type', ['IRNSigmaModel'], 'is missing or no text'),
    ('model_type', '', 'is missing or no text'),
    ('num_gpu', MISSING, 'is missing: `auto`'),
    ('scale', None, 'is missing'),
    ('path', None, 'is missing'),
    ('datasets', MISSING, 'is missing'),
    ('datasets.train', MISSING, 'is missing'),
    ('datasets.train.type', MISSING, 'is missing'),
    ('datasets.train.name', MISSING, 'is missing'),
    ('datasets.train.dataroot_lq', None, 'PairedImageDataset needs it'),
    ('datasets.train.io_backend', MISSING, 'is missing'),
    ('datasets.train.batch_size_per_gpu', MISSING, 'is missing'),
    ('datasets.train.gt_size', MISSING, 'is missing'),
    ('network_g', MISSING, 'is missing: for example {type: InvRescaleNet'),
    ('train.mixture_opt', None, 'is missing: it names the loss'),
    ('train.optim_g', MISSING, 'is missing'),
    ('train.optim_g.lr', MISSING, 'is missing'),
    ('train.scheduler.milestones', MISSING, 'is missing'),
    ('train.total_iter', MISSING, 'is missing'),
    ('val.save_img', MISSING, 'is missing'),
    ('val.metrics.psnr.crop_border', MISSING, 'is missing'),
    ('logger', MISSING, 'is missing'),
    ('logger.use_tb_logger', MISSING, 'is missing'),
    # Wrong types and ranges.
    ('name', 2022, 'must be text, in quotes'),
    ('name', 'group/run', 'without /'),
    ('name', '..', 'without /'),
    ('scale', 2.5, 'must be a whole number'),
    ('num_gpu', 'atuo', "must be auto, or a whole number, 0 or more, but got 'atuo'."),
    ('manual_seed', -1, '0 to 4294967295'),
    ('manual_seed', 2**32, '0 to 4294967295'),
    ('datasets', [], 'must be a block'),
    ('datasets.train', 'DIV2K', 'must be a block'),
    ('datasets.train.io_backend.type', 'memcached', "'disk', 'lmdb'"),
    ('datasets.train.num_worker_per_gpu', -1, '0 or more'),
    ('datasets.train.batch_size_per_gpu', '16', "must be a whole number, 1 or more, but got '16'"),
    ('datasets.train.use_rot', 'yes', 'must be true or false'),
    ('datasets.train.prefetch_mode', 'gpu', "'cpu', 'cuda'"),
    ('datasets.train.meta_info_file', 'list.txt', 'an LMDB has its own'),
    ('network_g', 'InvRescaleNet', 'must be a block'),
    ('network_g.type', MISSING, 'is missing, for example InvRescaleNet'),
    ('network_g.scale', 5, 'one of [2, 3, 4, 8]'),
    ('network_g.block_num', 8, 'must be a list such as [8, 8]'),
    ('network_g.block_num', [8, 0], 'each a whole number from 1, but is [8, 0]'),
    ('network_g.block_num', [8, True], 'each a whole number from 1, but is [8, True]'),
    ('network_g.growth_channels', 0, '1 or more'),
    ('network_g.subnet', 'residul', "must be one of ['dense', 'residual'], but is 'residul'"),
    ('network_g.clamp', None, 'must be a number'),
    ('network_d.input_size', 160, 'must be 128 to 159'),
    ('train.sigma.strategy', 'gauss', "'points', 'uniform', 'fixed'"),
    ('train.sigma.values', [0, 1.5], 'from 0 (faithful) to 1 (sharp), but got 1.5'),
    ('train.sigma.per', 'image', "'sample', 'batch'"),
    ('train.mixture_opt.type', 'L1Loss', 'Use type: MixtureLoss'),
    ('train.mixture_opt.lambda_guidance', -16, '0 or more'),
    ('train.mixture_opt.weighting', 'sigmas', "'sigma', 'equal'"),
    ('train.perceptual_opt.type', 'PerceptualLoss', 'Use type: PerSamplePerceptualLoss'),
    ('train.perceptual_opt.vgg_type', 'vgg11', "'vgg16', 'vgg19'"),
    ('train.perceptual_opt.layer_weights', {'conv5_5': 1}, 'is no layer of vgg19; its last convolution is conv5_4'),
    ('train.perceptual_opt.layer_weights', {'conv5_4': 0}, 'more than 0'),
    ('train.gan_opt.gan_type', 'standard', "'vanilla'"),
    ('train.fake_weighting', 'none', "'sigma', 'all'"),
    ('train.grad_clip', float('nan'), 'more than 0'),
    ('train.max_skipped_steps', 0, '1 or more'),
    ('train.optim_g.type', 'Adm', "one of ['Adam'"),
    ('train.optim_g.lr', '1e-4', 'write !!float before a number such as 1e-4'),
    ('train.optim_d.betas', [0.9], 'must be a list such as [0.9, 0.999]'),
    ('train.scheduler.type', 'StepLR', "'MultiStepLR'"),
    ('train.scheduler.gamma', 0, 'more than 0'),
    ('train.total_iter', '4e5', 'write !!float'),
    ('train.total_iter', '250', "but got '250' (text: remove the quotes)."),
    ('train.total_iter', 'many', "but got 'many'."),
    ('train.ema_decay', 999, '1 or less'),
    ('train.net_d_init_iters', -1, '0 or more'),
    ('val', 'none', 'must be a block'),
    ('val.val_freq', 2.5, 'must be a whole number'),
    ('val.sigmas', 0.5, 'must be a list such as [0, 0.5, 1]'),
    ('val.sigmas', [-0.1, 1], 'from 0 (faithful) to 1 (sharp), but got -0.1'),
    ('val.seed', 1.5, 'must be an integer'),
    ('val.metrics', ['psnr'], 'must be paper, or paper+dists, or a block'),
    ('val.metrics', 'papers', "must be paper, or paper+dists, or a block of keys, but is 'papers'."),
    ('val.metrics.psnr.type', MISSING, 'is missing'),
    ('val.metrics.lpips.net', 'alexnet', "'alex', 'vgg', 'squeeze'"),
    ('val.metrics.lpips.better', 'higher', "'lower'"),
    ('val.metrics.lpips.better', MISSING, 'is missing'),
    ('val.lr_metrics.psnr_y.test_y_channel', 'y', 'must be true or false'),
    ('logger.print_freq', 0, '1 or more'),
    # What must agree with each other.
    ('scale', 2, 'make them equal'),
    ('datasets.train.gt_size', 146, 'must be a multiple of the scale, 4, but is 146'),
    ('datasets.train.gt_size', 128, 'network_d.input_size is 144: make them equal'),
    ('datasets.train.type', 'SingleImageDataset', 'no originals to train on'),
    (
        'datasets.test_1',
        {'type': 'HRImageDataset', 'name': 'a', 'dataroot_gt': 'a', 'io_backend': {'type': 'disk'}},
        'a training takes data sets named train and val',
    ),
    ('network_g.block_num', [8], 'must be a list of 2 whole number(s)'),
    ('network_d', MISSING, 'missing: network_d.'),
    ('train.gan_opt', None, 'missing: train.gan_opt.'),
    ('train.mixture_opt.distribution', 'latent', 'missing: distribution: adversarial'),
    ('train.sigma', {'strategy': 'fixed', 'values': [0, 1]}, "'fixed' exactly one"),
    ('train.scheduler', {**COSINE, 'periods': [1000]}, 'train.total_iter is 400000: make them last to the end'),
    ('train.scheduler', {**COSINE, 'restart_weights': [1, 1]}, 'must be of the same length'),
    ('val.sigmas', [0, 1, 0], 'must differ from each other'),
    ('val.metrics', MISSING, 'val.lr_metrics needs val.metrics'),
    ('datasets.train_2', IRN_SIGMA['datasets']['train'], 'a training takes data sets named train and val'),
    ('datasets.val_2', IRN_SIGMA['datasets']['val'], 'is also that of datasets.val'),
]
WRONG_TEST_FILES = [
    ('val', MISSING, 'is missing'),
    ('val.save_img', MISSING, 'is missing'),
    ('datasets.train', TEST['datasets']['test_1'], 'a test takes data sets named test and val'),
    ('datasets.test_1.use_hflip', 0, 'true or false'),
]


def changed(opt, key, value):
    """A copy of the options with one dotted key set or left out."""
    opt = copy.deepcopy(opt)
    *parents, last = key.split('.')
    block = opt
    for parent in parents:
        block = block[parent]
    if value is MISSING:
        del block[last]
    else:
        block[last] = value
    return opt
