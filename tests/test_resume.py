"""A training that was interrupted and resumed is the training that was not, bit for bit."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from basicsr.train import train_pipeline
from helpers.experiment import METRICS, differences, options_to_train, write_photographs, write_yaml
from helpers.processes import process_that

from irnsigma_plugin.checkpoints import training_states
from irnsigma_plugin.checkpoints.training_states import SaveError
from irnsigma_plugin.options.rules import OptionError
from irnsigma_plugin.training.model import IRNSigmaModel
from irnsigma_plugin.training.step import TrainingStep
from irnsigma_plugin.training.validator import Validator

ITERATIONS = 8
PER_EPOCH = 3


@contextlib.contextmanager
def at_iteration(iteration: int, act):
    """Call `act()` in the midst of an iteration."""
    original = IRNSigmaModel.optimize_parameters

    def optimize_parameters(self, current_iter):
        if current_iter == iteration:
            act()
        original(self, current_iter)

    IRNSigmaModel.optimize_parameters = optimize_parameters
    try:
        yield
    finally:
        IRNSigmaModel.optimize_parameters = original


class Experiment:
    """A training in a folder of its own."""

    def __init__(self, folder: Path, photographs: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.root = folder / 'experiments' / 'tiny'
        self.options = options_to_train(photographs)
        self.options['datasets']['train']['dataset_enlarge_ratio'] = PER_EPOCH  # of 3 images in batches of 3
        self.options['train'].update(
            ema_decay=0.9,
            total_iter=ITERATIONS,
            sigma={'strategy': 'uniform'},
            scheduler={'type': 'MultiStepLR', 'milestones': [5], 'gamma': 0.5},
        )
        self.options['val'].update(metrics={'psnr_y': METRICS['psnr_y']}, lr_metrics={}, val_freq=4)
        self.options['logger']['save_checkpoint_freq'] = ITERATIONS

    def train(self, *args: str) -> None:
        """`python -m basicsr.train -opt ... <args>` in the folder."""
        file = write_yaml(self.options, self.folder / 'train.yml')
        with _chdir(self.folder):
            argv, sys.argv = sys.argv, ['train.py', '-opt', str(file), *args]
            try:
                train_pipeline(str(self.folder))
            finally:
                sys.argv = argv

    def shorten(self, **data: int) -> None:
        """IRN without validation, on other batches."""
        for key in ('network_d', 'val'):
            self.options.pop(key, None)
        for key in ('optim_d', 'gan_opt', 'perceptual_opt'):
            self.options['train'].pop(key, None)
        self.options['train']['mixture_opt'].update(weighting='equal', distribution='latent')
        self.options['datasets']['train'].update(data)

    def read(self, name: str) -> dict:
        return torch.load(self.root / name, weights_only=True)

    def result(self) -> dict:
        return {
            name: self.read(name)
            for name in (
                f'models/net_g_{ITERATIONS}.pth',
                f'models/net_d_{ITERATIONS}.pth',
                f'training_states/{ITERATIONS}.state',
            )
        }


@contextlib.contextmanager
def _chdir(folder: Path):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp('photographs'))


@pytest.fixture
def experiment(tmp_path, photographs):
    return Experiment(tmp_path / 'job', photographs)


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory, photographs):
    experiment = Experiment(tmp_path_factory.mktemp('uninterrupted') / 'job', photographs)
    experiment.train()
    return experiment.result()


@pytest.mark.parametrize(
    ('stop_at', 'number', 'workers'),
    [
        (2, signal.SIGINT, 0),  # within an epoch
        (PER_EPOCH, signal.SIGTERM, 0),  # at its end
        (4, signal.SIGTERM, 1),  # before a validation; sample by sample the same from a worker
    ],
)
@pytest.mark.usefixtures('interruptible')
def test_stopped_and_resumed_is_uninterrupted_bit_for_bit(
    experiment, uninterrupted, basicsr_log, stop_at, number, workers
):
    handler = signal.getsignal(number)
    experiment.options['datasets']['train']['num_worker_per_gpu'] = workers
    with at_iteration(stop_at, lambda: signal.raise_signal(number)), pytest.raises(SystemExit) as stopped:
        experiment.train()
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) is handler
    assert os.listdir(experiment.root / 'training_states') == [f'{stop_at}.state']
    state = experiment.read(f'training_states/{stop_at}.state')
    assert (state['epoch'], state['seen']) == ((stop_at - 1) // PER_EPOCH, 3 * ((stop_at - 1) % PER_EPOCH + 1))

    experiment.train('--auto_resume')
    assert differences(experiment.result(), uninterrupted) == []
    assert 'Other settings' not in basicsr_log.text


def test_the_comparison_sees_a_difference(uninterrupted):
    other = deepcopy(uninterrupted)
    next(iter(other[f'models/net_g_{ITERATIONS}.pth']['params_ema'].values()))[:1] += 1e-7
    other[f'training_states/{ITERATIONS}.state']['random'][0]['python'][1] = ()
    assert len(differences(uninterrupted, other)) == 2


def test_old_states_go_once_the_new_one_is_saved(experiment):
    experiment.options['logger'].update(keep_last=2, save_checkpoint_freq=2)
    experiment.train()
    assert sorted(os.listdir(experiment.root / 'training_states')) == ['6.state', '8.state']
    assert sorted(os.listdir(experiment.root / 'models')) == [
        f'net_{net}_{iteration}.pth' for net in 'dg' for iteration in ('6', '8', 'latest')
    ]


def test_a_training_that_starts_anew_from_an_older_state_keeps_what_it_saves(experiment):
    experiment.shorten()
    experiment.options['logger'].update(keep_last=2, save_checkpoint_freq=2)
    experiment.train()
    experiment.options['path']['resume_state'] = str(experiment.root / 'training_states/6.state')
    experiment.options['logger'].update(keep_last=1, save_checkpoint_freq=1)
    with at_iteration(7, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(SystemExit):
        experiment.train()
    assert sorted(os.listdir(experiment.root / 'training_states')) == ['7.state', '8.state']


def test_a_full_disk_stops_the_training_and_leaves_what_was_saved(experiment, monkeypatch):
    from irnsigma_plugin import files as atomic

    experiment.options['logger'].update(keep_last=1, save_checkpoint_freq=2)

    def fill_disk():
        def full(path):
            raise OSError(28, 'No space left on device', path)

        monkeypatch.setattr(atomic, '_flush', full)

    with (
        at_iteration(3, fill_disk),
        pytest.raises(
            SaveError,
            match=r'net_g_4\.pth \(No space left on device; [\d,]+ '
            r'MiB are free there\).*--auto_resume',
        ),
    ):
        experiment.train()
    files = [path.name for folder in ('models', 'training_states') for path in (experiment.root / folder).iterdir()]
    assert sorted(files) == ['2.state', 'net_d_2.pth', 'net_g_2.pth']


def test_lack_of_memory_is_explained(experiment):
    def exhaust():
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB.')

    original = TrainingStep.step_discriminator
    TrainingStep.step_discriminator = lambda *args: exhaust()
    try:
        with pytest.raises(MemoryError, match='than the GPU has left: lower batch_size_per_gpu.*--auto_resume'):
            experiment.train()
    finally:
        TrainingStep.step_discriminator = original


def test_a_training_lasts_where_images_are_left_over(experiment):
    experiment.shorten(batch_size_per_gpu=2, dataset_enlarge_ratio=1)  # an epoch has one and a half batches
    experiment.train()
    assert experiment.read(f'training_states/{ITERATIONS}.state')['iter'] == ITERATIONS


def test_a_ratio_that_is_left_empty_counts_as_absent(experiment):
    experiment.shorten(batch_size_per_gpu=3, dataset_enlarge_ratio=None)
    experiment.train()
    assert experiment.read(f'training_states/{ITERATIONS}.state')['iter'] == ITERATIONS


def test_a_training_lasts_when_it_goes_on_with_smaller_batches(experiment):
    experiment.shorten(batch_size_per_gpu=3, dataset_enlarge_ratio=1)
    experiment.options['train']['total_iter'] = 4
    experiment.options['logger']['save_checkpoint_freq'] = 4
    experiment.train()  # to epoch 4; in smaller batches that would be 12 iterations
    experiment.shorten(batch_size_per_gpu=1)
    experiment.options['train']['total_iter'] = ITERATIONS
    experiment.train('--auto_resume')
    assert experiment.read(f'training_states/{ITERATIONS}.state')['iter'] == ITERATIONS


def test_fewer_images_than_a_batch_are_refused(experiment):
    experiment.shorten(batch_size_per_gpu=4, dataset_enlarge_ratio=1)
    with pytest.raises(OptionError, match='datasets.train has 3 images .* fewer than a batch of 4: lower batch_size'):
        experiment.train()


def test_tensorboard_gets_what_was_logged_before_a_signal(experiment, monkeypatch):
    written, at_exit = [], []
    writer = SimpleNamespace(add_scalar=lambda *_: written.append(1), close=written.clear)
    monkeypatch.setattr('basicsr.utils.init_tb_logger', lambda log_dir: writer)
    monkeypatch.setattr('atexit.register', at_exit.append)
    experiment.shorten()
    experiment.options['logger']['use_tb_logger'] = True
    with at_iteration(2, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(SystemExit):
        experiment.train()
    assert written
    assert at_exit == [writer.close]


def test_the_last_validation_is_of_the_last_iteration(experiment):
    """Its results stand in the last state, though that is saved first."""
    val = experiment.options['val']
    experiment.shorten()
    experiment.options['val'] = val
    experiment.options['train']['total_iter'] = 5
    experiment.options['logger']['save_checkpoint_freq'] = 5
    experiment.train()
    assert sorted(os.listdir(experiment.root / 'validation/held_out')) == ['4', '5']
    best = experiment.read('training_states/5.state')['best']['held_out']
    assert 5 in {iteration for _, iteration in best.values()}


@pytest.mark.parametrize('total_iter', [4, 5])
def test_the_end_is_validated_once(experiment, monkeypatch, total_iter):
    """BasicSR validates after the last iteration, whether or not it has just done so."""
    val = experiment.options['val']
    experiment.shorten()
    experiment.options['val'] = val
    experiment.options['train']['total_iter'] = total_iter
    validated = []
    monkeypatch.setattr(
        'irnsigma_plugin.training.validator.Validator.run',
        lambda self, net, loader, device, current_iter, *_: validated.append(current_iter),
    )
    experiment.train()
    assert validated == sorted({4, total_iter})


def settings_in_use(experiment) -> list[dict]:
    """Settings of G's and D's optimiser and of their schedulers in the last state."""
    state = experiment.read(f'training_states/{ITERATIONS}.state')
    groups = [optimizer['param_groups'][0] for optimizer in state['optimizers']]
    return [*groups, *state['schedulers']]


def test_what_the_option_file_changes_counts_from_the_resumed_iteration_on(experiment, photographs, basicsr_log):
    """As if it had been so from the start: the schedule of the uninterrupted training with these settings."""
    train = experiment.options['train']
    train['warmup_iter'] = 3
    with at_iteration(6, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(SystemExit):
        experiment.train()  # past the milestone
    train['optim_g'].update(lr=1e-4, weight_decay=0.25, betas=[0.5, 0.9])
    train['scheduler'].update(milestones=[2, 5, 5, 7], gamma=0.1)
    experiment.train('--auto_resume')
    assert (
        'Other settings than in the training state, which count from here on: '
        'train.optim_g.betas (0.5, 0.9) (was (0.9, 0.999)), train.optim_g.lr 0.0001 (was 0.001), '
        'train.optim_g.weight_decay 0.25 (was 0), train.scheduler.gamma 0.1 (was 0.5), '
        'train.scheduler.milestones [2, 5, 5, 7] (was [5]).'
    ) in basicsr_log.text
    found = settings_in_use(experiment)
    assert found[0]['weight_decay'] == 0.25
    assert found[0]['lr'] == pytest.approx(1e-4 * 0.1**4)
    again = Experiment(experiment.folder / 'again', photographs)
    again.options['train'] = train
    again.train()
    assert found == settings_in_use(again)


def test_a_cosine_schedule_is_lengthened(experiment):
    """BasicSR's ends in an error where it has the periods of the state."""
    experiment.shorten()
    train = experiment.options['train']
    experiment.options['logger']['save_checkpoint_freq'] = 4
    train.update(total_iter=4, scheduler={'type': 'CosineAnnealingRestartLR', 'periods': [4], 'eta_min': 1e-7})
    experiment.train()
    train.update(total_iter=ITERATIONS, scheduler={**train['scheduler'], 'periods': [ITERATIONS]})
    experiment.train('--auto_resume')
    expected = 1e-7 + (1e-3 - 1e-7) * (1 + math.cos(math.pi * 7 / 8)) / 2
    assert settings_in_use(experiment)[0]['lr'] == pytest.approx(expected)


