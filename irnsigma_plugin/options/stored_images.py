"""What is wrong with stored data sets, told from listings and headers, without decoding an image."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from irnsigma_plugin.checks import NAMED, name_some
from irnsigma_plugin.images.names import is_image_name
from irnsigma_plugin.images.picture import ImageReadError, read_size

DATA_SETS = ('HRImageDataset', 'PairedImageDataset', 'SingleImageDataset')  # whose keys say where the images are

Size = tuple[int, int]  # height, width
Sizes = Sequence[tuple[str, Size]]  # what takes an image, and the short and the long side that it has to have

HEADERS = 200  # files of a folder whose headers are read, evenly spread; an LMDB lists all sizes in one file
SETTINGS = 'prepared_with.json'  # what `irnsigma prepare` says in an LMDB about its making
_NO_LMDB = 'give an LMDB made by `irnsigma prepare`, or use io_backend type disk.'
_META_LINE = re.compile(r'([^.]*)\..* \((\d+),(\d+),\d+\) \d+')


class StoreError(ValueError):
    """A folder or LMDB is missing or unusable, or an image in it."""


class Store(NamedTuple):
    """A folder or an LMDB of images."""

    names: Sequence[str]  # file names, or keys of the LMDB
    sample: Sequence[str]  # those whose sizes are looked at
    size: Callable[[str], Size]  # of an image, by its name; raises ImageReadError


def stored_faults(
    name: str, options: Mapping[str, Any], saves_pictures: bool = False, ranks: int = 1, sizes: Sizes = ()
) -> Iterator[str]:
    """Everything that is wrong with the images of a data set, which is called `name`.

    The options are its block, with valid values, and with `scale` and `phase`. If it `saves_pictures`, what is made of
    an image is saved under the image's name. Training images are shared by `ranks`. `sizes`: as of :func:`size_faults`.
    """
    stores = {}
    for key in ('dataroot_gt', 'dataroot_lq'):
        if options.get(key) is not None:
            try:
                # The list of files is that of the hr images, if there are any.
                listed = {} if key == 'dataroot_gt' or 'dataroot_gt' not in options else {'meta_info_file': None}
                stores[key] = open_store(options[key], {**options, **listed})
            except StoreError as error:
                yield f'{name}.{key}: {error}'
    hr, lr = stores.get('dataroot_gt'), stores.get('dataroot_lq')
    if hr is not None:
        yield from (f'{name}.dataroot_gt: {fault}' for fault in size_faults(hr, hr.sample, options, sizes))
        if options['phase'] == 'train':
            count = math.ceil(len(hr.names) * (options.get('dataset_enlarge_ratio') or 1) / ranks)
            yield from batch_faults(name, count, options['batch_size_per_gpu'])
    if hr is not None and lr is not None:
        yield from (f'{name}: {fault}' for fault in _pair_faults(hr, lr, options))
    last, first = lr or hr, dict[str, str]()
    for image in last.names if saves_pictures and last else ():
        other = first.setdefault(PurePath(image).stem, image)
        if other != image:
            remedy = 'rename one, or set val.save_img: false.'
            yield f'{name}: pictures of {other} and {image} would be saved under the same name; {remedy}'
            return


def batch_faults(name: str, images: int, batch: int) -> Iterator[str]:
    """An epoch of one process has to fill a batch."""
    if images < batch:
        remedy = 'lower batch_size_per_gpu, or raise dataset_enlarge_ratio.'
        yield f'{name} has {images} images for each process and epoch, fewer than a batch of {batch}: {remedy}'


def open_store(root: str, options: Mapping[str, Any]) -> Store:
    """Find the images of a data set, given its block, in a folder or LMDB; raises StoreError where there are none."""
    root = os.path.expanduser(root)
    is_lmdb = options['io_backend']['type'] == 'lmdb'
    if is_lmdb and not root.endswith('.lmdb'):
        raise StoreError(
            f"{root} must end with '.lmdb' for io_backend type lmdb; use type disk for a folder of images."
        )
    if not os.path.isdir(root):
        kind = 'LMDB' if is_lmdb else 'folder'
        raise StoreError(f'the {kind} {root} does not exist (relative paths start at {os.getcwd()}).')
    if is_lmdb:
        sizes = read_meta_info(root)
        if not os.path.isfile(os.path.join(root, 'data.mdb')):
            raise StoreError(f'{root} has no data.mdb; {_NO_LMDB}')
        return Store(list(sizes), list(sizes), sizes.__getitem__)
    is_ours = options['type'] == 'HRImageDataset'
    if options.get('meta_info_file') is not None:
        names = _listed_names(Path(options['meta_info_file']).expanduser(), with_spaces=is_ours)
    else:
        names = _names_in(root, images_only=is_ours)
    return Store(names, names[:: math.ceil(len(names) / HEADERS)], lambda name: read_size(os.path.join(root, name)))


def read_meta_info(path: str | os.PathLike) -> dict[str, Size]:
    """Keys of an LMDB, given its folder, and sizes of its images; StoreError for a missing or wrong meta_info.txt."""
    try:
        lines = Path(path, 'meta_info.txt').read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        raise StoreError(f'{path} has no meta_info.txt; {_NO_LMDB}') from None
    sizes = {}
    for number, line in enumerate(lines, 1):
        match = _META_LINE.fullmatch(line)
        if match is None:
            remedy = "but must be like 'name.png (480,480,3) 1'; prepare the LMDB again."
            raise StoreError(f'line {number} of {path}/meta_info.txt is {line.strip()!r}, {remedy}')
        sizes[match[1]] = int(match[2]), int(match[3])
    if not sizes:
        raise StoreError(f'the LMDB {path} lists no images; prepare it again.')
    return sizes


def _listed_names(file: Path, with_spaces: bool) -> list[str]:
    if not file.is_file():
        remedy = 'correct the path, or leave the key out to use all images of the folder.'
        raise StoreError(f'meta_info_file {file} does not exist; {remedy}')
    lines = file.read_text(encoding='utf-8', errors='replace').splitlines()
    names = [re.sub(r' \(\d+(, ?\d+)+\).*', '', line).strip() for line in lines]  # without `(480,480,3)`
    for number, name in enumerate(names, 1):
        if not with_spaces and (not name or ' ' in name):
            remedy = 'for which BasicSR takes what is before its first space; remove the line, or rename the image.'
            raise StoreError(f'line {number} of meta_info_file {file} has the name {name!r}, {remedy}')
    names = list(filter(None, names))
    if not names:
        raise StoreError(f'meta_info_file {file} lists no images.')
    return names


def _names_in(folder: str, images_only: bool) -> list[str]:
    entries = {entry.name: entry for entry in os.scandir(folder) if not entry.name.startswith('.')}
    files = sorted(name for name, entry in entries.items() if entry.is_file())
    names = list(filter(is_image_name, files)) if images_only else files
    if not names:
        folders = sorted(name for name, entry in entries.items() if entry.is_dir())
        hint = f' Its subfolders are not searched: {", ".join(folders[:5])}.' if folders else ''
        raise StoreError(f'no images in the folder {folder}.{hint}')
    return names


def size_faults(hr: Store, images: Sequence[str], options: Mapping[str, Any], sizes: Sizes = ()) -> Iterator[str]:
    """Find, of some images, those unreadable or smaller than a patch, or else than one pixel of the lr and `sizes`."""
    training = options['phase'] == 'train'
    side, what = (options['gt_size'], 'gt_size') if training else (options['scale'], 'the scale')
    sizes = [(f'{what} {side}', (side, side)), *(() if training else sizes)]
    unreadable, too_small = [], dict[str, list[str]]()
    for image in images:
        try:
            height, width = hr.size(image)
            for what, (short, long) in sizes:
                if min(height, width) < short or max(height, width) < long:
                    too_small.setdefault(what, []).append(f'{image} ({height}x{width})')
        except ImageReadError as error:
            unreadable.append(str(error))
    yield from unreadable[:NAMED]
    for what, names in too_small.items():
        yield f'images smaller than {what}: {name_some(names)}; remove them{" or lower gt_size" * training}.'


def _pair_faults(hr: Store, lr: Store, options: Mapping[str, Any]) -> Iterator[str]:
    """Images without counterpart, pairs whose sizes are not in the ratio of the scale, and mixed preparations."""
    scale, training = options['scale'], options['phase'] == 'train'
    template = options['io_backend']['type'] == 'disk' and options.get('filename_tmpl') or '{}'
    counterparts = {}
    for image in hr.names:
        stem, extension = os.path.splitext(os.path.basename(image))
        counterparts[image] = template.replace('{}', stem) + extension
    stored = set(lr.names)
    alone = [image for image, counterpart in counterparts.items() if counterpart not in stored]
    is_whole_folder = options.get('meta_info_file') is None  # else a part of the folders is used
    if alone or is_whole_folder and len(stored) != len(counterparts):
        without = f'; without lr: {name_some(alone)}' if alone else ''
        counts = f'dataroot_gt lists {len(hr.names)} images and dataroot_lq {len(lr.names)}'
        yield f'{counts}{without}. Give the two of one preparation.'
    wrong = []
    for image in hr.sample:
        try:
            sizes = list(zip(hr.size(image), lr.size(counterparts[image])))
        except (ImageReadError, KeyError):  # reported above, or found when it is read
            continue
        # In training to the pixel; otherwise BasicSR cuts off what the original has too much.
        if any(high != scale * low if training else not high / 2 < scale * low <= high for high, low in sizes):
            wrong.append('{} ({}x{}, lr {}x{})'.format(image, *(side for pair in zip(*sizes) for side in pair)))
    if wrong:
        yield f'dataroot_gt must be {scale} times the size of dataroot_lq, but is not for {name_some(wrong)}.'
    try:  # two LMDBs that were not made together can agree in all names and sizes
        roots = [options[key] for key in ('dataroot_gt', 'dataroot_lq')]
        made = [json.loads(Path(root, SETTINGS).expanduser().read_text(encoding='utf-8')) for root in roots]
    except (OSError, ValueError):  # made by something else
        return
    if made[0] != made[1]:
        remedy = 'Prepare them again, for each scale under a --name of its own.'
        yield f'{roots[0]} and {roots[1]} were not made together. {remedy}'
