"""`irnsigma card`."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
import yaml
from helpers.experiment import write_photographs
from helpers.invertibility import randomise
from helpers.score_samples import METRICS, sample_scores

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.checkpoints.weights import model_hash
from irnsigma_plugin.cli import main
from irnsigma_plugin.evaluation import report

CARD = Path('results/test_mine/card/README.md')
COMMAND = ['card', 'net_g.pth', '--results', 'results/test_mine']


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch) -> None:
    """A checkpoint, and results of it on two data sets, as `python -m basicsr.test` leaves them."""
    monkeypatch.chdir(tmp_path)
    net = randomise(InvRescaleNet(4, [1, 2], 3, clamp=0.5))
    torch.save({'params': net.state_dict()}, 'net_g.pth')
    write_results('Set2', 'Set 14/HR', model=model_hash(net.state_dict()))


def write_results(*datasets: str, model: str) -> None:
    for dataset in datasets:
        scores = sample_scores()
        scores.dataset, scores.model = dataset, model
        folder = Path('results/test_mine', dataset.partition('/')[0])
        folder.mkdir(parents=True, exist_ok=True)
        report.write_report(folder, scores, METRICS, b'a picture')


def fields(card: str) -> dict:
    """The block at the top, as Hugging Face reads it."""
    _, block, _ = card.split('---\n', 2)
    return yaml.safe_load(block)


def test_card(capsys):
    Path('train.yml').write_text('name: mine\n')
    assert main([*COMMAND, '--license', 'apache-2.0', '--training', 'train.yml']) == 0
    card = CARD.read_text(encoding='utf-8')
    found = fields(card)
    (model,) = found.pop('model-index')
    assert found == {
        'license': 'apache-2.0',
        'library_name': 'irnsigma_plugin',
        'pipeline_tag': 'image-to-image',
        'tags': ['image-rescaling', 'super-resolution', 'basicsr'],
        'metrics': ['lpips', 'psnr'],
    }
    assert model['name'] == 'mine'
    other, set2 = model['results']  # in the order of their folders
    assert (other['dataset'], set2['dataset']) == (
        {'type': 'Set_14_HR', 'name': 'Set 14/HR'},
        {'type': 'Set2', 'name': 'Set2'},
    )
    assert set2['task'] == {'type': 'image-to-image', 'name': 'image rescaling x4'}
    assert set2['metrics'] == [
        {'type': 'psnr', 'name': 'psnr_y, σ = 0', 'value': 32.0},
        {'type': 'lpips', 'name': 'lpips, σ = 0', 'value': 0.3},
        {'type': 'psnr', 'name': 'psnr_y, σ = 0.5', 'value': 29.5},
        {'type': 'lpips', 'name': 'lpips, σ = 0.5', 'value': 0.175},
    ]
    for line in ('- network: InvRescaleNet', '- block_num: [1, 2]', '- clamp: 0.5', '| 0.5 | 29.5000 | 0.1750 |'):
        assert f'\n{line}\n' in card
    assert '## Licence\n\napache-2.0\n' in card
    assert card.count('*To be filled in:*') == 1, 'the limits'
    links = set(re.findall(r'\]\(([^)]+)\)', card))
    assert links == set(os.listdir(CARD.parent)) - {'README.md'}
    assert links == {f'{name}_{kind}.png' for name in ('Set2', 'Set_14_HR') for kind in ('curve', 'comparison')} | {
        'train.yml'
    }
    assert (CARD.parent / 'train.yml').read_text() == 'name: mine\n'
    command = capsys.readouterr().out.splitlines()[-1].split()
    assert main(command[1:]) == 0
    weights = re.findall(r'--model (\S+)', card)
    assert weights == ['net_g.safetensors'] * 2
    assert (CARD.parent / weights[0]).exists()


def test_what_only_a_person_knows_is_marked():
    assert main(COMMAND) == 0
    card = CARD.read_text(encoding='utf-8')
    assert card.count('*To be filled in:*') == 3
    assert 'license' not in fields(card)


def test_a_card_that_is_there_is_kept(capsys):
    assert main(COMMAND) == 0
    CARD.write_text('mine')
    assert main(COMMAND) == 1
    assert f'{CARD} is there already; use --overwrite' in capsys.readouterr().err
    assert CARD.read_text() == 'mine'
    assert main([*COMMAND, '--overwrite']) == 0
    assert main([*COMMAND, '--output', 'elsewhere']) == 0
    assert Path('elsewhere/README.md').read_text() == CARD.read_text() != 'mine'


@pytest.mark.parametrize('model', ['0123456789abcdef', ''], ids=['another', 'of an earlier version'])
def test_results_of_another_model_are_refused(model, capsys):
    write_results('Set2', model=model)
    assert main(COMMAND) == 1
    assert 'results/test_mine/Set2: these are not results of net_g.pth, whose model hash is ' in capsys.readouterr().err
    assert not CARD.parent.exists()


@pytest.mark.parametrize(
    ('command', 'words'),
    [
        ('card net_g.pth --results photos', 'photos: there are no results here'),
        ('card net_g.pth --results none', 'none: there are no results here'),
        ('card none.pth --results results/test_mine', 'no checkpoint at none.pth'),
        ('card net_g.pth --results results/test_mine --training none.yml', 'none.yml'),
    ],
)
def test_errors_are_one_line(command, words, capsys):
    Path('photos').mkdir()
    assert main(command.split()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_files_of_one_name_are_refused(capsys):
    Path('other').mkdir()
    for folder, text in (('.', 'name: mine\n'), ('other', 'name: other\n')):
        Path(folder, 'train.yml').write_text(text)
    assert main([*COMMAND, '--training', 'train.yml', 'other/train.yml']) == 1
    write_results('Set 14 HR', model=model_hash(torch.load('net_g.pth')['params']))
    assert main([*COMMAND, '--training', 'train.yml', './train.yml']) == 1
    assert capsys.readouterr().err.splitlines() == [
        'irnsigma: error: other/train.yml: another option file has this name, and both get into one folder; rename it.',
        'irnsigma: error: results/test_mine/Set 14 HR: another data set is called Set_14_HR in the card; rename one '
        'and measure again.',
    ]
    assert not CARD.parent.exists()


def test_names_in_other_scripts_and_metrics_that_are_missing(capsys):
    """LPIPS cannot be had of images as small as these."""
    write_photographs(Path('фото'), count=1, height=24, width=28)
    assert main(['evaluate', 'фото', '--model', 'net_g.pth', '--sigmas', '0', '--output', 'of two words']) in (0, 1)
    assert main(['card', 'net_g.pth', '--results', 'of two words']) == 0
    assert "  irnsigma export net_g.pth 'of two words/card' --format safetensors\n" in capsys.readouterr().out
    card = Path('of two words/card')
    (result,) = fields((card / 'README.md').read_text(encoding='utf-8'))['model-index'][0]['results']
    assert result['dataset'] == {'type': 'фото', 'name': 'фото'}
    assert {metric['type'] for metric in result['metrics']} == {'psnr', 'ssim'}
    assert (card / 'фото_comparison.png').exists()


def test_results_of_evaluate():
    """They name the model themselves."""
    write_photographs(Path('photos'), count=1, height=48, width=48)
    assert main(['evaluate', 'photos', '--model', 'net_g.pth', '--sigmas', '0', '1', '--output', 'evaluated']) == 0
    assert main(['card', 'net_g.pth', '--results', 'evaluated']) == 0
    (result,) = fields(Path('evaluated/card/README.md').read_text(encoding='utf-8'))['model-index'][0]['results']
    assert result['dataset'] == {'type': 'photos', 'name': 'photos'}
    assert {'psnr_y, σ = 0', 'psnr_y, σ = 1'} <= {metric['name'] for metric in result['metrics']}
