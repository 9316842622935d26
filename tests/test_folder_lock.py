from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from irnsigma_plugin import folder_lock
from irnsigma_plugin.folder_lock import FolderInUseError, exclusive

pytestmark = pytest.mark.skipif(folder_lock.fcntl is None, reason='needs the locks of a POSIX system')


def test_one_at_a_time(tmp_path):
    for _ in range(2):
        with exclusive(tmp_path):
            with pytest.raises(FolderInUseError, match='another process works in '), exclusive(tmp_path):
                pass
            (tmp_path / 'other').mkdir(exist_ok=True)
            with exclusive(tmp_path / 'other'):
                pass
    assert [path.name for path in tmp_path.iterdir()] == ['other']


def test_a_kill_frees_the_folder(tmp_path, repo_root):
    code = (
        'import sys, time; from irnsigma_plugin.folder_lock import exclusive\n'
        'with exclusive(sys.argv[1]): print("locked", flush=True); time.sleep(60)'
    )
    with subprocess.Popen(
        [sys.executable, '-c', code, str(tmp_path)], cwd=repo_root, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == 'locked\n'
        with pytest.raises(FolderInUseError), exclusive(tmp_path):
            pass
        process.kill()
        process.wait()
        with exclusive(tmp_path):
            pass


def test_a_folder_removed_meanwhile_is_refused(tmp_path, monkeypatch):
    def removed(folder, flags):
        descriptor = os_open(folder, flags)
        folder.rmdir()
        return descriptor

    os_open = os.open
    folder = tmp_path / 'folder'
    folder.mkdir()
    monkeypatch.setattr(folder_lock.os, 'open', removed)
    with pytest.raises(FolderInUseError, match='has just removed'), exclusive(folder):
        pass


def test_without_locks_nothing_is_refused(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(folder_lock.fcntl, 'flock', unsupported)
    with exclusive(tmp_path), exclusive(tmp_path):
        pass
