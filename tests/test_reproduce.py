"""scripts/reproduce.py: a whole study of seconds with a kill in it, and what its options and figures are made of."""

from __future__ import annotations

import copy
import csv
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import reproduce
import skimage
import torch
from helpers.experiment import METRICS, has_alexnet, write_photographs
from helpers.invertibility import randomise
from study import measured, plan, report, steps
from study.measured import BLEND, IMAGES, WEIGHTS, DataSet
from study.report import Point
from study.steps import Journal, Step, StudyError

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.checkpoints.weights import read_checkpoint
from irnsigma_plugin.compat.registry import registered
from irnsigma_plugin.evaluation.measures import measure
from irnsigma_plugin.evaluation.restore import Restorer
from irnsigma_plugin.imagenet.weights import WeightsError
from irnsigma_plugin.options.check import option_faults
from irnsigma_plugin.options.file import read_option_file
from irnsigma_plugin.options.train_val import expand_metrics
from irnsigma_plugin.rescaling import rescaler
from irnsigma_plugin.rescaling.rescaler import Rescaler

ROOT = Path(__file__).resolve().parents[1]
PHOTOGRAPHS = Path(skimage.__file__).parent / 'data'
NOTHING = plan.Start()
ARMS = plan.SMALL.arm_names


def trainings(budget: str, start: plan.Start = NOTHING, seed: int | None = None) -> dict[str, dict]:
    files = plan.trainings(plan.BUDGETS[budget], Path('/data'), start, seed)
    return {file.name: file.options for file in files}


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


# --------------------------------------------------------------------------------------------- the whole of it


def test_a_study_that_is_killed_and_goes_on(tmp_path, capfd):
    if not has_alexnet():
        pytest.skip('the ImageNet weights of alexnet are not in the hub cache')
    for name, folder in (('astronaut', 'train'), ('coffee', 'train'), ('chelsea', 'Cat/HR')):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        photograph = cv2.imread(str(PHOTOGRAPHS / f'{name}.png'))
        cv2.imwrite(str(tmp_path / folder / f'{name}.png'), photograph[60:140, 100:201])
    study = tmp_path / 'study'
    arguments = [str(study), '--budget', 'tiny', '--train', str(tmp_path / 'train'), '--test', str(tmp_path / 'Cat/HR')]
    arguments += ['--samplings', '3-point', '--sigma-gain', '1.5']

    command = [sys.executable, str(ROOT / 'scripts/reproduce.py'), *arguments]
    first = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stdout=subprocess.PIPE, text=True)
    states = study / 'experiments/IRN+/training_states'
    deadline = time.monotonic() + 300
    try:
        while not list(states.glob('[0-9]*.state')):
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
    printed, _ = first.communicate()
    assert 'train_IRN+.yml is options/train_IRNsigma_x4_small.yml, but\n' in printed
    assert 'train.mixture_opt.weighting: sigma -> equal\n' in printed

    assert reproduce.main(arguments) == 0
    printed = capfd.readouterr().out
    assert re.findall(r'\] (.*): done before', printed) == [
        f'prepare {tmp_path / "train"}', 'train IRN_start', 'train IRN'
    ]  # fmt: skip
    log = (study / 'logs/train_IRN+.log').read_text()
    assert 'Resuming training from epoch' in log
    assert log.count('End of training') == 1

    folder = study / 'report/Cat'
    assert sorted(path.name for path in folder.iterdir()) == [
        'claims.csv', 'fig2a.csv', 'fig2a.png', 'fig2b.csv', 'fig2b.png', 'fig3.csv', 'fig3.png', 'samplings.csv',
        'table1.csv', 'table1.png',
    ]  # fmt: skip
    assert [row['method'].partition(', ')[0] for row in rows_of(folder / 'table1.csv')] == ['IRN', 'IRN+'] + 5 * [
        'IRN_σ'
    ]
    assert {row['curve'] for row in rows_of(folder / 'fig2a.csv')} == {'IRN_σ, 3-point'}
    at = {}
    for row in rows_of(folder / 'fig2b.csv'):
        at.setdefault(row['curve'], []).append(float(row['at']))
    assert at == dict.fromkeys(['IRN_σ', *report.RIVALS.values()], [0, 0.25, 0.5, 0.75, 1])
    text = (study / 'report/report.md').read_text()
    assert all(f'](Cat/fig{number}.png)' in text for number in ('2a', '2b', '3'))
    assert 'After the training the weights of σ in IRN_σ were multiplied by 1.5.' in text
    networks = [study / plan.checkpoint(plan.IRN_SIGMA, gain) for gain in (1, 1.5)]
    plain, gained = (read_checkpoint(network).state_dict for network in networks)
    ratios = {key: (gained[key] / plain[key])[plain[key] != 0].unique().tolist() for key in plain}
    assert any(1.5 in each for each in ratios.values())
    assert str(networks[1].relative_to(study)) in (study / 'options/test_IRNsigma_3-point_Cat.yml').read_text()
    costs = {row['training']: row['iterations'] for row in rows_of(study / 'report/cost.csv')}
    assert costs == {'IRN_start': '3', **dict.fromkeys(ARMS[:3], '6')}

    assert reproduce.main(arguments) == 0
    assert capfd.readouterr().out.count('done before') == 12
    assert reproduce.main([*arguments, '--seed', '3']) == 1
    assert 'other settings; choose another DIR. It would have now:\n' in capfd.readouterr().err


