"""`irnsigma check`."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY
from helpers.experiment import options_to_test, options_to_train, set_option, write_photographs, write_yaml
from helpers.wrong_options import IRN_SIGMA, TEST, WRONG_TEST_FILES, WRONG_TRAINING_FILES, changed

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.cli import main
from irnsigma_plugin.compat import start
from irnsigma_plugin.evaluation import dists
from irnsigma_plugin.imagenet import weights
from irnsigma_plugin.training.model import IRNSigmaModel

OPTIONS = Path(__file__).resolve().parents[1] / 'options'


def test_released_option_files_pass_without_data(capsys):
    assert main(['check', '--no-data', *map(str, OPTIONS.glob('*.yml'))]) == 0
    assert capsys.readouterr().out.splitlines().count('  OK') == len(list(OPTIONS.glob('*.yml')))


def test_in_a_fresh_process_all_classes_are_known(repo_root):
    """BasicSR and torch are loaded by the command itself."""
    command = [sys.executable, '-c', 'from irnsigma_plugin.cli import main; main()', 'check', '--no-data']
    done = subprocess.run([*command, 'options/train_IRNsigma_x4.yml'], cwd=repo_root, capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert first.startswith('options/train_IRNsigma_x4.yml: training of IRNSigmaModel, ')
    assert first.endswith(' keys, without images and checkpoints')
    assert second == '  OK'


def test_help_needs_neither_torch_nor_basicsr(repo_root):
    code = (
        'import sys\nfrom irnsigma_plugin.cli import main\nassert main(["check", "--help"]) == 0\n'
        'print(sorted({"torch", "basicsr"} & set(sys.modules)))'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=repo_root, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == '[]'


def test_a_file_with_its_data(capsys, tmp_path):
    options = options_to_train(write_photographs(tmp_path / 'photographs'))
    file = write_yaml(options, tmp_path / 'options.yml')
    assert main(['check', str(file)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f'{file}: training of IRNSigmaModel, ')
    assert 'the images of datasets.train, datasets.val' in first
    assert first.endswith(', and checkpoints')
    assert second == '  OK'


def test_what_is_left_to_others_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'TheirDiscriminator', lambda **options: None)
    options = options_to_train(tmp_path)
    options['network_d'] = {'type': 'TheirDiscriminator', 'anything': 1}
    assert main(['check', '--no-data', str(write_yaml(options, tmp_path / 'options.yml'))]) == 0
    first, _ = capsys.readouterr().out.splitlines()
    assert first.endswith('; left to BasicSR or an extension: network_d (TheirDiscriminator)')


def test_all_faults_of_all_files_and_exit_status_1(capsys, tmp_path):
    options = options_to_train(tmp_path / 'nowhere')
    options['train']['grad_clipp'] = 1
    bad = write_yaml(options, tmp_path / 'bad.yml')
    evil = tmp_path / 'evil.yml'
    evil.write_text(f'name: !!python/object/apply:os.mkdir ["{tmp_path}/victim"]\n')
    assert main(['check', str(bad), str(evil), str(OPTIONS / 'test_bicubic_x4.yml'), '--no-data']) == 1
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert lines[1] == '  Unknown key train.grad_clipp. Did you mean grad_clip?'
    assert lines[2] == '  1 fault(s)'
    assert lines[3].startswith(f'{evil}, line 1: ')
    assert lines[-1] == '  OK'
    assert not (tmp_path / 'victim').exists()
    assert output.err == f'irnsigma: error: 2 of 3 option file(s) with faults: {bad}, {evil}\n'

    assert main(['check', str(bad)]) == 1
    assert f'the folder {tmp_path}/nowhere does not exist' in capsys.readouterr().out


@pytest.mark.parametrize('text', ['', '[1]', 'name: a', 'model_type: [1]'])
def test_files_that_hold_no_options(capsys, tmp_path, text):
    file = tmp_path / 'options.yml'
    file.write_text(text)
    assert main(['check', str(file)]) == 1
    assert '  1 fault(s)' in capsys.readouterr().out


def test_one_of_the_two_is_asked_for(capsys):
    assert main(['check']) == 2
    assert 'one of the arguments OPT --list-keys is required' in capsys.readouterr().err
    assert main(['check', 'options.yml', '--list-keys']) == 2


def test_the_keys_are_listed_with_defaults_and_meanings(capsys):
    assert main(['check', '--list-keys']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| `clamp` | `1.0` | Bound of a coupling block's log-scale. |" in lines
    assert '| `seed` | `0` | ' in ''.join(line[:15] for line in lines)
    keys = [line for line in lines if line.startswith('| `')]
    assert len(keys) > 80
    assert not [line for line in keys if line.endswith('|  |')], 'every key has a meaning'


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """What `irnsigma check` says of a file; BasicSR's script, run as by `python -m`, has to end with the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, 'find_weights', lambda name: None)  # for speed

    def said(file, script='basicsr.train') -> list[str]:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
        monkeypatch.setattr('sys.argv', [script, '-opt', str(file)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_module(script, run_name='__main__', alter_sys=True)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')} == before
        heading, *faults = str(stop.value).split('\n  ')
        if faults:
            assert heading == f'{file} has {len(faults)} faults:'
        capsys.readouterr()
        assert main(['check', str(file)]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert ([line.strip() for line in lines if line.startswith('  ')][:-1] or lines) == (faults or [heading])
        return faults or [heading]

    return said


@pytest.mark.parametrize(('key', 'value', 'words'), WRONG_TRAINING_FILES[::4])  # test_options_check.py has all
def test_a_training_says_the_same(said, tmp_path, key, value, words):
    faults = said(write_yaml(changed(IRN_SIGMA, key, value), tmp_path / 'options.yml'))
    assert any(words in fault for fault in faults)


@pytest.mark.parametrize(('key', 'value', 'words'), WRONG_TEST_FILES)
def test_a_test_says_the_same(said, tmp_path, key, value, words):
    faults = said(write_yaml(changed(TEST, key, value), tmp_path / 'options.yml'), 'basicsr.test')
    assert any(words in fault for fault in faults)


def save_network(options, path='net_g.pth', growth_channels=4, **more) -> None:
    """A checkpoint to start from, of this machine's folder."""
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    torch.save({'params': InvRescaleNet(4, [1, 1], growth_channels).state_dict(), **more}, path)
    options['path']['pretrain_network_g'] = path


def save_state(options, path='experiments/other/training_states/4.state', **content) -> None:
    """A training state to resume, and of its training the networks."""
    for folder in ('models', 'training_states'):
        os.makedirs(f'experiments/other/{folder}', exist_ok=True)
    state = {'epoch': 0, 'iter': 4, 'optimizers': [], 'schedulers': [], 'model_type': 'IRNSigmaModel', **content}
    torch.save(state, path)
    for name in ('net_g', 'net_d'):
        torch.save({}, f'experiments/other/models/{name}_4.pth')
    options['path']['resume_state'] = path


def save_whole(options) -> None:
    torch.save(InvRescaleNet(4, [1, 1], 4), 'whole.pth')
    options['path']['pretrain_network_g'] = 'whole.pth'


def save_discriminator(options) -> None:
    torch.save({'params': {'conv0.weight': torch.zeros(1)}}, 'net_d_5.pth')
    options['path']['pretrain_network_g'] = 'net_d_5.pth'


def use_derived_model(options) -> None:
    options['model_type'] = 'DerivedModel'
    options['of_the_model'] = 1
    options['train']['grad_clipp'] = 1
    options['val']['sigmas'] = [2]


#: Changes of good options, and what is said of each.
WRONG_HERE = [
    (
        set_option('logger', 'wandb', {'project': 'a'}),
        ['logger.wandb.project needs logger.use_tb_logger: true.', 'pip install wandb'],
    ),
    (
        set_option('logger', 'use_tb_logger', True),
        ['logger.use_tb_logger needs a package that is not installed: pip install tensorboard'],
    ),
    (set_option('num_gpu', 1), ['num_gpu is 1, but torch finds no GPU here: set it to auto, or to 0']),
    (
        set_option('datasets', 'train', 'prefetch_mode', 'cuda'),
        ['prefetch_mode: cuda needs pin_memory', 'prefetch_mode: cuda needs a GPU'],
    ),
    (
        set_option('datasets', 'train', 'dataset_enlarge_ratio', None),
        ['has 3 images for each process and epoch, fewer than a batch of 4'],
    ),
    (set_option('datasets', 'train', 'gt_size', 128), ['images smaller than gt_size 128']),
    (
        set_option('network_g', 'type', 'InvRescalNet'),
        ['network_g: there is no InvRescalNet. Did you mean InvRescaleNet?'],
    ),
    (
        set_option('val', 'metrics', {'psnr': {'type': 'calculate_pnsr', 'crop_border': 4}}),
        ['there is no calculate_pnsr'],
    ),
    (set_option('model_type', 'IRNSigmaModl'), ['model_type: there is no IRNSigmaModl. Did you mean IRNSigmaModel?']),
    (use_derived_model, ['Unknown key train.grad_clipp', 'val.sigmas[0]: sigma must be']),
    (
        set_option('train', 'optim_g', 'capturable', True),
        ['train.optim_g: torch does not take this: If capturable=True'],
    ),
    (
        set_option('train', 'perceptual_opt', 'weights', 'imagenet'),
        ['train.perceptual_opt: ImageNet weights vgg16-397923af.pth are neither'],
    ),
    (
        set_option('val', 'metrics', {'lpips': {'type': 'calculate_lpips', 'better': 'lower'}}),
        ['val.metrics.lpips: ImageNet weights alexnet'],
    ),
    (
        set_option('path', 'pretrain_network_g', 'gone.pth'),
        ['path.pretrain_network_g: There is no checkpoint at gone.pth.'],
    ),
    (lambda options: save_network(options, growth_channels=8), ['net_g.pth is not of this InvRescaleNet']),
    (
        lambda options: save_network(options, 'experiments/tiny/models/g.pth'),
        ['BasicSR renames experiments/tiny before it reads'],
    ),
    (
        lambda options: save_network(options, 'a.state', iter=5, optimizers=[]),
        ['a.state is a training state, without weights: take models/net_g_5.pth'],
    ),
    (save_whole, ['If a network was saved whole, by torch.save(net), who made it can save']),
    (save_discriminator, ['It is of a discriminator: take net_g_5.pth.']),
    (
        set_option('path', 'resume_state', 'gone.state'),
        ['path.resume_state: cannot resume gone.state: [Errno 2] No such'],
    ),
    (
        save_state,
        ['experiments/tiny/models/net_g_4.pth, which goes with it, is not there; `name` must be that of its training'],
    ),
    (lambda options: save_state(options, model_type='SRModel'), ['it is of SRModel, not of IRNSigmaModel']),
    (
        lambda options: Path('experiments').touch(),
        ['name: experiments/tiny cannot be made, for nothing can be written into experiments.'],
    ),
]


@pytest.mark.parametrize(('change', 'words'), WRONG_HERE, ids=lambda each: each[0] if isinstance(each, list) else '')
def test_a_run_on_this_machine_says_the_same(said, tmp_path, monkeypatch, change, words):
    monkeypatch.setattr(start, 'find_spec', lambda name: None)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.setitem(MODEL_REGISTRY._obj_map, 'DerivedModel', type('DerivedModel', (IRNSigmaModel,), {}))
    options = options_to_train(write_photographs(tmp_path / 'photographs'))
    options['datasets']['train'].update(batch_size_per_gpu=4)
    options['val']['metrics'] = options['val']['lr_metrics'] = {}
    options['num_gpu'] = 'auto'
    change(options)
    faults = said(write_yaml(options, tmp_path / 'options.yml'))
    assert len(faults) == len(words)
    for fault, part in zip(faults, words):
        assert part in fault


@pytest.mark.parametrize(
    ('package', 'words'),
    [
        (None, 'val.metrics.dists: the weights of DISTS are in a package that is not installed: pip install dists'),
        (SimpleNamespace(submodule_search_locations=['.']), 'val.metrics.dists: ImageNet weights vgg16'),
    ],
    ids=['without its package', 'with it'],
)
def test_what_dists_needs_is_asked_for_at_the_start(said, tmp_path, monkeypatch, package, words):
    monkeypatch.setattr(dists, 'importlib', SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: package)))
    options = options_to_train(write_photographs(tmp_path / 'photographs'))
    options['val'].update(metrics={'dists': {'type': 'calculate_dists', 'better': 'lower'}}, lr_metrics={})
    (fault,) = said(write_yaml(options, tmp_path / 'options.yml'))
    assert words in fault


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', 'An option file is a block of keys; this one is not.'),
        ('a: [1', 'is no YAML'),
        ('name: a\nname: b', ": the key 'name' stands there twice"),
        ('name: !!python/object/apply:os.getcwd []', 'Such a tag can run code'),
    ],
)
def test_files_that_cannot_be_read_are_said_to_be_so(said, tmp_path, text, words):
    file = write_yaml(options_to_train(write_photographs(tmp_path / 'photographs')), tmp_path / 'options.yml')
    file.write_text(text and f'{file.read_text()}\n{text}\n')
    (fault,) = said(file)
    assert words in fault


