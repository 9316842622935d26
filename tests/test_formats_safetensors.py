"""Checkpoints exported as safetensors files, and read in their place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.checkpoints.weights import CheckpointError, build_network, model_hash, read_checkpoint
from irnsigma_plugin.cli import main
from irnsigma_plugin.files import WriteError
from irnsigma_plugin.formats import safetensors as module

ORIGINAL = Path(__file__).parent / 'data/parity/irn_x3_gc8.pth'


@pytest.fixture
def trained(tmp_path):
    """A checkpoint as a training saves it: channels-last, of averaged weights, with the network's block."""
    net = InvRescaleNet(4, [2, 1], 3, clamp=0.5).to(memory_format=torch.channels_last)
    torch.nn.init.normal_(net.operations[1].F.conv5.weight)
    block = {'type': 'InvRescaleNet', 'scale': 4, 'block_num': [2, 1], 'growth_channels': 3, 'clamp': 0.5}
    torch.save({'params': {}, 'params_ema': net.state_dict(), 'network_g': block}, tmp_path / 'net_g_7.pth')
    return tmp_path / 'net_g_7.pth', net, block


def metadata_and_tensors(path):
    with safe_open(path, framework='pt') as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no mapping


def test_a_trained_checkpoint(trained, tmp_path, capsys):
    path, net, block = trained
    assert main(['export', str(path), str(tmp_path / 'made'), '--format', 'safetensors']) == 0
    target = tmp_path / 'made/net_g_7.safetensors'
    assert os.listdir(tmp_path / 'made') == [target.name]
    assert capsys.readouterr().out == f'{target}: model hash {model_hash(net.state_dict())}\n'
    metadata, tensors = metadata_and_tensors(target)
    assert json.loads(metadata.pop('network_g')) == block
    assert metadata == {'format': 'pt', 'clamp': '0.5', 'model_hash': model_hash(net.state_dict())}
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    torch.testing.assert_close(tensors, dict(net.state_dict()), rtol=0, atol=0)
    rebuilt = build_network(read_checkpoint(target))
    assert rebuilt.operations[1].clamp == 0.5
    assert bytes(tensors['log_scale_clamp'].tolist()) == b'0.5'  # what programs see that read no metadata
    assert model_hash(rebuilt.state_dict()) == model_hash(net.state_dict())


def test_the_clamp_of_an_old_checkpoint_gets_among_the_weights(trained, tmp_path):
    path, net, _ = trained
    saved = torch.load(path)
    del saved['params_ema']['log_scale_clamp']
    torch.save(saved, path)
    assert main(['export', str(path), str(tmp_path), '--format', 'safetensors']) == 0
    _, tensors = metadata_and_tensors(tmp_path / 'net_g_7.safetensors')
    torch.testing.assert_close(tensors, dict(net.state_dict()), rtol=0, atol=0)


def test_one_of_the_original_implementation(tmp_path):
    assert main(['export', str(ORIGINAL), str(tmp_path), '--format', 'safetensors']) == 0
    metadata, tensors = metadata_and_tensors(tmp_path / 'irn_x3_gc8.safetensors')
    torch.testing.assert_close(tensors, dict(torch.load(ORIGINAL)), rtol=0, atol=0)
    network = json.loads(metadata['network_g'])
    net = InvRescaleNet(**{key: value for key, value in network.items() if key != 'type'})
    assert (network['type'], network['clamp'], metadata['clamp']) == ('InvRescaleNet', 1, '1.0')
    net.load_state_dict(tensors)


def test_with_amplified_sigma(tmp_path, capsys):
    net = InvRescaleNet(4, [1, 1], 4, sigma_input=True)
    torch.nn.init.normal_(net.operations[1].G.sigma2)
    block = {'type': 'InvRescaleNet', 'scale': 4, 'block_num': [1, 1], 'growth_channels': 4, 'sigma_input': True}
    torch.save({'params': net.state_dict(), 'network_g': block}, tmp_path / 'net_g.pth')
    arguments = ['export', str(tmp_path / 'net_g.pth'), str(tmp_path), '--format', 'safetensors', '--sigma-gain', '1.5']
    assert main(arguments) == 0
    metadata, tensors = metadata_and_tensors(tmp_path / 'net_g.safetensors')
    net.amplify_sigma(1.5)
    torch.testing.assert_close(tensors, dict(net.state_dict()), rtol=0, atol=0)
    assert metadata['model_hash'] == model_hash(net.state_dict())
    assert capsys.readouterr().out.endswith(f'model hash {metadata["model_hash"]}\n')
    assert main(['export', str(ORIGINAL), *arguments[2:]]) == 1
    assert f'--sigma-gain is for networks with sigma_input; {ORIGINAL} has none' in capsys.readouterr().err
    for wrong in ('-2', 'nan', 'much'):
        assert main([*arguments[:-1], wrong]) == 2
        assert f"--sigma-gain: must be a number above 0, but is '{wrong}'" in capsys.readouterr().err