# ------------------------------------------------------------------------------------------------ option files


@pytest.mark.parametrize('budget', plan.BUDGETS)
def test_option_files_have_no_faults(budget):
    files = plan.trainings(plan.BUDGETS[budget], Path('/data'), NOTHING, None)
    known = registered()
    assert [file.name for file in files] == [plan.START, *ARMS]
    for file in files:
        assert option_faults(file.options, True, known) == [], file.name
        test = plan.test_of(file, 'Set', Path('/Set'), 'paper+dists', 1).options
        expand_metrics(test)
        assert option_faults(test, False, known) == [], file.name
        assert test['network_g'] == file.options['network_g']


@pytest.mark.parametrize('budget', plan.BUDGETS)
def test_arms_differ_in_nothing_but_the_loss(budget):
    arms = trainings(budget)
    start = arms.pop(plan.START)
    losses = ('mixture_opt', 'sigma', 'perceptual_opt', 'gan_opt', 'fake_weighting', 'optim_d', 'net_d_iters')
    losses += ('net_d_init_iters',)
    for options in arms.values():
        assert options['path']['pretrain_network_g'] == f'experiments/{plan.START}/models/net_g_latest.pth'
        assert {key: options[key] for key in ('datasets', 'network_g', 'manual_seed')} == {
            key: arms['IRN'][key] for key in ('datasets', 'network_g', 'manual_seed')
        }
        assert {key: value for key, value in options['train'].items() if key not in losses} == {
            key: value for key, value in arms['IRN']['train'].items() if key not in losses
        }
    told = {**arms['IRN']['network_g']}
    told.pop('sigma_input', None)  # which a start need not be
    assert start['network_g'] == told
    assert arms['IRN']['train']['mixture_opt'] == start['train']['mixture_opt']
    assert 'network_d' not in arms['IRN']
    drawn = {name: arms[name]['train']['sigma'] for name in plan.SAMPLINGS}
    for name, sampling in drawn.items():
        assert {**arms[name], 'name': '', 'train': {**arms[name]['train'], 'sigma': ''}} == {
            **arms[plan.IRN_SIGMA], 'name': '', 'train': {**arms[plan.IRN_SIGMA]['train'], 'sigma': ''}
        }  # fmt: skip
        assert sampling['per'] == 'sample'
    assert [each.get('values') for each in drawn.values()] == [[0, 0.5, 1], [0, 1], None]


def test_the_papers_irn_plus_is_the_shipped_one():
    shipped, derived = read_option_file(ROOT / 'options/train_IRN+_x4.yml'), trainings('paper')['IRN+']
    for key in ('train', 'network_g', 'network_d', 'manual_seed'):
        assert derived[key] == shipped[key]
    given = trainings('paper')[plan.IRN_SIGMA]['train']
    assert given == read_option_file(ROOT / 'options/train_IRNsigma_x4.yml')['train']


