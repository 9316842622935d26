import os
import subprocess
import sys

import pytest

from irnsigma_plugin.atomic import atomic_path


@pytest.fixture
def final(tmp_path):
    path = tmp_path / 'table.md'
    path.write_text('old')
    return path


def content(path):
    """Text of the only file in the folder."""
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return path.read_text()


def write(path, text, error=None):
    with atomic_path(path) as temporary:
        with open(temporary, 'w') as file:
            file.write(text)
        if error:
            raise error


@pytest.mark.parametrize('kind', [str, lambda path: path])
def test_the_file_appears_when_the_block_ends(final, kind):
    with atomic_path(kind(final)) as temporary:
        with open(temporary, 'w') as file:
            file.write('new')
        assert final.read_text() == 'old'
        assert os.path.dirname(temporary) == str(final.parent)
        assert os.path.splitext(temporary)[1] == '.md'
        assert os.path.basename(temporary).startswith('.')
    assert content(final) == 'new'


def test_a_path_relative_to_the_current_directory(final, monkeypatch):
    monkeypatch.chdir(final.parent)
    write(final.name, 'new')
    assert content(final) == 'new'


@pytest.mark.parametrize('error', [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(final, error):
    with pytest.raises(error):
        write(final, 'half of the n', error)
    assert content(final) == 'old'


def test_an_error_before_anything_is_written_is_not_masked(final):
    with pytest.raises(ZeroDivisionError), atomic_path(final):
        raise ZeroDivisionError
    assert content(final) == 'old'


def test_a_failing_rename_leaves_no_temporary_file(tmp_path):
    folder = tmp_path / 'folder'
    (folder / 'occupied').mkdir(parents=True)
    with pytest.raises(OSError, match='folder'):
        write(folder, 'new')
    assert [path.name for path in tmp_path.iterdir()] == ['folder']


def test_a_killed_process_leaves_the_old_file(final):
    script = ('import os, signal, sys; from irnsigma_plugin.atomic import atomic_path\n'
              'with atomic_path(sys.argv[1]) as temporary, open(temporary, "w") as file:\n'
              '    file.write("half"); file.flush(); os.kill(os.getpid(), signal.SIGKILL)')
    killed = subprocess.run([sys.executable, '-c', script, str(final)], check=False)
    assert killed.returncode == -9
    assert final.read_text() == 'old'
