"""Prepare training data: photographs → hr sub-images and their bicubic lr, as two LMDBs for BasicSR.

The lr is made from the whole image and then cut, so that a sub-image's lr knows what lies beyond its edges.
Everything is collected in a folder `<name>_x<scale>.partial` beside the result: each photograph is one
transaction per LMDB followed by one line in a progress file, so that a run that was stopped in any way goes
on from the last finished photograph. The LMDBs are checked before they get their final names.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import cv2
import lmdb
import numpy as np
import torch
from tqdm import tqdm

from irnsigma_plugin.archs.bicubic import MAX_EXACT_SCALE, bicubic_downscale
from irnsigma_plugin.files import atomic_write
from irnsigma_plugin.folder_lock import FolderInUseError, exclusive
from irnsigma_plugin.images.names import IMAGE_EXTENSIONS, image_files
from irnsigma_plugin.images.picture import ImageReadError, decode_rgb_image, read_rgb_image
from irnsigma_plugin.options.stored_images import SETTINGS

PNG_COMPRESSION = 1
FIRST_MAP_SIZE = 2**28  # bytes an LMDB may grow to before the limit is doubled
META_INFO = 'meta_info.txt'
PROGRESS = 'progress.jsonl'
COMPLETE = 'complete'
LMDB_FILES = {'data.mdb', 'lock.mdb', META_INFO, SETTINGS}


class PrepareError(RuntimeError):
    """The data cannot be prepared; the message says what is in the way and what to do."""


class Photograph(NamedTuple):
    """A source image and the part of the LMDB keys that is its own."""

    path: str
    key: str


class Pair(NamedTuple):
    """One hr sub-image and its lr, PNG-encoded."""

    key: str
    hr_size: tuple[int, int]
    hr_png: bytes
    lr_png: bytes


@dataclass(frozen=True)
class Settings:
    """What the content of the LMDBs depends on; stored with them, so that nothing else is mixed in."""

    scale: int
    crop_size: int | None
    step: int | None
    min_size: int
    images: int
    images_sha256: str

    def differences(self, made: Settings) -> str:
        """Name what differs from the settings of existing data, or return an empty string."""
        differences = [
            f'{name} {made_value} there, {value} now'
            for (name, value), made_value in zip(asdict(self).items(), asdict(made).values())
            if value != made_value and name != 'images_sha256'
        ]
        if self.images == made.images and self.images_sha256 != made.images_sha256:
            differences.append('other image files')
        return '; '.join(differences)


@dataclass(frozen=True)
class Summary:
    """What a run of `prepare` left behind.

    Attributes:
        hr_path, lr_path: The two LMDB folders.
        photographs: Number of source images in them.
        pairs: Number of (hr, lr) sub-images in them.
        skipped: One message per source image that could not be used.
        was_complete: The LMDBs were there already and have only been checked.
    """

    hr_path: str
    lr_path: str
    photographs: int
    pairs: int
    skipped: tuple[str, ...]
    was_complete: bool


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
    """Make `<destination>/<name>_hr.lmdb` and `<destination>/<name>_lr_x<scale>.lmdb`.

    Called again with the same arguments it continues an interrupted run, or checks a finished one.

    Args:
        sources: Image files and folders of images (searched with their subfolders).
        destination: Folder of the LMDBs, made if missing.
        scale: Whole factor between hr and lr.
        crop_size: Side of the hr sub-images in pixels, a multiple of the scale; a side of an image that is
            shorter is kept as it is. None keeps all images whole.
        step: Distance of neighbouring sub-images in pixels, a multiple of the scale; half of `crop_size` by
            default. The last sub-image in each direction ends at the border.
        min_size: Images with a side shorter than this many pixels are skipped.
        name: First part of the names of the LMDBs; the name of the destination folder by default.
        workers: Number of threads; one per core by default. The result does not depend on it.
        overwrite: Replace LMDBs (and interrupted runs with other settings) of the same name.
        progress: Show progress bars.

    Returns:
        What was written, with the images that were skipped. Their number is not an error.

    Raises:
        PrepareError: Nothing can be prepared from these sources, something in the way has other settings, another
            run makes the same, the disk is full, or written data is damaged.
        ValueError: An argument makes no sense.
    """
    step = crop_size // 2 if step is None and crop_size is not None else step
    _check_sizes(scale, crop_size, step, min_size)
    destination = os.path.abspath(destination)
    name = os.path.basename(destination) if name is None else name
    if not name or os.path.basename(name) != name:
        raise ValueError(f'name is the first part of file names, without folders, got {name!r}.')
    workers = workers or os.cpu_count() or 1
    photographs = find_photographs(sources)
    settings = Settings(
        scale, crop_size, step if crop_size else None, min_size, len(photographs), _fingerprint(photographs)
    )
    store = _Store(destination, name, settings)

    if store.is_begun() or not store.is_finished(overwrite):
        with store.claimed():
            if store.is_complete_partial():
                store.finish()
            elif not store.is_finished(overwrite):  # another run may just have finished it
                store.open_partial(overwrite)
                _fill(store, photographs, workers, progress)
                _verify(store.partial, scale, workers, progress)
                store.finish()
                return store.summary(was_complete=False)
    _verify(store.final, scale, workers, progress)
    return store.summary(was_complete=True)


def find_photographs(sources: Sequence[str | os.PathLike]) -> list[Photograph]:
    """List image files and the images in folders, hidden ones left out, sorted within each source, each file once.

    The keys are the paths within the source without extension, in letters, digits, `_` and `-` (BasicSR ends
    a key at its first dot), numbered where two are equal.

    Args:
        sources: Image files and folders.

    Returns:
        Photographs with unique keys.

    Raises:
        PrepareError: A source does not exist or cannot be read, or there is no image in any.
    """
    paths: dict[str, str] = {}  # real path: path within its source
    for source in map(os.fspath, sources):
        if os.path.isfile(source):
            paths.setdefault(os.path.realpath(source), os.path.basename(source))
        elif os.path.isdir(source):
            try:
                found = sorted(os.path.relpath(path, source) for path in image_files(source))
            except OSError as error:
                raise PrepareError(str(error)) from error
            for path in found:
                paths.setdefault(os.path.realpath(os.path.join(source, path)), path)
        else:
            raise PrepareError(f'{source} does not exist; give image files or folders of images.')
    if not paths:
        raise PrepareError(
            f'No images in {", ".join(map(os.fspath, sources))}: looked, in subfolders too, '
            f'for files that end in {", ".join(IMAGE_EXTENSIONS)}.'
        )
    photographs, taken = [], set()
    for path, inner in paths.items():
        # LMDB allows 511 bytes for a key.
        base = key = re.sub('[^A-Za-z0-9_-]', '_', os.path.splitext(inner)[0])[-200:]
        number = 2
        while key in taken:
            key = f'{base}_{number}'
            number += 1
        taken.add(key)
        photographs.append(Photograph(path, key))
    return photographs


def make_pairs(photograph: Photograph, settings: Settings) -> list[Pair]:
    """Read a photograph, cut it to a multiple of the scale, shrink it, cut both into sub-images, encode them.

    Raises:
        ImageReadError: The photograph cannot be used: unreadable, of a refused kind, or too small.
    """
    scale = settings.scale
    hr = read_rgb_image(photograph.path)
    height, width = (side // scale * scale for side in hr.shape[:2])
    if min(height, width) < settings.min_size:
        raise ImageReadError(
            f'{photograph.path}: {hr.shape[1]}x{hr.shape[0]} pixels, a side is shorter than '
            f'the smallest size of {settings.min_size}; lower that to use it.'
        )
    hr = hr[:height, :width]
    lr = bicubic_downscale(hr, scale)
    if settings.crop_size is None:
        return [_encode_pair(photograph.key, hr, lr)]
    crop_height, crop_width = min(settings.crop_size, height), min(settings.crop_size, width)
    lr_height, lr_width = crop_height // scale, crop_width // scale
    corners = [
        (top, left)
        for top in crop_starts(height, crop_height, settings.step)
        for left in crop_starts(width, crop_width, settings.step)
    ]
    return [
        _encode_pair(
            f'{photograph.key}_s{number:03d}',
            hr[top : top + crop_height, left : left + crop_width],
            lr[top // scale : top // scale + lr_height, left // scale : left // scale + lr_width],
        )
        for number, (top, left) in enumerate(corners, 1)
    ]


def crop_starts(length: int, crop: int, step: int) -> list[int]:
    """First pixels of the sub-images along one side: every `step`, and one that ends at the border."""
    starts = list(range(0, length - crop + 1, step))
    if starts[-1] + crop < length:
        starts.append(length - crop)
    return starts


class _Store:
    """The pair of LMDB folders: under construction (`partial`) and finished (`final`), lr first."""

    def __init__(self, destination: str, name: str, settings: Settings):
        self.settings = settings
        self.folder = os.path.join(destination, f'{name}_x{settings.scale}.partial')
        self.final = tuple(os.path.join(destination, f'{name}_{kind}.lmdb') for kind in (f'lr_x{settings.scale}', 'hr'))
        self.partial = tuple(os.path.join(self.folder, os.path.basename(path)) for path in self.final)

    def is_finished(self, overwrite: bool) -> bool:
        """Whether both LMDBs are there with these settings; refuse anything else that has their names."""
        present = [path for path in self.final if os.path.lexists(path)]
        if overwrite:
            for path in present:
                if not os.path.isdir(path) or set(os.listdir(path)) - LMDB_FILES:
                    raise PrepareError(f'{path} is not only an LMDB, so it is not replaced; move it away.')
            return False
        if not present:
            return False
        remedy = 'give another name or folder, or --overwrite to replace it.'
        for path in present:
            made = _read_settings(path)
            if made is None:
                raise PrepareError(f'{path} exists and was not made by this program; {remedy}')
            if differences := self.settings.differences(made):
                raise PrepareError(f'{path} was made with other settings ({differences}); {remedy}')
        if len(present) == 1:
            raise PrepareError(f'{present[0]} exists without its counterpart; {remedy}')
        return True

    def is_begun(self) -> bool:
        """Whether there is the folder of a run, interrupted or going on."""
        return os.path.isdir(self.folder)

    def is_complete_partial(self) -> bool:
        """Whether a run with these settings was stopped between the check and the last renaming."""
        return os.path.exists(os.path.join(self.folder, COMPLETE)) and _read_settings(self.folder) == self.settings

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder of a run if need be, and keep other runs out of it; it goes again where it stays empty."""
        with _disk_errors(self.folder):
            os.makedirs(self.folder, exist_ok=True)
        try:
            with exclusive(self.folder):
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):
                        os.rmdir(self.folder)
        except FolderInUseError as error:
            raise PrepareError(
                f'The same data is being prepared right now: {error} Wait for it, or give another name or folder.'
            ) from None

    def open_partial(self, overwrite: bool) -> None:
        """Begin a new run in the folder, or accept that of an interrupted one with the same settings."""
        made = _read_settings(self.folder)
        if made == self.settings:
            return
        if made is not None and not overwrite:
            raise PrepareError(
                f'{self.folder} is an interrupted run with other settings '
                f'({self.settings.differences(made)}); continue with those, remove that '
                'folder, or give --overwrite.'
            )
        with _disk_errors(self.folder):
            for path in self.partial:
                _remove_lmdb(path)
                os.makedirs(path)
            for file in (PROGRESS, COMPLETE):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.folder, file))
            atomic_write(os.path.join(self.folder, SETTINGS), (json.dumps(asdict(self.settings)) + '\n').encode())

    def read_progress(self) -> list[dict]:
        """Records of the photographs that are done; a line cut short by a kill is not one, and removed."""
        path = os.path.join(self.folder, PROGRESS)
        if not os.path.exists(path):
            return []
        with open(path, 'rb+') as file:
            lines = file.readlines()
            if lines and not lines[-1].endswith(b'\n'):
                file.truncate(sum(map(len, lines[:-1])))
                lines.pop()
        return [json.loads(line) for line in lines]

    def finish(self) -> None:
        """Move the LMDBs to their final names; can be repeated after a kill."""
        with _disk_errors(self.folder):
            atomic_write(os.path.join(self.folder, COMPLETE), b'')
            for partial, final in zip(self.partial, self.final):
                if os.path.exists(partial):
                    _remove_lmdb(final)
                    os.replace(partial, final)
            shutil.rmtree(self.folder)

    def summary(self, was_complete: bool) -> Summary:
        """Read back what the finished LMDBs say of themselves."""
        with open(os.path.join(self.final[0], SETTINGS), encoding='utf-8') as file:
            made = json.load(file)
        skipped = tuple(made['skipped'])
        return Summary(
            hr_path=self.final[1],
            lr_path=self.final[0],
            photographs=made['images'] - len(skipped),
            pairs=len(_read_meta_info(self.final[1])),
            skipped=skipped,
            was_complete=was_complete,
        )


