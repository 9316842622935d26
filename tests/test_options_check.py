"""Wrong option files: each is a released one with a single key changed, and is refused by name."""

from __future__ import annotations

import copy
import inspect
import os

import pytest
import torch
from basicsr.archs.vgg_arch import NAMES
from basicsr.losses.gan_loss import GANLoss
from helpers.experiment import write_photographs
from helpers.wrong_options import (
    COSINE,
    IRN_SIGMA,
    MISSING,
    OPTION_FILES,
    TEST,
    WRONG_TEST_FILES,
    WRONG_TRAINING_FILES,
    changed,
    read_long,
)

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.archs.rescaling_net import RescalingNet
from irnsigma_plugin.compat.registry import registered
from irnsigma_plugin.evaluation.measures import LR_METRICS, hr_metrics
from irnsigma_plugin.losses.perceptual_loss import VGG_STAGES, vgg_layers
from irnsigma_plugin.options import check, keys
from irnsigma_plugin.options.check import is_training, results_folder
from irnsigma_plugin.options.train_val import expand_metrics, read_val_options
from irnsigma_plugin.sigma import SigmaSampler

REGISTERED = registered()
NOTHING_ELSE = {'datasets': {}, 'train': {}, 'val': {}}  # that would be looked for outside the file


def option_faults(opt, is_train):
    return check.option_faults(opt, is_train, REGISTERED)


def outside_faults(opt, **arguments):
    return check.outside_faults(opt, REGISTERED, **arguments)


def unchecked_blocks(opt):
    return check.unchecked_blocks(opt, REGISTERED)


@pytest.mark.parametrize('file', OPTION_FILES, ids=lambda file: file.stem)
def test_released_option_files_are_good(file):
    opt = read_long(file.name)
    assert option_faults(opt, is_training(opt)) == []
    assert is_training(opt) == file.stem.startswith('train')


@pytest.mark.parametrize(('key', 'value', 'words'), WRONG_TRAINING_FILES)
def test_wrong_training_file(key, value, words):
    faults = option_faults(changed(IRN_SIGMA, key, value), is_train=True)
    assert any(key in fault and words in fault for fault in faults), faults


@pytest.mark.parametrize(
    ('told', 'training'),
    [
        ({}, False),
        ({'is_train': False}, False),
        ({'is_train': True}, True),
        ({'datasets': {'train': {}, 'test_1': {}}}, True),
        ({'datasets': {}}, True),
    ],
)
def test_a_file_of_a_test_may_hold_what_is_left_of_a_training(told, training):
    opt = {'name': 'tiny', 'train': {}, 'datasets': {'test_1': {'name': 'Set5'}}, **told}
    assert is_training(opt) == training
    assert results_folder(opt) == f'{"experiments" if training else "results"}/tiny'


def test_prefetching_to_a_gpu_needs_one():
    options = changed(changed(IRN_SIGMA, 'datasets.train.prefetch_mode', 'cuda'), 'datasets.train.pin_memory', True)
    assert option_faults(options, is_train=True) == []
    (fault,) = option_faults({**options, 'num_gpu': 0}, is_train=True)
    assert 'datasets.train.prefetch_mode: cuda needs a GPU' in fault


def test_prefetching_to_a_gpu_needs_pinned_memory():
    options = changed(changed(IRN_SIGMA, 'datasets.train.prefetch_mode', 'cuda'), 'datasets.train.pin_memory', False)
    faults = option_faults(options, is_train=True)
    assert any('datasets.train.prefetch_mode' in fault and 'needs pin_memory: true' in fault for fault in faults)


@pytest.mark.parametrize(
    ('phase', 'workers', 'faults'),
    [
        (
            'train',
            0,
            ['datasets.train.persistent_workers needs workers: set num_worker_per_gpu to 1 or more, or remove it.'],
        ),
        ('train', 1, []),
        (
            'val',
            1,
            [
                'datasets.val.persistent_workers needs workers: remove it; images of validations and tests are read '
                'without.'
            ],
        ),
    ],
)
def test_persistent_workers_need_workers(phase, workers, faults):
    options = changed(IRN_SIGMA, 'datasets.train.num_worker_per_gpu', workers)
    assert option_faults(changed(options, f'datasets.{phase}.persistent_workers', True), is_train=True) == faults


