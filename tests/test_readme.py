"""What the README says of the code is true."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import torch
from experiment import options_to_train, write_photographs, write_yaml

from irnsigma_plugin.archs.irn_arch import DEFAULT_BLOCK_NUM, InvRescaleNet
from irnsigma_plugin.checkpoints.reading import read_checkpoint
from irnsigma_plugin.losses.mixture_loss import MixtureLoss
from irnsigma_plugin.options.train_val import TrainOptions, ValOptions
from irnsigma_plugin.rescaler import OVERLAP
from irnsigma_plugin.sigma import SigmaSampler

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def test_extension_example_trains(tmp_path, run_cli):
    blocks = dict(re.findall(r'```python\n# (\w+\.py)\n(.*?)```', README, flags=re.DOTALL))
    assert set(blocks) == {'my_net.py', 'train.py'}
    for name, code in blocks.items():
        (tmp_path / name).write_text(code)
    options = options_to_train(write_photographs(tmp_path / 'photographs'))
    options['network_g'] = {'type': 'LinearRescaleNet', 'scale': 4}
    output = run_cli('train.py', '-opt', write_yaml(options, tmp_path / 'options.yml')).stdout
    assert 'Network [LinearRescaleNet] is created.' in output
    assert '# sigma 0.5: ' in output
    assert (tmp_path / 'experiments/tiny/models/net_g_latest.pth').exists()


def test_examples_of_other_formats_run(tmp_path, monkeypatch):
    pytest.importorskip('safetensors')
    pytest.importorskip('spandrel')
    monkeypatch.chdir(tmp_path)
    torch.save({'params': InvRescaleNet(scale=2, block_num=[1], growth_channels=1).state_dict()}, 'net_g_latest.pth')
    section = README.partition('## Other formats')[2].partition('\n## ')[0]
    names = {'lr': torch.rand(1, 3, 4, 5)}
    for code in re.findall(r'```python\n(.*?)```', section, flags=re.DOTALL):
        exec(code, names)
    assert read_checkpoint('net_g.safetensors').network == {'clamp': 1.0}
    assert names['hr'].shape == (1, 3, 8, 10)
    assert names['model'].model.sigma == 0.5


@pytest.mark.parametrize(('what', 'prefix'), [
    (TrainOptions, ''), (ValOptions, ''), (SigmaSampler, 'sigma.'), (MixtureLoss, 'mixture_opt.'), (InvRescaleNet, ''),
])
def test_every_option_is_in_the_reference(what, prefix):
    if dataclasses.is_dataclass(what):
        names = [field.name for field in dataclasses.fields(what)]
    else:
        names = list(inspect.signature(what).parameters)
    for name in names:
        assert re.search(rf'`{re.escape(prefix + name)}[`.]', README), f'{prefix}{name} is not in the README'


def test_every_option_file_and_script_is_there_and_named():
    files = {path.name for path in (ROOT / 'options').glob('*.yml')}
    named = set(re.findall(r'[\w+]+\.yml', README)) - {'options.yml'}
    assert named <= files
    assert {name for name in files if name.startswith('train')} <= named
    for script in re.findall(r'scripts/[\w.]+', README):
        assert (ROOT / script).exists(), script


def test_every_experiment_is_that_of_an_option_file():
    names = {re.search('^name: (.*)', path.read_text(), re.MULTILINE)[1] for path in (ROOT / 'options').glob('*.yml')}
    found = set(re.findall(r'experiments/([\w+]+)/models', README))
    assert found
    assert found <= names


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
def test_the_table_of_tiles(scale):
    net = InvRescaleNet(scale)
    block_num = DEFAULT_BLOCK_NUM[scale]
    row = [net.receptive_field(), OVERLAP * scale, round(net.bytes_per_pixel())]
    assert f'| ×{scale}, `{list(block_num)}` | {" | ".join(map(str, row))} |' in README