def _fill(store: _Store, photographs: Sequence[Photograph], workers: int, progress: bool) -> None:
    """Process the photographs that are not done, in order, then write the descriptions of the LMDBs."""
    records = store.read_progress()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_disk_errors(store.folder))
        lr_env, hr_env = (stack.enter_context(lmdb.open(path, map_size=FIRST_MAP_SIZE)) for path in store.partial)
        log = stack.enter_context(open(os.path.join(store.folder, PROGRESS), 'a', encoding='utf-8'))
        bar = stack.enter_context(
            tqdm(total=len(photographs), initial=len(records), desc='prepare', unit='image', disable=not progress)
        )
        for result in _in_order(photographs[len(records) :], store.settings, workers):
            record = {'skipped': None, 'pairs': []}
            if isinstance(result, ImageReadError):
                record['skipped'] = str(result)
            else:
                # A kill from here to the end of the record repeats the photograph: the same keys and values.
                _put(lr_env, [(pair.key, pair.lr_png) for pair in result])
                _put(hr_env, [(pair.key, pair.hr_png) for pair in result])
                record['pairs'] = [[pair.key, *pair.hr_size] for pair in result]
            log.write(json.dumps(record) + '\n')
            log.flush()
            os.fsync(log.fileno())
            records.append(record)
            bar.update()

    skipped = [record['skipped'] for record in records if record['skipped']]
    pairs = [pair for record in records for pair in record['pairs']]
    if not pairs:
        shutil.rmtree(store.folder)
        raise PrepareError(
            'None of the images can be used. '
            + ' '.join(skipped[:3])
            + (f' (and {len(skipped) - 3} more)' if len(skipped) > 3 else '')
        )
    description = json.dumps({**asdict(store.settings), 'skipped': skipped}, indent=2) + '\n'
    with _disk_errors(store.folder):
        for path, factor in zip(store.partial, (store.settings.scale, 1)):
            lines = [
                f'{key}.png ({height // factor},{width // factor},3) {PNG_COMPRESSION}\n'
                for key, height, width in pairs
            ]
            atomic_write(os.path.join(path, META_INFO), ''.join(lines).encode())
            atomic_write(os.path.join(path, SETTINGS), description.encode())


