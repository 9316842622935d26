"""Which training state is resumed, which files go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from irnsigma_plugin.checkpoints.training_states import newest_whole_state, prune


@pytest.fixture
def opt(tmp_path):
    paths = {key: str(tmp_path / key) for key in ('models', 'training_states')}
    for path in paths.values():
        os.mkdir(path)
    return {'model_type': 'IRNSigmaModel', 'network_g': {}, 'network_d': {}, 'rank': 0, 'path': paths}


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


def test_the_only_whole_state_stays(opt):
    for iteration in (2, 4, 6):
        save(opt, iteration)
    for iteration in (4, 6):
        Path(opt['path']['training_states'], f'{iteration}.state').write_bytes(b'damaged')
    prune(opt, 1, 6)
    assert newest(opt) == 2