@pytest.mark.parametrize('budget', plan.BUDGETS)
def test_irn_plus_with_its_authors_loss(budget):
    same, authors = (
        {file.name: file.options for file in plan.trainings(each, Path('/data'), NOTHING, None)}
        for each in (plan.BUDGETS[budget], plan.BUDGETS[budget]._replace(authors_plus=True))
    )
    plus = authors['IRN+']['train']
    assert plus['mixture_opt'] == read_option_file(ROOT / 'options/train_IRN+_x4.yml')['train']['mixture_opt']
    layers = {'paper': {'conv5_4': 1}, 'tiny': {'conv1_2': 0.03}}  # of VGG19; forced upon all
    assert plus['perceptual_opt']['layer_weights'] == layers.get(budget, {'conv5_3': 1})
    assert (authors == same) == (budget == 'paper')  # whose IRN+ is the authors' in any case
    plus['mixture_opt'] = same['IRN+']['train']['mixture_opt']
    plus['perceptual_opt'] = same['IRN+']['train']['perceptual_opt']
    assert authors == same


def test_a_start_and_a_seed_of_ones_own():
    files = trainings('small', plan.Start(Path('/IRN_x4.pth'), Path('/net_d.pth')), 7)
    assert list(files) == list(ARMS)
    assert {options['path']['pretrain_network_g'] for options in files.values()} == {'/IRN_x4.pth'}
    assert {options['manual_seed'] for options in files.values()} == {7}
    judges = {name: options['path'].get('pretrain_network_d') for name, options in files.items()}
    assert judges == {**dict.fromkeys(ARMS, '/net_d.pth'), 'IRN': None}  # which has no discriminator


@pytest.mark.parametrize(('budget', 'start'), [('small', 2_400), ('medium', 10_000), ('paper', 500_000)])
def test_options_of_ones_own(tmp_path, photographs, monkeypatch, budget, start):
    planned, known = [], registered()
    monkeypatch.setattr(reproduce, 'write_report', lambda *_: None)
    monkeypatch.setattr(reproduce.Journal, 'run', lambda self, steps: planned.extend(steps))
    monkeypatch.setattr(reproduce, 'can_measure_dists', lambda: False)
    monkeypatch.setattr(reproduce, 'imagenet_weights', lambda name: None)
    arguments = ['--budget', budget, '--train', str(photographs), '--test', str(photographs), '--iterations', '70']
    forced = ['--force_yml', 'datasets:train:batch_size_per_gpu=4', 'train:amp=off', 'train:ema_decay=0.9']
    forced += ['train:optim_g:lr=8e-5', 'train:net_d_iters=2', '--samplings', 'uniform', '--irn-plus', 'authors']
    arms = ['IRN', 'IRN+', 'IRNsigma_3-point', 'IRNsigma_uniform']
    with pytest.raises(KeyError):  # nothing was trained, so that nothing can be said of its cost
        reproduce.main([str(tmp_path / 'study'), *arguments, *forced])
    lengths = {step.name: step.work for step in planned if step.name.startswith('train ')}
    assert lengths == {'train IRN_start': start, **dict.fromkeys((f'train {arm}' for arm in arms), 70)}
    tested = [step.name for step in planned if step.name.startswith('test ')]
    assert tested == [f'test {arm}_{photographs.name}' for arm in arms]
    for name in (plan.START, *arms):
        options = read_option_file(tmp_path / f'study/options/train_{name}.yml')
        assert options['datasets']['train']['batch_size_per_gpu'] == 4
        assert options['train']['amp'] in ('off', False)
        assert options['train']['ema_decay'] == 0.9
        assert options['train']['optim_g']['lr'] == 8e-5
        if 'periods' in options['train']['scheduler']:
            assert options['train']['scheduler']['periods'] == [options['train']['total_iter']]
        if name != plan.START:
            loss = options['train']['mixture_opt']['lambda_reconstruction']
            assert loss == (0.01 if name == 'IRN+' or budget == 'paper' and name != 'IRN' else 1)
        assert options['train'].get('net_d_iters') == (2 if 'network_d' in options else None)
        assert option_faults(options, True, known) == []


