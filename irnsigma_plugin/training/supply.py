"""How images reach a model of the plugin: in an order that can be resumed, past images that cannot be read."""

from __future__ import annotations

import atexit
import contextlib
import gc
import itertools
import logging
import math
import multiprocessing
import os
import random
import signal
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Callable, NamedTuple

import basicsr.data
import numpy as np
import torch
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.utils import get_root_logger
from torch.utils.data import DataLoader, Dataset, get_worker_info

from irnsigma_plugin.checks import one_line, whole_number
from irnsigma_plugin.images.picture import ImageReadError
from irnsigma_plugin.memory import is_lack_of_memory
from irnsigma_plugin.options.keys import MAX_CORRUPT
from irnsigma_plugin.options.rules import refuse
from irnsigma_plugin.options.stored_images import batch_faults
from irnsigma_plugin.training.progress import SIGNALS

_workers: weakref.WeakSet[Any] = weakref.WeakSet()  # of all loaders; multiprocessing holds those that live


class SampleIndex(NamedTuple):
    """What a training sample is made from."""

    epoch: int
    seen: int  # samples of the epoch that all processes together have had once this one is trained on
    number: int  # of the sample in the epoch, of all processes
    image: int  # number in the data set


class ResumableSampler(EnlargedSampler):
    """BasicSR's order of images, which goes on within an epoch: at `resume_at`, its `epoch` and the samples `seen`."""

    def __init__(self, dataset: Dataset, num_replicas: int, rank: int, ratio: int = 1, resume_at: Any = None) -> None:
        super().__init__(dataset, num_replicas, rank, ratio)
        self.resume_at = resume_at

    def __iter__(self) -> Iterator[SampleIndex]:
        processes = self.num_replicas
        samples = (
            SampleIndex(self.epoch, (position + 1) * processes, position * processes + self.rank, image)
            for position, image in enumerate(super().__iter__())
        )
        if self.resume_at is None or self.resume_at['epoch'] != self.epoch:
            return samples
        return itertools.islice(samples, self.resume_at['seen'] // processes, None)


class NamingDataset(Dataset):
    """The items of a data set, with errors (of reading or memory) that name the image, by `dataset.paths`."""

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.opt = dataset, dataset.opt

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, image: int) -> dict[str, Any]:
        try:
            return self.dataset[image]
        except ImageReadError:
            raise  # has the name
        except Exception as error:  # a decoder of damaged files raises whatever it stumbles over
            if is_lack_of_memory(error):
                remedy = 'lower num_worker_per_gpu or batch_size_per_gpu, and resume with --auto_resume.'
                raise MemoryError(f'No memory is left to read {self._name(image)}: {remedy}') from None
            reason = f'{type(error).__name__}: {one_line(error)}'
            message = f'{self._name(image)}: cannot be read ({reason}); replace or remove it.'
            raise ImageReadError(message) from error

    def _name(self, image: int) -> str:
        paths = self.dataset.paths[image] if hasattr(self.dataset, 'paths') else f'image {image}'
        if isinstance(paths, Mapping):
            paths = paths.values()
        elif not isinstance(paths, (list, tuple)):
            paths = [paths]
        name = ' or '.join(sorted(set(map(str, paths))))
        # Not by io_backend.type, which BasicSR removes when it reads.
        roots = [self.opt[key] for key in ('dataroot_gt', 'dataroot_lq') if self.opt.get(key)]
        if roots and all(root.endswith('.lmdb') for root in roots):
            return f'image {name} of {" or ".join(roots)}'
        return name


class TrainingDataset(Dataset):
    """A training set that takes :class:`SampleIndex`es, and another image where one cannot be read.

    What is random about a sample (patch, mirroring) follows from the seed and the index alone, whatever process
    reads it and whatever was read before. An item has `epoch` and `seen` of its index. In a process of the training
    `max_corrupt` unreadable images, each named in the log, are passed over; one more raises an ImageReadError.
    """

    def __init__(self, dataset: Any, seed: int, max_corrupt: int = MAX_CORRUPT) -> None:
        self.dataset, self.opt, self.seed = dataset, dataset.opt, seed
        self._images = NamingDataset(dataset)
        self.max_corrupt = whole_number('datasets.train.max_corrupt', max_corrupt, smallest=0)
        self._corrupt = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()  # by all workers

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: SampleIndex) -> dict[str, Any]:
        _outlive_interrupts()
        with _seeded(f'{self.seed} {index.epoch} {index.number}'):
            item = self._read_whole(index.image)
        return {**item, 'epoch': index.epoch, 'seen': index.seen}

    def _read_whole(self, image: int) -> dict[str, Any]:
        """Read an image, or the first readable one after it."""
        while True:
            try:
                return self._images[image]
            except ImageReadError as error:
                known = bool(self._corrupt[image])
                self._corrupt[image] = True
                if self._corrupt.all() or self._corrupt.sum() > self.max_corrupt:
                    count = 'All' if self._corrupt.all() else f'More than {self.max_corrupt}'
                    raise ImageReadError(
                        f'{error} {count} images (datasets.train.max_corrupt) of {self.opt["name"]} cannot be read, so '
                        'the training stops. What was saved is untouched: resume with --auto_resume.'
                    ) from error
                if not known:
                    limit = f'the training stops after {self.max_corrupt} such images.'
                    # On other ranks BasicSR's logger passes on nothing less.
                    get_root_logger().error(f'{error} Another image takes its place; {limit}')
            image = (image + 1) % len(self)


