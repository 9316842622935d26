"""The fixes for BasicSR: outputs and resuming below the current directory, machines without a GPU."""

from __future__ import annotations

import copy
import inspect
import os
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import basicsr
import basicsr.train
import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.models.base_model import BaseModel
from basicsr.train import train_pipeline
from basicsr.utils import dist_util
from basicsr.utils import options as basicsr_options
from basicsr.utils.registry import ARCH_REGISTRY
from helpers.experiment import options_to_train, write_photographs, write_yaml

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.cli import main
from irnsigma_plugin.compat import launch, loading
from irnsigma_plugin.compat import registry as recognise
from irnsigma_plugin.compat import start as resume
from irnsigma_plugin.options import check
from irnsigma_plugin.options.rules import OptionError, without_type

SITE_ROOT = Path(basicsr.__file__).resolve().parents[1]
PLUGIN_METRIC = {'lpips': {'type': 'calculate_lpips', 'better': 'lower'}}
FUNCTIONAL_TENSOR = 'torchvision.transforms.functional_tensor'


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """`PLUGIN_METRIC` makes files the plugin's; nothing is measured by it, and its weights may be missing."""
    monkeypatch.setattr(check, 'check_weights', lambda name: None)


def write_options(folder: Path, metrics: dict | None = None) -> Path:
    """Options to train BasicSR's EDSR for four iterations; the plugin's if there is a metric of ours."""
    images = {
        'name': 'noise',
        'type': 'PairedImageDataset',
        'dataroot_gt': str(folder / 'hr'),
        'dataroot_lq': str(folder / 'lr'),
        'io_backend': {'type': 'disk'},
    }
    opt = {
        'name': 'tiny',
        'model_type': 'SRModel',
        'scale': 2,
        'num_gpu': 0,
        'manual_seed': 0,
        'datasets': {
            'train': {
                **images,
                'gt_size': 16,
                'use_hflip': True,
                'use_rot': True,
                'num_worker_per_gpu': 0,
                'batch_size_per_gpu': 1,
            }
        },
        'network_g': {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1, 'upscale': 2},
        'path': {'pretrain_network_g': None, 'strict_load_g': True, 'resume_state': None},
        'train': {
            'optim_g': {'type': 'Adam', 'lr': 1e-4},
            'total_iter': 4,
            'warmup_iter': -1,
            'scheduler': {'type': 'MultiStepLR', 'milestones': [3], 'gamma': 0.5},
            'pixel_opt': {'type': 'L1Loss'},
        },
        'val': {'val_freq': 100, 'save_img': False, 'metrics': metrics},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'use_tb_logger': True},
    }
    path = folder / 'options.yml'
    path.write_text(yaml.safe_dump(opt))
    return path


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = str(victim)

    def __reduce__(self):
        return os.mkdir, (self.victim,)


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """Call BasicSR's `parse_options` as `python -m basicsr.train -opt ...` in `tmp_path` does."""
    monkeypatch.chdir(tmp_path)

    def parse(option_file: Path, *args: str, root: Path = SITE_ROOT, is_train: bool = True):
        monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(option_file), *args])
        return basicsr_options.parse_options(str(root), is_train=is_train)[0]

    return parse


@pytest.mark.parametrize(
    ('is_train', 'keys', 'folder'),
    [
        (True, ['experiments_root', 'log'], 'experiments/tiny'),
        (True, ['models'], 'experiments/tiny/models'),
        (True, ['training_states'], 'experiments/tiny/training_states'),
        (False, ['results_root', 'log'], 'results/tiny'),
        (False, ['visualization'], 'results/tiny/visualization'),
    ],
)
def test_plugin_outputs_go_below_the_current_directory(parse, tmp_path, is_train, keys, folder):
    opt = parse(write_options(tmp_path, PLUGIN_METRIC), is_train=is_train)
    assert {opt['path'][key] for key in keys} == {str(tmp_path / folder)}


def test_a_seed_on_the_command_line_counts_from_the_first_weights_on(parse, tmp_path):
    drawn = []
    for seed in ('7', '8', '7'):
        parse(write_options(tmp_path, PLUGIN_METRIC), '--force_yml', f'manual_seed={seed}')
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[2] != drawn[1]


