"""BasicSR's own models train the same, bit for bit, with the plugin and without it."""

from __future__ import annotations

import json

import torch
from helpers.experiment import write_photographs, write_yaml

# What BasicSR needs to be imported beside a torchvision of today, and nothing else.
ALIAS = """
import importlib.util, sys, types
import torchvision.transforms.functional
name = 'torchvision.transforms.functional_tensor'
if importlib.util.find_spec(name) is None:
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].rgb_to_grayscale = torchvision.transforms.functional.rgb_to_grayscale
"""
# Trains with each option file; writes down the losses of every iteration, and whether the plugin was there.
TRAIN = """
import json, os, sys
import basicsr
from basicsr.models.base_model import BaseModel
from basicsr.train import train_pipeline

logs = {}
original = BaseModel.get_current_log

def get_current_log(self):
    log = original(self)
    logs.setdefault(self.opt['name'], []).append(dict(log))
    return log

BaseModel.get_current_log = get_current_log
for file in sys.argv[1:]:
    sys.argv = ['train.py', '-opt', file]
    train_pipeline(os.getcwd())
with open('logs.json', 'w') as file:
    json.dump({'logs': logs, 'plugin': 'irnsigma_plugin' in sys.modules}, file)
"""
EDSR = {
    'name': 'EDSR',
    'model_type': 'SRModel',
    'network_g': {
        'type': 'EDSR',
        'num_in_ch': 3,
        'num_out_ch': 3,
        'num_feat': 8,
        'num_block': 2,
        'upscale': 4,
        'img_range': 255.0,
        'rgb_mean': [0.4488, 0.4371, 0.4040],
    },
    'train': {'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'}},
}
ESRGAN = {
    'name': 'ESRGAN',
    'model_type': 'ESRGANModel',
    'network_g': {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1, 'num_grow_ch': 4},
    'network_d': {'type': 'VGGStyleDiscriminator', 'num_in_ch': 3, 'num_feat': 4},
    'train': {
        'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1e-2, 'reduction': 'mean'},
        'gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 5e-3},
        'optim_d': {'type': 'Adam', 'lr': 1e-4, 'betas': [0.9, 0.99]},
        'net_d_iters': 1,
        'net_d_init_iters': 0,
    },
}


def options(folder, model: dict) -> dict:
    write_photographs(folder / 'hr', height=128, width=160)
    write_photographs(folder / 'lr', height=32, width=40)
    return {
        **model,
        'scale': 4,
        'num_gpu': 0,
        'manual_seed': 0,
        'datasets': {
            'train': {
                'name': 'photos',
                'type': 'PairedImageDataset',
                'dataroot_gt': str(folder / 'hr'),
                'dataroot_lq': str(folder / 'lr'),
                'io_backend': {'type': 'disk'},
                'gt_size': 128,
                'use_hflip': True,
                'use_rot': True,
                'num_worker_per_gpu': 0,
                'batch_size_per_gpu': 2,
                'dataset_enlarge_ratio': 10,
            },
            'val': {
                'name': 'photos',
                'type': 'PairedImageDataset',
                'dataroot_gt': str(folder / 'hr'),
                'dataroot_lq': str(folder / 'lr'),
                'io_backend': {'type': 'disk'},
            },
        },
        'path': {'pretrain_network_g': None, 'strict_load_g': True, 'resume_state': None},
        'train': {
            'ema_decay': 0.999,
            'optim_g': {'type': 'Adam', 'lr': 1e-4, 'betas': [0.9, 0.99]},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [2], 'gamma': 0.5},
            'total_iter': 3,
            'warmup_iter': -1,
            **model['train'],
        },
        'val': {
            'val_freq': 2,
            'save_img': False,
            'pbar': False,
            'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': False}},
        },
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 3, 'use_tb_logger': False},
    }


def test_the_plugin_changes_nothing(run_cli, tmp_path, checkout_path):
    files = [write_yaml(options(tmp_path, model), tmp_path / f'{model["name"]}.yml') for model in (EDSR, ESRGAN)]
    (tmp_path / 'alias').mkdir()
    (tmp_path / 'alias' / 'sitecustomize.py').write_text(ALIAS)
    results = []
    for name, env in (
        ('with', {'PYTHONPATH': checkout_path}),
        ('without', {'PYTHONPATH': str(tmp_path / 'alias'), 'IRNSIGMA_AUTOLOAD': '0'}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        run_cli('-c', TRAIN, *files, cwd=folder, CUDA_VISIBLE_DEVICES='', **env)
        told = json.loads((folder / 'logs.json').read_text())
        assert told['plugin'] == (name == 'with')
        assert {model: len(logs) for model, logs in told['logs'].items()} == {'EDSR': 3, 'ESRGAN': 3}
        root = folder / 'experiments'
        # Their own states are written by BasicSR, so nothing but tensors, numbers and counters is in them.
        saved = {
            str(path.relative_to(root)): torch.load(path)
            for path in sorted(root.rglob('*'))
            if path.suffix in ('.pth', '.state')
        }
        results.append((told['logs'], saved))
    (logs, saved), (logs_without, saved_without) = results
    assert logs == logs_without
    for model in ('EDSR', 'ESRGAN'):
        assert {
            f'{model}/models/net_g_3.pth',
            f'{model}/models/net_g_latest.pth',
            f'{model}/training_states/3.state',
        } <= saved.keys()
    torch.testing.assert_close(saved, saved_without, rtol=0, atol=0)
