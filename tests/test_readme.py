"""What the README says of the code is true."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from helpers.experiment import options_to_train, write_photographs, write_yaml
from helpers.invertibility import randomise

from irnsigma_plugin.archs.irn_arch import DEFAULT_BLOCK_NUM, InvRescaleNet
from irnsigma_plugin.checkpoints.weights import read_checkpoint
from irnsigma_plugin.losses.mixture_loss import MixtureLoss
from irnsigma_plugin.options.train_val import TrainOptions, ValOptions
from irnsigma_plugin.rescaling.rescaler import OVERLAP, Rescaler
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


def test_examples_of_rescaling_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = README.partition('## Rescaling from Python')[2].partition('\n## ')[0]
    models = tmp_path / re.search(r"'(experiments/.*)/net_g_latest\.pth'", section)[1]
    models.mkdir(parents=True)
    net = randomise(InvRescaleNet(4, [1, 1], 2))
    torch.save({'params': net.state_dict()}, models / 'net_g_latest.pth')
    image = np.random.default_rng(0).integers(0, 256, (282, 30, 3), np.uint8)
    names = {'image': image, 'np': np}
    with_number, with_map = re.findall(r'```python\n(.*?)```', section, flags=re.DOTALL)
    exec(with_number, names)
    rescaler, lr = names['rescaler'], names['lr']
    assert (lr == Rescaler(net).downscale(image)).all()
    assert (names['restored'] == rescaler.upscale(lr, 0.5, name='baby', size=(282, 30))).all()
    exec(with_map, names)
    faithful, sharp = (rescaler.upscale(lr, sigma, name='baby', size=(282, 30)) for sigma in (0, 1))
    reach = net.receptive_field()
    assert (names['restored'][: 200 - reach] == sharp[: 200 - reach]).all()
    assert (names['restored'][200 + reach :] == faithful[200 + reach :]).all()
    assert (names['restored'][200 + reach :] != sharp[200 + reach :]).any()


def stated_defaults() -> dict[str, str]:
    """What the tables of options give as default, by key: `train.sigma.per`."""
    section = README.partition('\n## Options')[2].partition('\n## ')[0]
    return {
        f'{block}.{key}': default.strip('`')
        for block, text in re.findall(r'\*\*`(\w+)`\*\*(.*?)(?=\n\*\*`|\Z)', section, flags=re.DOTALL)
        for keys, default in re.findall(r'^\| (`.+?`) \| (.*?) ?\| ', text, flags=re.MULTILINE)
        for key in re.findall(r'`(.+?)`', keys)
    }


def value_of(text: str) -> Any:
    if text in ('none', "the paper's"):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def defaults_of(what: Callable) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(what).parameters.items()}


@pytest.mark.parametrize(
    ('block', 'defaults'),
    [
        ('train', vars(TrainOptions({}))),
        ('val', vars(ValOptions())),
        ('train.sigma', vars(SigmaSampler())),
        ('train.mixture_opt', defaults_of(MixtureLoss)),
        ('network_g', defaults_of(InvRescaleNet)),
    ],
    ids=['train', 'val', 'sigma', 'mixture_opt', 'network_g'],
)
def test_every_option_is_in_the_tables_with_its_default(block, defaults):
    stated = stated_defaults()
    for name, default in defaults.items():
        key = f'{block}.{name}'
        assert any(f'{row}.'.startswith(f'{key}.') for row in stated), f'{key} is in no table of options'
        if stated.get(key):
            expected = None if default == {} else list(default) if isinstance(default, tuple) else default
            assert value_of(stated[key]) == expected, key


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
