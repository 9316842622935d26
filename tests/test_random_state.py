"""The random numbers of a process are saved and put back."""

from __future__ import annotations

import random

import numpy as np
import torch

from irnsigma_plugin.training.progress import random_state, set_random_state


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
