import collections
import errno
import hashlib
import io
import os
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from irnsigma_plugin.checkpoints.weights import (
    Checkpoint,
    CheckpointError,
    build_network,
    check_arguments,
    check_fits,
    model_hash,
    read_checkpoint,
)

WEIGHTS = {'conv.weight': torch.arange(6.0).view(2, 3), 'conv.bias': torch.tensor([1.0, 2.0])}
EMA = {key: value + 100 for key, value in WEIGHTS.items()}


def saved(path, content, **arguments):
    torch.save(content, path, **arguments)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'net_g.pth'


@pytest.mark.parametrize(
    ('content', 'param_key', 'expected'),
    [
        ({'params': WEIGHTS, 'params_ema': EMA}, 'params', WEIGHTS),
        ({'params': WEIGHTS, 'params_ema': EMA}, 'params_ema', EMA),
        ({'params': WEIGHTS}, 'params_ema', WEIGHTS),
        (WEIGHTS, None, WEIGHTS),
        (WEIGHTS, 'params', WEIGHTS),
        (WEIGHTS, 'params_ema', WEIGHTS),
        (collections.OrderedDict(WEIGHTS), None, WEIGHTS),
        ({f'module.{key}': value for key, value in WEIGHTS.items()}, None, WEIGHTS),
        ({'params': {f'module.{key}': value for key, value in WEIGHTS.items()}}, 'params', WEIGHTS),
    ],
)
def test_layouts(path, content, param_key, expected):
    torch.testing.assert_close(read_checkpoint(saved(path, content), param_key).state_dict, expected, rtol=0, atol=0)


def test_what_a_wrapped_network_saves_fits_the_bare_one(path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    state_dict = read_checkpoint(saved(path, {'params': nn.DataParallel(net).state_dict()})).state_dict
    check_fits(net, state_dict, path)
    torch.testing.assert_close(state_dict, dict(net.state_dict()))


@pytest.mark.parametrize(
    'content',
    [b'', b'\n', b'not a checkpoint\n', b'<html>404</html>', bytes(100)],
    ids=['empty', 'newline', 'text', 'html', 'zeros'],
)
def test_files_of_another_kind(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r'net_g\.pth is no readable PyTorch checkpoint') as info:
        read_checkpoint(path)
    assert '\n' not in str(info.value)
    assert 'weights_only' not in str(info.value), 'nobody should be told to load an unknown file unsafely'


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
def test_every_truncation_is_one_clear_error(path, zipped):
    saved(path, {'params': WEIGHTS}, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for length in range(0, len(content) - 1, len(content) // 60):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match='no readable PyTorch checkpoint'):
            read_checkpoint(path)


def test_missing_file(path):
    with pytest.raises(CheckpointError, match=r'no checkpoint at .*net_g\.pth'):
        read_checkpoint(path)


def test_a_file_that_may_not_be_read_is_not_called_damaged(path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise PermissionError(errno.EACCES, 'Permission denied')

    monkeypatch.setattr(torch, 'load', forbidden)
    with pytest.raises(CheckpointError, match=r'net_g\.pth cannot be read \(Permission denied\); check the rights'):
        read_checkpoint(saved(path, WEIGHTS))


def test_a_pipe_is_not_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match='is no file; name a checkpoint'):
        read_checkpoint(path)


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match='is no file; name a checkpoint'):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    'content',
    [{}, [1, 2], torch.zeros(3), {'params': {}}, {'epoch': 3, 'iter': 7}, {'params': {'a': 1}}, {0: torch.zeros(3)}],
    ids=str,
)
def test_files_without_weights(path, content):
    with pytest.raises(CheckpointError, match="holds no network weights: .*'params_ema'"):
        read_checkpoint(saved(path, content))


def test_a_training_state_is_pointed_out(path):
    with pytest.raises(CheckpointError, match=r'is a training state, without weights: take models/net_g_7\.pth\.'):
        read_checkpoint(saved(path, {'epoch': 3, 'iter': 7, 'optimizers': []}))


def test_weights_under_another_key_are_pointed_out(path):
    with pytest.raises(CheckpointError, match="'params'.*params_ema"):
        read_checkpoint(saved(path, {'params_ema': EMA}), 'params')


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, victim):
        self.victim = str(victim)

    def __reduce__(self):
        return os.mkdir, (self.victim,)


