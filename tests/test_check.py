"""`irnsigma check`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.experiment import options_to_train, write_photographs, write_yaml

from irnsigma_plugin.cli import main

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


def test_what_is_left_to_others_is_named(capsys, tmp_path):
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
    assert main(['check']) == 1
    assert 'name one or more option files, or give --list-keys' in capsys.readouterr().err


def test_the_keys_are_listed_with_defaults_and_meanings(capsys):
    assert main(['check', '--list-keys']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| `clamp` | `1.0` | Bound of a coupling block's log-scale. |" in lines
    assert '| `seed` | `0` | ' in ''.join(line[:15] for line in lines)
    keys = [line for line in lines if line.startswith('| `')]
    assert len(keys) > 80
    assert not [line for line in keys if line.endswith('|  |')], 'every key has a meaning'