def test_a_gain_of_networks_that_are_not_told_sigma_is_refused_before_the_training(
    photographs, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(reproduce, 'can_measure_dists', lambda: False)
    monkeypatch.setattr(reproduce, 'imagenet_weights', lambda name: None)
    monkeypatch.setattr(reproduce.Journal, 'run', lambda *_: pytest.fail('it begins'))
    arguments = ['--budget', 'paper', '--train', str(photographs), '--test', str(photographs), '--sigma-gain', '2']
    assert reproduce.main([str(tmp_path / 'study'), *arguments]) == 1
    assert '--sigma-gain needs network_g.sigma_input: true, which train_IRN' in capsys.readouterr().err


@pytest.mark.parametrize('key', ['trian:amp', 'train:scheduler_:gamma', 'val:seed'])
def test_a_change_of_a_block_that_no_training_has_is_refused(key, photographs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reproduce, 'can_measure_dists', lambda: False)
    arguments = ['--budget', 'small', '--train', str(photographs), '--test', str(photographs)]
    assert reproduce.main([str(tmp_path / 'study'), *arguments, '--force_yml', f'{key}=1', 'manual_seed=3']) == 1
    block = key.rpartition(':')[0].replace(':', '.')
    assert f'--force_yml {key.replace(":", ".")}: no training has the block {block}.' in capsys.readouterr().err


def test_a_test_may_change_until_it_is_done(tmp_path, capsys):
    (arm,) = (each for each in plan.trainings(plan.SMALL, Path('/data'), NOTHING, None) if each.name == 'IRN+')
    first, second = (plan.test_of(arm, 'Set', Path('/Set'), metrics, 1) for metrics in ('paper', 'paper+dists'))
    reproduce.basicsr('test', tmp_path, first)
    with pytest.raises(StudyError, match=r'metrics: paper\+dists'):
        reproduce.basicsr('test', tmp_path, second)
    reproduce.basicsr('test', tmp_path, second, may_change=True)
    assert read_option_file(tmp_path / 'options/test_IRN+_Set.yml') == second.options


def test_a_shorter_paper_leaves_the_discriminator_alone_for_as_large_a_part():
    files = plan.trainings(plan.BUDGETS['paper']._replace(arms=4_000), Path('/data'), NOTHING, None)
    alone = {name: options['train'].get('net_d_init_iters') for name, _, options in files}
    assert alone == {plan.START: None, 'IRN': None, **dict.fromkeys(ARMS[1:], 50)}  # of 5,000 in 400,000


def test_the_file_that_is_written_says_what_differs_and_is_read_back(tmp_path):
    (file,) = (each for each in plan.trainings(plan.SMALL, Path('/data'), NOTHING, None) if each.name == 'IRN+')
    (tmp_path / 'IRN+.yml').write_text(file.text)
    assert read_option_file(tmp_path / 'IRN+.yml') == file.options
    assert file.text.startswith('# options/train_IRNsigma_x4_small.yml, but\n#   name: IRNsigma_x4_small -> IRN+\n')
    assert '#   val: {...} -> (none)\n' in file.text
    assert '#   train.sigma.values: [0, 0.5, 1] -> [1]\n' in file.text
    assert 'train.optim_g' not in file.text


@pytest.mark.parametrize('name', plan.OTHERS)
def test_other_networks_are_tested_with_their_shipped_options(name):
    file = plan.test_of_other(name, Path('/net.pth'), 'Set', Path('/Set'))
    assert file.options['network_g'] == read_option_file(ROOT / 'options' / plan.OTHERS[name])['network_g']
    assert file.options['path']['pretrain_network_g'] == '/net.pth'
    assert [data['dataroot_gt'] for data in file.options['datasets'].values()] == ['/Set']


# ---------------------------------------------------------------------------------------------- interpolations


@pytest.fixture
def two_ends(tmp_path):
    """Saved pictures of IRN and IRN+, their figures, and networks that they might be of."""
    data = DataSet('Cat', tmp_path / 'Cat', tmp_path, METRICS)
    write_photographs(data.folder, count=2)
    for arm, sigma, psnr, level in (('IRN', 0, 30, 50), ('IRN', 1, 29, 0), ('IRN+', 1, 20, 151)):
        target = data.results(arm)
        pictures = target.parents[1] / 'visualization/Cat'
        pictures.mkdir(parents=True, exist_ok=True)
        for image in data.images():
            cv2.imwrite(str(pictures / f'{image}_{arm}_Cat_sigma{sigma}.png'), np.full((64, 96, 3), level, np.uint8))
        target.parent.mkdir(exist_ok=True)
        with open(target, 'a') as file:
            file.write('' if file.tell() else 'image,sigma,psnr_y\n')
            file.write(f'photo0,{sigma},{psnr}\n')
    return data


def test_mixed_images(two_ends):
    measured.measure_blends(two_ends, IMAGES)
    found = two_ends.means(IMAGES)
    for at, level in ((0.25, 75), (0.5, 100), (0.75, 126)):  # from 50 to 151, rounded: 75.25, 100.5, 125.75
        flat = {image: np.full((64, 96, 3), level, np.uint8) for image in two_ends.images()}
        expected = [measure(METRICS, [flat[image]], two_ends.original(image))[0][0] for image in flat]
        assert found[at] == pytest.approx({key: np.mean([each[key] for each in expected]) for key in METRICS}, abs=1e-5)


def test_mixed_weights(two_ends, tmp_path, monkeypatch):
    precisions = []
    monkeypatch.setattr(rescaler, 'native_precision', lambda device: 'bf16')
    monkeypatch.setattr(
        measured, 'Restorer', lambda net, sigmas: precisions.append(net.precision) or Restorer(net, sigmas)
    )
    nets = {'IRN': randomise(InvRescaleNet(4, [1, 1], 2, clamp=0.8, sigma_input=True), std=0.01), 'IRN+': None}
    nets['IRN+'] = copy.deepcopy(nets['IRN'])
    for parameter in nets['IRN+'].parameters():
        parameter.data += 0.01 * torch.randn_like(parameter) * parameter.requires_grad
    paths = {arm: tmp_path / f'{arm}.pth' for arm in nets}
    for arm, net in nets.items():
        torch.save({'params_ema': net.state_dict()}, paths[arm])
    measured.measure_weights(two_ends, paths, 'params_ema')

    net = copy.deepcopy(nets['IRN'])
    for mixed, other in zip(net.parameters(), nets['IRN+'].parameters()):
        mixed.data += 0.25 * (other.data - mixed.data)
    restorer = Restorer(Rescaler(net, precision='fp32'), (0.25,))  # IRN is best at 0
    expected = []
    for path in two_ends.images().values():
        original, image = restorer.rescale_file(path)
        expected += measure(METRICS, [image.restored[0.25]], original)[0]
    found = two_ends.means(WEIGHTS)
    assert set(found) == {0.25, 0.5, 0.75}
    assert set(precisions) == {'fp32'}
    for key in METRICS:
        assert found[0.25][key] == pytest.approx(np.mean([each[key] for each in expected]), abs=0.01)
        assert found[0.25][key] != pytest.approx(found[0.5][key], abs=0.01)


# ----------------------------------------------------------------------------------------------------- figures


def points(*values: tuple[float, float]) -> list[Point]:
    return [Point(index, {'psnr_y': psnr, 'lpips': lpips}) for index, (psnr, lpips) in enumerate(values)]


def test_excess_over_a_curve_is_at_the_same_psnr():
    rival = points((30, 0.4), (28, 0.2))  # on the line between them 0.3 at 29
    assert report.excesses(points((31, 9), (29, 0.35), (29, 0.25)), rival) == pytest.approx([0.05, -0.05])
    # Below its range: the rival's end has as much PSNR-Y and more.
    assert report.excesses(points((27, 0.3), (27, 0.1)), rival) == pytest.approx([0.1, -0.1])
    assert report.excesses(points((31, 0.1)), rival) == []
    turned = points((29, 0.4), (29.5, 0.3), (29.25, 0.2))  # the last one is better than the first in both
    assert report.excesses(points((29.1, 0.3), (29.45, 0.3)), turned) == pytest.approx([0.1, 0.3 - 0.28])


@pytest.fixture
def study_of_figures(tmp_path):
    """A data set with figures written by hand."""

    def write(name: str, rows: dict[float, tuple[float, float]]) -> None:
        target = data.results(name)
        target.parent.mkdir(parents=True)
        lines = [f'a,{at},{psnr},{lpips}' for at, (psnr, lpips) in rows.items()]
        target.write_text('\n'.join(['image,sigma,psnr_y,lpips', *lines]) + '\n')

    data = DataSet('Urban100', tmp_path, tmp_path, METRICS)
    write('IRN', {0: (31.1, 0.33), 1: (30.0, 0.3)})
    write('IRN+', {1: (28.0, 0.1)})
    write(plan.IRN_SIGMA, {0: (31.0, 0.3), 0.25: (30.5, 0.25), 0.5: (30, 0.2), 0.75: (29.5, 0.15), 1: (29, 0.09)})
    write(WEIGHTS, {0.5: (29.5, 0.2)})
    write(IMAGES, {0.5: (29.5, 0.12)})
    write(BLEND, {0.5: (30.2, 0.24)})
    return data


def test_ends_of_interpolations(study_of_figures):
    assert study_of_figures.ends(WEIGHTS) == [('IRN', 0), ('IRN+', 1)]
    assert [point.means['psnr_y'] for point in report.curve(study_of_figures, WEIGHTS)] == [31.1, 29.5, 28]
    assert [point.means['psnr_y'] for point in report.curve(study_of_figures, BLEND)] == [31, 30.2, 29]


def test_samplings_that_were_trained(study_of_figures):
    assert [row['sampling'] for row in report.samplings(study_of_figures)] == ['3-point']
    uniform = study_of_figures.results('IRNsigma_uniform')
    uniform.parent.mkdir(parents=True)
    uniform.write_text('image,sigma,psnr_y,lpips\na,0,30.5,0.2\na,1,28,0.1\n')
    three, other = report.samplings(study_of_figures)
    assert (three['sampling'], other['sampling']) == ('3-point', 'uniform')
    assert (other['PSNR-Y, σ = 0'], other['LPIPS, σ = 1']) == ('30.50', '0.1000')
    # At 30.5 dB 3-point has 0.25, and at 28 or more 0.09.
    assert other['LPIPS above 3-point at no less PSNR-Y, mean'] == '-0.0200'
    assert b'PNG' in report.draw_curves(report.sampling_curves(study_of_figures), 'Urban100')[:8]


def test_claims(study_of_figures):
    assert [(row['measured'], row['holds']) for row in report.claims(study_of_figures)] == [
        ('-0.10 dB', 'yes'),
        ('LPIPS 0.0900 and 0.1000, +1.00 dB', 'yes'),
        ('LPIPS to 0.30', 'yes'),
        (
            'LPIPS -0.0219 at worst, 5 of 5 points compared',
            'yes',
        ),  # at 31 dB, where the rival has 0.2 + 0.13 * 1.5 / 1.6
        ('LPIPS +0.0300 at worst, 5 of 5 points compared', 'no'),
        ('LPIPS +0.0000 at worst, 5 of 5 points compared', 'yes'),
    ]


def test_published_rows_are_marked(study_of_figures):
    rows = report.table_1(study_of_figures)
    assert [row['source'] for row in rows] == ['measured'] * 7 + ['published'] * 6
    assert rows[0]['method'] == 'IRN, σ = 0'
    assert (rows[-1]['lpips'], rows[-1]['psnr_y'], rows[-1]['ssim_y'], rows[-1]['dists']) == (
        '0.0487',
        '30.19',
        '0.8960',
        '',
    )


# ------------------------------------------------------------------------------------------------------- steps


def run_steps(folder: Path, *todo: Step) -> None:
    with Journal(folder) as journal:
        journal.run(todo)


def test_a_step_that_fails_is_shown_and_tried_again(tmp_path, capsys):
    done = []
    steps_ = [Step('first', 'things', 1, lambda: done.append(1))]
    steps_ += [Step('second', 'things', 1, [sys.executable, '-c', 'open("found"); print("there it is")'])]
    with pytest.raises(StudyError, match=r'second ended with status 1(.|\n)*No such file or directory: .found'):
        run_steps(tmp_path, *steps_)
    (tmp_path / 'found').touch()
    run_steps(tmp_path, *steps_)
    assert done == [1]
    assert '[1/2] first: done before\n[2/2] second: 1 things\n' in capsys.readouterr().out


def test_nobody_else_works_in_the_folder_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, 'PATIENCE', 0.3)
    with Journal(tmp_path), pytest.raises(StudyError, match='another study'):
        Journal(tmp_path)
    run_steps(tmp_path)