def test_a_missing_file_is_said_to_be_missing(said, tmp_path):
    assert said(tmp_path / 'gone.yml') == [f'{tmp_path}/gone.yml cannot be read (No such file or directory).']


def test_a_file_in_the_folder_that_basicsr_renames(said, tmp_path):
    (tmp_path / 'experiments/tiny').mkdir(parents=True)
    options = options_to_train(write_photographs(tmp_path / 'photographs'))
    options['val']['metrics'] = options['val']['lr_metrics'] = {}
    (fault,) = said(write_yaml(options, tmp_path / 'experiments/tiny/options.yml'))
    assert fault.endswith('is in experiments/tiny, which BasicSR renames or copies it into: copy it elsewhere.')


@pytest.mark.parametrize(
    ('content', 'param_key', 'fault'),
    [
        (None, 'params', 'There is no checkpoint at'),
        ({}, None, None),
        ({}, 'params', 'path.param_key_g must be ~ (a bare state dict) for '),
        ({'num_feat': 8}, None, 'is not of this RRDBNet: '),
    ],
)
def test_checkpoints_of_basicsrs_own_models(capsys, said, tmp_path, content, param_key, fault):
    network = {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1, 'num_grow_ch': 2}
    options = options_to_test(options_to_train(write_photographs(tmp_path / 'photographs')), tmp_path / 'net_g.pth')
    options.update(model_type='ESRGANModel', network_g={'type': 'RRDBNet', **network})
    options['path']['param_key_g'] = param_key
    options['val']['metrics'] = {}
    if content is not None:
        torch.save(RRDBNet(**{**network, **content}).state_dict(), tmp_path / 'net_g.pth')
    file = write_yaml(options, tmp_path / 'options.yml')
    if fault is None:
        assert main(['check', str(file)]) == 0
    else:
        assert fault in said(file, 'basicsr.test')[0]
