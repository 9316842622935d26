"""One wish to stop out of several signals, and of several processes."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest
import torch
from basicsr.utils.dist_util import get_dist_info
from helpers.ranks import run_ranks

from irnsigma_plugin.training import progress as stop_request
from irnsigma_plugin.training.progress import StopRequest

CPU = torch.device('cpu')


@pytest.fixture
def reached():
    """Signals that reach the handler of before."""
    numbers = []
    before = {
        number: signal.signal(number, lambda number, _: numbers.append(number)) for number in stop_request.SIGNALS
    }
    yield numbers
    for each in before.items():
        signal.signal(*each)


@pytest.fixture
def clock(monkeypatch):
    """The time, set by hand."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(stop_request, 'time', SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.mark.parametrize('second', stop_request.SIGNALS)
def test_two_signals_at_once_are_one_request(reached, clock, second):
    request = StopRequest(CPU)
    request.listen()
    assert request.arrived(1) == 0
    signal.raise_signal(signal.SIGTERM)
    clock.now += 1.9
    signal.raise_signal(second)
    assert request.arrived(2) == request.arrived(3) == signal.SIGTERM
    assert reached == []


@pytest.mark.parametrize('second', stop_request.SIGNALS)
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
    for number in stop_request.SIGNALS:
        signal.raise_signal(number)
    assert reached == list(stop_request.SIGNALS)


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