def test_half(trained, tmp_path, capsys):
    path, net, _ = trained
    assert main(['export', str(path), str(tmp_path), '--format', 'safetensors', '--half']) == 0
    target = tmp_path / 'net_g_7.safetensors'
    metadata, tensors = metadata_and_tensors(target)
    rounded = {key: value.half() if value.is_floating_point() else value for key, value in net.state_dict().items()}
    torch.testing.assert_close(tensors, rounded, rtol=0, atol=0)
    expected = model_hash(build_network(read_checkpoint(target)).state_dict())
    assert metadata['model_hash'] == expected != model_hash(net.state_dict())
    assert capsys.readouterr().out.endswith(f'model hash {expected}\n')


def test_a_weight_too_large_for_half_is_refused(trained, tmp_path, capsys):
    path, net, block = trained
    with torch.no_grad():
        net.operations[1].F.conv5.bias.fill_(70_000)
    torch.save({'params': net.state_dict(), 'network_g': block}, path)
    assert main(['export', str(path), str(tmp_path / 'made'), '--format', 'safetensors', '--half']) == 1
    assert 'net_g_7.pth: operations.1.F.conv5.bias has values' in capsys.readouterr().err
    assert not os.listdir(tmp_path / 'made')


def test_what_reads_back_as_something_else_is_not_kept(trained, tmp_path, monkeypatch):
    path, net, _ = trained
    save = module.save

    def save_others(weights, metadata):
        return save({key: value + 1 for key, value in weights.items()}, metadata)

    monkeypatch.setattr(module, 'save', save_others)
    with pytest.raises(CheckpointError, match='reads back as something else'):
        module.export_safetensors(read_checkpoint(path), net, tmp_path / 'made.safetensors')
    assert os.listdir(tmp_path) == ['net_g_7.pth']


def test_a_place_that_takes_no_file(trained, tmp_path):
    path, net, _ = trained
    with pytest.raises(WriteError, match=r'none/made\.safetensors: cannot be written'):
        module.export_safetensors(read_checkpoint(path), net, tmp_path / 'none/made.safetensors')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--half'], '--half is for --format safetensors'),
        (['--format', 'safetensors', '--direction', 'up'], '--direction, --opset and --sigma are for --format onnx'),
        (['--format', 'safetensors', '--opset', '18'], '--direction, --opset and --sigma are for --format onnx'),
        (['--format', 'safetensors', '--sigma', '0'], '--direction, --opset and --sigma are for --format onnx'),
        (['--sigma', '0', '--direction', 'down'], '--sigma is for --direction up'),
    ],
)
def test_options_of_the_other_format_are_refused(trained, tmp_path, capsys, arguments, message):
    assert main(['export', str(trained[0]), str(tmp_path / 'made'), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'made').exists()


def test_the_checkpoint_itself_is_not_replaced(tmp_path, capsys):
    command = ['export', str(ORIGINAL), str(tmp_path), '--format', 'safetensors']
    assert main(command) == 0
    command[1] = str(tmp_path / 'irn_x3_gc8.safetensors')
    before = Path(command[1]).read_bytes()
    assert main([*command, '--half']) == 1
    assert 'would replace the checkpoint' in capsys.readouterr().err
    assert Path(command[1]).read_bytes() == before
    command[1] = str(tmp_path / 'none/irn_x3_gc8.pth')
    assert main(command) == 1
    assert 'There is no checkpoint' in capsys.readouterr().err


class HeirNet(InvRescaleNet):
    """A network of an extension, with arguments and a default of its own."""

    def __init__(self, scale=4, clamp=2.0, width=3):
        super().__init__(scale, [1, 1], width, clamp)


def test_a_subclass_keeps_its_own_arguments(tmp_path):
    block, find = {'type': 'HeirNet', 'width': 2}, {'HeirNet': HeirNet}.get
    torch.save({'params': HeirNet(width=2).state_dict(), 'network_g': block}, tmp_path / 'heir.pth')
    checkpoint = read_checkpoint(tmp_path / 'heir.pth')
    net = build_network(checkpoint, find_class=find)
    module.export_safetensors(checkpoint, net, tmp_path / 'heir.safetensors')
    exported = read_checkpoint(tmp_path / 'heir.safetensors')
    assert exported.network == block
    rebuilt = build_network(exported, find_class=find)
    assert (type(rebuilt), rebuilt.clamp) == (HeirNet, 2.0)
