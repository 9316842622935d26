"""The order of training samples, and images that cannot be read."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import basicsr.data
import cv2
import lmdb
import numpy as np
import pytest
import torch
from basicsr.data.prefetch_dataloader import CPUPrefetcher
from helpers.experiment import write_photographs
from torch.utils.data import DataLoader, Dataset

from irnsigma_plugin.images.picture import ImageReadError
from irnsigma_plugin.training.supply import DataSupply, NamingDataset, ResumableSampler, SampleIndex, TrainingDataset


def paired_options(folder, **changes) -> dict:
    write_photographs(folder / 'hr', count=4)
    write_photographs(folder / 'lr', count=4, height=16, width=24)
    return {
        'name': 'photos',
        'type': 'PairedImageDataset',
        'dataroot_gt': str(folder / 'hr'),
        'dataroot_lq': str(folder / 'lr'),
        'io_backend': {'type': 'disk'},
        'gt_size': 32,
        'scale': 4,
        'use_hflip': True,
        'use_rot': True,
        'phase': 'train',
        **changes,
    }


def build(options: dict):
    return DataSupply({'manual_seed': 5}).build_dataset(options)


def read_by_basicsr(loader):
    """The batches of an epoch, as basicsr.train reads them."""
    prefetcher = CPUPrefetcher(loader)
    prefetcher.reset()
    batch = prefetcher.next()
    while batch is not None:
        yield batch
        batch = prefetcher.next()


def place(index: int, epoch: int = 0, number: int = 0) -> SampleIndex:
    return SampleIndex(epoch, seen=number + 1, number=number, image=index)


@pytest.mark.parametrize(('processes', 'rank'), [(1, 0), (2, 1)])
def test_a_resumed_order_is_the_rest_of_the_epoch(processes, rank):
    images = range(5)
    whole = ResumableSampler(images, processes, rank, ratio=4)
    resumed = ResumableSampler(images, processes, rank, ratio=4, resume_at={'epoch': 2, 'seen': 6})
    for epoch in (2, 3):
        for sampler in (whole, resumed):
            sampler.set_epoch(epoch)
        assert list(resumed) == list(whole)[6 // processes if epoch == 2 else 0 :]


def test_all_processes_together_take_every_place_once():
    parts = [list(ResumableSampler(range(4), 2, rank)) for rank in (0, 1)]
    assert [[place.number for place in part] for part in parts] == [[0, 2], [1, 3]]
    assert [[place.seen for place in part] for part in parts] == [[2, 4], [2, 4]]
    assert sorted(place.image for part in parts for place in part) == [0, 1, 2, 3]


def test_a_sample_depends_on_its_place_alone(tmp_path):
    dataset = build(paired_options(tmp_path))
    first = dataset[place(1, number=7)]

    def seed():
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)

    seed()
    expected = random.random(), np.random.rand(), torch.rand(1)
    seed()
    again = dataset[place(1, number=7)]
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    assert torch.equal(first['gt'], again['gt'])
    assert (again['epoch'], again['seen']) == (0, 8)
    others = [dataset[place(1, number=number)]['gt'] for number in range(3)]
    assert not any(torch.equal(first['gt'], other) for other in others)


@pytest.mark.parametrize('content', [b'', b'not an image', None])
def test_unreadable_images_are_named_and_replaced_up_to_a_number(tmp_path, basicsr_log, content):
    options = paired_options(tmp_path, max_corrupt=1)
    dataset = build(options)
    bad = [dataset.dataset.paths[index]['lq_path'] for index in (1, 2)]
    whole = dataset[place(3)]
    for path in bad:
        (tmp_path / path).unlink() if content is None else (tmp_path / path).write_bytes(content)
    dataset = build(options) if content is not None else dataset
    assert dataset[place(0)]['lq_path'] != bad[0]
    with pytest.raises(ImageReadError) as stop:
        dataset[place(1)]
    assert bad[1] in str(stop.value)
    assert 'More than 1 images (datasets.train.max_corrupt) of photos' in str(stop.value)

    tolerant = build({**options, 'max_corrupt': 2}) if content is not None else TrainingDataset(dataset.dataset, 5, 2)
    basicsr_log.clear()
    basicsr_log.set_level('ERROR', 'basicsr')  # as BasicSR sets it on all ranks but the first
    for _ in range(2):  # each image counts once
        replaced = tolerant[place(1)]
    assert [[path in message for path in bad] for message in basicsr_log.messages] == [[True, False], [False, True]]
    assert replaced['gt_path'] == whole['gt_path']


def test_a_set_without_a_readable_image_ends_the_training(tmp_path):
    options = paired_options(tmp_path)
    for path in (tmp_path / 'lr').iterdir():
        path.write_bytes(b'damaged')
    with pytest.raises(ImageReadError, match=r'All images .* of photos cannot be read, so the training stops'):
        build(options)[place(0)]


@pytest.mark.parametrize('workers', [0, 1])
def test_prefetching_neither_hides_errors_nor_changes_the_images(tmp_path, workers):
    def batches(mode):
        supply = DataSupply({'manual_seed': 5})
        dataset = supply.build_dataset(options)
        return supply.build_dataloader(
            dataset, {**options, 'prefetch_mode': mode}, num_gpu=0, sampler=ResumableSampler(dataset, 1, 0)
        )

    options = paired_options(tmp_path, batch_size_per_gpu=1, num_worker_per_gpu=workers, max_corrupt=0)
    for read, expected in zip(read_by_basicsr(batches('cpu')), read_by_basicsr(batches(None))):
        assert torch.equal(read['gt'], expected['gt'])
    next((tmp_path / 'lr').iterdir()).write_bytes(b'damaged')
    with pytest.raises(ImageReadError, match='so the training stops'):
        list(read_by_basicsr(batches('cpu')))


@pytest.mark.parametrize(('dist', 'workers', 'expected'), [(True, 1, 'fork'), (False, 1, 'spawn'), (True, 0, None)])
def test_workers_of_several_processes_start_as_those_of_one(tmp_path, monkeypatch, dist, workers, expected):
    """BasicSR's launchers make the whole process spawn what it starts."""
    monkeypatch.setattr(multiprocessing, 'get_all_start_methods', lambda: ['fork', 'spawn'])
    options = paired_options(tmp_path, batch_size_per_gpu=1, num_worker_per_gpu=workers)
    supply = DataSupply({'manual_seed': 5, 'dist': dist})
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method('spawn', force=True)
    try:
        loader = supply.build_dataloader(supply.build_dataset(options), options, num_gpu=0, dist=dist)
        context = loader.multiprocessing_context or (multiprocessing if workers else None)
        assert (context and context.get_start_method()) == expected
    finally:
        multiprocessing.set_start_method(before, force=True)