REFUSED = r'net_g\.pth is refused: it asks for posix\.mkdir, .*could run code'


@pytest.mark.parametrize(
    ('save', 'message'),
    [
        (lambda content, path: torch.save(content, path), REFUSED),
        (lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False), REFUSED),
        (lambda content, path: path.write_bytes(pickle.dumps(content)), 'no readable PyTorch checkpoint'),
    ],
    ids=['zip', 'legacy', 'pickle'],
)
@pytest.mark.parametrize('entry', ['extra', 'network_g'])
def test_code_in_a_file_does_not_run(path, tmp_path, save, message, entry):
    victim = tmp_path / 'victim'
    save({'params': WEIGHTS, entry: Payload(victim)}, path)
    with pytest.raises(CheckpointError, match=message) as info:
        read_checkpoint(path)
    assert not victim.exists()
    assert 'weights_only' not in str(info.value), 'nobody should be told to load an unknown file unsafely'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'weight': None}, r'1 keys? .*missing \(first: weight\)'),
        ({'extra': torch.zeros(1)}, r'1 keys? .*unknown \(first: extra\)'),
        ({'weight': torch.zeros(5, 3)}, r'weight has shape \(5, 3\) instead of \(2, 3\)'),
        ({'weight': None, 'weights': torch.zeros(2, 3)}, 'missing.*weight.*unknown.*weights'),
    ],
)
def test_the_checkpoint_of_another_network_is_named(change, message):
    net = nn.Linear(3, 2)
    check_fits(net, net.state_dict(), 'other.pth')
    state_dict = {key: value for key, value in {**net.state_dict(), **change}.items() if value is not None}
    with pytest.raises(CheckpointError, match=rf'other\.pth is not of this Linear.*{message}'):
        check_fits(net, state_dict, 'other.pth')


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        (WEIGHTS, (WEIGHTS, None, {})),
        ({'params': WEIGHTS}, (WEIGHTS, 'params', {})),
        ({'params': WEIGHTS, 'params_ema': EMA}, (EMA, 'params_ema', {})),
        ({'params_ema': {f'module.{key}': value for key, value in EMA.items()}}, (EMA, 'params_ema', {})),
        (
            {
                'params': WEIGHTS,
                'network_g': collections.OrderedDict(type='InvRescaleNet', block_num=[8, 8], clamp=0.5),
            },
            (WEIGHTS, 'params', {'type': 'InvRescaleNet', 'block_num': [8, 8], 'clamp': 0.5}),
        ),
        ({'params': WEIGHTS, 'network_g': 'text'}, (WEIGHTS, 'params', {})),
    ],
    ids=['bare', 'params', 'ema', 'wrapped ema', 'block', 'no block'],
)
def test_checkpoint(path, content, expected):
    checkpoint = read_checkpoint(saved(path, content))
    torch.testing.assert_close(checkpoint.state_dict, expected[0], rtol=0, atol=0)
    assert checkpoint[1:] == (*expected[1:], str(path))


@pytest.mark.parametrize(
    ('metadata', 'network'), [(None, {}), ({'format': 'pt'}, {}), ({'clamp': '0.5'}, {'clamp': 0.5})], ids=str
)
def test_safetensors(path, metadata, network):
    path = path.with_suffix('.safetensors')
    save_file({f'module.{key}': value for key, value in WEIGHTS.items()}, path, metadata)
    torch.testing.assert_close(read_checkpoint(path).state_dict, WEIGHTS, rtol=0, atol=0)
    assert read_checkpoint(path)[1:] == (None, network, str(path))


