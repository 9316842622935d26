"""Runs a function on several ranks: real processes, joined by gloo."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from torch.multiprocessing import start_processes

START_METHOD = 'forkserver'  # one process imports what takes long, and all ranks are forked from it
PRELOAD = ['basicsr.models', 'matplotlib.figure', 'matplotlib.backends.backend_agg']


def start_rank_server(python_path: str) -> None:
    """Start the process from which the ranks are forked, unless it runs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (('PYTHONPATH', python_path), ('OMP_NUM_THREADS', '1'), ('CUDA_VISIBLE_DEVICES', '')):
            patch.setenv(name, value)
        multiprocessing.get_context(START_METHOD).set_forkserver_preload(PRELOAD)
        multiprocessing.forkserver.ensure_running()


def run_ranks(count: int, function: Callable[..., Any], folder: Path, *args: Any, seconds: float = 120) -> list[Any]:
    """Call `function(*args)`, of a test module, on each of `count` ranks; return what each returned.

    Fails, and ends the processes, where one raises or they take longer than `seconds`.
    """
    folder.mkdir(parents=True)
    context = start_processes(_run_rank, (count, function, folder, args), count, join=False, start_method=START_METHOD)
    deadline = time.monotonic() + seconds
    while not context.join(timeout=1):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail(f'{count} ranks did not end {function.__name__} in {seconds} s: they wait for each other')
    return [torch.load(folder / f'{rank}.result', weights_only=False) for rank in range(count)]


def _run_rank(rank: int, count: int, function: Callable[..., Any], folder: Path, args: tuple[Any, ...]) -> None:
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=count, timeout=timedelta(seconds=60)
    )
    result = function(*args)
    torch.save(result, folder / f'{rank}.result')
    torch.distributed.destroy_process_group()
