"""What a training has reached: states, random numbers, and one wish to stop out of several signals and processes."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from basicsr.utils.dist_util import get_dist_info
from helpers.ranks import run_ranks

from irnsigma_plugin.training import progress as progress_module
from irnsigma_plugin.training.progress import SIGNALS, Progress, StopRequest, random_state, set_random_state

CPU = torch.device('cpu')


@pytest.fixture
def reached():
    """Signals that reach the handler of before."""
    numbers = []
    before = {number: signal.signal(number, lambda number, _: numbers.append(number)) for number in SIGNALS}
    yield numbers
    for each in before.items():
        signal.signal(*each)


@pytest.fixture
def clock(monkeypatch):
    """The time, set by hand."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress_module, 'time', SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.mark.parametrize('second', SIGNALS)
def test_two_signals_at_once_are_one_request(reached, clock, second):
    request = StopRequest(CPU)
    request.listen()
    assert request.arrived(1) == 0
    signal.raise_signal(signal.SIGTERM)
    clock.now += 1.9
    signal.raise_signal(second)
    assert request.arrived(2) == request.arrived(3) == signal.SIGTERM
    assert reached == []


@pytest.mark.parametrize('second', SIGNALS)
def test_a_later_second_signal_reaches_the_previous_handler(reached, clock, second):
    request = StopRequest(CPU)
    request.listen()
    request.listen()  # harmless
    signal.raise_signal(signal.SIGINT)
    clock.now += 2.1
    signal.raise_signal(second)
    assert request.arrived(1) == signal.SIGINT
    assert reached == [second]


@pytest.mark.parametrize('end', ['close', 'forget'])
def test_signals_are_given_back(reached, end):
    request = StopRequest(CPU)
    request.listen()
    if end == 'close':
        request.close()
    else:
        del request
    for number in SIGNALS:
        signal.raise_signal(number)
    assert reached == list(SIGNALS)


def test_a_forked_child_ends_by_its_signal(reached):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    request = StopRequest(CPU)
    request.listen()
    fork = multiprocessing.get_context('fork')
    begun = fork.Event()
    child = fork.Process(target=lambda: (begun.set(), time.sleep(60)), daemon=True)
    child.start()
    assert begun.wait(30)
    os.kill(child.pid, signal.SIGTERM)
    child.join(30)
    assert child.exitcode == -signal.SIGTERM
    assert request.arrived() == 0
    request.close()


def test_a_signal_that_is_ignored_stays_so(reached):
    """As SIGINT in what a script runs in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = StopRequest(CPU)
    request.listen()
    signal.raise_signal(signal.SIGINT)
    assert request.arrived(1) == 0
    signal.raise_signal(signal.SIGTERM)
    assert request.arrived(2) == signal.SIGTERM
    request.close()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def signals_seen() -> list[int]:
    """What this rank sees before and after a signal that comes to rank 1 alone."""
    request = StopRequest(CPU)
    request.listen()
    before = request.arrived(1)
    if get_dist_info()[0] == 1:
        signal.raise_signal(signal.SIGTERM)
    return [before, request.arrived(2)]


def test_a_signal_on_one_rank_is_seen_by_all(rank_server, tmp_path):
    assert run_ranks(2, signals_seen, tmp_path / 'ranks') == [[0, signal.SIGTERM]] * 2


def draw() -> tuple[float, float, float, float]:
    return random.random(), random.gauss(0, 1), np.random.rand(), torch.rand(()).item()


def test_the_same_numbers_follow():
    random.gauss(0, 1)  # which keeps a second number
    state = random_state()
    expected = draw()
    assert draw() != expected
    set_random_state(state)
    assert draw() == expected


def test_a_gpu_that_is_not_in_use_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_rng_state', lambda: 1 / 0)
    monkeypatch.setattr(torch.cuda, 'set_rng_state', lambda state: 1 / 0)
    state = random_state()
    assert state['cuda'] is None
    set_random_state({**state, 'cuda': torch.zeros(1)})  # of a training on a GPU


@pytest.fixture
def opt(tmp_path):
    paths = {key: str(tmp_path / key) for key in ('models', 'training_states')}
    for path in paths.values():
        os.mkdir(path)
    return {'rank': 0, 'world_size': 1, 'path': paths}


def state(iteration: int) -> dict:
    return {'epoch': 0, 'iter': iteration, 'best': {}}


def batch(epoch: int, seen: int) -> dict:
    return {'epoch': torch.tensor([epoch, epoch]), 'seen': torch.tensor([seen - 1, seen])}


def read(opt, iteration: int) -> dict:
    return torch.load(os.path.join(opt['path']['training_states'], f'{iteration}.state'), weights_only=True)


def test_a_state_has_the_place_in_the_data_and_the_random_numbers_of_before(opt):
    progress = Progress(opt, CPU)
    progress.take(batch(2, 6))
    progress.collect_random_states()
    expected = draw()
    progress.save(state(5))
    saved = read(opt, 5)
    assert {key: saved[key] for key in ('epoch', 'seen', 'iter', 'best')} == {
        'epoch': 2,
        'seen': 6,
        'iter': 5,
        'best': {},
    }
    assert draw() != expected
    Progress(opt, CPU).resume(saved)
    assert draw() == expected


def test_random_numbers_of_another_number_of_processes_are_left_out(opt, basicsr_log):
    Progress({**opt, 'world_size': 2}, CPU).resume({'random': [random_state()]})
    assert 'of 1 processes, not of 2: random numbers start anew' in basicsr_log.text


def test_a_validation_goes_into_the_state_saved_just_before(opt):
    progress, loader, saved = Progress(opt, CPU), object(), state(5)
    progress.save(saved)
    saved['best']['held_out'] = 1
    progress.validated(loader, 4)
    assert read(opt, 5)['best'] == {}
    progress.validated(loader, 5)
    assert read(opt, 5)['best'] == {'held_out': 1}


def test_validations_count_until_the_next_batch(opt):
    progress, loader, other = Progress(opt, CPU), object(), object()
    progress.validated(loader, 1)
    assert [progress.is_validated(each) for each in (loader, other)] == [True, False]
    progress.take({})
    assert not progress.is_validated(loader)


def test_old_states_go(opt):
    progress = Progress(opt, CPU, keep_last=2)
    for iteration in (1, 2, 3):
        progress.save(state(iteration))
    assert sorted(os.listdir(opt['path']['training_states'])) == ['2.state', '3.state']


@pytest.mark.parametrize(
    ('is_begun', 'is_saved', 'calls', 'message'),
    [
        (True, False, [(1, 4)], 'Saved iteration 4, resume with --auto_resume'),
        (True, True, [], 'Saved iteration 4, resume with --auto_resume'),
        (False, False, [], 'Nothing new to save'),
    ],
)
def test_a_stop_saves_what_is_not_saved_and_exits(opt, reached, basicsr_log, is_begun, is_saved, calls, message):
    progress, saved = Progress(opt, CPU), []
    progress.stop_if_asked(4, lambda *args: saved.append(args))
    if is_begun:
        progress.take(batch(1, 2))
    if is_saved:
        progress.save(state(4))
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        progress.stop_if_asked(5, lambda *args: saved.append(args))
    assert stopped.value.code == 128 + signal.SIGTERM
    assert saved == calls
    assert f'Stopped by SIGTERM. {message}' in basicsr_log.text
    signal.raise_signal(signal.SIGTERM)
    assert reached == [signal.SIGTERM]  # the signals are given back


def test_the_end_without_a_signal_is_no_exit(opt):
    Progress(opt, CPU).end()
