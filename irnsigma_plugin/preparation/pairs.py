"""Prepare training data: photographs → hr sub-images and their bicubic lr, as two LMDBs for BasicSR.

The lr is made from the whole image and then cut, so that a sub-image's lr knows what lies beyond its edges.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np
import torch

from irnsigma_plugin.archs.bicubic import MAX_EXACT_SCALE, bicubic_downscale
from irnsigma_plugin.images.names import find_images
from irnsigma_plugin.images.picture import ImageReadError, read_rgb_image
from irnsigma_plugin.preparation.store import PNG_COMPRESSION, Pair, PairStore, PrepareError, Settings, Summary


def prepare(
    sources: Sequence[str | os.PathLike],
    destination: str | os.PathLike,
    *,
    scale: int = 4,
    crop_size: int | None = 480,
    step: int | None = None,
    min_size: int = 144,
    name: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Summary:
    """Make `<destination>/<name>_hr.lmdb` and `<destination>/<name>_lr_x<scale>.lmdb`, in a new folder or an old one.

    Called again with the same arguments it continues an interrupted run, or checks a finished one.

    Args:
        sources: Image files and folders of images (searched with their subfolders).
        scale: Whole factor between hr and lr.
        crop_size: Side of the hr sub-images in pixels, a multiple of the scale; shorter sides stay. None: whole images.
        step: Distance of neighbouring sub-images in pixels, a multiple of the scale; half of `crop_size`, or the
            next multiple below it, by default.
        min_size: Images with a side shorter than this many pixels, when cut to a multiple of the scale, are skipped,
            which is no error.
        name: First part of the names of the LMDBs; the name of the destination folder by default.
        workers: Number of threads; one per core by default. The result does not depend on it.
        overwrite: Replace LMDBs (and interrupted runs with other settings) of the same name.

    Raises:
        PrepareError: No image is usable, other data or another run is in the way, the disk is full, or data is damaged.
        ValueError: An argument makes no sense.
    """
    if crop_size is None:
        step = None
    _check_sizes(scale, crop_size, step, min_size)
    if crop_size is not None and step is None:
        step = max(crop_size // 2 // scale, 1) * scale
    destination = os.path.abspath(destination)
    name = os.path.basename(destination) if name is None else name
    if not name or os.path.basename(name) != name:
        raise ValueError(f'name is the first part of file names, without folders, got {name!r}.')
    workers = workers or os.cpu_count() or 1
    photographs = find_photographs(sources)
    settings = Settings(scale, crop_size, step, min_size, len(photographs), _fingerprint(photographs))
    store = PairStore(destination, name, settings, progress)
    if store.is_begun() or not store.is_finished(overwrite):
        with store.claimed():
            if store.is_moving():
                store.finish()
            elif not store.is_finished(overwrite):  # another run may just have finished it
                records = store.begin(overwrite)
                store.fill(records, _make_ahead(list(photographs.items())[len(records) :], settings, workers))
                store.verify(store.partial, workers)
                store.finish()
                return store.summary(was_complete=False)
    store.verify(store.final, workers)
    return store.summary(was_complete=True)


def find_photographs(sources: Sequence[str | os.PathLike]) -> dict[str, str]:
    """Find images in files, folders and globs, sorted within each, each file once: their paths by their LMDB keys.

    A key is the path within the source without extension, in letters, digits, `_` and `-` (BasicSR ends a key at its
    first dot), numbered where two are equal. A source that is missing, unreadable or empty is a PrepareError.
    """
    paths: dict[str, str] = {}  # real path: path within its source
    for source in sources:
        try:
            found = find_images([os.fspath(source)])
        except (OSError, ValueError) as error:
            raise PrepareError(str(error)) from error
        for path, inner in sorted((str(path), str(inner)) for path, inner in found):
            paths.setdefault(os.path.realpath(path), inner)
    photographs: dict[str, str] = {}
    for path, inner in paths.items():
        base = key = re.sub('[^A-Za-z0-9_-]', '_', os.path.splitext(inner)[0])[-200:]  # LMDB allows 511 bytes
        numbers = itertools.count(2)
        while key in photographs:
            key = f'{base}_{next(numbers)}'
        photographs[key] = path
    return photographs


def make_pairs(key: str, path: str, settings: Settings) -> list[Pair]:
    """Read a photograph, or raise ImageReadError; cut it, shrink it, cut both into sub-images, and encode them."""
    scale, step = settings.scale, settings.step
    hr = read_rgb_image(path)
    height, width = (side // scale * scale for side in hr.shape[:2])
    if min(height, width) < settings.min_size:
        cut = f'{hr.shape[1]}x{hr.shape[0]} pixels, {width}x{height} in whole lr pixels'
        fault = f'{cut}, a side is shorter than the smallest size of {settings.min_size}'
        raise ImageReadError(f'{path}: {fault}; lower that to use it.')
    hr = hr[:height, :width]
    lr = bicubic_downscale(hr, scale)
    if settings.crop_size is None or step is None:
        return [Pair(key, (height, width), _encode_png(hr), _encode_png(lr))]
    crop_height, crop_width = min(settings.crop_size, height), min(settings.crop_size, width)
    corners = itertools.product(crop_starts(height, crop_height, step), crop_starts(width, crop_width, step))
    pairs = []
    for number, (top, left) in enumerate(corners, 1):
        bottom, right = top + crop_height, left + crop_width
        hr_png = _encode_png(hr[top:bottom, left:right])
        lr_png = _encode_png(lr[top // scale : bottom // scale, left // scale : right // scale])
        pairs.append(Pair(f'{key}_s{number:03d}', (crop_height, crop_width), hr_png, lr_png))
    return pairs


def crop_starts(length: int, crop: int, step: int) -> list[int]:
    """First pixels of the sub-images along one side: every `step`, and one that ends at the border."""
    return [*range(0, length - crop, step), length - crop]


def _encode_png(image: np.ndarray) -> bytes:
    return cv2.imencode('.png', image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])[1].tobytes()


def _make_ahead(photographs: Iterable[tuple[str, str]], settings: Settings, workers: int) -> Iterator[Future]:
    """Make the pairs of a few photographs at a time, as memory is limited, and yield them in order."""
    # Threads are enough: decoding, filtering and encoding run outside the interpreter's lock.
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    pending: deque[Future[list[Pair]]] = deque()
    try:
        for key, path in photographs:
            pending.append(pool.submit(make_pairs, key, path, settings))
            if len(pending) == 2 * workers:
                yield pending.popleft()
        yield from pending
    finally:
        pool.shutdown(cancel_futures=True)


def _fingerprint(photographs: dict[str, str]) -> str:
    try:
        listing = ''.join(f'{key} {os.path.getsize(path)}\n' for key, path in photographs.items())
    except OSError as error:  # a link to nothing, for one
        raise PrepareError(f'{error.filename} cannot be read ({error.strerror}); mend or remove it.') from None
    return hashlib.sha256(listing.encode()).hexdigest()


def _check_sizes(scale: int, crop_size: int | None, step: int | None, min_size: int) -> None:
    if not 2 <= scale <= MAX_EXACT_SCALE:
        raise ValueError(f'scale must be from 2 to {MAX_EXACT_SCALE}, got {scale}.')
    if min_size < scale:
        raise ValueError(f'min_size must be at least the scale {scale}, got {min_size}.')
    for name, value in (('crop_size', crop_size), ('step', step)):
        if value is not None and (value < 1 or value % scale):
            nearest = max(round(value / scale), 1) * scale
            raise ValueError(f'{name} must be a multiple of the scale {scale}, got {value}; {nearest} is the nearest.')
    if crop_size is not None and step is not None and step > crop_size:
        raise ValueError(f'step {step} is larger than crop_size {crop_size}: pixels between sub-images would be lost.')