def _in_order(
    photographs: Sequence[Photograph], settings: Settings, workers: int
) -> Iterator[list[Pair] | ImageReadError]:
    """Make the pairs of a few photographs at a time, as memory is limited, and yield them in order.

    Threads are enough: decoding, filtering and encoding run outside the interpreter's lock.
    """
    pool = concurrent.futures.ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    pending = collections.deque()
    try:
        for photograph in photographs:
            pending.append(pool.submit(make_pairs, photograph, settings))
            if len(pending) == 2 * workers:
                yield _outcome(pending.popleft())
        while pending:
            yield _outcome(pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _outcome(future: concurrent.futures.Future) -> list[Pair] | ImageReadError:
    try:
        return future.result()
    except ImageReadError as error:
        return error
    except MemoryError:
        raise PrepareError(
            'There is not enough memory for so many photographs at a time: run the same command again '
            'with fewer --workers, and it goes on from here.'
        ) from None


def _verify(paths: tuple[str, str], scale: int, workers: int, progress: bool) -> None:
    """Decode every image of both LMDBs and compare its size with meta_info and its counterpart."""
    remedy = 'run the same command again with --overwrite.'
    lr_sizes, hr_sizes = map(_read_meta_info, paths)
    if {key: (height * scale, width * scale) for key, (height, width) in lr_sizes.items()} != hr_sizes:
        raise PrepareError(f'{META_INFO} of {paths[0]} does not belong to that of {paths[1]}; {remedy}')
    for path, sizes in zip(paths, (lr_sizes, hr_sizes)):
        with contextlib.ExitStack() as stack:
            stack.enter_context(_disk_errors(path))
            env = stack.enter_context(lmdb.open(path, readonly=True, lock=False, readahead=False))
            if env.stat()['entries'] != len(sizes):
                raise PrepareError(
                    f'{path} holds {env.stat()["entries"]} images, its {META_INFO} lists {len(sizes)}; {remedy}'
                )
            bar = stack.enter_context(
                tqdm(total=len(sizes), desc=f'verify {os.path.basename(path)}', unit='image', disable=not progress)
            )
            pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(workers))
            sizes_read = pool.map(lambda key, env=env: _stored_size(env, key), sizes)
            for (key, size), read in zip(sizes.items(), sizes_read):
                if read != size:
                    raise PrepareError(
                        f'{path}: image {key} is damaged or missing ({META_INFO}: {size}, stored: {read}); {remedy}'
                    )
                bar.update()