def test_one_process_trains_in_a_folder(experiment):
    """The other neither removes what the first is writing nor renames the folder."""
    experiment.shorten()
    (experiment.root / 'training_states').mkdir(parents=True)
    writing = experiment.root / 'training_states' / f'.{2**22 + 1}.state'  # no process has so high a number
    writing.touch()
    (experiment.root.parent / '.tiny.lock').write_text('process 1 on an earlier machine, of a longer name')
    occupied = f'from irnsigma_plugin.checkpoints.training_states import occupy\noccupy({str(experiment.root)!r})'
    with process_that(occupied) as other:
        for arguments in ([], ['--auto_resume']):
            refused = rf'{experiment.root}: process {other.pid} on \S+ trains there, .* another `name`'
            with pytest.raises(RuntimeError, match=refused):
                experiment.train(*arguments)
        assert writing.exists()
        assert sorted(os.listdir(experiment.root.parent)) == ['.tiny.lock', 'tiny']
        other.kill()
    experiment.train('--auto_resume')
    experiment.train('--auto_resume', '--force_yml', 'train:total_iter=9')
    assert not writing.exists()


def test_where_there_can_be_no_lock_the_training_runs(experiment, monkeypatch, caplog):
    experiment.shorten()
    monkeypatch.setattr(training_states, 'lock', mock.Mock(side_effect=PermissionError(errno.EACCES, 'denied')))
    experiment.train()
    assert f'would not be refused, for {experiment.root.parent}/.tiny.lock: denied' in caplog.text
    assert (experiment.root / f'training_states/{ITERATIONS}.state').exists()


