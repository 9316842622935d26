from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys

import pytest
import torch

from irnsigma_plugin.checkpoints.weights import SaveError, atomic_saves, read_checkpoint, saves_with

WEIGHTS = {'conv.weight': torch.arange(6.0).view(2, 3), 'conv.bias': torch.tensor([1.0, 2.0])}


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'net_g.pth'


def saved(path, content):
    torch.save(content, path)
    return path


def test_saves_are_complete_and_leave_nothing_else(path):
    original = torch.save
    with atomic_saves():
        torch.save(WEIGHTS, path)
        torch.save(WEIGHTS, str(path), _use_new_zipfile_serialization=False)
    assert torch.save is original
    torch.testing.assert_close(read_checkpoint(path).state_dict, WEIGHTS)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    'call',
    [
        lambda path: torch.save(obj=WEIGHTS, f=path),
        lambda path: path.write_bytes(saved(io.BytesIO(), WEIGHTS).getvalue()),
    ],
    ids=['keywords', 'file object'],
)
def test_other_ways_to_call_torch_save_still_work(path, call):
    with atomic_saves():
        call(path)
    torch.testing.assert_close(read_checkpoint(path).state_dict, WEIGHTS)


def test_a_failing_save_leaves_the_old_file_and_fails_in_the_end(path):
    def save_two():
        with atomic_saves():
            for name, content in ((path.name, {'unpicklable': lambda: None}), ('later.pth', WEIGHTS)):
                with contextlib.suppress(SaveError):  # as BasicSR does
                    torch.save(content, path.with_name(name))

    saved(path, WEIGHTS)
    original = torch.save
    with pytest.raises(SaveError, match='pickle'):
        save_two()
    assert torch.save is original
    torch.testing.assert_close(read_checkpoint(path).state_dict, WEIGHTS)
    assert os.listdir(path.parent) == [path.name]


def test_a_kill_in_the_middle_of_a_save_leaves_the_old_file(path):
    saved(path, WEIGHTS)
    script = """
import os, signal, sys, torch
from irnsigma_plugin.checkpoints.weights import atomic_saves

class Killer:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)

with atomic_saves():
    torch.save([torch.zeros(10**5), Killer()], sys.argv[1], _use_new_zipfile_serialization=False)
"""
    killed = subprocess.run([sys.executable, '-c', script, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    torch.testing.assert_close(read_checkpoint(path).state_dict, WEIGHTS)


def test_entries_are_added_to_what_is_saved(path):
    original = torch.save
    with atomic_saves(), saves_with({'network_g': {'clamp': 0.5}}):
        torch.save({'params': WEIGHTS}, path)
    assert torch.save is original
    assert read_checkpoint(path).network == {'clamp': 0.5}
    assert os.listdir(path.parent) == [path.name]
