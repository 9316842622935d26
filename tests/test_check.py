"""`irnsigma check`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.experiment import options_to_train, write_photographs, write_yaml

from irnsigma_plugin.cli import main

OPTIONS = Path(__file__).resolve().parents[1] / 'options'


def test_released_option_files_pass_without_data_and_without_torch(repo_root):
    code = (
        'import glob, sys\nfrom irnsigma_plugin.cli import main\n'
        'assert main(["check", "--no-data", *glob.glob("options/*.yml")]) == 0\n'
        'print(sorted({"torch", "basicsr"} & set(sys.modules)))'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=repo_root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines.count('  OK') == len(list(OPTIONS.glob('*.yml')))
    assert lines[-1] == '[]'


def test_a_file_with_its_data(capsys, tmp_path):
    options = options_to_train(write_photographs(tmp_path / 'photographs'))
    file = write_yaml(options, tmp_path / 'options.yml')
    assert main(['check', str(file)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f'{file}: training of IRNSigmaModel, ')
    assert 'the images of datasets.train, datasets.val' in first
    assert first.endswith('left to BasicSR or an extension: network_d (UNetDiscriminatorSN)')
    assert second == '  OK'


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