def _stored_size(env: lmdb.Environment, key: str) -> tuple[int, int] | None:
    with env.begin() as transaction:
        content = transaction.get(key.encode('ascii'))
    try:
        return decode_rgb_image(content or b'', key).shape[:2]
    except ImageReadError:
        return None


def _put(env: lmdb.Environment, items: Iterable[tuple[str, bytes]]) -> None:
    """Store items in one transaction, with a doubled limit of the size if they do not fit.

    BasicSR's `LmdbMaker` reserves 1 TB instead, which machines with limited address space refuse.
    """
    while True:
        try:
            with env.begin(write=True) as transaction:
                for key, value in items:
                    transaction.put(key.encode('ascii'), value)
            return
        except lmdb.MapFullError:
            env.set_mapsize(2 * env.info()['map_size'])


@contextlib.contextmanager
def _disk_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, lmdb.Error) as error:
        reason = getattr(error, 'strerror', None) or error
        raise PrepareError(
            f'{path} cannot be written or read ({reason}). Is the disk full? Run the same '
            'command again when that is put right: it continues where it stopped.'
        ) from error


def _encode_pair(key: str, hr: np.ndarray, lr: np.ndarray) -> Pair:
    return Pair(key, hr.shape[:2], _encode_png(hr), _encode_png(lr))


