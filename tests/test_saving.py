from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
import torch
from torch import nn

from irnsigma_plugin import files
from irnsigma_plugin.checkpoints.saving import SaveError, save_atomically, weights_to_save
from irnsigma_plugin.checkpoints.weights import read_checkpoint

WEIGHTS = {'conv.weight': torch.arange(6.0).view(2, 3), 'conv.bias': torch.tensor([1.0, 2.0])}


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'net_g.pth'


@pytest.mark.parametrize('kind', [str, lambda path: path], ids=['str', 'Path'])
def test_saves_are_complete_and_leave_nothing_else(path, kind):
    original = torch.save
    save_atomically(WEIGHTS, kind(path))
    assert torch.save is original
    torch.testing.assert_close(read_checkpoint(path).state_dict, WEIGHTS)
    assert os.listdir(path.parent) == [path.name]


def test_a_failing_save_leaves_the_old_file_and_fails_at_once(path):
    torch.save(WEIGHTS, path)
    with pytest.raises(
        SaveError, match=r'^Cannot save .*net_g\.pth \(.*pickle.* MiB are free there\), so the training'
    ):
        save_atomically({'unpicklable': lambda: None}, path)
    torch.testing.assert_close(read_checkpoint(path).state_dict, WEIGHTS)
    assert os.listdir(path.parent) == [path.name]


def test_a_missing_folder_is_named_with_the_systems_reason(path):
    with pytest.raises(SaveError, match=r'lost/net_g\.pth \(No such file or directory\)'):
        save_atomically(WEIGHTS, path.parent / 'lost' / path.name)


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


class Killer:
    __reduce__ = kill


def save_and_be_killed(path, moment):
    content = [torch.zeros(10**5)]
    if moment == 'pickled':
        content.append(Killer())
    else:
        files._flush = kill
    save_atomically(content, path)


@pytest.mark.parametrize('moment', ['pickled', 'flushed'])
def test_a_kill_in_the_middle_of_a_save_leaves_the_old_file(path, moment):
    torch.save(WEIGHTS, path)
    process = multiprocessing.get_context('spawn').Process(target=save_and_be_killed, args=(path, moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    torch.testing.assert_close(read_checkpoint(path).state_dict, WEIGHTS)


def test_weights_to_save_are_a_state_dict_without_the_prefix_of_wrapped_networks():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    wrapped = nn.Module()
    wrapped.module = net
    saved = weights_to_save(wrapped)
    assert list(saved) == list(net.state_dict())
    torch.testing.assert_close(dict(saved), dict(net.state_dict()))
    assert weights_to_save(net)._metadata == net.state_dict()._metadata
