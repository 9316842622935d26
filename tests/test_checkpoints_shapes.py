"""Shapes of a checkpoint are read without its values, and without running what a pickle asks for."""

from __future__ import annotations

import collections
import json
import os
import pickle

import pytest
import torch
from torch import nn

from irnsigma_plugin.checkpoints import weights
from irnsigma_plugin.checkpoints.weights import CheckpointError, differences, shapes_of

WEIGHTS = {'conv.weight': torch.zeros(2, 3), 'conv.bias': torch.zeros(2), 'scalar': torch.tensor(1.0)}
SHAPES = {'conv.weight': (2, 3), 'conv.bias': (2,), 'scalar': ()}


def read_checkpoint(path, param_key='params', device='meta'):
    return weights.read_checkpoint(path, param_key, device)


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, victim):
        self.victim = str(victim)

    def __reduce__(self):
        return os.mkdir, (self.victim,)


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'net_g.pth'


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
@pytest.mark.parametrize(
    ('content', 'param_key', 'expected'),
    [
        ({'params': WEIGHTS, 'params_ema': {'a': torch.zeros(7)}}, 'params', SHAPES),
        ({'params': WEIGHTS, 'params_ema': {'a': torch.zeros(7)}}, 'params_ema', {'a': (7,)}),
        (
            {
                'params': WEIGHTS,
                'iter': 3,
                'dtype': torch.float32,
                'network_g': {'type': 'InvRescaleNet', 'clamp': 0.5},
            },
            None,
            SHAPES,
        ),
        (WEIGHTS, 'params', SHAPES),
        (collections.OrderedDict(WEIGHTS), None, SHAPES),
        ({f'module.{key}': value for key, value in WEIGHTS.items()}, None, SHAPES),
        ({key: nn.Parameter(value) for key, value in WEIGHTS.items()}, None, SHAPES),
        ({key: value.bfloat16() for key, value in WEIGHTS.items()}, None, SHAPES),
    ],
)
def test_outline_is_of_what_torch_loads(path, content, param_key, expected, zipped):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    outline, checkpoint = read_checkpoint(path, param_key), read_checkpoint(path, param_key, 'cpu')
    assert shapes_of(outline.state_dict) == expected
    assert all(value.is_meta for value in outline.state_dict.values())
    assert shapes_of(checkpoint.state_dict) == expected
    assert outline.network == checkpoint.network


def test_safetensors(tmp_path):
    header = json.dumps(
        {'__metadata__': {'clamp': '0.5'}, 'a': {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 24]}}
    ).encode()
    path = tmp_path / 'net_g.safetensors'
    path.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(24))
    outline = read_checkpoint(path)
    assert shapes_of(outline.state_dict) == {'a': (2, 3)}
    assert outline.state_dict['a'].is_meta
    assert outline.network == {'clamp': 0.5}


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
def test_code_in_a_file_does_not_run(path, tmp_path, zipped):
    victim = tmp_path / 'victim'
    torch.save({'params': WEIGHTS, 'extra': Payload(victim)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=r'net_g\.pth is refused: it asks for posix\.mkdir.*could run code'
    ) as info:
        read_checkpoint(path)
    assert not victim.exists()
    assert 'weights_only' not in str(info.value), 'nobody should be told to load an unknown file unsafely'


def test_code_in_a_plain_pickle_does_not_run(path, tmp_path):
    victim = tmp_path / 'victim'
    path.write_bytes(pickle.dumps({'params': WEIGHTS, 'extra': Payload(victim)}))
    with pytest.raises(CheckpointError, match=r'net_g\.pth is no readable PyTorch checkpoint: .* of another kind'):
        read_checkpoint(path)
    assert not victim.exists()


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
def test_truncated_files_are_one_clear_error(path, zipped):
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for length in range(0, 400 if not zipped else len(content) - 1, 40):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match='no readable PyTorch checkpoint'):
            read_checkpoint(path)


@pytest.mark.parametrize(
    'content', [{}, [1, 2], torch.zeros(3), {'params': {}}, {'iter': 7}, {'params': {'a': 1}}], ids=str
)
def test_files_without_weights(path, content):
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="holds no network weights: .*'params'"):
        read_checkpoint(path)


def test_missing_file(path):
    with pytest.raises(CheckpointError, match=r'no checkpoint at .*net_g\.pth'):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({}, ''),
        ({'scalar': None}, '1 keys are missing (first: scalar)'),
        ({'extra': (1,)}, '1 keys are unknown (first: extra)'),
        ({'conv.bias': (3,)}, 'conv.bias has shape (3,) instead of (2,)'),
    ],
)
def test_differences(change, message):
    found = {key: shape for key, shape in {**SHAPES, **change}.items() if shape is not None}
    assert differences(SHAPES, found) == message
