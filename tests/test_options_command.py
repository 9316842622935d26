"""The command `irnsigma options`."""

from __future__ import annotations

import pytest

from irnsigma_plugin.cli import main
from irnsigma_plugin.commands import options


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_lists_every_file_with_what_it_is_for(repo_root, capsys, empty_folder):
    assert main(['options']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in (repo_root / 'options').glob('*.yml'))
    assert lines[0].endswith(
        "  Measure BasicSR's ESRGAN on bicubic low-resolution images, with the metrics of the other test files."
    )
    assert not any(empty_folder.iterdir())


def test_copies_what_is_named_or_all(repo_root, capsys, empty_folder):
    assert main(['options', 'train_IRN+_x4', 'test_IRN_x4.yml']) == 0
    assert capsys.readouterr().out == 'options/train_IRN+_x4.yml\noptions/test_IRN_x4.yml\n'
    source = (repo_root / 'options/train_IRN+_x4.yml').read_bytes()
    assert (empty_folder / 'options/train_IRN+_x4.yml').read_bytes() == source
    assert main(['options', '--to', 'made/here']) == 0
    assert len(list((empty_folder / 'made/here').iterdir())) == len(list((repo_root / 'options').glob('*.yml')))


def test_a_file_that_was_changed_is_kept(repo_root, capsys, empty_folder):
    changed = empty_folder / 'train_IRN_x4.yml'
    changed.write_text('mine')
    assert main(['options', '--to', '.']) == 1
    assert 'error: kept, for their content differs: train_IRN_x4.yml (--ov' in capsys.readouterr().err
    assert (empty_folder / 'train_IRN_x4_small.yml').exists()
    assert changed.read_text() == 'mine'
    assert main(['options', '--to', '.', 'train_IRN_x4', '--overwrite']) == 0
    assert changed.read_bytes() == (repo_root / 'options/train_IRN_x4.yml').read_bytes()


def test_an_unknown_name_copies_nothing(capsys, empty_folder):
    assert main(['options', 'train_IRN_x4', 'train_IRNsgma_x4']) == 1
    assert 'no option file train_IRNsgma_x4. Did you mean train_IRNsigma_x4?' in capsys.readouterr().err
    assert not any(empty_folder.iterdir())


def test_a_package_without_them_says_so(capsys, empty_folder, monkeypatch):
    monkeypatch.setattr(options, 'PACKAGE', empty_folder / 'irnsigma_plugin')
    assert main(['options']) == 1
    assert 'irnsigma_plugin has no option files with it: install the package anew.' in capsys.readouterr().err