def test_root_path_survives_train_pipeline_and_copies(parse, tmp_path):
    opt = parse(write_options(tmp_path, PLUGIN_METRIC))
    opt['root_path'] = str(SITE_ROOT)  # as train_pipeline does after parsing
    assert copy.deepcopy(opt)['root_path'] == str(tmp_path)
    opt['name'] = 'other'
    assert opt['name'] == 'other'


def test_other_option_files_stay_as_they_were(parse, tmp_path):
    opt = parse(write_options(tmp_path))
    assert opt['path']['models'] == str(SITE_ROOT / 'experiments' / 'tiny' / 'models')
    opt['root_path'] = 'anywhere'
    assert opt['root_path'] == 'anywhere'


def test_a_root_chosen_by_the_users_script_is_kept(parse, tmp_path):
    root = tmp_path / 'project'
    opt = parse(write_options(tmp_path, PLUGIN_METRIC), root=root)
    assert opt['path']['models'] == str(root / 'experiments' / 'tiny' / 'models')


def test_uses_plugin_looks_at_every_type():
    stock = {'model_type': 'SRModel', 'network_g': {'type': 'EDSR'}, 'datasets': {'val': {'type': 'unknown'}}}
    assert not recognise.uses_plugin(stock)
    assert not recognise.uses_plugin({'name': 'IRNSigmaModel', 'note': ['InvRescaleNet']})
    assert recognise.uses_plugin({**stock, 'model_type': 'IRNSigmaModel'})
    assert recognise.uses_plugin({**stock, 'datasets': {'val_1': {'type': 'HRImageDataset'}}})
    assert recognise.uses_plugin({**stock, 'stages': [{'loss': {'type': 'MixtureLoss'}}]})
    assert recognise.uses_plugin({**stock, 'val': {'metrics': PLUGIN_METRIC}})


def test_uses_plugin_knows_classes_derived_elsewhere(monkeypatch):
    derived = type('ExtensionNet', (InvRescaleNet,), {'__module__': 'some_extension'})
    unrelated = type('UnrelatedNet', (torch.nn.Module,), {'__module__': 'irnsigma_plugin_look_alike'})
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'ExtensionNet', derived)
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'UnrelatedNet', unrelated)
    assert recognise.uses_plugin({'network_g': {'type': 'ExtensionNet'}})
    assert not recognise.uses_plugin({'network_g': {'type': 'UnrelatedNet'}})


class TestLoadResumeState:
    """`load_resume_state` of an option file of the plugin."""

    @pytest.fixture
    def opt(self, parse, tmp_path):
        opt = parse(write_options(tmp_path, PLUGIN_METRIC), '--auto_resume')
        opt['train']['total_iter'] = 20
        for key in ('models', 'training_states'):
            os.makedirs(opt['path'][key])
        return opt

    @staticmethod
    def save(opt, iteration: int, with_network: bool = True) -> Path:
        path = Path(opt['path']['training_states'], f'{iteration}.state')
        state = {
            'epoch': 0,
            'iter': iteration,
            'optimizers': [{'state': {0: {'exp_avg': torch.ones(2)}}}],
            'schedulers': [{'milestones': Counter([3]), 'last_epoch': iteration}],
        }
        torch.save(state, path)
        if with_network:
            torch.save({'params': {}}, Path(opt['path']['models'], f'net_g_{iteration}.pth'))
        return path

    def test_nothing_to_resume(self, opt):
        assert resume.load_resume_state(opt) is None
        assert opt['path']['resume_state'] is None

    def test_newest_is_the_highest_iteration(self, opt):
        for iteration in (9, 10, 2):
            self.save(opt, iteration)
        Path(opt['path']['training_states'], 'best.state').touch()
        state = resume.load_resume_state(opt)
        assert state['iter'] == 10
        assert state['schedulers'][0]['milestones'] == Counter([3])
        assert state['optimizers'][0]['state'][0]['exp_avg'].device.type == 'cpu'
        # What BasicSR's check_resume derives from it:
        assert opt['path']['pretrain_network_g'] == str(Path(opt['path']['models'], 'net_g_10.pth'))

    def test_incomplete_files_are_skipped_and_named(self, opt, caplog):
        whole = self.save(opt, 2)
        network_missing = self.save(opt, 4, with_network=False)
        network_truncated, state_truncated = self.save(opt, 6), self.save(opt, 8)
        for path in (Path(opt['path']['models'], 'net_g_6.pth'), state_truncated):
            path.write_bytes(path.read_bytes()[:-40])

        assert resume.load_resume_state(opt)['iter'] == 2
        assert opt['path']['resume_state'] == str(whole)
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == 3
        for message, path in zip(messages, (state_truncated, network_truncated, network_missing)):
            assert str(path) in message
            assert '\n' not in message

    def test_explicit_state(self, opt):
        opt['auto_resume'] = False
        opt['path']['resume_state'] = str(self.save(opt, 2))
        self.save(opt, 4)
        assert resume.load_resume_state(opt)['iter'] == 2

    @pytest.mark.parametrize('content', [None, b'', b'not a checkpoint'])
    def test_explicit_state_that_cannot_be_read(self, opt, tmp_path, content):
        path = tmp_path / 'some.state'
        if content is not None:
            path.write_bytes(content)
        opt.update(auto_resume=False)
        opt['path']['resume_state'] = str(path)
        with pytest.raises(RuntimeError, match=r'cannot resume .*some\.state.*--auto_resume'):
            resume.load_resume_state(opt)

    @pytest.mark.parametrize('auto_resume', [False, True])
    def test_code_in_a_training_state_does_not_run(self, opt, tmp_path, caplog, auto_resume):
        path = self.save(opt, 2)
        torch.save({'iter': 2, 'optimizers': [Payload(tmp_path / 'victim')]}, path)
        opt.update(auto_resume=auto_resume)
        if auto_resume:
            assert resume.load_resume_state(opt) is None
            message = caplog.records[0].getMessage()
        else:
            opt['path']['resume_state'] = str(path)
            with pytest.raises(RuntimeError) as info:
                resume.load_resume_state(opt)
            message = str(info.value)
        assert f'{path}' in message
        assert 'could run code' in message
        assert 'weights_only' not in message, 'nobody should be told to load an unknown file unsafely'
        assert not (tmp_path / 'victim').exists()


