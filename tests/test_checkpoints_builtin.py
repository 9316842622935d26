"""Models that come with the package: what they are, and every way to name them. Nothing here knows their figures."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from helpers.experiment import has_alexnet, write_photographs, write_yaml
from helpers.invertibility import randomise

from irnsigma_plugin import Rescaler
from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.checkpoints import builtin
from irnsigma_plugin.checkpoints.weights import Checkpoint, CheckpointError, read_checkpoint
from irnsigma_plugin.cli import main
from irnsigma_plugin.compat.registry import registered
from irnsigma_plugin.evaluation.measures import hr_metrics
from irnsigma_plugin.formats.safetensors import export_safetensors
from irnsigma_plugin.images.picture import read_picture, write_picture
from irnsigma_plugin.options.check import outside_faults
from irnsigma_plugin.options.file import read_option_file

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 10 * 2**20  # bytes of a model that everybody downloads with the package


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def two_models(tmp_path, monkeypatch) -> dict[str, Rescaler]:
    """Two small built-in models in place of the real ones, in half precision as they are."""
    monkeypatch.setattr(builtin, 'MODELS', tmp_path / 'models')
    for seed, (name, scale, block_num) in enumerate([(builtin.DEFAULT, 4, [1, 1]), ('other_x2', 2, [1])]):
        torch.manual_seed(seed)
        net = randomise(InvRescaleNet(scale, block_num, 2))
        (tmp_path / 'models' / name).mkdir(parents=True)
        export_safetensors(Checkpoint(net.state_dict()), net, tmp_path / 'models' / name / builtin.FILE, half=True)
    return {name: Rescaler.builtin(name, 'cpu') for name in builtin.names()}


@pytest.mark.parametrize('name', builtin.names())
def test_a_built_in_model_is_whole(name):
    file = builtin.MODELS / name / builtin.FILE
    assert file.stat().st_size <= LARGEST
    rescaler = Rescaler.builtin(name, 'cpu')
    assert name.endswith(f'_x{rescaler.scale}')
    assert {each.dtype for each in rescaler.net.parameters()} == {torch.float32}
    assert builtin.name_of(rescaler.model_hash) == name, 'its file names the hash of other weights: export it anew'
    card = (builtin.MODELS / name / builtin.CARD).read_text(encoding='utf-8')
    folder = builtin.MODELS / name
    for target in re.findall(r'\]\((?!https:)([^)#\s]+)', card):
        assert (folder / target).exists(), f'its card links to {target}, which is not there'
    for path in re.findall(r'irnsigma_plugin/models/[\w./]*\w', card):
        assert (ROOT / path).exists(), f'its card names {path}, which is not there'


def test_the_default_is_there():
    assert builtin.DEFAULT in builtin.names()


def test_a_name_counts_before_a_file_of_the_current_directory(two_models):
    torch.save(randomise(InvRescaleNet(3, [1], 1)).state_dict(), 'other_x2')
    assert Rescaler.from_checkpoint('other_x2', 'cpu').model_hash == two_models['other_x2'].model_hash
    assert read_checkpoint('other_x2').path == str(builtin.MODELS / 'other_x2' / builtin.FILE)
    assert Rescaler.from_checkpoint('./other_x2', 'cpu').scale == 3
    assert Rescaler.from_checkpoint(Path('other_x2'), 'cpu').scale == 3


def test_names_that_are_not_there(two_models):
    with pytest.raises(CheckpointError, match=r'no checkpoint at irnsigma\. Built-in models: irnsigma_x4, other_x2\.'):
        read_checkpoint('irnsigma')
    with pytest.raises(CheckpointError, match=r'no checkpoint at net_g\.pth\.$'):
        read_checkpoint('net_g.pth')
    with pytest.raises(ValueError, match=r"no built-in model 'net_g.pth', only irnsigma_x4, other_x2\."):
        Rescaler.builtin('net_g.pth')


def test_info_lists_them(two_models, capsys):
    assert main(['info']) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, (name, rescaler) in zip(lines[::2], two_models.items()):
        assert line.startswith(name)
        assert f': scale {rescaler.scale}, 0.0 MiB (' in line
        assert line.endswith(f'model hash {rescaler.model_hash}')
        assert ('(the default)' in line) == (name == builtin.DEFAULT)
    assert lines[1].strip() == f'model card: {builtin.MODELS / builtin.DEFAULT / "README.md"}'
    assert len(lines) == 4
    assert main(['info', 'other_x2']) == 0
    assert two_models['other_x2'].model_hash in capsys.readouterr().out


def test_commands_without_a_model(two_models, capsys):
    write_photographs(Path('photos'), count=1, height=64, width=48)
    original = cv2.imread('photos/photo0.png')[..., ::-1]
    default = two_models[builtin.DEFAULT]
    assert main(['downscale', 'photos', 'small']) == 0
    assert (read_picture('small/photo0.png').pixels == default.downscale(original)).all()
    assert main(['upscale', 'small', 'restored', '--sigma', '1']) == 0
    expected = default.upscale(default.downscale(original), 1, name='photo0')
    assert (read_picture('restored/photo0.png').pixels == expected).all()
    assert main(['evaluate', 'photos', '--sigmas', '0']) == 0
    assert main(['compare', 'photos/photo0.png', '--sigmas', '0']) == 0
    assert main(['export', 'other_x2', 'exported', '--format', 'safetensors']) == 0
    assert read_checkpoint('exported/other_x2.safetensors').state_dict
    assert 'warning: it was' not in capsys.readouterr().err


def test_upscale_finds_the_model_that_made_a_small_image(two_models, capsys):
    photo = write_photographs(Path('photos'), count=1, height=64, width=48) / 'photo0.png'
    original = cv2.imread(str(photo))[..., ::-1]
    for name in two_models:
        assert main(['downscale', str(photo), f'small/{name}.png', '--model', name]) == 0
    plain = read_picture(f'small/{builtin.DEFAULT}.png')._replace(text=None)
    write_picture(plain, 'small/plain.png')
    # A map of the size of the original fits the small images of either scale.
    cv2.imwrite('map.png', np.zeros((64, 48), np.uint8))
    assert main(['upscale', 'small', 'restored', '--sigma-map', 'map.png']) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert 'no note of `irnsigma downscale` in small/plain.png, so' in warning
    for name, rescaler in two_models.items():
        faithful = rescaler.upscale(rescaler.downscale(original), 0)
        assert (read_picture(f'restored/{name}.png').pixels == faithful).all()
    assert (read_picture('restored/plain.png').pixels == read_picture(f'restored/{builtin.DEFAULT}.png').pixels).all()


def test_upscale_refuses_small_images_of_other_models(two_models, capsys):
    write_photographs(Path('photos'), count=2, height=64, width=48)
    net = randomise(InvRescaleNet(4, [1, 1], 3))
    torch.save(net.state_dict(), 'mine.pth')
    own = Rescaler(net).model_hash
    assert main(['downscale', 'photos/photo0.png', 'small/photo0.png', '--model', 'mine.pth']) == 0
    assert main(['downscale', 'photos/photo1.png', 'small/photo1.png']) == 0
    assert main(['upscale', 'small', 'restored']) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert f'small/photo0.png: was downscaled by the model {own}, which is not built in: name the file' in error
    assert os.listdir('restored') == ['photo1.png']  # the others are done
    assert main(['upscale', 'small/photo0.png', 'a.png', '--model', 'mine.pth']) == 0
    assert main(['upscale', 'small/photo0.png', 'b.png', '--model', 'irnsigma_x4']) == 0, 'as any other wrong model'
    assert 'restored picture may be poor' in capsys.readouterr().err


@pytest.mark.parametrize('file', ['test_builtin_x4', 'train_IRNsigma_x4_quickstart'])
def test_the_option_file_is_that_of_the_model(file):
    """Where the model was replaced by one of other sizes, the option files that start from it say so here."""
    opt = read_option_file(ROOT / f'options/{file}.yml')
    opt['datasets'] = {}
    opt.pop('train', None)
    assert opt['path']['pretrain_network_g'] == builtin.DEFAULT
    assert outside_faults(opt, registered()) == []
    opt['network_g']['block_num'] = [1, 1]
    (fault,) = outside_faults(opt, registered())
    assert fault.startswith('path.pretrain_network_g: The checkpoint irnsigma_x4 is not of this InvRescaleNet')


def test_evaluate_gives_the_figures_of_basicsr_test(tmp_path, run_cli):
    """To the last digit of the tables: both have the weights in float32."""
    opt = yaml.safe_load((ROOT / 'options/test_builtin_x4.yml').read_text(encoding='utf-8'))
    photos = write_photographs(tmp_path / 'photos', count=2, height=48, width=64)
    opt['datasets'] = {'test_1': {**opt['datasets']['test_1'], 'name': 'photos', 'dataroot_gt': str(photos)}}
    opt['val']['sigmas'] = [0, 1]
    if not has_alexnet():
        opt['val']['metrics'] = hr_metrics(4, lpips=False)
    run_cli('-m', 'basicsr.test', '-opt', str(write_yaml(opt, tmp_path / 'test.yml')))
    assert main(['evaluate', 'photos', '--sigmas', '0', '1', '--output', 'evaluated', '--device', 'cpu']) == 0
    columns = []
    for folder in ('results/test_builtin_x4/photos', 'evaluated'):
        with open(f'{folder}/metrics.csv', newline='', encoding='utf-8') as file:
            columns.append([row['psnr_y'] + row.get('lpips', '') for row in csv.DictReader(file)])
    assert columns[0] == columns[1]
    assert len(columns[0]) == 4
