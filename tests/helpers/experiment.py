"""Small experiments: images, data sets and option files that train in seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable

import cv2
import numpy as np
import torch
import yaml

from irnsigma_plugin.imagenet.weights import find_weights

METRICS = {
    'psnr_y': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True},
    'ssim_y': {'type': 'calculate_ssim', 'crop_border': 4, 'test_y_channel': True},
}
LPIPS = {'type': 'calculate_lpips', 'net': 'alex', 'better': 'lower'}


def has_alexnet() -> bool:
    """Whether LPIPS can be measured without a download."""
    return find_weights('alexnet') is not None


def has_dists() -> bool:
    """Whether DISTS can be measured without a download."""
    return find_weights('vgg16') is not None and find_spec('DISTS_pytorch') is not None


def metrics() -> dict:
    """PSNR and SSIM, and LPIPS where its weights are present."""
    return {**METRICS, 'lpips': LPIPS} if has_alexnet() else dict(METRICS)


def write_photographs(folder: Path, count: int = 3, height: int = 64, width: int = 96) -> Path:
    """Write smooth random colour images as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for index in range(count):
        noise = random.random((height // 4 + 2, width // 4 + 2, 3))
        image = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f'photo{index}.png'), (image * 255).clip(0, 255).round().astype(np.uint8))
    return folder


def options_to_train(photographs: Path, adversarial: bool = True) -> dict:
    """Options of a training of seconds: IRN_sigma, or IRN where not adversarial."""
    options = {
        'name': 'tiny',
        'model_type': 'IRNSigmaModel',
        'scale': 4,
        'num_gpu': 0,
        'manual_seed': 0,
        'datasets': {
            'train': {
                'name': 'photographs',
                'type': 'HRImageDataset',
                'dataroot_gt': str(photographs),
                'io_backend': {'type': 'disk'},
                'gt_size': 32,
                'num_worker_per_gpu': 0,
                'batch_size_per_gpu': 3,
                'dataset_enlarge_ratio': 100,
            },
            'val': {
                'name': 'held_out',
                'type': 'HRImageDataset',
                'dataroot_gt': str(photographs),
                'io_backend': {'type': 'disk'},
            },
        },
        'network_g': {'type': 'InvRescaleNet', 'scale': 4, 'block_num': [1, 1], 'growth_channels': 4},
        'path': {},
        'train': {
            'mixture_opt': {'type': 'MixtureLoss', 'lambda_reconstruction': 1},
            'optim_g': {'type': 'Adam', 'lr': 1e-3},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [100], 'gamma': 0.5},
            'total_iter': 4,
            'grad_clip': 10,
        },
        'val': {
            'val_freq': 2,
            'save_img': False,
            'pbar': False,
            'sigmas': [0, 0.5, 1],
            'metrics': metrics(),
            'lr_metrics': {name: {**metric, 'crop_border': 0} for name, metric in METRICS.items()},
        },
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'use_tb_logger': False},
    }
    if adversarial:
        options['network_d'] = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4}
        options['train']['optim_d'] = {'type': 'Adam', 'lr': 1e-4}
        options['train']['gan_opt'] = {'type': 'GANLoss', 'gan_type': 'vanilla'}
        options['train']['perceptual_opt'] = {
            'type': 'PerSamplePerceptualLoss',
            'vgg_type': 'vgg16',
            'layer_weights': {'relu1_2': 1},
            'weights': 'random',
        }
    else:
        options['train']['mixture_opt'].update(weighting='equal', distribution='latent')
    return options


def options_to_test(train: dict, checkpoint: Path | None = None) -> dict:
    """Options that test what `train` trains."""
    options = {
        key: deepcopy(train[key]) for key in ('model_type', 'scale', 'num_gpu', 'manual_seed', 'network_g', 'val')
    }
    options['name'] = 'test_tiny'
    options['datasets'] = {'test_1': deepcopy(train['datasets']['val'])}
    options['path'] = {'pretrain_network_g': checkpoint and str(checkpoint)}
    options['val']['save_img'] = True
    return options


def set_option(*keys_and_value: Any) -> Callable[[dict], None]:
    """A change of the options: `set_option('train', 'grad_clip', 1)`."""
    *keys, last, value = keys_and_value

    def change(options: dict) -> None:
        for key in keys:
            options = options[key]
        options[last] = value

    return change


def write_yaml(options: dict, path: Path) -> Path:
    """Write an option file. Its numbers are numbers to BasicSR, too: 1.0e-06, since YAML reads 1e-6 as a string."""
    path.write_text(yaml.safe_dump(options, sort_keys=False))
    return path


def differences(a: Any, b: Any, name: str = '') -> list[str]:
    """Names of all leaves that differ in at least one bit."""
    if isinstance(a, Mapping) and not isinstance(a, Counter):
        if a.keys() != b.keys():
            return [f'{name}: {sorted(map(str, a.keys() ^ b.keys()))}']
        return [each for key in a for each in differences(a[key], b[key], f'{name}.{key}')]
    if isinstance(a, (list, tuple)):
        return [] if len(a) == len(b) and not any(differences(x, y) for x, y in zip(a, b)) else [name]
    if isinstance(a, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [name]
    return [] if a == b else [name]
