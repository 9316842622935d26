"""Several processes do what one does: training steps, validation, commands."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from basicsr.utils.dist_util import get_dist_info
from basicsr.utils.options import parse_options
from helpers.experiment import METRICS, differences, options_to_test, options_to_train, write_photographs, write_yaml
from helpers.ranks import run_ranks

from irnsigma_plugin.archs.bicubic import BicubicRescaleNet
from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.checkpoints.training_states import SaveError
from irnsigma_plugin.compat import start
from irnsigma_plugin.files import lock
from irnsigma_plugin.options.train_val import ValOptions
from irnsigma_plugin.preparation.pairs import prepare
from irnsigma_plugin.training.distributed import on_all_ranks, unshard
from irnsigma_plugin.training.model import IRNSigmaModel
from irnsigma_plugin.training.validator import Validator

BATCH = 4
pytestmark = pytest.mark.usefixtures('rank_server')


@pytest.fixture
def option_file(tmp_path):
    """Write the options of a small adversarial training, with changes to `train`, `network_d` and the patch size."""

    def write(network_d: dict | None = None, gt_size: int = 32, **train: Any) -> Path:
        side = max(gt_size, 64)
        options = options_to_train(write_photographs(tmp_path / 'photographs', height=side, width=side))
        options['train'].update(grad_clip=None, **train)
        options['network_d'] = network_d or options['network_d']
        options['datasets']['train']['gt_size'] = gt_size
        return write_yaml(options, tmp_path / 'train.yml')

    return write


# --------------------------------------------------------------------------------------------- on each rank


def make_model(option_file: Path) -> IRNSigmaModel:
    """Build the model as `basicsr.train --launcher pytorch` does, with equal weights on all ranks."""
    sys.argv = ['train.py', '-opt', str(option_file)]
    opt, _ = parse_options(str(option_file.parent), is_train=True)
    opt['dist'] = get_dist_info()[1] > 1
    model = build_model(opt)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    trained = [
        parameter for net in (model.net_g, model.net_d) for parameter in net.parameters() if parameter.requires_grad
    ]
    for parameter in (*trained, *model.cri_perceptual.parameters()):  # no ImageNet weights here, but random ones
        torch.nn.init.normal_(parameter, std=0.05)
    torch.set_rng_state(state)
    return model


def feed(model: IRNSigmaModel, share: slice = slice(None)) -> None:
    size = model.opt['datasets']['train']['gt_size']
    hr = torch.rand(BATCH, 3, size, size, generator=torch.Generator().manual_seed(1))
    model.feed_data({'gt': hr[share], 'lq': torch.nn.functional.avg_pool2d(hr, 4)[share]})


def weights(net: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def gradients_of_one_step(option_file: Path) -> dict[str, torch.Tensor]:
    """Gradients of both networks for this rank's part of a batch with given sigma and epsilon."""
    torch.set_default_dtype(torch.float64)
    try:
        rank, count = get_dist_info()
        share = slice(rank * BATCH // count, (rank + 1) * BATCH // count)
        model = make_model(option_file)
        feed(model, share)
        model.sigma_sampler = lambda *_: torch.tensor([0, 0.25, 0.5, 1.0])[share]
        epsilon = torch.randn(BATCH, 45, 8, 8, generator=torch.Generator().manual_seed(2))[share]
        net_g = model.get_bare_model(model.net_g)
        forward = net_g.forward
        net_g.forward = lambda hr, sigma: forward(hr, sigma, epsilon)
        model.optimize_parameters(1)
        nets = {'g': net_g, 'd': model.get_bare_model(model.net_d)}
        return {
            f'{label}.{name}': parameter.grad
            for label, net in nets.items()
            for name, parameter in net.named_parameters()
            if parameter.requires_grad
        }
    finally:
        torch.set_default_dtype(torch.float32)


def noise_of_two_steps(option_file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Sigmas of two steps, and what was restored from the same images at the last."""
    model = make_model(option_file)
    feed(model)
    calls = []
    model.net_g.register_forward_hook(lambda _, inputs, result: calls.append((inputs[1], result.restored.detach())))
    model.optimize_parameters(1)
    model.optimize_parameters(2)
    return torch.cat([sigma for sigma, _ in calls]), calls[-1][1]


def weights_after_each_step(option_file: Path, steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    model = make_model(option_file)
    feed(model)
    result = []
    for step in range(1, steps + 1):
        model.optimize_parameters(step)
        result.append((weights(model.net_g), weights(model.net_d)))
    return result


def steps_skipped_for_one_bad_rank(option_file: Path, bad: dict[str, bool]) -> list[Any]:
    """Step with NaN in one of rank 1's adversarial losses, then without; skipped steps, weights of both networks."""
    model = make_model(option_file)
    feed(model)
    criterion = model.cri_gan
    result = [(0, weights(model.net_g), weights(model.net_d))]

    def spoilt(prediction, target_is_real, is_disc):
        loss = criterion(prediction, target_is_real, is_disc=is_disc)
        return loss * math.nan if bad == {'real': target_is_real, 'is_disc': is_disc} else loss

    for step, model.step.adversary.gan_loss in enumerate(
        (spoilt if get_dist_info()[0] == 1 else criterion, criterion), start=1
    ):
        model.optimize_parameters(step)
        result.append((model.step.guard.skipped, weights(model.net_g), weights(model.net_d)))
    return result


def error_of_saving(option_file: Path) -> str:
    """What `save` raises where there is no folder for it."""
    model = make_model(option_file)
    with pytest.raises(SaveError) as error:
        model.save(0, 1)
    return str(error.value)


def validate(
    folder: Path, images: int, fail_on: str | None = None, failure: type[Exception] = ValueError
) -> tuple[Any, str]:
    """Validate with this rank; return the best values that it knows, or its error, and what it wrote to stderr."""
    torch.manual_seed(0)
    net = InvRescaleNet(2, [1], 4).eval()
    for name, parameter in net.named_parameters():
        if 'conv5' in name:
            torch.nn.init.normal_(parameter, std=0.05)
    opt = {
        'name': 'tiny',
        'scale': 2,
        'is_train': True,
        'val': {'metrics': METRICS, 'pbar': True},
        'path': {key: str(folder / key) for key in ('experiments_root', 'visualization')},
    }
    validator = Validator(opt, ValOptions())
    photographs = {
        'name': 'photographs',
        'phase': 'val',
        'scale': 2,
        'type': 'HRImageDataset',
        'dataroot_gt': str(folder.parent / f'photographs{images}'),
        'io_backend': {'type': 'disk'},
    }
    rescale = validator.rescale

    def rescale_or_fail(net, data, device):
        if fail_on and fail_on in data['lq_path'][0]:
            raise failure(f'{fail_on} is broken')
        return rescale(net, data, device)

    validator.rescale = rescale_or_fail
    with contextlib.redirect_stderr(io.StringIO()) as stderr:  # before the first message makes BasicSR's logger
        loader = build_dataloader(build_dataset(photographs), photographs)
        try:
            validator.run(net, loader, torch.device('cpu'), 5, None, save_img=True)
        except RuntimeError as error:
            return str(error), stderr.getvalue()
    return validator.best, stderr.getvalue()


def validated_mean(option_file: Path) -> tuple[list[float], str]:
    """What the validated network holds, if every rank has a running mean of its own; how a bare network is wrapped."""
    model = make_model(option_file)
    for net in filter(None, (model.get_bare_model(model.net_g), getattr(model, 'net_g_ema', None))):
        net.register_buffer('mean', torch.tensor(5.0 + get_dist_info()[0]))
    seen = []
    model.validator.run = lambda net, *_: seen.append(net.mean.item())
    model.validation(None, 1, None)
    return seen, type(model.model_to_device(BicubicRescaleNet(4))).__name__


# ------------------------------------------------------------------------------------------- steps, validation


def test_gradients_of_two_ranks_are_those_of_one(tmp_path, option_file):
    file = option_file()
    alone = gradients_of_one_step(file)
    together = run_ranks(2, gradients_of_one_step, tmp_path / 'ranks', file)
    assert min(gradient.abs().max() for gradient in alone.values()) > 1e-6
    for gradients in together:
        torch.testing.assert_close(gradients, alone, rtol=1e-6, atol=1e-9)


def test_every_rank_draws_its_own_sigma_and_noise(tmp_path, option_file):
    (sigmas0, restored0), (sigmas1, restored1) = run_ranks(
        2, noise_of_two_steps, tmp_path / 'uniform', option_file(sigma={'strategy': 'uniform'})
    )
    assert not set(sigmas0.tolist()) & set(sigmas1.tolist())
    (sigmas0, restored0), (sigmas1, restored1) = run_ranks(
        2, noise_of_two_steps, tmp_path / 'fixed', option_file(sigma={'strategy': 'fixed', 'values': [1]})
    )
    assert torch.equal(sigmas0, sigmas1)
    assert not torch.equal(restored0, restored1)


def test_one_sigma_for_a_batch_is_that_of_all_ranks(tmp_path, option_file):
    file = option_file(sigma={'strategy': 'uniform', 'per': 'batch'})
    (sigmas0, restored0), (sigmas1, restored1) = run_ranks(2, noise_of_two_steps, tmp_path / 'ranks', file)
    assert torch.equal(sigmas0, sigmas1)
    assert len(set(sigmas0.tolist())) == 2  # of two steps
    assert not torch.equal(restored0, restored1)


@pytest.mark.parametrize('sigma', [0, 1])
def test_frozen_phases_and_terms_without_weight_do_not_hang(tmp_path, option_file, sigma):
    file = option_file(sigma={'strategy': 'fixed', 'values': [sigma]}, net_d_init_iters=2, net_d_iters=2)
    first, second = run_ranks(2, weights_after_each_step, tmp_path / 'ranks', file, 6)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    changed = [
        (not torch.equal(before[0], after[0]), not torch.equal(before[1], after[1]))
        for before, after in zip(first, first[1:])
    ]
    assert changed == [(False, True), (False, True), (True, True), (False, True), (True, True)]


def test_discriminator_with_batch_normalisation_stays_the_same_on_all_ranks(tmp_path, option_file):
    file = option_file({'type': 'IRNDiscriminator', 'num_feat': 4, 'input_size': 128}, gt_size=128)
    first, second = run_ranks(2, weights_after_each_step, tmp_path / 'ranks', file, 2)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first[0][1], first[1][1])


@pytest.mark.parametrize(
    'bad',
    [{'real': True, 'is_disc': False}, {'real': True, 'is_disc': True}, {'real': False, 'is_disc': True}],
    ids=['generator', 'd_real', 'd_fake'],
)
def test_one_rank_with_a_non_finite_gradient_makes_all_skip(tmp_path, option_file, bad):
    file = option_file(sigma={'strategy': 'fixed', 'values': [0.5]})
    first, second = run_ranks(2, steps_skipped_for_one_bad_rank, tmp_path / 'ranks', file, bad)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    start, skipped, after = first
    assert [skipped[0], after[0]] == [1, 1]
    for net, is_bad in ((1, not bad['is_disc']), (2, bad['is_disc'])):
        assert torch.equal(start[net], skipped[net]) == is_bad
        assert not torch.equal(skipped[net], after[net])


def test_a_failing_save_is_an_error_on_all(tmp_path, option_file):
    first, second = run_ranks(2, error_of_saving, tmp_path / 'ranks', option_file())
    assert first == second
    assert first.startswith('Saving failed on rank 0 (SaveError: Cannot save ')
    assert 'net_g_1.pth (No such file or directory)' in first


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize(('ranks', 'images'), [(2, 3), (3, 2)])
def test_validation_by_several_ranks_is_that_of_one(tmp_path, ranks, images):
    write_photographs(tmp_path / f'photographs{images}', images, 32, 48)
    best, _ = validate(tmp_path / 'alone', images)
    (first_best, progress), *others = run_ranks(ranks, validate, tmp_path / 'ranks', tmp_path / 'together', images)
    assert first_best == best
    assert '100%' in progress
    assert others == [({}, '')] * (ranks - 1)
    files = files_in(tmp_path / 'together')
    assert files == files_in(tmp_path / 'alone')
    lines = files['experiments_root/validation/photographs/5/metrics.csv'].decode().splitlines()[1:]
    assert [line.split(',')[0] for line in lines] == [f'photo{index // 3}' for index in range(3 * images)]
    assert len([name for name in files if name.endswith('.png') and 'visualization' in name]) == 4 * images


@pytest.mark.parametrize(('broken', 'rank'), [('photo1', 1), ('photo2', 0)])
def test_a_failure_on_one_rank_is_an_error_on_all(tmp_path, broken, rank):
    write_photographs(tmp_path / 'photographs3', 3, 32, 48)
    results = run_ranks(2, validate, tmp_path / 'ranks', tmp_path / 'together', 3, broken)
    assert [error for error, _ in results] == [
        f'The validation of photographs failed on rank {rank} (ValueError: {broken} is broken).'
    ] * 2


@pytest.mark.parametrize(('spoilt', 'rest'), [('photo0', '12'), ('photo1', '02'), ('photo', '')])
def test_images_that_any_rank_leaves_out_are_named(tmp_path, spoilt, rest):
    write_photographs(tmp_path / 'photographs3', 3, 32, 48)
    (best, told), _ = run_ranks(2, validate, tmp_path / 'ranks', tmp_path / 'together', 3, spoilt, FloatingPointError)
    named = re.findall(rf'photo(.)\.png is left out: {spoilt} is broken', told)
    assert sorted([*named, *rest]) == ['0', '1', '2']
    assert ('All images of photographs were left out.' in told) == (not best) == (not rest)
    if rest:  # in their order
        csv = tmp_path / 'together/experiments_root/validation/photographs/5/metrics.csv'
        assert re.findall(r'^photo(.),0,', csv.read_text(), re.MULTILINE) == [*rest]


def test_a_report_that_cannot_be_written_is_an_error_on_all(tmp_path):
    write_photographs(tmp_path / 'photographs2', 2, 32, 48)
    (tmp_path / 'together').mkdir()
    (tmp_path / 'together/experiments_root').touch()  # no folder
    (first, _), (second, _) = run_ranks(2, validate, tmp_path / 'ranks', tmp_path / 'together', 2)
    assert first == second
    assert first.startswith('The report on photographs failed on rank 0 (NotADirectoryError: ')


@pytest.mark.parametrize('ema_decay', [0, 0.9])
def test_all_ranks_validate_the_network_that_rank_0_saves(tmp_path, option_file, ema_decay):
    results = run_ranks(2, validated_mean, tmp_path / 'ranks', option_file(ema_decay=ema_decay))
    assert results == [([5.0], 'BicubicRescaleNet')] * 2


def test_a_process_by_itself_keeps_its_own_error():
    assert on_all_ranks('Work', lambda: 3) == [3]
    with pytest.raises(KeyError):
        on_all_ranks('Work', lambda: {}['missing'])


def test_unshard_restores_the_order():
    assert unshard([['a', 'd', 'g'], ['b', 'e'], ['c', 'f']]) == list('abcdefg')
    assert unshard([['a'], [], []]) == ['a']
    assert unshard([[None, 'c'], ['b', 'd']]) == ['b', 'c', 'd']


# -------------------------------------------------------------------------------------------------- commands


@pytest.fixture(scope='module')
def lmdb(tmp_path_factory):
    """Keys of a data set that reads LMDBs."""
    folder = tmp_path_factory.mktemp('lmdb')
    summary = prepare(
        [write_photographs(folder / 'photographs')],
        folder,
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
        'num_worker_per_gpu': 0,
    }


def test_commands_of_each_launcher(tmp_path, lmdb, run_cli):
    """Train with torchrun, resume under Slurm to the same result, test with the old launcher."""

    def launch(*args, check=True, **env):
        return run_cli(*args, check=check, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', **env).stdout

    options = options_to_train(write_photographs(tmp_path / 'photographs'))
    options['datasets']['train'].update(lmdb)
    options['train']['total_iter'] = 6
    options['val'].update(val_freq=3, metrics=METRICS)
    options['logger']['save_checkpoint_freq'] = 3
    file = write_yaml(options, tmp_path / 'train.yml')
    output = launch(
        Path(sys.executable).with_name('torchrun'),
        '--standalone',
        '--nproc_per_node=2',
        '-m',
        'basicsr.train',
        '-opt',
        file,
        '--launcher',
        'pytorch',
    )
    assert 'DistributedDataParallel - InvRescaleNet' in output
    assert output.count('Validation held_out, 3 images') == 2  # at iterations 3 and 6, by rank 0 alone
    root = tmp_path / 'experiments/tiny'
    last = [root / name for name in ('models/net_g_6.pth', 'models/net_d_6.pth', 'training_states/6.state')]
    uninterrupted = [torch.load(path) for path in last]
    for path in last:  # as if the training had been killed after iteration 3
        path.unlink()

    options['dist_params'] = {'backend': 'nccl', 'port': free_port()}
    write_yaml(options, file)
    scontrol = tmp_path / 'bin/scontrol'
    scontrol.parent.mkdir()
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostname node[1-2]" ] && printf "127.0.0.1\\nnode2\\n"\n')
    scontrol.chmod(0o755)
    slurm = {
        'PATH': f'{scontrol.parent}{os.pathsep}{os.environ["PATH"]}',
        'SLURM_NTASKS': '2',
        'SLURM_NODELIST': 'node[1-2]',
    }
    with ThreadPoolExecutor() as tasks:
        output, other = tasks.map(
            lambda rank: launch(
                '-m', 'basicsr.train', '-opt', file, '--launcher', 'slurm', '--auto_resume', **slurm, SLURM_PROCID=rank
            ),
            '01',
        )
    assert 'Resuming training from epoch: 0, iter: 3.' in output
    assert 'iter:       6' in output
    assert 'INFO' not in other
    assert differences([torch.load(path) for path in last], uninterrupted) == []

    test = options_to_test(options, last[0])
    launch(
        '-m',
        'torch.distributed.launch',
        '--standalone',
        '--nproc_per_node=2',
        '-m',
        'basicsr.test',
        '-opt',
        write_yaml(test, tmp_path / 'test.yml'),
        '--launcher',
        'pytorch',
    )
    assert {
        'table.md',
        'held_out/metrics.csv',
        *(
            f'visualization/held_out/photo{index}_test_tiny_{kind}.png'
            for index in range(3)
            for kind in ('lr', 'sigma0', 'sigma0.5', 'sigma1')
        ),
    } < set(files_in(tmp_path / 'results/test_tiny'))


def resume_from(iterations: list[int | None]) -> int | str | None:
    """On a rank, go on from a state of that iteration; the error, if there is one."""
    rank, _ = get_dist_info()
    state = None if iterations[rank] is None else {'epoch': 0, 'iter': iterations[rank]}
    start.newest_whole_state = lambda *_: (state and 'a.state', state)
    opt = {'name': 'tiny', 'auto_resume': True, 'rank': rank, 'path': {}, 'train': {'total_iter': 9}}
    try:
        state = start.load_resume_state(opt)
    except RuntimeError as error:
        return str(error)
    return state and state['iter']


@pytest.mark.parametrize(
    ('iterations', 'words'),
    [
        ([4, 4], None),
        ([None, None], None),
        ([4, 2], '4 (rank 0), 2 (rank 1)'),
        ([4, None], '4 (rank 0), none (rank 1)'),
    ],
)
def test_ranks_go_on_from_the_same_state(tmp_path, iterations, words):
    """A rank that sees another folder, or cannot read a state, would train beside the others and wait for ever."""
    ended = run_ranks(2, resume_from, tmp_path / 'ranks', iterations)
    assert ended == iterations if words is None else all(words in each for each in ended)


def start_where_another_trains(root: Path) -> str:
    """On a rank, the error of the start."""
    names = {'experiments_root': '.', 'training_states': 'training_states', 'models': 'models'}
    opt = options_to_train(root)
    opt.update(auto_resume=False, rank=get_dist_info()[0], path={key: str(root / each) for key, each in names.items()})
    with pytest.raises(RuntimeError) as error:
        start.load_resume_state(opt)
    return str(error.value)


def test_a_start_that_is_refused_ends_all_ranks(tmp_path):
    with lock(tmp_path / '.tiny.lock'):
        errors = run_ranks(2, start_where_another_trains, tmp_path / 'ranks', tmp_path / 'tiny')
    assert errors[0] == errors[1]
    assert errors[0].startswith(f'The start failed on rank 0 (RuntimeError: {tmp_path}/tiny: another process trains')


def free_port() -> int:
    """One that stays free until it is used: not of those that the system gives away by itself."""
    for port in range(20_000 + os.getpid() % 10_000, 32_768):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(('127.0.0.1', port))
            return port
    raise OSError('no port is free')
