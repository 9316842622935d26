"""The command `irnsigma prepare`."""

import pytest
from helpers.preparation import save_photographs

from irnsigma_plugin.cli import main
from irnsigma_plugin.preparation import pairs


@pytest.fixture
def photographs(tmp_path):
    return save_photographs(tmp_path / 'photographs')


def test_names_the_data_and_the_skipped_images(photographs, tmp_path, capsys):
    (photographs / 'bad.jpg').touch()
    arguments = ['prepare', str(photographs), str(tmp_path / 'set'), '--crop-size', '16', '--min-size', '8']
    assert main(arguments) == 0
    output = capsys.readouterr()
    assert f'dataroot_gt: {tmp_path}/set/set_hr.lmdb' in output.out
    assert f'dataroot_lq: {tmp_path}/set/set_lr_x4.lmdb' in output.out
    assert 'bad.jpg: the file is empty' in output.err
    assert main([*arguments, '--strict']) == 1
    assert 'Already complete' in capsys.readouterr().out


def test_errors_are_one_line(photographs, tmp_path, capsys):
    assert main(['prepare', str(photographs), str(tmp_path / 'set'), '--crop-size', '15']) == 2
    assert main(['prepare', str(tmp_path / 'none'), str(tmp_path / 'set')]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith('irnsigma: error: crop_size must be a multiple of the scale 4, got 15')
    assert errors[1].startswith(f'irnsigma: error: {tmp_path}/none: there is no such file or folder')
    assert len(errors) == 2


def test_an_interruption_says_how_to_go_on(photographs, tmp_path, capsys, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pairs, 'find_photographs', interrupt)
    assert main(['prepare', str(photographs), str(tmp_path / 'set')]) == 130
    assert 'interrupted; the same command again goes on from here' in capsys.readouterr().err


def test_python_runs_the_command_without_its_script(photographs, tmp_path, run_cli):
    command = '-m', 'irnsigma_plugin.cli', 'prepare', 'photographs', 'set', '--min-size', '8', '--crop-size'
    assert run_cli(*command, '18', check=False).returncode == 2
    output = run_cli(*command, '16').stdout
    assert f'24 pairs of sub-images from 4 images, every one read back:\n  dataroot_gt: {tmp_path}/set/set_hr' in output