@pytest.mark.parametrize(('key', 'value', 'words'), WRONG_TEST_FILES)
def test_wrong_test_file(key, value, words):
    faults = option_faults(changed(TEST, key, value), is_train=False)
    assert any(key in fault and words in fault for fault in faults), faults


@pytest.mark.parametrize('value', [None, True, -1, 'text', [], [None], {}, {'a': 1}, {1: 2}, float('inf')], ids=repr)
def test_no_value_of_any_key_breaks_the_check(value):
    def keys(block, prefix=''):
        for key, inner in block.items():
            yield f'{prefix}{key}'
            if isinstance(inner, dict):
                yield from keys(inner, f'{prefix}{key}.')

    for key in keys(IRN_SIGMA):
        faults = option_faults(changed(IRN_SIGMA, key, value), is_train=True)
        assert not [fault for fault in faults if 'check ends in' in fault]


@pytest.mark.parametrize('opt', [None, [], 'text', {}, {'model_type': None}], ids=repr)
def test_files_that_hold_no_options(opt):
    assert len(option_faults(opt, is_train=True)) == 1


def test_the_default_size_of_a_discriminator_counts():
    opt = changed(changed(IRN_SIGMA, 'network_d.input_size', MISSING), 'datasets.train.gt_size', 128)
    assert option_faults(opt, is_train=True) == [
        'datasets.train.gt_size is 128, but network_d.input_size is 144: make them equal.'
    ]


def test_all_faults_are_listed_at_once():
    opt = IRN_SIGMA
    for key, value in (
        ('scael', 4),
        ('network_g.growth_channels', 0),
        ('train.grad_clip', '1e1'),
        ('datasets.train.gt_size', 146),
        ('val.sigmas', [2]),
        ('logger.use_tb_logger', False),
        ('logger.wandb.project', 'irn'),
    ):
        opt = changed(opt, key, value)
    faults = option_faults(opt, is_train=True)
    for part in (
        'scael',
        'network_g.growth_channels',
        'train.grad_clip',
        'val.sigmas[0]',
        'multiple of the scale',
        'network_d.input_size is 144',
        'logger.wandb.project needs logger.use_tb_logger: true',
    ):
        assert sum(part in fault for fault in faults) == 1, part
    assert len(faults) == 7


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('train.total_iter', 4e5),
        ('val.val_freq', 5e3),
        ('train.ema_decay', 0.999),
        ('train.grad_clip', None),
        ('val', MISSING),
        ('num_gpu', 0),
        ('manual_seed', None),
        ('val.seed', -1),
        ('val.sigmas', None),
        ('network_g.block_num', None),
        ('datasets.val_2', {**IRN_SIGMA['datasets']['val'], 'name': 'Set14'}),
        ('train.scheduler', COSINE),
        ('train.optim_g', {'type': 'AdamW', 'lr': 1e-4, 'anything': 1}),
        ('datasets.train.phase', 'train'),
        ('path.experiments_root', '/a'),
        ('rank', 0),  # as BasicSR sets them
    ],
)
def test_other_good_values(key, value):
    assert option_faults(changed(IRN_SIGMA, key, value), is_train=True) == []