def read_and(more: str, tmp_path, repo_root) -> subprocess.CompletedProcess:
    """A process that reads a batch by a worker, and then does `more`."""
    code = (
        'import json, sys\n'
        'from irnsigma_plugin.training.supply import DataSupply, ResumableSampler\n'
        'options = json.loads(sys.argv[1])\n'
        "supply = DataSupply({'manual_seed': 5})\n"
        'dataset = supply.build_dataset(options)\n'
        'batches = supply.build_dataloader(dataset, options, num_gpu=0, sampler=ResumableSampler(dataset, 1, 0))\n'
        'reading = iter(batches)\n'
        'next(reading)\n'
    )
    options = paired_options(tmp_path, batch_size_per_gpu=1, num_worker_per_gpu=1)
    command = [sys.executable, '-c', code + more, json.dumps(options)]
    return subprocess.run(command, cwd=repo_root, stderr=subprocess.PIPE, text=True, timeout=120)


def test_an_error_ends_a_training_with_its_workers(tmp_path, repo_root):
    ended = read_and("raise RuntimeError('an error of the training')\n", tmp_path, repo_root)
    assert ended.returncode == 1
    assert ended.stderr.endswith('RuntimeError: an error of the training\n')


def test_a_pool_of_processes_of_somebody_else_ends_as_usual(tmp_path, repo_root):
    pool = 'import multiprocessing\npool = multiprocessing.Pool(2)\npool.map(abs, range(8))\n'
    assert read_and(pool, tmp_path, repo_root).returncode == 0