class TestWrongOptionFiles:
    """An option file of the plugin is checked as soon as it is read, in the words of `irnsigma check`."""

    @pytest.fixture
    def opt(self, tmp_path):
        return options_to_train(write_photographs(tmp_path / 'photographs'))

    @pytest.fixture
    def refused(self, parse, tmp_path):
        def refused(opt, *args: str, is_train: bool = True) -> str:
            before = set(os.listdir(tmp_path))
            with pytest.raises(OptionError) as info:
                parse(write_yaml(opt, tmp_path / 'options.yml'), *args, is_train=is_train)
            assert set(os.listdir(tmp_path)) - before <= {'options.yml'}
            return str(info.value)

        return refused

    def test_all_faults_in_one_message(self, opt, refused, tmp_path, capsys):
        opt['train']['grad_clipp'] = 1
        opt['datasets']['val']['dataroot_gt'] = str(tmp_path / 'nowhere')
        message = refused(opt)
        assert message.splitlines()[0] == f'{tmp_path}/options.yml has 2 faults:'
        capsys.readouterr()
        assert main(['check', f'{tmp_path}/options.yml']) == 1
        assert message.splitlines()[1:] == capsys.readouterr().out.splitlines()[1:3]

    def test_what_basicsr_itself_stumbles_over(self, opt, refused):
        del opt['num_gpu'], opt['train']['total_iter']
        message = refused(opt)
        assert '\n  num_gpu is missing: `auto`, or 0 for the CPU; several GPUs: --launcher.' in message
        assert '\n  train.total_iter is missing' in message

    def test_the_command_line_counts(self, opt, refused, parse, tmp_path):
        file = write_yaml(opt, tmp_path / 'options.yml')
        assert 'train.grad_clip must be a number, more than 0' in refused(opt, '--force_yml', 'train:grad_clip=0')
        opt['train']['grad_clip'] = 0
        write_yaml(opt, file)
        assert parse(file, '--force_yml', 'train:grad_clip=5')['train']['grad_clip'] == 5

    def test_a_start_from_the_own_folder_renames_nothing(self, opt, refused, tmp_path):
        folder = tmp_path / 'experiments' / opt['name']
        path = folder / 'models' / 'net_g_latest.pth'
        path.parent.mkdir(parents=True)
        torch.save(InvRescaleNet(**without_type(opt['network_g'])).state_dict(), path)
        opt['path'] = {'pretrain_network_g': str(path)}
        assert refused(opt).startswith('path.pretrain_network_g: BasicSR renames experiments/tiny before it reads')
        assert path.exists()

    def test_types_that_nobody_has_registered(self, opt, refused):
        opt['network_g']['type'] = 'InvRescaleNett'
        opt['val']['metrics'] = {'psnr_y': {'type': 'psnr'}}
        message = refused(opt)
        extension = 'If it is of an extension, install that, or name it in imports.'
        assert f'network_g: there is no InvRescaleNett. Did you mean InvRescaleNet? {extension}' in message
        assert 'val.metrics.psnr_y: there is no psnr. If it is of' in message

    def test_a_model_that_nobody_has_registered(self, opt, refused):
        opt['model_type'] = 'IRNSigmaModl'
        assert refused(opt) == (
            'model_type: there is no IRNSigmaModl. Did you mean IRNSigmaModel? If it is of an extension, install that, '
            'or name it in imports.'
        )
        opt['model_type'] = None
        assert refused(opt).startswith('model_type is missing')

    @pytest.mark.skipif(
        hasattr(BaseModel, 'get_optimizer') and 'AdamW' in inspect.getsource(BaseModel.get_optimizer),
        reason='this BasicSR knows more optimisers',
    )
    def test_optimisers_that_basicsr_does_not_know(self, opt, refused):
        opt['train']['optim_g']['type'] = 'AdamW'
        assert refused(opt) == 'train.optim_g.type: the installed BasicSR has no AdamW; take Adam.'

    def test_a_training_file_is_no_test_file(self, opt, refused):
        assert 'datasets.train: a test takes data sets named test and val' in refused(opt, is_train=False)

    def test_code_in_a_checkpoint_does_not_run(self, opt, refused, tmp_path):
        torch.save({'params': {}, 'extra': Payload(tmp_path / 'victim')}, tmp_path / 'net_g.pth')
        opt['path']['pretrain_network_g'] = str(tmp_path / 'net_g.pth')
        message = refused(opt)
        assert message.startswith(f'path.pretrain_network_g: {tmp_path}/net_g.pth is refused: it asks for ')
        assert not (tmp_path / 'victim').exists()

    def test_a_training_that_goes_on_needs_no_start(self, opt, parse, refused, tmp_path):
        opt['path']['pretrain_network_g'] = str(tmp_path / 'gone.pth')
        assert 'There is no checkpoint at' in refused(opt, '--auto_resume')
        states = tmp_path / 'experiments/tiny/training_states'
        states.mkdir(parents=True)
        (states / '2.state').touch()
        assert parse(tmp_path / 'options.yml', '--auto_resume')['auto_resume']

    def test_as_a_user_runs_it(self, opt, run_cli, tmp_path):
        opt['val']['sigmas'] = [0, 2]
        opt['network_g']['growth_channel'] = 4
        file = write_yaml(opt, tmp_path / 'options.yml')
        job = tmp_path / 'job'
        job.mkdir()
        done = run_cli('-m', 'basicsr.train', '-opt', file, cwd=job, check=False)
        assert done.returncode == 1
        assert 'Traceback' not in done.stdout
        last = done.stdout.splitlines()[-3:]
        assert last[0] == f'{file} has 2 faults:'
        assert sorted(last[1:]) == [
            '  Unknown key network_g.growth_channel. Did you mean growth_channels?',
            '  val.sigmas[1]: sigma must be a number from 0 (faithful) to 1 (sharp), but got 2.',
        ]
        assert os.listdir(job) == []


