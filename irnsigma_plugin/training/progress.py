"""What a training has reached: its place in the data, its random numbers, and the wish to stop it."""

from __future__ import annotations

import inspect
import os
import random
import signal
import time
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Callable

import numpy as np
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import get_dist_info
from torch import distributed as dist

from irnsigma_plugin.checkpoints.training_states import SaveError, prune, save_atomically
from irnsigma_plugin.options.rules import value_at
from irnsigma_plugin.training.distributed import on_all_ranks

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_REQUEST = 2.0  # seconds: a terminal and torchrun both pass on one Ctrl-C
ITERATIONS_PER_ROUND = 10  # between questions to the other processes, on GPUs, which each of them interrupts


class Progress:
    """How far a training is, what of it was saved and validated, and whether it is to stop.

    All processes of a distributed training have to call each method alike. Of the training states the newest
    `keep_last` stay, or all.
    """

    def __init__(self, opt: Mapping[str, Any], device: torch.device, keep_last: int | None = None) -> None:
        self.opt, self.keep_last = opt, keep_last
        self.stop_request = StopRequest(device)
        self._place: dict[str, torch.Tensor] = {}  # in the data, of the last batch
        self._validated: list[Any] = []  # data loaders, since the last batch
        self._random: list[dict[str, Any]] = []  # of all processes
        self._saved: dict[str, Any] = {}  # the last state
        self._is_trained = False  # to the last iteration

    def take(self, batch: Mapping[str, Any]) -> None:
        """Note the batch that is trained on next."""
        self._validated.clear()
        if 'seen' in batch:  # read when needed: with prefetch_mode: cuda it is on its way to the GPU
            self._place = {key: batch[key][-1] for key in ('epoch', 'seen')}

    def collect_random_states(self) -> None:
        """Note the random numbers of all processes for the next state, before anything can fail in one of them."""
        self._random = on_all_ranks('Saving random numbers', random_state)

    def save(self, state: Mapping[str, Any]) -> None:
        """Save a state, with place in the data and random numbers, or raise a SaveError; remove those too old."""
        self._saved = {**state, **{key: int(value) for key, value in self._place.items()}, 'random': self._random}
        self._write()
        if self.keep_last and self.opt['rank'] == 0:
            prune(self.opt, self.keep_last, self._saved['iter'])

    def resume(self, state: Mapping[str, Any]) -> None:
        """Put back the random numbers of a training state. States that BasicSR saved have none."""
        if state.get('iter') == value_at(self.opt, 'train.total_iter'):  # to be completed
            self._saved = dict(state)
        random_states, processes = state.get('random', ()), self.opt['world_size']
        if len(random_states) == processes:
            set_random_state(random_states[self.opt['rank']])
        else:
            found = f'is of {len(random_states)} processes, not of {processes}'
            get_root_logger().warning(f'The training state {found}: random numbers start anew.')

    def is_validated(self, dataloader: Any) -> bool:
        """Whether the network, as it is, was validated on a data set."""
        return dataloader in self._validated

    def validated(self, dataloader: Any, current_iter: int, **results: Any) -> None:
        """Note a validation; save the state once more, with its `results`, if it was saved just before, without."""
        self._validated.append(dataloader)
        self._save_again(current_iter, **results)

    def finish(self, last_iter: int, save: Callable[[int, int], None]) -> None:
        """Save the last iteration, unless it is; its state gets `complete` once all data sets are validated, too."""
        self._save_new(last_iter, save)
        self._is_trained = True
        self._save_again(last_iter)
        self.end()

    def _save_new(self, iteration: int, save: Callable[[int, int], None]) -> None:
        if self._place and self._saved.get('iter') != iteration:
            save(int(self._place['epoch']), iteration)

    def _save_again(self, iteration: int, **results: Any) -> None:
        if self._saved.get('iter') == iteration:
            sets = self.opt['datasets'] if self._is_trained and self.opt.get('val') is not None else ()
            if self._is_trained and len(self._validated) >= sum(name.startswith('val') for name in sets):
                results['complete'] = True
            self._saved.update(results)
            on_all_ranks('Saving', self._write, SaveError)

    def stop_if_asked(self, current_iter: int, save: Callable[[int, int], None]) -> None:
        """Exit at the start of an iteration if a signal came, after `save(epoch, iteration)` of the one before."""
        self.stop_request.listen()
        number, last_iter = self.stop_request.arrived(current_iter), current_iter - 1
        if not number:
            return
        outcome = 'Nothing new to save.'
        if self._place:
            self._save_new(last_iter, save)
            outcome = f'Saved iteration {last_iter}, resume with --auto_resume.'
        get_root_logger().info(f'Stopped by {signal.Signals(number).name}. {outcome}')
        self.end()

    def end(self) -> None:
        """Give the signals back; exit with the status of the one that came, if any."""
        number = self.stop_request.arrived()
        self.stop_request.close()
        if number:
            raise SystemExit(128 + number)

    def _write(self) -> None:
        if self.opt['rank'] == 0:
            save_atomically(self._saved, Path(self.opt['path']['training_states'], f'{self._saved["iter"]}.state'))


