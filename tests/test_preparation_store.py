"""The two LMDBs: filled, checked, resumed and kept from each other."""

import errno
import fcntl
import operator
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import filelock
import lmdb
import numpy as np
import pytest
from helpers.preparation import lmdb_content, prepare_quietly, random_image, save, save_photographs
from packaging.version import Version

from irnsigma_plugin.images.picture import decode_rgb_image
from irnsigma_plugin.preparation import pairs
from irnsigma_plugin.preparation import store as module
from irnsigma_plugin.preparation.store import PairStore, PrepareError, Settings


@pytest.fixture
def photographs(tmp_path):
    return save_photographs(tmp_path / 'photographs')


def stop_at_the_check(monkeypatch, photographs, folder, **settings):
    """Prepare, but end in an error once everything is made."""
    with monkeypatch.context() as patch:
        patch.setattr(PairStore, '_damage', lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare_quietly([photographs], folder, **settings)


class TestResuming:
    def test_the_lmdb_grows(self, photographs, tmp_path, monkeypatch):
        monkeypatch.setattr(module, 'FIRST_MAP_SIZE', 2**15)
        summary = prepare_quietly([photographs], tmp_path / 'set')
        assert os.path.getsize(f'{summary.hr_path}/data.mdb') > 2**15
        assert summary.pairs == 24

    def test_goes_on_after_a_kill(self, tmp_path, repo_root):
        for index in range(24):
            save(tmp_path / 'in' / f'{index:02d}.png', random_image(120, 120, index))
        code = (  # which does not get further than we let it
            'import sys, time; from irnsigma_plugin.preparation import pairs; make = pairs.make_pairs\n'
            'pairs.make_pairs = lambda key, *args: time.sleep(600) if key == "10" else make(key, *args)\n'
            'pairs.prepare([sys.argv[1]], sys.argv[2], crop_size=32, step=16, workers=1, min_size=8)'
        )
        run = subprocess.Popen(
            [sys.executable, '-c', code, str(tmp_path / 'in'), str(tmp_path / 'set')],
            cwd=repo_root,
            stderr=subprocess.DEVNULL,
        )
        progress = tmp_path / 'set' / 'set_x4.partial' / 'progress.jsonl'
        deadline = time.monotonic() + 300
        while not (progress.exists() and len(progress.read_bytes().splitlines()) >= 3):
            assert time.monotonic() < deadline
            assert run.poll() is None
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
        run.wait()
        done = len(progress.read_bytes().splitlines())
        assert 3 <= done < 24
        assert not (tmp_path / 'set' / 'set_hr.lmdb').exists()
        with open(progress, 'a') as file:
            file.write('{"skipped": nu')  # a line cut short

        made = []
        original = pairs.make_pairs
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pairs, 'make_pairs', lambda *args: made.append(args) or original(*args))
            patch.setattr(PairStore, 'verify', lambda *args: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                prepare_quietly([tmp_path / 'in'], tmp_path / 'set', crop_size=32, step=16)
        resumed = prepare_quietly([tmp_path / 'in'], tmp_path / 'set', crop_size=32, step=16)
        assert len(made) in (24 - done, 25 - done)  # the last line may have been cut short by the kill itself
        uninterrupted = prepare_quietly([tmp_path / 'in'], tmp_path / 'other', crop_size=32, step=16)
        for kind in ('hr_path', 'lr_path'):
            assert lmdb_content(getattr(resumed, kind)) == lmdb_content(getattr(uninterrupted, kind))
        assert sorted(os.listdir(tmp_path / 'set')) == ['set_hr.lmdb', 'set_lr_x4.lmdb']

    def test_a_full_disk_is_said_once(self, photographs, tmp_path, monkeypatch):
        def full(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, 'fsync', full)
        with pytest.raises(PrepareError, match=r'set_x4\.partial cannot be written or read \(No space left .*\)'):
            prepare_quietly([photographs], tmp_path / 'set')

    @pytest.mark.parametrize('stage', ['PairStore.verify', 'os.replace', 'shutil.rmtree'])
    def test_goes_on_when_stopped_at_the_end(self, stage, photographs, tmp_path, monkeypatch):
        expected = prepare_quietly([photographs], tmp_path / 'expected', name='set')

        class Stop(BaseException):
            pass

        def stop(source, *args):
            # Of the renamings only the second LMDB's is stopped.
            if stage != 'os.replace' or str(source).endswith('set_hr.lmdb'):
                raise Stop
            return replace(source, *args)

        replace = os.replace
        with monkeypatch.context() as patch:
            patch.setattr(f'{module.__name__}.{stage}', stop)
            with pytest.raises(Stop):
                prepare_quietly([photographs], tmp_path / 'set')
        resumed = prepare_quietly([photographs], tmp_path / 'set')
        assert lmdb_content(resumed.hr_path) == lmdb_content(expected.hr_path)
        assert lmdb_content(resumed.lr_path) == lmdb_content(expected.lr_path)
        assert sorted(os.listdir(tmp_path / 'set')) == ['set_hr.lmdb', 'set_lr_x4.lmdb']

    def test_a_run_that_the_check_refuses_is_made_anew_with_overwrite(self, photographs, tmp_path, monkeypatch):
        stop_at_the_check(monkeypatch, photographs, tmp_path / 'set')
        with lmdb.open(str(tmp_path / 'set/set_x4.partial/set_hr.lmdb')) as env, env.begin(write=True) as transaction:
            key = next(transaction.cursor().iternext(values=False))
            transaction.put(key, b'damaged')
        with pytest.raises(PrepareError, match='is damaged or missing .* --overwrite'):
            prepare_quietly([photographs], tmp_path / 'set')
        made = prepare_quietly([photographs], tmp_path / 'set', overwrite=True)
        assert lmdb_content(made.hr_path) == lmdb_content(prepare_quietly([photographs], tmp_path / 'other').hr_path)

    def test_an_interrupted_check_goes_on_with_overwrite(self, photographs, tmp_path, monkeypatch):
        stop_at_the_check(monkeypatch, photographs, tmp_path / 'set', overwrite=True)
        monkeypatch.setattr(pairs, 'make_pairs', lambda *args: 1 / 0)
        assert prepare_quietly([photographs], tmp_path / 'set', overwrite=True).photographs == 4

    def test_a_damaged_record_of_a_run_is_named(self, photographs, tmp_path, monkeypatch):
        stop_at_the_check(monkeypatch, photographs, tmp_path / 'set')
        (tmp_path / 'set/set_x4.partial/progress.jsonl').write_bytes(b'\0\0\0\0\n')
        with pytest.raises(PrepareError, match=r'progress.jsonl is damaged; remove .*, or give --overwrite'):
            prepare_quietly([photographs], tmp_path / 'set')
        assert prepare_quietly([photographs], tmp_path / 'set', overwrite=True).photographs == 4

    def test_an_interrupted_run_with_other_settings_is_kept(self, photographs, tmp_path, monkeypatch):
        stop_at_the_check(monkeypatch, photographs, tmp_path / 'set')
        with pytest.raises(PrepareError, match='interrupted run with other settings .step 8 there, 4 now'):
            prepare_quietly([photographs], tmp_path / 'set', step=4)
        assert prepare_quietly([photographs], tmp_path / 'set', step=4, overwrite=True).pairs == 4 * 3 * 5

    @pytest.mark.parametrize('stage', ['PairStore.verify', 'PairStore.begin', 'shutil.rmtree'])
    def test_of_two_runs_at_once_the_second_is_refused(self, stage, photographs, tmp_path, monkeypatch):
        def second_run(*args, **settings):
            for overwrite in (False, True):
                with pytest.raises(PrepareError, match=r'right now: another process works in .*set_x4\.partial'):
                    prepare_quietly([photographs], tmp_path / 'set', overwrite=overwrite)
            refused.append(True)
            return original(*args, **settings)

        refused = []
        original = operator.attrgetter(stage)(module)
        with monkeypatch.context() as patch:
            patch.setattr(f'{module.__name__}.{stage}', second_run)
            first = prepare_quietly([photographs], tmp_path / 'set')
        assert refused
        assert not first.was_complete
        assert prepare_quietly([photographs], tmp_path / 'set').was_complete

    def test_a_run_that_another_has_just_overtaken_changes_nothing(self, photographs, tmp_path, monkeypatch):
        def overtaken(store):
            assert not is_begun(store)
            with monkeypatch.context() as patch:
                patch.setattr(PairStore, 'is_begun', is_begun)
                prepare_quietly([photographs], tmp_path / 'set')
            return True  # as it would have been a moment ago

        is_begun = PairStore.is_begun
        monkeypatch.setattr(PairStore, 'is_begun', overtaken)
        assert prepare_quietly([photographs], tmp_path / 'set').was_complete
        assert sorted(os.listdir(tmp_path / 'set')) == ['set_hr.lmdb', 'set_lr_x4.lmdb']

    def test_finished_data_is_only_checked(self, photographs, tmp_path, monkeypatch):
        first = prepare_quietly([photographs], tmp_path / 'set')
        monkeypatch.setattr(pairs, 'make_pairs', None)
        second = prepare_quietly([photographs], tmp_path / 'set')
        assert (first.was_complete, second.was_complete) == (False, True)
        assert (second.pairs, second.photographs) == (first.pairs, first.photographs)

    def test_finished_data_of_other_images_or_settings_is_kept(self, photographs, tmp_path):
        prepare_quietly([photographs], tmp_path / 'set')
        with pytest.raises(PrepareError, match='other settings .crop_size 16 there, 24 now.*--overwrite'):
            prepare_quietly([photographs], tmp_path / 'set', crop_size=24)
        save(photographs / '1.png', np.zeros((26, 35, 3), np.uint8))
        with pytest.raises(PrepareError, match='other image files'):
            prepare_quietly([photographs], tmp_path / 'set')
        summary = prepare_quietly([photographs], tmp_path / 'set', overwrite=True)
        assert (decode_rgb_image(lmdb_content(summary.hr_path)['1_s001'], '1') == 0).all()

    def test_other_files_are_never_overwritten(self, photographs, tmp_path):
        (tmp_path / 'set' / 'set_hr.lmdb').mkdir(parents=True)
        (tmp_path / 'set' / 'set_hr.lmdb' / 'letter.txt').touch()
        with pytest.raises(PrepareError, match='was not made by this program'):
            prepare_quietly([photographs], tmp_path / 'set')
        with pytest.raises(PrepareError, match='not only an LMDB'):
            prepare_quietly([photographs], tmp_path / 'set', overwrite=True)
        assert (tmp_path / 'set' / 'set_hr.lmdb' / 'letter.txt').exists()

    def test_damage_is_found_by_the_check(self, photographs, tmp_path):
        summary = prepare_quietly([photographs], tmp_path / 'set')
        with lmdb.open(summary.lr_path) as env, env.begin(write=True) as transaction:
            transaction.put(b'1_s002', cv2.imencode('.png', random_image(4, 8))[1].tobytes())
        with pytest.raises(PrepareError, match=r'lr_x4.lmdb: image 1_s002 .*\(4, 4\), stored: \(4, 8'):
            prepare_quietly([photographs], tmp_path / 'set')
        with lmdb.open(summary.lr_path) as env, env.begin(write=True) as transaction:
            transaction.delete(b'1_s002')
        with pytest.raises(PrepareError, match='holds 23 images, its meta_info.txt lists 24'):
            prepare_quietly([photographs], tmp_path / 'set')

    @pytest.mark.parametrize('damage', [lambda path: path.write_text('1 (4,4,3)\n'), os.unlink], ids=['text', 'none'])
    def test_a_damaged_listing_is_named(self, damage, photographs, tmp_path):
        summary = prepare_quietly([photographs], tmp_path / 'set')
        damage(Path(summary.hr_path, 'meta_info.txt'))
        with pytest.raises(PrepareError, match=r'set_hr.lmdb/meta_info.txt is missing or damaged.*--overwrite'):
            prepare_quietly([photographs], tmp_path / 'set')

    def test_what_is_left_of_a_discarded_run_is_not_taken_for_a_finished_one(self, photographs, tmp_path, monkeypatch):
        """A kill amid the removal of an interrupted run with other settings."""
        stop_at_the_check(monkeypatch, photographs, tmp_path / 'set')
        with monkeypatch.context() as patch:
            patch.setattr(
                module.shutil, 'rmtree', lambda path: (path / 'set_lr_x4.lmdb' / 'data.mdb').unlink() or 1 / 0
            )
            with pytest.raises(ZeroDivisionError):
                prepare_quietly([photographs], tmp_path / 'set', step=4, overwrite=True)
        assert prepare_quietly([photographs], tmp_path / 'set').pairs == 4 * 2 * 3


class TestClaim:
    @pytest.fixture
    def store(self, tmp_path):
        return PairStore(str(tmp_path), 'set', Settings(4, None, None, 8, 0, ''), progress=False)

    def test_one_at_a_time(self, store, tmp_path):
        other = PairStore(str(tmp_path), 'other', store.settings, progress=False)
        for _ in range(2):
            with store.claimed():
                with pytest.raises(PrepareError, match='another process works in '), store.claimed():
                    pass
                with other.claimed():
                    pass
            assert list(tmp_path.iterdir()) == []

    def test_a_kill_ends_the_claim(self, store, tmp_path, repo_root):
        code = (
            'import sys, time; from irnsigma_plugin.preparation.store import PairStore, Settings\n'
            'store = PairStore(sys.argv[1], "set", Settings(4, None, None, 8, 0, ""), progress=False)\n'
            'with store.claimed(): print("claimed", flush=True); time.sleep(60)'
        )
        with subprocess.Popen(
            [sys.executable, '-c', code, str(tmp_path)], cwd=repo_root, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == 'claimed\n'
            with pytest.raises(PrepareError), store.claimed():
                pass
            process.kill()
            process.wait()
            with store.claimed():
                pass
        assert list(tmp_path.iterdir()) == []

    def test_a_lock_removed_meanwhile_is_no_claim(self, store, tmp_path, monkeypatch):
        def removed(descriptor, operation):
            flock(descriptor, operation)
            if operation & fcntl.LOCK_EX:
                os.unlink(tmp_path / 'set_x4.partial.lock')

        flock = fcntl.flock
        monkeypatch.setattr(fcntl, 'flock', removed)
        with pytest.raises(PrepareError, match='right now: another process'), store.claimed():
            pass

    @pytest.mark.parametrize('code', [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
    @pytest.mark.filterwarnings('ignore:flock not supported')
    def test_without_locks_the_work_goes_on(self, store, tmp_path, monkeypatch, code):
        if code != errno.ENOSYS and Version(filelock.__version__) < Version('4'):
            pytest.skip('this version of filelock takes the error for a lock of another process')

        def unsupported(*_):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, 'flock', unsupported)
        with store.claimed():
            pass
        assert list(tmp_path.iterdir()) == []
