import copy

import pytest
import yaml

from irnsigma_plugin.options.rules import OptionError
from irnsigma_plugin.options.train_val import read_train_options, read_val_options

IRN_SIGMA = {
    'scale': 4,
    'datasets': {'train': {'gt_size': 144}},
    'network_d': {'type': 'IRNDiscriminator', 'input_size': 144},
    'train': {
        'mixture_opt': {'type': 'MixtureLoss'},
        'sigma': {'strategy': 'points', 'values': [0, 1], 'per': 'batch'},
        'fake_weighting': 'all',
        'grad_clip': 10,
        'max_skipped_steps': 5,
        'total_iter': 400000,
        'ema_decay': 0.999,
        'optim_g': {'type': 'Adam', 'lr': 1e-4},
        'optim_d': {'type': 'Adam', 'lr': 1e-4},
        'gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla'},
        'perceptual_opt': {'type': 'PerSamplePerceptualLoss'},
        'net_d_init_iters': 5000,
    },
    'val': {
        'sigmas': [0, 0.25, 1],
        'seed': 7,
        'lr_metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}},
        'val_freq': 5000,
        'save_img': False,
        'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}},
    },
}
IRN = {'train': {'mixture_opt': {'type': 'MixtureLoss', 'distribution': 'latent'}}}
MISSING = object()


def changed(opt, path, value):
    """A copy of the options with one key, such as `train.sigma.per`, set or left out."""
    opt = copy.deepcopy(opt)
    *parents, key = path.split('.')
    block = opt
    for parent in parents:
        block = block.setdefault(parent, {})
    if value is MISSING:
        del block[key]
    else:
        block[key] = value
    return opt


def read(opt):
    return read_train_options(opt), read_val_options(opt)


def test_values_are_read():
    train, val = read(IRN_SIGMA)
    assert train.mixture_opt == {'type': 'MixtureLoss'}
    assert (train.fake_weighting, train.grad_clip, train.max_skipped_steps) == ('all', 10, 5)
    sampler = train.sigma_sampler()
    assert (sampler.strategy, sampler.values, sampler.per) == ('points', (0, 1), 'batch')
    assert (val.sigmas, val.seed) == ((0, 0.25, 1), 7)
    assert val.lr_metrics == {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}}


@pytest.mark.parametrize(
    'opt',
    [IRN, {**IRN, 'val': None}, {'train': {**IRN['train'], 'sigma': None, 'grad_clip': None}, 'val': {'sigmas': None}}],
)
def test_defaults(opt):
    train, val = read(opt)
    assert (train.fake_weighting, train.grad_clip, train.max_skipped_steps) == ('sigma', None, 10)
    assert train.sigma_sampler().values == (0, 0.5, 1)
    assert (val.sigmas, val.seed, val.precision, val.lr_metrics) == ((0, 0.5, 1), 0, 'fp32', {})


def test_amp_off_as_yaml_reads_it():
    assert read_train_options({'train': {**IRN['train'], 'amp': yaml.safe_load('off')}}).amp == 'off'


def test_empty_blocks_mean_no_discriminator():
    opt = {**IRN, 'network_d': None, 'train': {**IRN['train'], 'gan_opt': None, 'optim_d': None}}
    assert read_train_options(opt).mixture_opt == IRN['train']['mixture_opt']


