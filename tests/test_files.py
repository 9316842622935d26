import errno
import fcntl
import os
import stat
import subprocess
import sys
import types
from unittest import mock

import pytest
from helpers.processes import process_that

from irnsigma_plugin import files
from irnsigma_plugin.files import WriteError, atomic_path, atomic_write, lock, make_folder, remove_leftovers


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


def test_a_pipe_stays_one(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    reading = os.open(tmp_path / 'pipe', os.O_RDONLY | os.O_NONBLOCK)
    atomic_write(tmp_path / 'pipe', b'content')
    assert os.read(reading, 100) == b'content'
    assert os.listdir(tmp_path) == ['pipe']
    assert not os.path.isfile(tmp_path / 'pipe')
    os.close(reading)


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


def full_disk(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_error_of_the_system_names_the_file_the_reason_and_the_remedy(tmp_path, monkeypatch):
    missing, full = tmp_path / 'none' / 'table.md', tmp_path / 'table.md'
    with pytest.raises(WriteError) as error:
        atomic_write(missing, b'')
    assert str(error.value) == (
        f'{missing}: cannot be written (No such file or directory); check the rights and the '
        'free space there, or choose another place.'
    )
    assert (error.value.errno, error.value.strerror) == (errno.ENOENT, 'No such file or directory')
    monkeypatch.setattr(os, 'fsync', full_disk)
    with pytest.raises(WriteError, match=rf'^{full}: cannot be written \(No space left on device\)'):
        atomic_write(full, b'')
    assert os.listdir(tmp_path) == []


def test_a_folder_that_refuses_to_be_flushed_costs_no_finished_file(final, monkeypatch):
    def refuse(descriptor, flush=os.fsync):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(descriptor)

    monkeypatch.setattr(os, 'fsync', refuse)
    write(final, 'new')
    assert content(final) == 'new'


def test_an_error_that_explains_itself_stays(final):
    with pytest.raises(OSError, match=r'^explained$'):
        write(final, 'new', OSError('explained'))


@pytest.mark.parametrize('name', ['n' * 251 + '.png', 'ü' * 125 + '.png', 'n.' + 'x' * 253, '.' + 'n' * 254])
def test_a_name_as_long_as_names_can_be(tmp_path, name):
    write(tmp_path / name, 'new')
    assert content(tmp_path / name) == 'new'


def test_two_files_at_a_time(tmp_path):
    with atomic_path(tmp_path / 'a.md') as first, atomic_path(tmp_path / 'b.md') as second:
        assert first != second
        for path in (first, second):
            with open(path, 'w'):
                pass
    assert sorted(os.listdir(tmp_path)) == ['a.md', 'b.md']


def test_a_folder_is_made_and_tried(tmp_path, monkeypatch):
    for _ in range(2):
        make_folder(tmp_path / 'a' / 'b')
    assert os.listdir(tmp_path / 'a' / 'b') == []
    (tmp_path / 'file').touch()
    for path in (tmp_path / 'file', tmp_path / 'file' / 'b'):
        with pytest.raises(WriteError, match=rf'^{path}: cannot be written \(Not a directory\); .*another place'):
            make_folder(path)
    with pytest.raises(WriteError, match='^/proc: cannot be written'):
        make_folder('/proc')


def test_a_killed_process_leaves_the_old_file(final):
    script = (
        'import os, signal, sys; from irnsigma_plugin.files import atomic_path\n'
        'with atomic_path(sys.argv[1]) as temporary, open(temporary, "w") as file:\n'
        '    file.write("half"); file.flush(); os.kill(os.getpid(), signal.SIGKILL)'
    )
    killed = subprocess.run([sys.executable, '-c', script, str(final)], check=False)
    assert killed.returncode == -9
    assert final.read_text() == 'old'


def test_leftovers_of_dead_processes_go(tmp_path):
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    stays = ['.1.net_g_2.pth', 'net_g_2.pth', '.hidden', '.12x.pth']
    for name in (*stays, f'.{dead.pid}.net_g_4.pth', f'.{os.getpid()}.4.state'):
        (tmp_path / name).touch()
    remove_leftovers([str(tmp_path), str(tmp_path / 'missing')])
    assert sorted(os.listdir(tmp_path)) == sorted(stays)


def test_a_lock_lasts_until_its_process_is_killed(tmp_path):
    path = tmp_path / 'lock'
    path.write_text('content')
    with process_that(f'from irnsigma_plugin.files import lock\nassert (file := lock({str(path)!r}))') as process:
        assert lock(path) is None
        process.kill()
        process.wait()
        with lock(path):
            assert lock(path) is None
        lock(path).close()
    assert path.read_text() == 'content'


@pytest.mark.parametrize('error', [None, errno.ENOLCK])
def test_without_locks_the_file_is_open(tmp_path, monkeypatch, error):
    """On Windows, or on a network drive."""
    module = types.SimpleNamespace(LOCK_EX=1, LOCK_NB=2, flock=mock.Mock(side_effect=OSError(error, 'no locks')))
    monkeypatch.setitem(sys.modules, 'fcntl', error and module)
    with lock(tmp_path / 'lock'), lock(tmp_path / 'lock') as file:
        file.write(b'content')
    assert (tmp_path / 'lock').read_bytes() == b'content'


def test_a_drive_that_denies_a_second_lock(tmp_path, monkeypatch):
    """As those of Windows servers."""
    monkeypatch.setattr(fcntl, 'flock', mock.Mock(side_effect=PermissionError(errno.EACCES, 'denied')))
    assert lock(tmp_path / 'lock') is None


def test_a_file_that_may_only_be_read_is_locked(tmp_path, monkeypatch):
    """Somebody else's; as root, who may write to all, it has to be pretended."""
    (tmp_path / 'lock').touch()

    def reading(path, mode, buffering):
        if mode != 'rb':
            raise PermissionError(errno.EACCES, 'denied')
        return open(path, mode, buffering)

    monkeypatch.setattr(files, 'open', reading, raising=False)
    with lock(tmp_path / 'lock'):
        assert lock(tmp_path / 'lock') is None