@pytest.mark.parametrize(
    'block',
    [
        'network_g',
        'network_d',
        'datasets.train',
        'datasets.val',
        'train.mixture_opt',
        'train.perceptual_opt',
        'train.gan_opt',
        'val.metrics.psnr',
    ],
)
def test_types_that_nobody_has_registered(block):
    opt = changed(
        IRN_SIGMA,
        block,
        {
            'type': 'TypeOfAnExtension',
            'name': 'any',
            'num_worker_per_gpu': 1,
            'batch_size_per_gpu': 1,
            'argument': None,
        },
    )
    assert option_faults(opt, is_train=True) == []
    assert unchecked_blocks(opt) == []
    extension = 'If it is of an extension, install that, or name it in imports.'
    assert check.unknown_types(opt, REGISTERED) == {block: f'{block}: there is no TypeOfAnExtension. {extension}'}
    opt['model_type'] = 'SRModel'  # which may read its blocks in other ways
    assert check.unknown_types(opt, REGISTERED) == {}
    assert f'{block} (TypeOfAnExtension)' in unchecked_blocks(opt)


@pytest.mark.parametrize(
    ('key', 'kind', 'meant'),
    [
        ('model_type', 'IRNSigmaModle', 'IRNSigmaModel'),
        ('network_g', 'InvRescalNet', 'InvRescaleNet'),
        ('train.mixture_opt', 'MixtureLos', 'MixtureLoss'),
        ('val.metrics.psnr', 'calculate_pnsr', 'calculate_psnr'),
    ],
)
def test_types_that_look_like_typing_errors_are_pointed_out(key, kind, meant):
    opt = changed(IRN_SIGMA, key if key == 'model_type' else f'{key}.type', kind)
    (fault,) = check.unknown_types(opt, REGISTERED).values()
    assert fault.startswith(f'{key}: there is no {kind}. Did you mean {meant}? If it is of an extension')


def test_of_another_model_only_the_plugins_blocks_are_judged():
    opt = {
        'model_type': 'TheirModel',
        'their_key': 1,
        'train': {'their_opt': 1},
        'network_g': {'type': 'TheirNet'},
        'datasets': {
            'train': {'type': 'PairedImageDataset', 'their_key': 1},
            'val': {'type': 'HRImageDataset', 'gt_sise': 1, 'dataroot_gt': 'a', 'io_backend': None},
        },
        'scale': 4,
        'val': {
            'metrics': {
                'psnr': {'type': 'calculate_psnr'},
                'lpips': {'type': 'calculate_lpips', 'net': 'al', 'better': 'lower'},
            }
        },
    }
    faults = option_faults(opt, is_train=True)
    assert len(faults) == 3
    for fault, key in zip(sorted(faults), ('datasets.val.gt_sise', 'datasets.val.io_backend', 'val.metrics.lpips.net')):
        assert key in fault


def test_a_check_takes_arguments_of_its_class():
    checked = [
        each for kind in ('arch', 'loss', 'metric') for each in REGISTERED[kind].values() if hasattr(each, 'check')
    ]
    assert {each.__name__ for each in checked} == {
        'InvRescaleNet',
        'BicubicRescaleNet',
        'IRNDiscriminator',
        'MixtureLoss',
        'PerSamplePerceptualLoss',
        'calculate_dists',
        'calculate_lpips',
    }
    for each in (*checked, SigmaSampler):
        own = [name for name in inspect.signature(each).parameters if name not in ('img', 'img2')]
        assert list(inspect.signature(each.check).parameters) == own, each


def test_the_table_of_basicsrs_loss_holds_its_arguments():
    assert set(keys.GAN_LOSS) == set(inspect.signature(GANLoss).parameters)


def test_layers_are_those_of_basicsr():
    assert {vgg: vgg_layers(vgg) for vgg in VGG_STAGES} == {vgg: NAMES[vgg] for vgg in VGG_STAGES}


class WiderNet(InvRescaleNet):
    """A network of an extension, with one more argument, which its parent does not know."""

    def __init__(self, scale=4, block_num=None, growth_channels=32, clamp=1.0, heads=1):
        super().__init__(scale, block_num, growth_channels, clamp)
        self.more = torch.nn.Linear(heads, heads)


class HeirNet(InvRescaleNet):
    """A network of an extension that has set an argument of its parent, whose check it inherits."""

    def __init__(self, scale=4, growth_channels=32):
        super().__init__(scale, growth_channels=growth_channels)


