"""`irnsigma info`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.checkpoints.weights import model_hash
from irnsigma_plugin.cli import main
from irnsigma_plugin.commands.info import describe

ORIGINAL = Path(__file__).parent / 'data/parity/irn_x2_gc8.pth'


def test_table(capsys):
    assert main(['info', str(ORIGINAL)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = dict(line.split('  ', 1) for line in lines)
    assert {name: value.strip() for name, value in rows.items() if name not in ('file', 'size', 'model hash')} == {
        'kind': 'bare state dict',
        'weights': 'the whole file',
        'network': 'InvRescaleNet',
        'scale': '2',
        'block_num': '[2]',
        'growth_channels': '8',
        'clamp': '1.0 (the default: the file does not name it)',
        'parameters': f'{sum(v.numel() for v in torch.load(ORIGINAL).values()):,}',
        'dtype': 'float32',
    }
    assert rows['size'].strip().endswith(f'({ORIGINAL.stat().st_size:,} bytes)')
    assert rows['model hash'].strip() == model_hash(torch.load(ORIGINAL))
    assert len({line.index(line.split('  ', 1)[1].strip()) for line in lines}) == 1, 'the values stand in one column'


def test_parameters_of_the_papers_network(tmp_path):
    """4,355,376 is the count of the original implementation at x4."""
    torch.save(InvRescaleNet(scale=4).state_dict(), tmp_path / 'IRN_x4.pth')
    assert describe(str(tmp_path / 'IRN_x4.pth'))['parameters'] == '4,355,376'


def test_the_hash_is_of_the_weights_whatever_file_holds_them(tmp_path):
    weights = torch.load(ORIGINAL)
    path = tmp_path / 'net_g.pth'
    torch.save(
        {
            'params': {key: 0 * value for key, value in weights.items()},
            'params_ema': weights,
            'network_g': {'type': 'InvRescaleNet', 'clamp': 0.5},
        },
        path,
    )
    rows = describe(str(path))
    assert rows['model hash'] == describe(str(ORIGINAL))['model hash']
    assert (rows['kind'], rows['weights'], rows['clamp']) == ('BasicSR checkpoint', 'params_ema', '0.5')

    half = {key: value.half() for key, value in weights.items()}
    torch.save(half, path)
    assert describe(str(path))['dtype'] == 'float16'
    assert describe(str(path))['model hash'] == model_hash({key: value.float() for key, value in half.items()})


def test_the_clamp_of_bare_weights(tmp_path):
    net = InvRescaleNet(2, [1], 4, clamp=2.0)
    torch.save(net.state_dict(), tmp_path / 'net.pth')
    rows = describe(str(tmp_path / 'net.pth'))
    assert (rows['clamp'], rows['dtype']) == ('2.0', 'float32')
    # Small images made before the clamp was among the weights name a hash without it.
    before = {key: value for key, value in net.state_dict().items() if key != 'log_scale_clamp'}
    assert rows['model hash'] == model_hash(before) == model_hash(net.state_dict())


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip('safetensors.torch')
    safetensors.save_file(torch.load(ORIGINAL), tmp_path / 'a.safetensors', {'clamp': '2'})
    rows = describe(str(tmp_path / 'a.safetensors'))
    assert (rows['kind'], rows['clamp'], rows['scale']) == ('safetensors', '2.0', '2')
    assert rows['model hash'] == model_hash(torch.load(ORIGINAL))


@pytest.mark.parametrize('content', [None, {'conv.weight': torch.zeros(3)}], ids=['missing', 'foreign'])
def test_what_cannot_be_described_is_one_error_line(tmp_path, capsys, content):
    path = tmp_path / 'other.pth'
    if content is not None:
        torch.save(content, path)
    assert main(['info', str(path)]) == 1
    assert 'other.pth' in capsys.readouterr().err


def test_help_has_examples(capsys):
    assert main(['info', '--help']) == 0
    assert 'irnsigma info IRN_x4.pth' in capsys.readouterr().out
