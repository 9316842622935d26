"""How networks and training states are saved; which state is resumed, which files go."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from irnsigma_plugin import files as files_module
from irnsigma_plugin.checkpoints.training_states import (
    SaveError,
    newest_whole_state,
    prune,
    save_atomically,
    weights_to_save,
)
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
        files_module._flush = kill
    save_atomically(content, path)


@pytest.mark.parametrize('moment', ['pickled', 'flushed'])
def test_a_kill_in_the_middle_of_a_save_leaves_the_old_file(path, moment):
    torch.save(WEIGHTS, path)
    process = multiprocessing.get_context('fork').Process(target=save_and_be_killed, args=(path, moment), daemon=True)
    process.start()
    process.join(60)
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


@pytest.fixture
def opt(tmp_path):
    paths = {key: str(tmp_path / key) for key in ('models', 'training_states')}
    for path in paths.values():
        os.mkdir(path)
    networks = {f'network_{name}': {'type': 'Net'} for name in 'gd'}
    return {'model_type': 'IRNSigmaModel', **networks, 'network_x': None, 'rank': 0, 'path': paths}  # x: left empty


def save(opt, iteration: int, **entries) -> list[Path]:
    """Paths of the state, of net_g and of net_d."""
    state = {'epoch': 0, 'iter': iteration, 'optimizers': [torch.arange(1000)], 'schedulers': [], **entries}
    files = [
        Path(opt['path']['training_states'], f'{iteration}.state'),
        *(Path(opt['path']['models'], f'net_{net}_{iteration}.pth') for net in 'gd'),
    ]
    for file, content in zip(files, (state, {'params': {}}, {'params': {}})):
        torch.save(content, file)
    return files


def newest(opt) -> int | None:
    path, state = newest_whole_state(opt, opt['path']['training_states'])
    assert (path is None) == (state is None)
    return state and state['iter']


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize('which', [0, 1, 2], ids=['state', 'net_g', 'net_d'])
@pytest.mark.parametrize(
    'damage',
    [
        Path.unlink,
        lambda path: path.write_bytes(b''),
        lambda path: path.write_bytes(os.urandom(3000)),
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        flip_byte,
    ],
    ids=['missing', 'empty', 'garbage', 'truncated', 'flipped'],
)
def test_a_state_with_a_damaged_file_is_skipped_and_named(opt, caplog, which, damage):
    save(opt, 2)
    files = save(opt, 10)
    damage(files[which])
    assert newest(opt) == 2
    assert which == 0 and damage is Path.unlink or str(files[0]) in caplog.text


@pytest.mark.parametrize(
    ('entries', 'reason'),
    [
        ({'iter': 9}, 'it is of iteration 9'),
        ({'model_type': 'SRModel'}, 'it is of SRModel, not of IRNSigmaModel'),
        ({'networks': ['network_g', 'network_x']}, 'it is of a training with network_x'),
        ({'networks': ['network_g', 'network_y']}, 'it is of a training with network_y'),
    ],
)
def test_a_foreign_state_is_skipped_and_named(opt, caplog, entries, reason):
    save(opt, 2)
    save(opt, 4, **entries)
    torch.save(torch.zeros(1), Path(opt['path']['training_states'], '6.state'))
    for net in 'gd':
        torch.save({}, Path(opt['path']['models'], f'net_{net}_6.pth'))
    assert newest(opt) == 2
    assert reason in caplog.text
    assert 'it is no training state' in caplog.text


def test_the_newest_whole_states_stay(opt):
    for iteration in (2, 4, 6, 8, 10):
        save(opt, iteration)
    Path(opt['path']['models'], 'net_d_8.pth').write_bytes(b'')  # so 8 is not whole
    latest = Path(opt['path']['models'], 'net_g_latest.pth')
    latest.touch()
    prune(opt, 2, 10)
    assert sorted(os.listdir(opt['path']['training_states'])) == ['10.state', '6.state', '8.state']
    assert not Path(opt['path']['models'], 'net_g_4.pth').exists()
    assert Path(opt['path']['models'], 'net_d_6.pth').exists()
    assert latest.exists()


def test_networks_that_are_not_resumed_go_with_the_others(opt):
    opt['path']['ignore_resume_networks'] = ['network_d']
    for iteration in (2, 4, 6):
        save(opt, iteration)
    Path(opt['path']['models'], 'net_d_6.pth').unlink()  # without which 6 is whole
    prune(opt, 1, 6)
    assert os.listdir(opt['path']['training_states']) == ['6.state']
    assert os.listdir(opt['path']['models']) == ['net_g_6.pth']


def test_the_only_whole_state_stays(opt):
    for iteration in (2, 4, 6):
        save(opt, iteration)
    for iteration in (4, 6):
        Path(opt['path']['training_states'], f'{iteration}.state').write_bytes(b'damaged')
    prune(opt, 1, 6)
    assert newest(opt) == 2