def test_a_killed_study_may_take_time_to_vanish(tmp_path):
    killed = Journal(tmp_path)
    threading.Timer(0.3, killed._lock.close).start()
    run_steps(tmp_path)


def test_an_interruption_ends_the_command_first(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, 'TICK', 0.05)
    code = 'import signal, time; signal.signal(15, lambda *_: (open("ended", "w"), exit()))'
    code += '; open("ready", "w"); time.sleep(60)'
    monkeypatch.setattr(Journal, '_report', lambda self, *_: (tmp_path / 'ready').exists() and os.kill(os.getpid(), 15))
    with pytest.raises(SystemExit) as ended:
        run_steps(tmp_path, Step('wait', 'minutes', 1, [sys.executable, '-c', code]))
    assert ended.value.code == 128 + signal.SIGTERM
    assert (tmp_path / 'ended').exists()


def test_progress_and_remaining_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(steps, 'QUIET', 0)
    todo = [Step(name, 'iterations', 100, []) for name in ('a', 'b', 'c')] + [Step('d', 'images', 1, [])]
    with Journal(tmp_path) as journal:
        journal.done, journal.seconds = ['a'], {'a': 6000.0, 'b': 1800.0}
        (tmp_path / 'logs/b.log').write_text(
            '[epoch: 0, iter:      20, lr:(...)]\n[epoch: 0, iter:      30, lr:(...)]\n'
        )
        journal._report(todo, todo[1])
        assert capsys.readouterr().out == '    30 of 100 iterations; at least 2 h 50 min left of all\n'  # 170 minutes
        todo.pop()
        (tmp_path / 'logs/b.log').write_text('')
        journal._report(todo, todo[1])
        assert capsys.readouterr().out == '    1800 s; 3 h 20 min left of all\n'
        journal.done = []
        journal._report(todo, todo[1])
        assert capsys.readouterr().out == '    1800 s\n'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--train', 'nowhere'], 'nowhere does not exist: name the right one with --train'),
        (['--train', '.', '--test', '.'], '. has no images: name folders of originals with --test'),
        (['--train', '.', '--rcan', 'net.pth'], 'net.pth does not exist: name the right one with --rcan'),
        (['--train', '.', '--start-discriminator', 'net_d.pth'], 'name the right one with --start-discriminator'),
        (['--train', '.', '--iterations', '0'], '--iterations 0: name at least one'),
        (['--train', '.', '--force_yml', 'train:amp'], '--force_yml train:amp: write KEY=VALUE'),
    ],
)
def test_missing_files_are_named(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        reproduce.main(['study', '--budget', 'small', *arguments])
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'study').exists()