def test_other_models_keep_what_others_have_put_in_place(parse, tmp_path, monkeypatch):
    def theirs(*args):
        """Somebody else's builder."""

    def parsed_by_train(opt):
        monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(write_yaml(opt, tmp_path / 'options.yml'))])
        exec('parse_options(root, is_train=True)', basicsr.train.__dict__, {'root': str(SITE_ROOT)})

    monkeypatch.chdir(tmp_path)
    own = options_to_train(write_photographs(tmp_path / 'photographs'))
    other = yaml.safe_load(write_options(tmp_path).read_text())
    parsed_by_train(other)  # whatever was parsed before
    monkeypatch.setattr(basicsr.train, 'build_dataset', theirs)
    parsed_by_train(other)
    assert basicsr.train.build_dataset is theirs
    parsed_by_train(own)
    assert basicsr.train.build_dataset.__self__.__class__.__name__ == 'DataSupply'
    parsed_by_train(other)
    assert basicsr.train.build_dataset is theirs
    del other['model_type']  # of no concern to this plugin
    parsed_by_train(other)


def test_functional_tensor_is_an_alias_only_where_it_is_missing(monkeypatch):
    from torchvision.transforms.functional import rgb_to_grayscale

    monkeypatch.delitem(sys.modules, FUNCTIONAL_TENSOR, raising=False)
    monkeypatch.setattr(loading.importlib.util, 'find_spec', lambda name: None)
    loading.alias_functional_tensor()
    assert sys.modules[FUNCTIONAL_TENSOR].rgb_to_grayscale is rgb_to_grayscale

    del sys.modules[FUNCTIONAL_TENSOR]
    monkeypatch.setattr(loading.importlib.util, 'find_spec', lambda name: object())
    loading.alias_functional_tensor()
    assert FUNCTIONAL_TENSOR not in sys.modules

    somebody_elses = ModuleType(FUNCTIONAL_TENSOR)
    monkeypatch.setitem(sys.modules, FUNCTIONAL_TENSOR, somebody_elses)
    loading.alias_functional_tensor()
    assert sys.modules[FUNCTIONAL_TENSOR] is somebody_elses