class PickyNet(RescalingNet):
    """A network of an extension that judges its arguments."""

    def __init__(self, width, scale=4):
        super().__init__()

    @staticmethod
    def check(width):
        if isinstance(width, str) or width % 64:
            yield f'width must be a multiple of 64, but is {width!r}.'


class OpenNet(RescalingNet):
    """A network of an extension that takes whatever it is given."""

    def __init__(self, width=64, **kwargs):
        super().__init__()


class TheirDataset(torch.utils.data.Dataset):
    """A data set of an extension, which is given its block as a whole."""

    def __init__(self, opt):
        pass

    @staticmethod
    def check(opt):
        if not len(opt.get('folder', '')):
            yield f'folder is missing in {opt["phase"]}.'


def their_metric(img, img2, better='lower', window=8):
    """A metric of an extension."""


@pytest.fixture
def _extension(monkeypatch):
    for kind, each in (
        ('arch', WiderNet),
        ('arch', PickyNet),
        ('arch', HeirNet),
        ('arch', OpenNet),
        ('dataset', TheirDataset),
    ):
        monkeypatch.setitem(REGISTERED[kind], each.__name__, each)
    monkeypatch.setitem(REGISTERED['metric'], 'their_metric', their_metric)


@pytest.mark.usefixtures('_extension')
class TestBlocksOfExtensions:
    @pytest.mark.parametrize(
        ('block', 'value', 'faults'),
        [
            ('network_g', {'type': 'WiderNet', 'heads': 2}, []),
            ('network_g', {'type': 'WiderNet', 'head': 2}, ['Unknown key network_g.head. Did you mean heads?']),
            (
                'network_g',
                {'type': 'WiderNet', 'clamp': 0},
                ['network_g.clamp must be a number, more than 0, but got 0.'],
            ),
            ('network_g', {'type': 'WiderNet', 'scale': 2}, ['network_g.scale is 2, but scale is 4: make them equal.']),
            ('network_g', {'type': 'PickyNet'}, ['network_g.width is missing.']),
            ('network_g', {'type': 'PickyNet', 'width': 64}, []),
            (
                'network_g',
                {'type': 'PickyNet', 'width': 'a'},
                ["network_g.width must be a multiple of 64, but is 'a'."],
            ),
            (
                'network_g',
                {'type': 'PickyNet', 'width': [64]},
                ["network_g: PickyNet.check ends in TypeError: unsupported operand type(s) for %: 'list' and 'int'."],
            ),
            (
                'network_g',
                {'type': 'HeirNet', 'growth_channels': 0},
                ['network_g.growth_channels must be a whole number, 1 or more, but got 0.'],
            ),
            (
                'network_g',
                {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3},
                ['network_g.type: RRDBNet is no rescaling network. Use InvRescaleNet, or another RescalingNet.'],
            ),
            ('network_g', {'type': 'OpenNet', 'anything': 1}, []),
            ('datasets.val', {'type': 'TheirDataset', 'name': 'a'}, ['datasets.val.folder is missing in val.']),
            ('datasets.val', {'type': 'TheirDataset', 'name': 'a', 'folder': 'b', 'more': 1}, []),
            (
                'datasets.val',
                {'type': 'TheirDataset', 'name': 'a', 'folder': 1},
                ["datasets.val: TheirDataset.check ends in TypeError: object of type 'int' has no len()."],
            ),
            ('val.metrics.psnr', {'type': 'their_metric', 'better': 'lower'}, []),
            (
                'val.metrics.psnr',
                {'type': 'their_metric', 'windw': 8},
                [
                    'Unknown key val.metrics.psnr.windw. Did you mean window?',
                    'val.metrics.psnr.better is missing: BasicSR takes `higher` for it.',
                ],
            ),
            ('network_d', {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 64}, []),
            (
                'network_d',
                {'type': 'UNetDiscriminatorSN', 'num_feats': 64},
                ['network_d.num_in_ch is missing.', 'Unknown key network_d.num_feats. Did you mean num_feat?'],
            ),
            (
                'network_d',
                {'type': 'VGGStyleDiscriminator', 'num_in_ch': 3, 'num_feat': 64},
                ['datasets.train.gt_size is 144, but network_d.input_size is 128: make them equal.'],
            ),
        ],
    )
    def test_faults(self, block, value, faults):
        opt = changed(IRN_SIGMA, block, value)
        assert option_faults(opt, is_train=True) == faults
        assert unchecked_blocks(opt) == ([f'{block} (OpenNet)'] if value['type'] == 'OpenNet' else [])

    def test_a_checkpoint_is_compared_with_the_network(self, tmp_path):
        path = tmp_path / 'net_g.pth'
        small = {'type': 'WiderNet', 'block_num': [1, 1], 'growth_channels': 2}
        opt = {**IRN_SIGMA, **NOTHING_ELSE, 'path': {'pretrain_network_g': str(path)}, 'network_g': small}
        torch.save(WiderNet(4, [1, 1], 2).state_dict(), path)
        assert outside_faults(opt) == []
        state = torch.get_rng_state()
        opt['network_g'] = {**small, 'heads': 3}
        (fault,) = outside_faults(opt)
        assert f'{path} is not of this WiderNet: more.weight has shape (1, 1) instead of (3, 3)' in fault
        assert torch.equal(torch.get_rng_state(), state), 'the training draws its own random numbers'

    def test_networks_that_cannot_be_built_without_values_are_not_compared(self, tmp_path, monkeypatch):
        path = tmp_path / 'net_g.pth'
        torch.save(WiderNet(4, [1, 1], 2).state_dict(), path)
        monkeypatch.setattr(WiderNet, '__init__', lambda self, scale=4: torch.zeros(1).item())
        path = {'pretrain_network_g': str(path)}
        opt = {**IRN_SIGMA, **NOTHING_ELSE, 'path': path, 'network_g': {'type': 'WiderNet'}}
        assert outside_faults(opt) == []