@pytest.mark.parametrize('with_val', [False, True])
def test_a_complete_training_is_not_resumed(experiment, caplog, with_val):
    """The last state is saved, whatever `save_checkpoint_freq`; more iterations go on from it."""
    val = experiment.options['val']
    experiment.shorten()
    if with_val:
        experiment.options['val'] = {**val, 'val_freq': 3}
    experiment.options['train']['total_iter'] = 5
    experiment.train()
    assert os.listdir(experiment.root / 'training_states') == ['5.state']
    before = {path: path.read_bytes() for path in experiment.root.rglob('*') if path.is_file()}
    with pytest.raises(SystemExit) as end:
        experiment.train('--auto_resume')
    assert end.value.code == 0
    state = f'{experiment.root}/training_states/5.state'
    assert f'The training is complete: {state}. Raise train.total_iter, 5, to go on.' in caplog.text
    assert before == {path: path.read_bytes() for path in experiment.root.rglob('*') if path.is_file()}
    experiment.options['train']['total_iter'] = ITERATIONS
    with at_iteration(5, lambda: pytest.fail('it does what is done')):
        experiment.train('--auto_resume')
    assert sorted(os.listdir(experiment.root / 'training_states')) == ['5.state', f'{ITERATIONS}.state']


def test_a_state_beyond_the_end_is_named(experiment):
    experiment.shorten()
    with at_iteration(4, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(SystemExit):
        experiment.train()
    experiment.options['train']['total_iter'] = 3
    with pytest.raises(RuntimeError, match=r'4\.state is of iteration 4, but train\.total_iter is 3: raise it'):
        experiment.train('--auto_resume')
    experiment.options['train']['total_iter'] = 5
    with at_iteration(4, lambda: pytest.fail('it does what is done')):
        experiment.train('--auto_resume')


def test_a_training_that_lacks_its_last_validation_is_resumed_for_it(experiment, monkeypatch):
    val = experiment.options['val']
    experiment.shorten()
    experiment.options['val'] = val
    experiment.options['train']['total_iter'] = 5
    original = Validator.run

    def killed_at_the_end(self, net, loader, device, current_iter, *args):
        if current_iter == 5:
            raise KeyboardInterrupt
        original(self, net, loader, device, current_iter, *args)

    monkeypatch.setattr(Validator, 'run', killed_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        experiment.train()
    monkeypatch.undo()
    experiment.train('--auto_resume')
    assert sorted(os.listdir(experiment.root / 'validation/held_out')) == ['4', '5']
    with pytest.raises(SystemExit):
        experiment.train('--auto_resume')
