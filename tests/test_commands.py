"""`python -m basicsr.train` and `python -m basicsr.test`, as a user runs them."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.experiment import metrics, options_to_test, options_to_train, write_photographs, write_yaml
from helpers.invertibility import randomise

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.preparation.pairs import prepare
from irnsigma_plugin.rescaling.rescaler import Rescaler


def paired_lmdb(tmp_path: Path) -> dict:
    """Prepare LMDBs; return the keys of a PairedImageDataset that reads them."""
    photographs = write_photographs(tmp_path / 'photographs', count=4)
    summary = prepare(
        [photographs],
        tmp_path / 'datasets',
        crop_size=48,
        step=16,
        min_size=48,
        name='train',
        workers=1,
        progress=False,
    )
    return {
        'type': 'PairedImageDataset',
        'dataroot_gt': summary.hr_path,
        'dataroot_lq': summary.lr_path,
        'io_backend': {'type': 'lmdb'},
        'use_hflip': True,
        'use_rot': True,
        'num_worker_per_gpu': 1,
    }


def site_packages() -> set[str]:
    """Names at the top of site-packages, where BasicSR alone would write."""
    return {name for name in os.listdir(sysconfig.get_path('purelib')) if not name.startswith('__')}


def test_training_from_an_empty_directory_survives_a_kill(tmp_path, run_cli, checkout_path):
    options = options_to_train(tmp_path / 'photographs')
    options['datasets']['train'].update(paired_lmdb(tmp_path))
    options['train']['total_iter'] = 200
    options['val']['val_freq'] = 150
    options['logger']['use_tb_logger'] = True
    work = tmp_path / 'empty'
    work.mkdir()
    file = write_yaml(options, tmp_path / 'train.yml')
    before = site_packages()

    command = [sys.executable, '-m', 'basicsr.train', '-opt', str(file)]
    with subprocess.Popen(
        command,
        cwd=work,
        env={**os.environ, 'PYTHONPATH': checkout_path},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        states = work / 'experiments/tiny/training_states'
        deadline = time.monotonic() + 300
        while not (states / '6.state').exists():
            assert process.poll() is None, process.stdout.read().decode()
            assert time.monotonic() < deadline, 'no checkpoint within five minutes'
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    killed_at = max(int(path.stem) for path in states.glob('[0-9]*.state'))
    assert killed_at < 200

    options['train']['total_iter'] = killed_at + 4
    options['val']['val_freq'] = killed_at + 2
    write_yaml(options, file)
    output = run_cli('-m', 'basicsr.train', '-opt', file, '--auto_resume', cwd=work).stdout
    assert f'Resuming training from epoch: 0, iter: {killed_at}' in output
    assert f'iter: {killed_at + 1:7,d}' in output
    for sigma in ('0', '0.5', '1'):
        line = next(line for line in output.splitlines() if f'# sigma {sigma}:' in line)
        assert all(name in line for name in metrics())
    assert '# lr: psnr_y' in output
    assert (work / 'experiments/tiny/models/net_g_latest.pth').exists()
    assert any((work / 'tb_logger/tiny').iterdir())
    assert set(os.listdir(work)) == {'experiments', 'tb_logger'}
    assert site_packages() == before
    for path in (work / 'experiments').rglob('*.pth'):
        torch.load(path)


def test_test_command_measures_saves_and_reports(tmp_path, run_cli):
    net = randomise(InvRescaleNet(4, [1, 1], 4))
    torch.save({'params': net.state_dict()}, tmp_path / 'net_g.pth')
    photographs = write_photographs(tmp_path / 'photographs', count=2, height=66, width=97)  # no multiples of 4
    original = cv2.imread(str(photographs / 'photo1.png'))[:64, :96]
    lr = Rescaler(net).downscale(original[..., ::-1])[..., ::-1]
    (tmp_path / 'lr_only').mkdir()
    cv2.imwrite(str(tmp_path / 'lr_only/photo1.png'), lr)
    options = options_to_test(options_to_train(photographs, adversarial=False), tmp_path / 'net_g.pth')
    options['datasets']['test_2'] = {
        'name': 'lr_only',
        'type': 'SingleImageDataset',
        'io_backend': {'type': 'disk'},
        'dataroot_lq': str(tmp_path / 'lr_only'),
    }
    output = run_cli('-m', 'basicsr.test', '-opt', write_yaml(options, tmp_path / 'test.yml')).stdout
    assert '# sigma 0.5: ' in output
    assert 'Restored 1 images of lr_only' in output

    results = tmp_path / 'results/test_tiny'
    with open(results / 'held_out/metrics.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(row['image'], row['sigma']) for row in rows] == [
        (image, sigma) for image in ('photo0', 'photo1') for sigma in ('0', '0.5', '1')
    ]
    assert set(rows[0]) == {'image', 'sigma', *metrics(), 'lr_psnr_y', 'lr_ssim_y'}
    # The saved files give the reported metrics.
    from basicsr.metrics import calculate_psnr

    images = results / 'visualization'
    restored = cv2.imread(str(images / 'held_out/photo1_test_tiny_sigma0.5.png'))
    psnr = calculate_psnr(restored, original, crop_border=4, test_y_channel=True)
    assert psnr == pytest.approx(float(rows[4]['psnr_y']), abs=1e-4)
    np.testing.assert_array_equal(cv2.imread(str(images / 'held_out/photo1_test_tiny_lr.png')), lr)
    assert ('lpips' in metrics()) == (results / 'held_out/curve.png').exists()

    # The small image, a set without originals, is restored to the same bytes, and reported on nowhere.
    upscaled = cv2.imread(str(images / 'lr_only/photo1_test_tiny_sigma0.5.png'))
    np.testing.assert_array_equal(upscaled, restored)
    table = (results / 'table.md').read_text()
    assert '**held_out**, 2 images' in table
    assert 'lr_only' not in table
    assert not (results / 'lr_only').exists()