class DataSupply:
    """Builds data sets, samplers and loaders in BasicSR's place, from the `epoch`, `iter`, `seen` of `resume_at` on."""

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt

    def build_dataset(self, dataset_opt: Mapping[str, Any]) -> NamingDataset | TrainingDataset:
        """A data set of BasicSR's registry, guarded against unreadable images."""
        # Without empty keys: BasicSR asks of some only whether they are there.
        dataset_opt = {key: value for key, value in dataset_opt.items() if value is not None}
        max_corrupt = dataset_opt.pop('max_corrupt', MAX_CORRUPT)
        if isinstance(dataset_opt.get('meta_info_file'), str):  # which BasicSR does not expand
            dataset_opt['meta_info_file'] = os.path.expanduser(dataset_opt['meta_info_file'])
        dataset = basicsr.data.build_dataset(dataset_opt)
        if not hasattr(dataset, 'opt'):  # which BasicSR itself needs for validation only
            dataset.opt = dataset_opt
        if dataset_opt['phase'] == 'train':
            return TrainingDataset(dataset, self.opt['manual_seed'], max_corrupt)
        return NamingDataset(dataset)

    def build_sampler(self, dataset: Dataset, num_replicas: int, rank: int, ratio: int = 1) -> ResumableSampler:
        """The order of a training set."""
        return ResumableSampler(dataset, num_replicas, rank, ratio, self.opt.get('resume_at'))

    def build_dataloader(self, dataset: Dataset, dataset_opt: Mapping[str, Any], **arguments: Any) -> DataLoader:
        """BasicSR's loader; its seeds for workers are not drawn from the numbers that the model draws from.

        `prefetch_mode: cpu` is left out, for workers read ahead in any case: BasicSR's thread for it draws its random
        patches beside another, and hides errors in the data, so that the training would wait forever.
        """
        if dataset_opt.get('prefetch_mode') == 'cpu':
            dataset_opt = {**dataset_opt, 'prefetch_mode': None}
        loader = basicsr.data.build_dataloader(dataset, dataset_opt, **arguments)
        loader.generator = torch.Generator().manual_seed(self.opt['manual_seed'])
        if loader.num_workers:
            loader._get_iterator = _guarded(loader._get_iterator)
            atexit.register(_end_workers)
        if self.opt.get('dist') and loader.num_workers:  # BasicSR's launchers make workers import everything anew
            loader.multiprocessing_context = multiprocessing.get_all_start_methods()[0]  # the system's own
        return loader

    def lasting(self, create: Callable[..., tuple]) -> Callable[..., tuple]:
        """BasicSR's `create_train_val_dataloader`, with as many epochs as `total_iter` takes.

        BasicSR's count takes batches that the loader leaves out as incomplete for iterations, and those before
        resuming to have been of the same size; a training would end too early.
        """

        def create_train_val_dataloader(opt: Mapping[str, Any], logger: logging.Logger) -> tuple:
            if opt['datasets']['train'].get('dataset_enlarge_ratio') is None:
                opt['datasets']['train']['dataset_enlarge_ratio'] = 1  # BasicSR would compute with None
            train_loader, sampler, val_loaders, _, total_iters = create(opt, logger)
            refuse(batch_faults('datasets.train', len(sampler), train_loader.batch_size))
            start = self.opt.get('resume_at') or {'epoch': 0, 'iter': 0}
            epochs = start['epoch'] + math.ceil((total_iters - start['iter']) / len(train_loader))
            return train_loader, sampler, val_loaders, epochs, total_iters

        return create_train_val_dataloader


@contextlib.contextmanager
def _seeded(seed: str) -> Iterator[None]:
    """Seed `random`, numpy and torch (on the CPU) within the block."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(random.getrandbits(32))
    torch.default_generator.manual_seed(random.Random(f'{seed} torch').getrandbits(63))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


_outlives_interrupts = False  # this process


def _guarded(get_iterator: Callable[[], Any]) -> Callable[[], Any]:
    """Begin workers that signals do not reach before :func:`_outlive_interrupts`, and take note of them."""

    def get() -> Any:
        # Forked workers would collect what has been left here, too, and destroy what is not theirs: a process group,
        # for one, then waits for its threads, which no fork has. (gc.freeze() would keep it, and here for good.)
        gc.collect()
        with _blocked_signals():  # also in workers, which inherit it
            iterator = get_iterator()
        _workers.update(iterator._workers)
        return iterator

    return get


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    if not hasattr(signal, 'pthread_sigmask'):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outlive_interrupts() -> None:
    """In a worker: leave Ctrl-C and the first SIGTERM, which all processes get, to the training, which ends it."""
    global _outlives_interrupts
    if get_worker_info() is None or _outlives_interrupts:
        return
    _outlives_interrupts = True  # not to be seen by SIGINT, which a shell's `command &` ignores from the start
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
    if hasattr(signal, 'pthread_sigmask'):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _end_workers() -> None:
    """At the exit of a training that an error ends: multiprocessing sends workers one SIGTERM, and waits for ever."""
    workers = [process for process in _workers if process.is_alive()]
    if workers and hasattr(signal, 'SIGCHLD'):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would take it for an error that they end
    for process in workers:
        process.kill()
