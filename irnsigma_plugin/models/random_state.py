"""The state of all random numbers of a process, as a training state stores it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """The generators of Python, numpy and torch, as tensors, numbers and lists; CUDA's where a GPU is in use."""
    name, keys, *rest = np.random.get_state()
    return {'python': list(random.getstate()), 'numpy': [name, keys.tolist(), *rest], 'torch': torch.get_rng_state(),
            'cuda': torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None}


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators back into a state of :func:`random_state`; CUDA's where it has one, and a GPU is in use."""
    version, numbers, gauss = state['python']
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    if state['cuda'] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state['cuda'])