def test_distutils_version_is_an_alias_only_where_it_is_missing(monkeypatch):
    monkeypatch.delitem(sys.modules, 'distutils.version', raising=False)
    monkeypatch.setattr(loading.importlib.util, 'find_spec', lambda name: object())
    loading.alias_distutils_version()
    assert 'distutils.version' not in sys.modules

    monkeypatch.setattr(loading.importlib.util, 'find_spec', lambda name: None)
    loading.alias_distutils_version()
    from distutils.version import LooseVersion

    assert LooseVersion('0.9.0') < LooseVersion('0.29.1+cpu')

    alias = sys.modules['distutils.version']
    loading.alias_distutils_version()
    assert sys.modules['distutils.version'] is alias


def test_shims_are_applied_once():
    before = basicsr_options.parse_options
    loading.change()
    assert basicsr_options.parse_options is before


@pytest.mark.parametrize('argument', ['--local-rank=3', '--local_rank=3'])
def test_rank_passed_by_the_old_launcher_is_understood(parse, tmp_path, argument):
    assert parse(write_options(tmp_path), argument)['rank'] == 0  # the process is told by RANK


def test_one_process_takes_one_gpu(parse, tmp_path, monkeypatch, caplog):
    own = options_to_train(write_photographs(tmp_path / 'photographs'))
    own['num_gpu'] = 'auto'
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    assert parse(write_yaml(own, tmp_path / 'own.yml'))['num_gpu'] == 1
    assert 'One process uses one of the 4 GPUs' in caplog.text
    other = write_options(tmp_path, PLUGIN_METRIC)  # a model of BasicSR
    assert parse(other, '--force_yml', 'num_gpu=4')['num_gpu'] == 4


def test_torchrun_without_launcher_option_is_refused(parse, tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '4')
    parse(write_options(tmp_path, PLUGIN_METRIC))  # some other program's variable
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'none')
    with pytest.raises(OptionError, match='torchrun started 4 processes.*add --launcher pytorch'):
        parse(write_options(tmp_path, PLUGIN_METRIC))
    parse(write_options(tmp_path))  # BasicSR's own business


@pytest.mark.parametrize(
    ('launcher', 'variable', 'remedy'),
    [('pytorch', 'RANK', 'torchrun --nproc_per_node=N'), ('slurm', 'SLURM_PROCID', 'srun --ntasks=N')],
)
def test_launcher_option_without_launcher_is_refused(monkeypatch, launcher, variable, remedy):
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(RuntimeError, match=f'{variable} is not set. Start with `{remedy}'):
        getattr(dist_util, f'_init_dist_{launcher}')('nccl')


def test_empty_settings_of_slurm_are_a_clear_error(parse, tmp_path):
    options = options_to_train(write_photographs(tmp_path / 'photographs'))
    file = write_yaml({**options, 'dist_params': None}, tmp_path / 'own.yml')
    parse(file)
    with pytest.raises(OptionError, match=r'^dist_params is empty, .* --launcher slurm: leave it out\.$'):
        parse(file, '--launcher', 'slurm')