class Left:
    """Garbage that only a collector ends; `ended` says in which processes."""

    def __init__(self, ended: Path) -> None:
        self.itself, self.ended = self, ended

    def __del__(self) -> None:
        with self.ended.open('a') as file:
            file.write(f'{os.getpid()}\n')


def test_workers_do_not_end_what_the_training_has_left(tmp_path, monkeypatch):
    """Process groups, for example, which wait for threads that a worker does not have."""
    ended = tmp_path / 'ended'
    options = paired_options(tmp_path, batch_size_per_gpu=1, num_worker_per_gpu=1)
    supply = DataSupply({'manual_seed': 5})
    dataset = supply.build_dataset(options)
    read = TrainingDataset.__getitem__
    monkeypatch.setattr(TrainingDataset, '__getitem__', lambda self, index: (gc.collect(), read(self, index))[1])
    loader = supply.build_dataloader(dataset, options, num_gpu=0, sampler=ResumableSampler(dataset, 1, 0))
    gc.disable()
    try:
        Left(ended)
        assert len(list(loader)) == len(dataset)
    finally:
        gc.enable()
    assert ended.read_text() == f'{os.getpid()}\n'


def test_workers_of_a_reader_that_was_dropped_are_ended_too(tmp_path, repo_root):
    """BasicSR drops its first; torch waits 5 s for a worker of it, and multiprocessing, at the end, for ever."""
    hung = (
        'import multiprocessing, os, signal\n'
        '(worker,) = multiprocessing.active_children()\n'
        'os.kill(worker.pid, signal.SIGSTOP)\n'
        'del reading\n'
    )
    assert read_and(hung, tmp_path, repo_root).returncode == 0


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_workers_begin_does_not_reach_them(tmp_path, number):
    options = paired_options(tmp_path, batch_size_per_gpu=1, num_worker_per_gpu=1)
    supply = DataSupply({'manual_seed': 5})
    dataset = supply.build_dataset(options)
    loader = supply.build_dataloader(dataset, options, num_gpu=0, sampler=ResumableSampler(dataset, 1, 0))
    batches = iter(loader)
    (worker,) = batches._workers
    os.kill(worker.pid, number)  # it has hardly begun
    assert len(list(batches)) == len(dataset)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize(
    'error', [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), 'OpenCV'], ids=repr
)
def test_a_lack_of_memory_is_no_damage(tmp_path, monkeypatch, error):
    dataset = build(paired_options(tmp_path))
    if error == 'OpenCV':
        error = cv2.error('Insufficient memory')
        error.code = -4
    monkeypatch.setattr(type(dataset.dataset), '__getitem__', lambda self, index: (_ for _ in ()).throw(error))
    with pytest.raises(MemoryError, match=r'No memory is left to read .*photo'):
        dataset[SampleIndex(0, 1, 0, 0)]
    assert dataset._corrupt.sum() == 0


@pytest.mark.parametrize('before', [signal.SIG_IGN, signal.default_int_handler], ids=['ignored', 'as usual'])
def test_workers_outlive_the_first_sigterm(tmp_path, before):
    """Also those of a training that a script runs in the background, and for which it ignores SIGINT."""
    dataset = build(paired_options(tmp_path))
    loader = DataLoader(dataset, sampler=[SampleIndex(0, seen, seen - 1, 0) for seen in range(1, 9)], num_workers=1)
    usual = signal.signal(signal.SIGINT, before)
    try:
        batches = iter(loader)
        next(batches)
        (worker,) = batches._workers
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, number)
            time.sleep(0.1)
        assert len(list(batches)) == 7
    finally:
        signal.signal(signal.SIGINT, usual)