@pytest.mark.parametrize('clamp', ['much', '0', '-1', 'nan', ''])
def test_an_impossible_clamp_in_safetensors(path, clamp):
    path = path.with_suffix('.safetensors')
    save_file(WEIGHTS, path, {'clamp': clamp})
    with pytest.raises(CheckpointError, match=f'clamp in its metadata must be a number, more than 0, but is {clamp!r}'):
        read_checkpoint(path)


def test_damaged_safetensors(path):
    path = path.with_suffix('.safetensors')
    with pytest.raises(CheckpointError, match='no checkpoint at'):
        read_checkpoint(path)
    save_file(WEIGHTS, path)
    content = path.read_bytes()
    for damaged in (b'', content[: len(content) // 2], content[:-1], saved(io.BytesIO(), WEIGHTS).getvalue()):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match='no readable safetensors file'):
            read_checkpoint(path)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_weights_that_are_no_numbers_are_refused(path, suffix, value):
    path = path.with_suffix(suffix)
    weights = {**WEIGHTS, 'conv.bias': torch.tensor([1.0, value])}
    save_file(weights, path) if suffix == '.safetensors' else torch.save({'params': weights}, path)
    words = rf'net_g\{suffix}: conv\.bias has values that are infinite or no numbers, .*use an earlier checkpoint'
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r'other: conv\.bias has values'):
        build_network(Checkpoint(weights, path='other'))


def test_weights_in_types_of_all_kinds_are_finite(path):
    """Counters, flags and the types of quantized files have no value that is no number; a float64 may be too large."""
    kinds = (torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn)
    content = {str(kind): torch.ones(2).to(kind) for kind in kinds}
    assert read_checkpoint(saved(path, content)).state_dict.keys() == content.keys()
    with pytest.raises(CheckpointError, match='large has values'):
        read_checkpoint(saved(path, {**content, 'large': torch.tensor(1e39, dtype=torch.float64)}))


def test_hash_is_of_names_shapes_types_and_values():
    # echo of the definition: SHA-256 of 'a (2,) torch.float32\n' and the eight bytes of [1, 2]
    known = hashlib.sha256(b'a (2,) torch.float32\n' + struct.pack('=2f', 1, 2)).hexdigest()[:16]
    assert model_hash({'a': torch.tensor([1.0, 2.0])}) == known
    base = {'a': torch.arange(4.0).view(2, 2), 'b': torch.tensor(3)}
    hashes = [
        model_hash(changed)
        for changed in (
            base,
            {**base, 'b': torch.tensor(4)},
            {**base, 'a': base['a'].T},
            {**base, 'a': base['a'].flatten()},
            {**base, 'a': base['a'].to(torch.bfloat16)},
            {'a': base['a'], 'c': base['b']},
            {'a': base['a']},
        )
    ]
    assert len(set(hashes)) == len(hashes)
    alike = {'b': base['b'], 'a': base['a'].T.contiguous().T}  # in another order and memory layout
    assert model_hash(alike) == hashes[0]


@pytest.mark.parametrize(
    ('saved_block', 'block'),
    [
        ({}, {'clamp': 2}),
        ({'clamp': 1}, {}),
        ({'type': 'InvRescaleNet'}, {'clamp': 1.0}),
        ({'clamp': 0.5}, {'clamp': 0.5}),
    ],
)
def test_clamp_of_the_option_file_is_the_saved_one(saved_block, block):
    check_arguments(Checkpoint(WEIGHTS, network=saved_block), block)


@pytest.mark.parametrize(
    ('saved_block', 'block', 'clamp'), [({'clamp': 0.5}, {}, 0.5), ({'type': 'InvRescaleNet'}, {'clamp': 2}, 1.0)]
)
def test_another_clamp_than_the_saved_one_is_refused(saved_block, block, clamp):
    with pytest.raises(CheckpointError, match=rf'some\.pth was trained with .*Set network_g\.clamp: {clamp} in'):
        check_arguments(Checkpoint(WEIGHTS, network=saved_block, path='some.pth'), block)