@pytest.mark.parametrize(
    ('path', 'value', 'message'),
    [
        # Keys that nothing reads, with the nearest one that something does.
        ('train.grad_clipp', 1, r'train\.grad_clipp\. Did you mean grad_clip\?'),
        ('train.fake_weigthing', 'all', r'train\.fake_weigthing\. Did you mean fake_weighting\?'),
        ('train.net_d_init_iter', 1, r'train\.net_d_init_iter\. Did you mean net_d_init_iters\?'),
        ('train.pixel_opt', {}, r'train\.pixel_opt: its place is taken by mixture_opt'),
        ('train.zzz', 1, r'train\.zzz\. Known keys: accumulate, .*ema_decay, .*mixture_opt'),
        ('train.sigma.value', [1], r'train\.sigma\.value\. Did you mean values\?'),
        ('val.sigma', [0], r'val\.sigma\. Did you mean sigmas\?'),
        ('val.metric', {}, r'val\.metric\. Did you mean metrics\?'),
        # Wrong values.
        ('train.mixture_opt', MISSING, r'train\.mixture_opt is missing.*MixtureLoss'),
        ('train.mixture_opt', None, r'train\.mixture_opt is missing.*MixtureLoss'),
        ('train.fake_weighting', 'none', r"train\.fake_weighting .*'sigma', 'all'.*'none'"),
        ('train.grad_clip', 0, r'train\.grad_clip .*more than 0.*0'),
        ('train.grad_clip', float('nan'), r'train\.grad_clip .*more than 0.*nan'),
        ('train.grad_clip', '1e1', r"train\.grad_clip .*more than 0.*'1e1'.*!!float"),
        ('train.max_skipped_steps', 0, r'train\.max_skipped_steps .*1 or more.*0'),
        ('train.max_skipped_steps', '5', r"train\.max_skipped_steps .*1 or more.*'5'"),
        ('train.max_skipped_steps', 2.5, r'train\.max_skipped_steps .*2\.5'),
        ('train.amp', 'half', r"train\.amp .*'off', 'bf16', 'fp16'.*'half'"),
        ('train.amp', True, r'train\.amp .*True'),
        ('train.accumulate', 0, r'train\.accumulate .*1 or more.*0'),
        ('train.channels_last', 1, r'train\.channels_last must be true or false, but is 1'),
        ('train.compile', 'yes', r"train\.compile must be one of \[False, True, 'blocks'\], but is 'yes'"),
        ('train.cuda_graph', 1, r'train\.cuda_graph must be true or false, but is 1'),
        ('train.checkpoint_blocks', 'no', r"train\.checkpoint_blocks must be true or false, but is 'no'"),
        ('train.sigma', 'uniform', r"train\.sigma .*'uniform'"),
        ('train.sigma.strategy', 'gauss', r"train\.sigma.*strategy.*'gauss'"),
        ('train.sigma.values', [2], r'train\.sigma.*2'),
        ('train.sigma.values', 0.5, r'train\.sigma.*0\.5'),
        ('val.sigmas', 0.5, r'val\.sigmas .*list.*0\.5'),
        ('val.sigmas', [], r'val\.sigmas .*list.*\[\]'),
        ('val.sigmas', '0 1', r"val\.sigmas .*list.*'0 1'"),
        ('val.sigmas', [0, 1.2], r'val\.sigmas\[1\]: .*1\.2'),
        ('val.sigmas', [0, 'a'], r"val\.sigmas\[1\]: .*'a'"),
        ('val.sigmas', [0, 1, 0], r'val\.sigmas .*differ.*0'),
        ('val.seed', 1.5, r'val\.seed .*integer.*1\.5'),
        ('val.precision', 'half', r"val\.precision .*'auto', 'fp32', 'bf16', 'fp16'.*'half'"),
        ('val.seed', True, r'val\.seed .*integer.*True'),
        # What must agree with each other.
        ('network_d', MISSING, r'missing: network_d\.'),
        ('network_d', None, r'missing: network_d\.'),
        ('train.gan_opt', MISSING, r'missing: train\.gan_opt\.'),
        ('train.optim_d', None, r'missing: train\.optim_d\.'),
        ('train.mixture_opt.distribution', 'latent', r'missing: distribution: adversarial'),
        ('datasets.train.gt_size', 146, r'datasets\.train\.gt_size .*multiple of the scale, 4.*146'),
        ('datasets.train.gt_size', 128, r'datasets\.train\.gt_size is 128.*network_d\.input_size is 144'),
    ],
)
def test_wrong_options_are_named(path, value, message):
    with pytest.raises(OptionError, match=message):
        read(changed(IRN_SIGMA, path, value))


@pytest.mark.parametrize(
    ('path', 'value', 'named'),
    [
        ('train.accumulate', 2, r'train\.accumulate: 2'),
        ('train.checkpoint_blocks', True, r'train\.checkpoint_blocks: True'),
        ('train.amp', 'fp16', r'train\.amp: fp16'),
        ('dist', True, '--launcher'),
    ],
)
def test_what_cannot_be_recorded_as_a_cuda_graph_is_named(path, value, named):
    recorded = changed(IRN_SIGMA, 'train.cuda_graph', True)
    for harmless in (
        ('train.accumulate', 1),
        ('train.amp', 'bf16'),
        ('train.amp', 'auto'),
        ('dist', False),
        ('train.compile', 'blocks'),
    ):
        read(changed(recorded, *harmless))
    read(changed(IRN_SIGMA, path, value))
    with pytest.raises(OptionError, match=rf'^train\.cuda_graph: true does not work with {named}\. Leave out'):
        read(changed(recorded, path, value))


@pytest.mark.parametrize(('key', 'default'), [('net_d_iters', 1), ('net_d_init_iters', 0)])
def test_iterations_of_a_discriminator_need_one(key, default):
    for harmless in (default, None):
        read(changed(IRN, f'train.{key}', harmless))
    with pytest.raises(OptionError, match=rf'^train\.{key} is 2, but there is no network_d: leave it out\.$'):
        read(changed(IRN, f'train.{key}', 2))


def test_all_faults_of_a_block_are_in_one_message():
    opt = changed(changed(IRN_SIGMA, 'train.grad_clip', 0), 'train.sigma.per', 'image')
    with pytest.raises(OptionError, match=r'has 2 faults:\n  train\.sigma\.per .*\n  train\.grad_clip '):
        read_train_options(opt)


def test_an_adversarial_loss_without_discriminator_says_what_to_do():
    message = 'missing: network_d, train.gan_opt, train.optim_d.*distribution: latent'
    with pytest.raises(OptionError, match=message):
        read_train_options({'train': {'mixture_opt': {'type': 'MixtureLoss'}}})
