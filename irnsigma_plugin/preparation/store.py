"""The two LMDBs of prepared training data, with the progress of the run that fills them.

They grow in a folder `<name>_x<scale>.partial` beside the result: each photograph is one transaction per LMDB, then one
line in a progress file, so that a stopped run goes on from the last one. What has been checked gets its final name.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import filelock
import lmdb
from tqdm import tqdm

from irnsigma_plugin.files import atomic_write
from irnsigma_plugin.images.picture import ImageReadError, decode_rgb_image
from irnsigma_plugin.memory import is_lack_of_memory
from irnsigma_plugin.options.stored_images import SETTINGS, StoreError, read_meta_info

PNG_COMPRESSION = 1
FIRST_MAP_SIZE = 2**28  # bytes an LMDB may grow to before the limit is doubled
META_INFO = 'meta_info.txt'
PROGRESS = 'progress.jsonl'
REFUSED = 'refused'  # where what is whole has been found to be damaged
LMDB_FILES = {'data.mdb', 'lock.mdb', META_INFO, SETTINGS}
AGAIN = 'run the same command again with --overwrite.'


class PrepareError(RuntimeError):
    """The data cannot be prepared; the message says what is in the way and what to do."""


class Pair(NamedTuple):
    """One hr sub-image and its lr, PNG-encoded; `hr_size` is (height, width)."""

    key: str
    hr_size: tuple[int, int]
    hr_png: bytes
    lr_png: bytes


class Settings(NamedTuple):
    """What the content of the LMDBs depends on; stored with them, so that nothing else is mixed in."""

    scale: int
    crop_size: int | None
    step: int | None
    min_size: int
    images: int
    images_sha256: str

    def differences(self, made: Settings) -> str:
        """Name what differs from the settings of existing data, or return an empty string."""
        return '; '.join(
            'other image files' if name == 'images_sha256' else f'{name} {there} there, {now} now'
            for name, there, now in zip(self._fields, made, self)
            if there != now
        )


class Summary(NamedTuple):
    """What a run of `prepare` left behind."""

    hr_path: str  # LMDB folder
    lr_path: str
    photographs: int  # source images that are in them
    pairs: int  # (hr, lr) sub-images
    skipped: tuple[str, ...]  # a message per source image that could not be used
    was_complete: bool  # they were there already and have only been checked


class PairStore:
    """The LMDBs `<destination>/<name>_*.lmdb`: under construction (`partial`) and finished (`final`), lr first."""

    def __init__(self, destination: str, name: str, settings: Settings, progress: bool) -> None:
        self.settings = settings
        self.folder = Path(destination, f'{name}_x{settings.scale}.partial')
        self.final = [Path(destination, f'{name}_lr_x{settings.scale}.lmdb'), Path(destination, f'{name}_hr.lmdb')]
        self.partial = [self.folder / path.name for path in self.final]
        self._bar = functools.partial(tqdm, unit='image', disable=not progress)

    def is_finished(self, overwrite: bool) -> bool:
        """Whether both LMDBs are there with these settings; refuse anything else that has their names."""
        present = [path for path in self.final if os.path.lexists(path)]
        if overwrite:
            for path in present:
                if not path.is_dir() or set(os.listdir(path)) - LMDB_FILES:
                    raise PrepareError(f'{path} is not only an LMDB, so it is not replaced; move it away.')
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
        return bool(present)

    def is_begun(self) -> bool:
        """Whether there is the folder of a run, interrupted or going on."""
        return self.folder.is_dir()

    def is_moving(self) -> bool:
        """Whether a run with these settings was stopped between the first renaming and the end."""
        return not self.partial[0].exists() and _read_settings(self.folder) == self.settings

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other runs out until the end of the block or of the process; file systems without locks go without."""
        with _explained_errors(self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(f'{self.folder}.lock', timeout=0)
            try:
                lock.acquire()
                if not os.path.exists(lock.lock_file):  # removed meanwhile by a run that has just ended
                    raise filelock.Timeout(lock.lock_file)
            except filelock.Timeout:
                lock.release()
                fault = f'The same data is being prepared right now: another process works in {self.folder}'
                raise PrepareError(f'{fault}. Wait for it, or give another name or folder.') from None
            except (OSError, NotImplementedError):
                pass
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # on Windows the release removes it
                    os.unlink(lock.lock_file)
                lock.release()

    def begin(self, overwrite: bool) -> list[dict]:
        """Begin a run, or go on with one of the same settings; return the records of the photographs that are done."""
        made, progress = _read_settings(self.folder), self.folder / PROGRESS
        if made == self.settings and progress.exists():
            content = progress.read_bytes()
            whole = content[: content.rfind(b'\n') + 1]  # the rest is a line that a kill has cut short
            os.truncate(progress, len(whole))
            try:
                records = [json.loads(line) for line in whole.splitlines()]
                if not (overwrite and (self.folder / REFUSED).exists()):
                    return records
            except ValueError:
                if not overwrite:
                    raise PrepareError(f'{progress} is damaged; remove {self.folder}, or give --overwrite.') from None
        if made is not None and made != self.settings and not overwrite:
            fault = f'an interrupted run with other settings ({self.settings.differences(made)})'
            remedy = 'continue with those, remove that folder, or give --overwrite'
            raise PrepareError(f'{self.folder} is {fault}; {remedy}.')
        if self.is_begun():
            self._discard()
        for path in self.partial:
            path.mkdir(parents=True)
        atomic_write(self.folder / SETTINGS, (json.dumps(self.settings._asdict()) + '\n').encode())
        return []

    def _discard(self) -> None:
        (self.folder / SETTINGS).unlink(missing_ok=True)  # first: without it the rest counts for nothing
        shutil.rmtree(self.folder)

    def fill(self, records: list[dict], photographs: Iterable[Future[list[Pair]]]) -> None:
        """Store the pairs of the photographs behind those of `records`, in order, then describe the LMDBs."""
        lr_path, hr_path = map(str, self.partial)
        with (
            lmdb.open(lr_path, map_size=FIRST_MAP_SIZE) as lr_env,
            lmdb.open(hr_path, map_size=FIRST_MAP_SIZE) as hr_env,
            open(self.folder / PROGRESS, 'a', encoding='utf-8') as log,
            self._bar(total=self.settings.images, initial=len(records), desc='prepare') as bar,
        ):
            for photograph in photographs:
                pairs, skipped = [], None
                try:
                    pairs = photograph.result()
                except ImageReadError as error:
                    skipped = str(error)
                # A kill from here to the end of the record repeats the photograph: the same keys and values.
                _put(lr_env, {pair.key: pair.lr_png for pair in pairs})
                _put(hr_env, {pair.key: pair.hr_png for pair in pairs})
                record = {'skipped': skipped, 'pairs': [[pair.key, *pair.hr_size] for pair in pairs]}
                print(json.dumps(record), file=log, flush=True)
                os.fsync(log.fileno())
                records.append(record)
                bar.update()
        self._describe(records)

    def _describe(self, records: list[dict]) -> None:
        """Write meta_info.txt for BasicSR, and the settings."""
        skipped = [record['skipped'] for record in records if record['skipped']]
        pairs = [pair for record in records for pair in record['pairs']]
        if not pairs:
            self._discard()
            more = f' (and {len(skipped) - 3} more)' if len(skipped) > 3 else ''
            raise PrepareError(f'None of the images can be used. {" ".join(skipped[:3])}{more}')
        description = json.dumps({**self.settings._asdict(), 'skipped': skipped}, indent=2) + '\n'
        for path, factor in zip(self.partial, (self.settings.scale, 1)):
            sizes = ((key, height // factor, width // factor) for key, height, width in pairs)
            lines = [f'{key}.png ({height},{width},3) {PNG_COMPRESSION}\n' for key, height, width in sizes]
            atomic_write(path / META_INFO, ''.join(lines).encode())
            atomic_write(path / SETTINGS, description.encode())

    def verify(self, paths: list[Path], workers: int) -> None:
        """Decode every image of both LMDBs, `partial` or `final`; compare its size with meta_info and counterpart."""
        if fault := self._damage(paths, workers):
            if paths == self.partial:
                atomic_write(self.folder / REFUSED, b'')
            raise PrepareError(f'{fault}; {AGAIN}')

    def _damage(self, paths: list[Path], workers: int) -> str | None:
        scale = self.settings.scale
        lr_sizes, hr_sizes = map(_read_sizes, paths)
        if {key: (height * scale, width * scale) for key, (height, width) in lr_sizes.items()} != hr_sizes:
            return f'{META_INFO} of {paths[0]} does not belong to that of {paths[1]}'
        for path, sizes in zip(paths, (lr_sizes, hr_sizes)):
            with (
                _explained_errors(path),
                lmdb.open(str(path), readonly=True, lock=False, readahead=False) as env,
                self._bar(total=len(sizes), desc=f'verify {path.name}') as bar,
                ThreadPoolExecutor(workers) as pool,
            ):
                if (count := env.stat()['entries']) != len(sizes):
                    return f'{path} holds {count} images, its {META_INFO} lists {len(sizes)}'
                keys = iter(sizes)
                while some := list(itertools.islice(keys, 64 * workers)):  # for memory, and to end soon
                    for key, stored in zip(some, pool.map(functools.partial(_stored_size, env), some)):
                        if stored != sizes[key]:
                            fault = f'is damaged or missing ({META_INFO}: {sizes[key]}, stored: {stored})'
                            return f'{path}: image {key} {fault}'
                        bar.update()
        return None

    def finish(self) -> None:
        """Move the LMDBs to their final names, lr first; can be repeated after a kill."""
        for partial, final in zip(self.partial, self.final):
            if partial.exists():
                if final.exists():
                    shutil.rmtree(final)
                os.replace(partial, final)
        shutil.rmtree(self.folder)

    def summary(self, was_complete: bool) -> Summary:
        """Read back what the finished LMDBs say of themselves."""
        lr_path, hr_path = self.final
        skipped = tuple(json.loads((lr_path / SETTINGS).read_text(encoding='utf-8'))['skipped'])
        photographs, pairs = self.settings.images - len(skipped), len(_read_sizes(hr_path))
        return Summary(str(hr_path), str(lr_path), photographs, pairs, skipped, was_complete)


def _put(env: lmdb.Environment, images: dict[str, bytes]) -> None:
    """Store images in one transaction. BasicSR's `LmdbMaker` reserves 1 TB for it, which some machines refuse."""
    while True:
        try:
            with env.begin(write=True) as transaction:
                transaction.cursor().putmulti([(key.encode('ascii'), image) for key, image in images.items()])
            return
        except lmdb.MapFullError:
            env.set_mapsize(2 * env.info()['map_size'])


def _stored_size(env: lmdb.Environment, key: str) -> tuple[int, ...] | None:
    with env.begin() as transaction, contextlib.suppress(ImageReadError):
        return decode_rgb_image(transaction.get(key.encode('ascii')) or b'', key).shape[:2]
    return None


def _read_settings(folder: Path) -> Settings | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        made = json.loads((folder / SETTINGS).read_text(encoding='utf-8'))
        return Settings(*(made[field] for field in Settings._fields))
    return None


def _read_sizes(path: Path) -> dict[str, tuple[int, int]]:
    try:
        return read_meta_info(path)
    except StoreError as error:
        raise PrepareError(f'{path / META_INFO} is missing or damaged; {AGAIN}') from error


@contextlib.contextmanager
def _explained_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_lack_of_memory(error):
            fault = 'There is not enough memory for so many photographs at a time'
            remedy = 'run the command again with fewer --workers, and it goes on from here.'
            raise PrepareError(f'{fault}: {remedy}') from None
        if not isinstance(error, (OSError, lmdb.Error)):
            raise
        reason = getattr(error, 'strerror', None) or error
        remedy = 'Run the same command again when that is put right: it continues where it stopped.'
        raise PrepareError(f'{path} cannot be written or read ({reason}). Is the disk full? {remedy}') from error
