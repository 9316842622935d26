"""How many training samples a worker of the data loader makes in a second."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from torch.utils.data import DataLoader

from irnsigma_plugin.preparation.pairs import find_photographs, prepare
from irnsigma_plugin.training.supply import DataSupply

PHOTOGRAPHS = 50  # of a folder, at most
SUB_IMAGES = (480, 240)
PATCHES = (144, 64)
BATCH, BATCHES = 16, 4  # of one run

COLUMNS = (
    ('data set', 'type', '{}'),
    ('sub-images', 'sub_images', '{}'),
    ('gt_size', 'gt_size', '{}'),
    ('samples/s of a worker', 'samples_per_second', '{:.0f}'),
    ('workers for the step', 'workers', '{}'),
)


def benchmark_loader(
    images: Path, scale: int, runs: int, step_samples_per_second: float | None = None
) -> Iterator[dict]:
    """Measure data sets on LMDBs made from the first photographs of a folder, all in turn.

    Args:
        images: Photographs.
        scale: Of the low-resolution images.
        runs: Figures are medians of so many.
        step_samples_per_second: What the training takes, for the number of workers that it needs.
    """
    sources = list(find_photographs([images]).values())[:PHOTOGRAPHS]
    with tempfile.TemporaryDirectory() as folder:
        loaders = {}
        for side in SUB_IMAGES:
            made = prepare(
                sources, Path(folder, str(side)), scale=scale, crop_size=side, min_size=max(PATCHES), progress=False
            )
            for data_set, stores in {
                'PairedImageDataset': {'dataroot_gt': made.hr_path, 'dataroot_lq': made.lr_path},
                'HRImageDataset': {'dataroot_gt': made.hr_path},
            }.items():
                for patch in (patch // scale * scale for patch in PATCHES):
                    options = {'name': data_set, 'type': data_set, **stores, 'gt_size': patch, 'scale': scale}
                    loaders[data_set, side, patch] = _one_worker(options)
        rates: dict[tuple, list[float]] = {key: [] for key in loaders}
        for _ in range(runs):
            for key, loader in loaders.items():
                rates[key].append(_samples_per_second(loader))
    for (data_set, side, patch), measured in rates.items():
        rate = statistics.median(measured)
        needed = step_samples_per_second and step_samples_per_second / rate
        yield {
            'type': data_set,
            'sub_images': side,
            'gt_size': patch,
            'samples_per_second': rate,
            'workers_needed': needed,
            'workers': needed and math.ceil(needed),
        }


def _one_worker(options: dict) -> DataLoader:
    """The training's own loader."""
    options.update(
        phase='train',
        io_backend={'type': 'lmdb'},
        use_hflip=True,
        use_rot=True,
        num_worker_per_gpu=1,
        batch_size_per_gpu=BATCH,
    )
    supply = DataSupply({'manual_seed': 0})
    data_set = supply.build_dataset(options)
    enough = math.ceil(BATCH * (BATCHES + 1) / len(data_set))
    return supply.build_dataloader(data_set, options, sampler=supply.build_sampler(data_set, 1, 0, enough), seed=0)


def _samples_per_second(loader: DataLoader) -> float:
    batches = iter(loader)
    next(batches)  # the worker has started
    start = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    return BATCH * BATCHES / (time.perf_counter() - start)