def _encode_png(image: np.ndarray) -> bytes:
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    return cv2.imencode('.png', bgr, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])[1].tobytes()


def _fingerprint(photographs: Iterable[Photograph]) -> str:
    try:
        listing = ''.join(f'{key} {os.path.getsize(path)}\n' for path, key in photographs)
    except OSError as error:  # a link to nothing, for one
        raise PrepareError(f'{error.filename} cannot be read ({error.strerror}); mend or remove it.') from None
    return hashlib.sha256(listing.encode()).hexdigest()


def _read_settings(folder: str) -> Settings | None:
    try:
        with open(os.path.join(folder, SETTINGS), encoding='utf-8') as file:
            made = json.load(file)
        return Settings(**{field: made[field] for field in Settings.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_meta_info(path: str) -> dict[str, tuple[int, int]]:
    """Heights and widths by key."""
    try:
        with open(os.path.join(path, META_INFO), encoding='utf-8') as file:
            matches = [re.fullmatch(r'([\w-]+)\.png \((\d+),(\d+),3\) \d+\n', line) for line in file]
        return {match[1]: (int(match[2]), int(match[3])) for match in matches}
    except (OSError, TypeError) as error:
        raise PrepareError(
            f'{os.path.join(path, META_INFO)} is missing or damaged; run the same command again with --overwrite.'
        ) from error


def _remove_lmdb(path: str) -> None:
    for file in LMDB_FILES:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(path, file))
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)


def _check_sizes(scale: int, crop_size: int | None, step: int | None, min_size: int) -> None:
    if not 2 <= scale <= MAX_EXACT_SCALE:
        raise ValueError(f'scale must be from 2 to {MAX_EXACT_SCALE}, got {scale}.')
    if min_size < scale:
        raise ValueError(f'min_size must be at least the scale {scale}, got {min_size}.')
    if crop_size is None:
        return
    for name, value in (('crop_size', crop_size), ('step', step)):
        if value < 1 or value % scale:
            raise ValueError(
                f'{name} must be a multiple of the scale {scale}, got {value}; '
                f'{max(round(value / scale), 1) * scale} is the nearest.'
            )
    if step > crop_size:
        raise ValueError(
            f'step {step} is larger than crop_size {crop_size}: pixels between the sub-images would be lost.'
        )