@pytest.fixture
def photographs(tmp_path):
    return write_photographs(tmp_path / 'photographs', count=1)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, photographs, capsys):
    (tmp_path / 'study').touch()
    arguments = ['--budget', 'small', '--train', str(photographs), '--test', str(photographs)]
    assert reproduce.main([str(tmp_path / 'study'), *arguments]) == 1
    assert str(tmp_path / 'study') in capsys.readouterr().err.splitlines()[0]


def test_missing_weights_are_named_before_hours_of_training(tmp_path, photographs, monkeypatch, capsys):
    def missing(name):
        if name == 'vgg16':
            raise WeightsError('no vgg16: do this')

    monkeypatch.setattr(reproduce, 'imagenet_weights', missing)
    monkeypatch.setattr(reproduce, 'can_measure_dists', lambda: False)
    arguments = [str(tmp_path / 'study'), '--train', str(photographs), '--test', str(photographs)]
    assert reproduce.main([*arguments, '--budget', 'small']) == 1
    assert capsys.readouterr().err.startswith('no vgg16: do this\n')
    assert not (tmp_path / 'study/options').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--force_yml', 'train:optim_g:lr=0'], 'IRN_start: train.optim_g.lr must be a number, more than 0'),
        (['--start-discriminator', 'net_d.pth'], 'IRN+: path.pretrain_network_d: The checkpoint net_d.pth is not of'),
    ],
)
def test_wrong_options_are_named_before_hours_of_training(
    tmp_path, photographs, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, 'imagenet_weights', lambda name: None)
    monkeypatch.setattr(reproduce, 'can_measure_dists', lambda: False)
    monkeypatch.setattr(reproduce.Journal, 'run', lambda *_: pytest.fail('a training starts'))
    torch.save({'params': {'a': torch.zeros(1)}}, 'net_d.pth')
    arguments = ['study', '--budget', 'small', '--train', str(photographs), '--test', str(photographs), *arguments]
    assert reproduce.main(arguments) == 1
    assert message in capsys.readouterr().err.replace(f'{tmp_path}/', '')
    assert not (tmp_path / 'study/options').exists()


def test_data_sets_of_one_name_are_refused(photographs, capsys):
    with pytest.raises(SystemExit):
        reproduce.main(['study', '--budget', 'small', '--train', str(photographs), '--test', *[str(photographs)] * 2])
    assert 'two folders have the same name' in capsys.readouterr().err