def test_a_list_of_lists_reaches_an_extensions_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(basicsr.data, 'build_dataset', lambda options: SimpleNamespace(opt=options))
    assert build({'phase': 'val', 'meta_info_file': ['a.txt', 'b.txt']}).opt['meta_info_file'] == ['a.txt', 'b.txt']


def test_empty_keys_count_as_absent(tmp_path):
    options = {
        'type': 'SingleImageDataset',
        'name': 'lr',
        'phase': 'test',
        'io_backend': {'type': 'disk'},
        'dataroot_lq': str(write_photographs(tmp_path / 'lr')),
        'meta_info_file': None,
    }
    assert len(build(options)) == 3


def test_an_image_for_validation_is_not_replaced(tmp_path):
    dataset = build(paired_options(tmp_path, phase='val'))
    path = dataset.dataset.paths[2]['gt_path']
    (tmp_path / path).write_bytes(b'damaged')
    assert set(dataset[0]) == {'lq', 'gt', 'lq_path', 'gt_path'}
    with pytest.raises(ImageReadError, match=path):
        dataset[2]


def test_an_image_on_disk_is_named_by_its_file(tmp_path):
    options = paired_options(tmp_path, phase='val')
    dataset = build(options)
    (tmp_path / dataset.dataset.paths[2]['lq_path']).write_bytes(b'damaged')
    with pytest.raises(ImageReadError, match=rf'^{tmp_path}/hr/.*\.png or {tmp_path}/lr/.*\.png: cannot be read'):
        dataset[2]


def test_an_image_of_an_lmdb_is_named_by_its_key(tmp_path):
    options = paired_options(tmp_path, io_backend={'type': 'lmdb'})
    for key in ('dataroot_gt', 'dataroot_lq'):
        options[key] = str(tmp_path / f'{key}.lmdb')
        with lmdb.open(options[key], map_size=2**20) as env, env.begin(write=True) as transaction:
            transaction.put(b'0001_s001', b'damaged')
        (tmp_path / f'{key}.lmdb' / 'meta_info.txt').write_text('0001_s001.png (64,96,3) 1\n')
    with pytest.raises(ImageReadError, match=r'image 0001_s001 of .*dataroot_gt\.lmdb or .*dataroot_lq\.lmdb'):
        build({**options, 'max_corrupt': 0})[place(0)]


class Foreign(Dataset):
    """A data set of an extension, with no `opt`, whose items are drawn by torch; the last is damaged."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return {'gt': torch.rand(2) if index + 1 < len(self) else 1 / 0}


@pytest.mark.parametrize(('last', 'name'), [(Path('b.png'), 'b.png'), (('b.png', Path('c.png')), 'b.png or c.png')])
def test_data_sets_of_extensions(monkeypatch, last, name):
    monkeypatch.setattr('basicsr.data.build_dataset', lambda options: Foreign(['a.png', last]))
    dataset = build({'name': 'theirs', 'phase': 'train', 'max_corrupt': 0})
    first = dataset[place(0, number=7)]['gt']
    torch.rand(1)
    assert torch.equal(dataset[place(0, number=7)]['gt'], first)
    with pytest.raises(ImageReadError, match=f'^{name}: cannot be read'):
        dataset[place(1)]


def test_a_list_of_files_may_be_in_ones_home(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    options = paired_options(tmp_path, phase='val', meta_info_file='~/list.txt')
    (tmp_path / 'list.txt').write_text('photo0.png (64,96,3)\n')
    assert len(build(options)) == 1


def test_lack_of_memory_is_no_corrupt_image(tmp_path):
    class Huge(torch.utils.data.Dataset):
        opt = {'name': 'huge', 'io_backend': {'type': 'disk'}}
        paths = ['huge.png']

        def __getitem__(self, index):
            raise MemoryError

    with pytest.raises(MemoryError, match=r'read huge\.png: lower num_worker_per_gpu'):
        NamingDataset(Huge())[0]


def test_wrong_max_corrupt_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'datasets\.train\.max_corrupt must be a whole number, 0 or more'):
        build(paired_options(tmp_path, max_corrupt=-1))