class StopRequest:
    """Takes note of the first signal; the second ends the process at once, as without this class."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._number, self._time = 0, 0.0  # of the first signal
        self._previous: dict[int, Any] = {}

    def listen(self) -> None:
        """Take over the signals, until :meth:`close` or the end of this object. Harmless when repeated.

        Those that are ignored stay so: Ctrl-C of a terminal is not meant for what its script runs in the background.
        """
        if self._previous:
            return
        request, previous, process = weakref.ref(self), self._previous, os.getpid()

        def handle(number: int, frame: FrameType | None) -> None:
            alive = request()
            # A forked child, which inherits this, is to end as its parent wishes.
            if alive is None or os.getpid() != process or not alive._takes(number):
                signal.signal(number, previous[number])
                signal.raise_signal(number)

        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN:
                continue
            try:
                previous[number] = signal.signal(number, handle) or signal.SIG_DFL
            except ValueError:  # not the main thread: whoever has that one handles signals
                return

    def close(self) -> None:
        """Give the signals back."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def arrived(self, current_iter: int | None = None) -> int:
        """The signal that came to any process by now, or 0; the same answer in all processes, which all have to ask.

        On several GPUs it is 0 in most iterations, so as not to wait for them, but not without `current_iter`.
        """
        if get_dist_info()[1] == 1:
            return self._number
        if self.device.type != 'cpu' and current_iter is not None and current_iter % ITERATIONS_PER_ROUND:
            return 0
        number = torch.tensor(self._number, device=self.device)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return int(number)

    def _takes(self, number: int) -> bool:
        now = time.monotonic()
        if self._number:
            return now - self._time < SAME_REQUEST
        self._number, self._time = number, now
        outlook = 'the training stops and saves its state after this iteration or validation. Once more ends it now.'
        get_root_logger().info(f'{signal.Signals(number).name}: {outlook}')
        return True


def changed_settings(state: Mapping[str, Any], optimizers: Sequence[Any], schedulers: Sequence[Any]) -> dict[str, str]:
    """Name those settings of optimisers and schedulers, as just built, that are not a training state's: both values."""
    found: dict[str, list[Any]] = {}
    for label, optimizer, saved in zip('gd', optimizers, state['optimizers']):
        for group, before in zip(optimizer.param_groups, saved['param_groups']):
            for key in group.keys() & before.keys() - {'params', 'lr'}:  # lr: what a schedule has made of initial_lr
                found[f'train.optim_{label}.{key.replace("initial_lr", "lr")}'] = [group[key], before[key]]
    for scheduler, saved in zip(schedulers, state['schedulers']):
        for key in inspect.signature(type(scheduler)).parameters.keys() - {'optimizer', 'last_epoch'}:
            pair = getattr(scheduler, key), saved.get(key)
            found[f'train.scheduler.{key}'] = [sorted(v.elements()) if isinstance(v, Counter) else v for v in pair]
    return {name: f'{now} (was {before})' for name, (now, before) in sorted(found.items()) if now != before}


def random_state() -> dict[str, Any]:
    """The generators of Python, numpy and torch, as tensors, numbers and lists; CUDA's where a GPU is in use."""
    state: Any = np.random.get_state()
    name, keys, *rest = state
    return {
        'python': list(random.getstate()),
        'numpy': [name, keys.tolist(), *rest],
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators back into a state of :func:`random_state`; CUDA's where it has one, and a GPU is in use."""
    version, numbers, gauss = state['python']
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    if state['cuda'] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state['cuda'])