@pytest.mark.skipif(torch.cuda.is_available(), reason='is about machines without a GPU')
def test_processes_leave_each_other_at_exit(monkeypatch, tmp_path):
    at_exit = []
    monkeypatch.setattr(launch.atexit, 'register', at_exit.append)
    monkeypatch.setenv('RANK', '0')
    dist_util._init_dist_pytorch('nccl', init_method=f'file://{tmp_path}/rendezvous', rank=0, world_size=1)
    leave = at_exit[-1]
    try:
        assert torch.distributed.is_initialized()
    finally:
        leave()
    assert not torch.distributed.is_initialized()
    leave()  # whoever has left before is not missed


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm'])
@pytest.mark.parametrize(('backend', 'fails'), [('gloo', True), ('nccl', True), ('nccl', False)])
def test_processes_with_gpus_leave_each_other_unless_one_fails(monkeypatch, tmp_path, launcher, backend, fails):
    """They are joined by gloo, whatever the backend is said to be. NCCL may wait for those that know of no error."""
    joined, at_exit = {}, []

    def join(backend, port=None, **kwargs):
        joined[backend] = kwargs
        torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)

    for name in ('pytorch', 'slurm'):
        monkeypatch.setattr(dist_util, f'_init_dist_{name}', join)
    launch.launch_without_gpu()
    monkeypatch.setattr(launch.atexit, 'register', at_exit.append)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.setattr(torch.distributed, 'get_backend', lambda: backend)
    for name in ('RANK', 'SLURM_PROCID'):
        monkeypatch.setenv(name, '6')
    if fails:  # as Python notes an error that ends it
        monkeypatch.setattr(sys, 'last_type', ValueError, raising=False)
    else:
        monkeypatch.delattr(sys, 'last_type', raising=False)
    getattr(dist_util, f'_init_dist_{launcher}')(backend)
    try:
        is_named = (launcher, backend) == ('pytorch', 'nccl')
        assert joined == {backend: {'device_id': torch.device('cuda', 2)} if is_named else {}}
        at_exit[-1]()
        assert torch.distributed.is_initialized() == (fails and backend == 'nccl')
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@pytest.mark.skipif(torch.cuda.is_available(), reason='is about machines without a GPU')
@pytest.mark.parametrize('script', [None, 'exit 1', 'true'], ids=['missing', 'fails', 'says nothing'])
def test_slurm_without_scontrol_is_a_clear_error(monkeypatch, tmp_path, script):
    for name, value in {'SLURM_PROCID': '0', 'SLURM_NTASKS': '1', 'SLURM_NODELIST': 'node7', 'PATH': tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    if script:
        (tmp_path / 'scontrol').write_text(f'#!/bin/sh\n{script}\n')
        (tmp_path / 'scontrol').chmod(0o755)
    with pytest.raises(RuntimeError, match='first of the nodes node7.*Put scontrol on PATH'):
        dist_util._init_dist_slurm('nccl')


def test_training_job_from_an_empty_directory_is_resumed(tmp_path, monkeypatch, basicsr_log):
    for folder, side in (('hr', 32), ('lr', 16)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / '0.png'), np.full((side, side, 3), 100, np.uint8))
    option_file = write_options(tmp_path, PLUGIN_METRIC)
    job = tmp_path / 'job'
    job.mkdir()
    site_before = set(os.listdir(SITE_ROOT))
    monkeypatch.chdir(job)

    def train(*args: str) -> None:
        monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(option_file), *args])
        train_pipeline(str(SITE_ROOT))  # as `python -m basicsr.train` does

    train()
    assert sorted(os.listdir(job)) == ['experiments', 'tb_logger']
    assert set(os.listdir(SITE_ROOT)) == site_before
    experiment = job / 'experiments' / 'tiny'
    newest = experiment / 'training_states' / '4.state'
    newest.write_bytes(newest.read_bytes()[:100])  # as a kill in mid-write leaves it

    basicsr_log.clear()
    train('--auto_resume')
    assert f'Skip training state {newest}' in basicsr_log.text
    assert re.search(r'Resuming training from epoch: \d+, iter: 2\.', basicsr_log.text)
    assert sorted(os.listdir(experiment.parent)) == ['.tiny.lock', 'tiny']  # not archived, not started anew
    assert newest.stat().st_size > 100