def test_paper_stands_for_the_usual_metrics():
    opt = {'scale': 2, 'val': {'metrics': 'paper', 'lr_metrics': 'paper', 'seed': 1}}
    expand_metrics(opt)
    assert opt['val'] == {'metrics': hr_metrics(2), 'lr_metrics': LR_METRICS, 'seed': 1}
    opt['val']['metrics'] = 'paper'
    read_val_options(opt)  # of a model that is made in Python
    assert opt['val']['metrics'] == hr_metrics(2)
    with_dists = {'val': {'metrics': 'paper+dists'}}
    expand_metrics(with_dists)
    assert with_dists['val']['metrics'] == {**hr_metrics(1), 'dists': {'type': 'calculate_dists', 'better': 'lower'}}
    opt['val']['lr_metrics']['psnr_y']['crop_border'] = 9
    assert LR_METRICS['psnr_y']['crop_border'] == 0, 'the definition stays'
    for untouched in (None, [], {}, {'val': None}, {'val': {'metrics': {'a': 1}}}, {'val': {'metrics': 'papers'}}):
        before = copy.deepcopy(untouched)
        expand_metrics(untouched)
        assert untouched == before


class TestFilesThatAnOptionFileNames:
    """`outside_faults`, with images on disk."""

    @pytest.fixture
    def opt(self, tmp_path):
        photographs = str(write_photographs(tmp_path / 'photographs', height=160, width=160))
        images = {'type': 'HRImageDataset', 'dataroot_gt': photographs, 'io_backend': {'type': 'disk'}}
        opt = changed(IRN_SIGMA, 'path', {})
        for name in ('train', 'val'):
            opt['datasets'][name].update(images)
            opt['datasets'][name].pop('dataroot_lq', None)
        opt['network_g'].update(block_num=[1, 1], growth_channels=4)
        opt['datasets']['train']['batch_size_per_gpu'] = 3
        opt['train']['perceptual_opt']['weights'] = 'random'
        del opt['val']['metrics']['lpips']
        return opt

    def test_nothing_is_wrong(self, opt):
        assert option_faults(opt, is_train=True) == []
        assert outside_faults(opt) == []

    def test_missing_files_are_all_named(self, opt, tmp_path):
        opt['datasets']['train']['dataroot_gt'] = str(tmp_path / 'none')
        opt['path'] = {'pretrain_network_g': str(tmp_path / 'g.pth'), 'pretrain_network_d': str(tmp_path / 'd.pth')}
        faults = outside_faults(opt)
        assert [fault.partition(': ')[0] for fault in faults] == [
            'datasets.train.dataroot_gt',
            'path.pretrain_network_g',
            'path.pretrain_network_d',
        ]
        assert 'There is no checkpoint at' in faults[1]

    @pytest.mark.parametrize(
        ('key', 'metric', 'height', 'width', 'smallest'),
        [
            ('metrics', {'type': 'calculate_psnr', 'crop_border': 4}, 8, 8, '12x12'),
            ('metrics', {'type': 'calculate_lpips', 'better': 'lower'}, 20, 31, '32x32'),
            ('metrics', {'type': 'calculate_dists', 'better': 'lower', 'crop_border': 1}, 16, 99, '20x20'),
            ('metrics', {'type': 'calculate_niqe', 'crop_border': 0, 'better': 'lower'}, 61, 50, '96x192'),
            ('metrics', {'type': 'calculate_niqe', 'crop_border': 0, 'better': 'lower'}, 191, 99, '96x192'),
            ('lr_metrics', {'type': 'calculate_ssim', 'crop_border': 0}, 43, 99, '44x44'),
        ],
    )
    def test_images_too_small_for_a_metric(self, opt, tmp_path, monkeypatch, key, metric, height, width, smallest):
        """Once cut to a multiple of the scale; not those of the training, which are not measured."""
        monkeypatch.setattr(check, 'check_weights', lambda network: None)
        write_photographs(tmp_path / 'photographs', height=192, width=192)
        opt['datasets']['train']['gt_size'] = opt['network_d']['input_size'] = 8
        opt['datasets']['train']['batch_size_per_gpu'] = 1
        opt['val'] = {**opt['val'], 'metrics': {}, 'lr_metrics': {}, key: {'m': metric}}
        folder = str(write_photographs(tmp_path / 'small', 1, height, width))
        opt['datasets']['train']['dataroot_gt'] = folder
        assert outside_faults(opt) == []
        opt['datasets']['val']['dataroot_gt'] = folder
        assert outside_faults(opt) == [
            f'datasets.val.dataroot_gt: images smaller than val.{key}.m takes, {smallest}: '
            f'photo0.png ({height}x{width}); remove them.'
        ]
        short, long = map(int, smallest.split('x'))
        write_photographs(tmp_path / 'small', 1, long, short)
        assert outside_faults(opt) == []

    def test_a_start_from_the_folder_of_the_training_itself(self, opt, tmp_path, monkeypatch):
        """BasicSR renames that folder, unless it resumes; a test reads from it without harm."""
        monkeypatch.chdir(tmp_path)
        own, other = (os.path.join('experiments', name, 'models', 'net_g.pth') for name in (opt['name'], 'other'))
        for path in (own, other):
            os.makedirs(os.path.dirname(path))
            torch.save(InvRescaleNet(4, [1, 1], 4).state_dict(), path)
        os.symlink('experiments', 'link')
        for path in (own, os.path.abspath(own), own.replace('experiments', 'link')):
            opt['path'] = {'pretrain_network_g': path}
            (fault,) = outside_faults(opt)
            assert fault == (
                f'path.pretrain_network_g: BasicSR renames experiments/{opt["name"]} before it reads this: '
                'copy it elsewhere, or use --auto_resume.'
            )
            assert outside_faults(opt, resumes=True) == []
            assert outside_faults({**opt, 'name': opt['name'][:-1]}) == []
        test = {key: value for key, value in opt.items() if key not in ('train', 'datasets')}
        assert outside_faults({**test, 'datasets': {'test': opt['datasets']['val']}}) == []
        opt['path'] = {'pretrain_network_g': other}
        assert outside_faults(opt) == []

    def test_pictures_under_one_name(self, opt, tmp_path):
        photographs = tmp_path / 'photographs'
        (photographs / 'photo0.jpg').write_bytes((photographs / 'photo0.png').read_bytes())
        opt['val']['save_img'] = False
        assert outside_faults(opt) == []
        opt['val']['save_img'] = True
        (fault,) = outside_faults(opt)  # of the validation; a training saves no pictures of its own images
        assert fault.startswith('datasets.val: pictures of photo0.jpg and photo0.png would be saved under the same ')

    def test_wrong_data_sets_are_not_looked_for(self, opt, tmp_path):
        opt['datasets']['train'].update(dataroot_gt=str(tmp_path / 'none'), gt_size='144')
        assert outside_faults(opt) == []

    def test_checkpoint_of_another_shape(self, opt, tmp_path):
        path = tmp_path / 'net_g.pth'
        opt['path'] = {'pretrain_network_g': str(path)}
        torch.save({'params': InvRescaleNet(4, [1, 1], 4).state_dict()}, path)
        assert outside_faults(opt) == []
        torch.save(InvRescaleNet(4, [1, 1], 8).state_dict(), path)
        (fault,) = outside_faults(opt)
        assert fault.startswith(f'path.pretrain_network_g: The checkpoint {path} is not of this InvRescaleNet: ')
        assert 'operations.1.F.conv1.weight has shape (8, 9, 3, 3) instead of (4, 9, 3, 3)' in fault
        opt['path']['strict_load_g'] = False
        assert outside_faults(opt) == []

    def test_checkpoint_with_values_that_are_no_numbers(self, opt, tmp_path):
        path = tmp_path / 'net_g.pth'
        opt['path'] = {'pretrain_network_g': str(path), 'strict_load_g': False}
        net = InvRescaleNet(4, [1, 1], 4)
        net.operations[1].F.conv1.bias.data[1] = float('nan')
        torch.save({'params': net.state_dict()}, path)
        (fault,) = outside_faults(opt)
        assert fault.startswith(f'path.pretrain_network_g: {path}: operations.1.F.conv1.bias has values that are inf')

    def test_checkpoint_of_another_clamp(self, opt, tmp_path):
        path = tmp_path / 'net_g.pth'
        opt['path'] = {'pretrain_network_g': str(path)}
        torch.save({'params': InvRescaleNet(4, [1, 1], 4).state_dict(), 'network_g': {'clamp': 2.0}}, path)
        (fault,) = outside_faults(opt)
        assert fault.endswith(
            'was trained with clamp: 2.0, but network_g has clamp: 1.0. Set network_g.clamp: 2.0 in the option file.'
        )

    def test_bare_weights_of_another_clamp(self, opt, tmp_path):
        path = tmp_path / 'net_g.pth'
        opt['path'] = {'pretrain_network_g': str(path)}
        torch.save(InvRescaleNet(4, [1, 1], 4, clamp=2.0).state_dict(), path)
        (fault,) = outside_faults(opt)
        assert 'was trained with clamp: 2.0, but network_g has clamp: 1.0.' in fault
        opt['network_g']['clamp'] = 2
        assert outside_faults(opt) == []

    def test_a_state_that_auto_resume_does_not_look_at_may_be_gone(self, opt, tmp_path):
        opt['path'] = {'resume_state': str(tmp_path / 'gone.state')}
        assert len(outside_faults(opt)) == 1
        assert outside_faults({**opt, 'auto_resume': True}) == []

    def test_a_resumed_training_needs_no_start(self, opt, tmp_path):
        opt['path'] = {'pretrain_network_g': str(tmp_path / 'gone.pth')}
        assert outside_faults(opt, resumes=True) == []
        opt['path']['resume_state'] = str(tmp_path / 'gone.state')
        assert [fault.partition(': ')[0] for fault in outside_faults(opt)] == ['path.resume_state']
