import errno
import importlib.util
import io
import operator
import os
import signal
import subprocess
import sys
import time

import cv2
import lmdb
import numpy as np
import pytest
from PIL import Image

from irnsigma_plugin.archs.bicubic import bicubic_downscale
from irnsigma_plugin.images.picture import ImageReadError, decode_rgb_image, read_rgb_image
from irnsigma_plugin.preparation import pairs as module
from irnsigma_plugin.preparation.pairs import PrepareError, crop_starts, find_photographs, prepare


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def encode(image, extension='.png'):
    return cv2.imencode(extension, image)[1].tobytes()


def lmdb_content(path):
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        return {bytes(key).decode(): bytes(value) for key, value in transaction.cursor()}


def prepare_quietly(sources, destination, **settings):
    return prepare(sources, destination, **{'progress': False, 'crop_size': 16, 'step': 8, 'min_size': 8, **settings})


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / 'photographs'
    for index in range(4):
        save(folder / f'{index}.png', random_image(26, 35, index))
    return folder


class TestReading:
    def test_grey_palette_and_opaque_alpha_become_rgb(self):
        image = random_image(5, 7)
        grey = image[..., 0]
        np.testing.assert_array_equal(decode_rgb_image(encode(grey), 'grey'), np.stack([grey] * 3, -1))
        opaque = np.dstack([image, np.full((5, 7), 255, np.uint8)])
        for pixels in (image, opaque):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, 'png')
            np.testing.assert_array_equal(decode_rgb_image(file.getvalue(), 'rgb'), image)
        file = io.BytesIO()
        palette = Image.fromarray(image // 128 * 128).quantize(8)
        palette.save(file, 'png')
        np.testing.assert_array_equal(decode_rgb_image(file.getvalue(), 'palette'), image // 128 * 128)

    @pytest.mark.parametrize('extension', ['.png', '.tiff'])
    def test_16_bit_is_rounded_to_8(self, extension):
        values = np.array([[0, 128, 129, 257, 65406, 65407, 65535]], np.uint16)
        expected = np.array([[0, 0, 1, 1, 254, 255, 255]], np.uint8)
        np.testing.assert_array_equal(decode_rgb_image(encode(values, extension), 'grey'), np.stack([expected] * 3, -1))
        bgr = np.dstack([values, values * 0, values * 0 + 65535])
        np.testing.assert_array_equal(
            decode_rgb_image(encode(bgr, extension), 'colour'), np.dstack([expected * 0 + 255, expected * 0, expected])
        )

    def test_the_orientation_of_cameras_is_applied(self):
        image = Image.fromarray(random_image(5, 7))
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned clockwise
        file = io.BytesIO()
        image.save(file, 'png', exif=exif)
        np.testing.assert_array_equal(decode_rgb_image(file.getvalue(), 'turned'), np.rot90(image, -1))

    @pytest.mark.parametrize('extension', ['.png', '.jpg', '.bmp', '.tiff', '.webp'])
    def test_truncated_files_are_refused_by_name(self, extension):
        content = encode(random_image(64, 64), extension)
        assert decode_rgb_image(content, 'whole').shape == (64, 64, 3)
        for length in (len(content) // 2, 10):
            with pytest.raises(ImageReadError, match=r'photo: .*damaged.*(copy it again|save it as PNG)'):
                decode_rgb_image(content[:length], 'photo')

    @pytest.mark.parametrize(
        ('mode', 'message'),
        [('RGBA', 'transparent'), ('LA', 'transparent'), ('CMYK', 'type CMYK'), ('F', 'type F with 32 bits')],
    )
    def test_kinds_that_need_a_choice_are_refused_by_name(self, mode, message, tmp_path):
        path = tmp_path / 'photo.tiff'
        Image.new(mode, (6, 4)).save(path)
        with pytest.raises(ImageReadError, match=f'photo.tiff: .*{message}'):
            read_rgb_image(path)

    def test_16_bit_transparency_is_refused(self):
        pixels = np.full((4, 4, 4), 65535, np.uint16)
        assert (decode_rgb_image(encode(pixels), 'opaque') == 255).all()
        pixels[0, 0, 3] = 65534
        with pytest.raises(ImageReadError, match='photo: has transparent'):
            decode_rgb_image(encode(pixels), 'photo')

    def test_what_is_no_image_is_refused_by_name(self, tmp_path):
        (tmp_path / 'empty.png').touch()
        (tmp_path / 'text.png').write_text('not an image')
        for name, message in (
            ('empty.png', 'is empty'),
            ('text.png', 'no image of a supported kind'),
            ('none.png', 'cannot be read'),
        ):
            with pytest.raises(ImageReadError, match=f'{name}: .*{message}'):
                read_rgb_image(tmp_path / name)


class TestCutting:
    def test_the_last_part_ends_at_the_border(self):
        assert crop_starts(480, 480, 240) == [0]
        assert crop_starts(960, 480, 240) == [0, 240, 480]
        assert crop_starts(1000, 480, 240) == [0, 240, 480, 520]

    def test_pairs_are_the_parts_of_the_whole_images(self, photographs, tmp_path):
        summary = prepare_quietly([photographs], tmp_path / 'set')
        assert (summary.photographs, summary.pairs, summary.skipped) == (4, 4 * 2 * 3, ())
        assert [os.path.basename(path) for path in (summary.hr_path, summary.lr_path)] == [
            'set_hr.lmdb',
            'set_lr_x4.lmdb',
        ]
        hr, lr = lmdb_content(summary.hr_path), lmdb_content(summary.lr_path)
        assert hr.keys() == lr.keys()
        whole_hr = read_rgb_image(photographs / '2.png')[:24, :32]
        whole_lr = bicubic_downscale(whole_hr, 4)
        corners = [(top, left) for top in (0, 8) for left in (0, 8, 16)]
        for number, (top, left) in enumerate(corners, 1):
            key = f'2_s{number:03d}'
            np.testing.assert_array_equal(decode_rgb_image(hr[key], key), whole_hr[top : top + 16, left : left + 16])
            np.testing.assert_array_equal(
                decode_rgb_image(lr[key], key), whole_lr[top // 4 : top // 4 + 4, left // 4 : left // 4 + 4]
            )
        with open(os.path.join(summary.lr_path, 'meta_info.txt')) as file:
            assert file.readline() == '0_s001.png (4,4,3) 1\n'

    def test_whole_images_and_sides_shorter_than_the_crop(self, photographs, tmp_path):
        whole = prepare_quietly([photographs], tmp_path / 'whole', crop_size=None, step=None)
        assert {decode_rgb_image(png, key).shape for key, png in lmdb_content(whole.hr_path).items()} == {(24, 32, 3)}
        assert lmdb_content(whole.hr_path).keys() == {'0', '1', '2', '3'}
        wide = prepare_quietly([photographs], tmp_path / 'wide', crop_size=28, step=4)
        assert {decode_rgb_image(png, key).shape for key, png in lmdb_content(wide.lr_path).items()} == {(6, 7, 3)}
        assert wide.pairs == 4 * 2

    def test_basicsr_reads_the_pairs(self, photographs, tmp_path):
        from basicsr.data.paired_image_dataset import PairedImageDataset

        summary = prepare_quietly([photographs], tmp_path / 'set', crop_size=None)
        dataset = PairedImageDataset(
            {
                'dataroot_gt': summary.hr_path,
                'dataroot_lq': summary.lr_path,
                'io_backend': {'type': 'lmdb'},
                'scale': 4,
                'phase': 'val',
            }
        )
        assert len(dataset) == 4
        item = dataset[1]
        assert item['gt_path'] == '1'
        hr = read_rgb_image(photographs / '1.png')[:24, :32]
        np.testing.assert_array_equal((item['gt'] * 255).numpy().round(), hr.transpose(2, 0, 1))
        np.testing.assert_array_equal((item['lq'] * 255).numpy().round(), bicubic_downscale(hr, 4).transpose(2, 0, 1))

    def test_workers_do_not_change_the_result(self, photographs, tmp_path):
        one, three = (prepare_quietly([photographs], tmp_path / str(workers), workers=workers) for workers in (1, 3))
        for kind in ('hr_path', 'lr_path'):
            assert lmdb_content(getattr(one, kind)) == lmdb_content(getattr(three, kind))
        with open(f'{one.hr_path}/meta_info.txt') as first, open(f'{three.hr_path}/meta_info.txt') as second:
            assert first.read() == second.read()

    def test_the_lmdb_grows(self, photographs, tmp_path, monkeypatch):
        monkeypatch.setattr(module, 'FIRST_MAP_SIZE', 2**15)
        summary = prepare_quietly([photographs], tmp_path / 'set')
        assert os.path.getsize(f'{summary.hr_path}/data.mdb') > 2**15
        assert summary.pairs == 24


class TestSources:
    def test_keys_are_ascii_without_dots_and_unique(self, tmp_path):
        for name in ('a.b.png', 'a_b.jpg', 'sub/a.png', 'sub_a.png', 'bäum 1.png', '.hidden.png'):
            save(tmp_path / 'one' / name, random_image(4, 4))
        (tmp_path / 'one' / 'notes.txt').touch()
        save(tmp_path / 'two' / 'sub_a.png', random_image(4, 4))
        found = find_photographs([tmp_path / 'one', tmp_path / 'two', tmp_path / 'one' / 'a_b.jpg'])
        assert [photograph.key for photograph in found] == ['a_b', 'a_b_2', 'b_um_1', 'sub_a', 'sub_a_2', 'sub_a_3']

    def test_folders_that_are_linked_count_and_hidden_ones_do_not(self, photographs, tmp_path):
        save(photographs / '.thumbnails' / 'a.png', random_image(4, 4))
        save(tmp_path / 'elsewhere' / 'b.png', random_image(4, 4))
        (photographs / 'linked').symlink_to(tmp_path / 'elsewhere')
        (photographs / 'linked' / 'round').symlink_to(photographs)
        assert [photograph.key for photograph in find_photographs([photographs])] == ['0', '1', '2', '3', 'linked_b']

    def test_a_folder_that_cannot_be_read_is_named(self, photographs, monkeypatch):
        monkeypatch.setattr(os, 'listdir', lambda path: os.scandir(f'{path}/none'))
        with pytest.raises(PrepareError, match=r'photographs: the folder cannot be read \(No such file'):
            find_photographs([photographs])

    def test_missing_and_empty_sources_are_named(self, tmp_path):
        with pytest.raises(PrepareError, match=r'none does not exist; give'):
            find_photographs([tmp_path / 'none'])
        with pytest.raises(PrepareError, match=r'No images in .*\.png'):
            find_photographs([tmp_path])

    def test_unusable_images_are_named_and_skipped(self, photographs, tmp_path):
        (photographs / '1.png').write_bytes((photographs / '1.png').read_bytes()[:500])
        save(photographs / 'small.png', random_image(7, 40))
        summary = prepare_quietly([photographs], tmp_path / 'set')
        assert (summary.photographs, summary.pairs) == (3, 18)
        assert '1.png: damaged' in summary.skipped[0]
        assert 'small.png: 40x7 pixels' in summary.skipped[1]

    def test_a_link_to_nothing_is_named(self, photographs, tmp_path):
        (photographs / '9.png').symlink_to(tmp_path / 'gone.png')
        with pytest.raises(PrepareError, match=r'gone\.png cannot be read \(No such file or directory\)'):
            prepare_quietly([photographs], tmp_path / 'set')

    def test_a_run_without_memory_can_go_on(self, photographs, tmp_path, monkeypatch):
        def exhausted(*args):
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(module, 'make_pairs', exhausted)
            with pytest.raises(PrepareError, match='not enough memory.*fewer --workers'):
                prepare_quietly([photographs], tmp_path / 'set')
        assert prepare_quietly([photographs], tmp_path / 'set').photographs == 4

    def test_nothing_usable_is_an_error_and_leaves_nothing(self, tmp_path):
        save(tmp_path / 'in' / 'small.png', random_image(7, 40))
        with pytest.raises(PrepareError, match=r'None of the images.*small\.png'):
            prepare_quietly([tmp_path / 'in'], tmp_path / 'set')
        assert list((tmp_path / 'set').iterdir()) == []

    @pytest.mark.parametrize(
        ('settings', 'message'),
        [
            ({'crop_size': 18}, 'crop_size must be a multiple of the scale 4, got 18; 16 is'),
            ({'step': 6}, 'step must be a multiple of the scale 4, got 6'),
            ({'step': 20}, 'step 20 is larger than crop_size 16'),
            ({'scale': 1}, 'scale must be from 2 to 16, got 1'),
            ({'min_size': 3}, 'min_size must be at least the scale 4'),
            ({'name': 'a/b'}, 'name is the first part of file names'),
        ],
    )
    def test_wrong_settings_are_named(self, settings, message, photographs, tmp_path):
        with pytest.raises(ValueError, match=message):
            prepare_quietly([photographs], tmp_path / 'set', **settings)


class TestResuming:
    def test_goes_on_after_a_kill(self, tmp_path, repo_root):
        for index in range(24):
            save(tmp_path / 'in' / f'{index:02d}.png', random_image(120, 120, index))
        code = (
            'import sys; from irnsigma_plugin.preparation.pairs import prepare; '
            'prepare([sys.argv[1]], sys.argv[2], crop_size=32, step=16, workers=1, min_size=8)'
        )
        run = subprocess.Popen(
            [sys.executable, '-c', code, str(tmp_path / 'in'), str(tmp_path / 'set')],
            cwd=repo_root,
            stderr=subprocess.DEVNULL,
        )
        progress = tmp_path / 'set' / 'set_x4.partial' / 'progress.jsonl'
        deadline = time.monotonic() + 60
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
        original = module.make_pairs
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, 'make_pairs', lambda *args: made.append(args) or original(*args))
            patch.setattr(module, '_verify', lambda *args: 1 / 0)
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

    @pytest.mark.parametrize('stage', ['_verify', 'os.replace', 'shutil.rmtree'])
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

    def test_an_interrupted_run_with_other_settings_is_kept(self, photographs, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(module, '_verify', lambda *args: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                prepare_quietly([photographs], tmp_path / 'set')
        with pytest.raises(PrepareError, match='interrupted run with other settings .step 8 there, 4 now'):
            prepare_quietly([photographs], tmp_path / 'set', step=4)
        assert prepare_quietly([photographs], tmp_path / 'set', step=4, overwrite=True).pairs == 4 * 3 * 5

    @pytest.mark.parametrize('stage', ['_verify', '_remove_lmdb', 'shutil.rmtree'])
    def test_of_two_runs_at_once_the_second_is_refused(self, stage, photographs, tmp_path, monkeypatch):
        def second_run(*args):
            for overwrite in (False, True):
                with pytest.raises(PrepareError, match=r'right now: another process works in .*set_x4\.partial'):
                    prepare_quietly([photographs], tmp_path / 'set', overwrite=overwrite)
            refused.append(True)
            return original(*args)

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
                patch.setattr(module._Store, 'is_begun', is_begun)
                prepare_quietly([photographs], tmp_path / 'set')
            return True  # as it would have been a moment ago

        is_begun = module._Store.is_begun
        monkeypatch.setattr(module._Store, 'is_begun', overtaken)
        assert prepare_quietly([photographs], tmp_path / 'set').was_complete
        assert sorted(os.listdir(tmp_path / 'set')) == ['set_hr.lmdb', 'set_lr_x4.lmdb']

    def test_finished_data_is_only_checked(self, photographs, tmp_path, monkeypatch):
        first = prepare_quietly([photographs], tmp_path / 'set')
        monkeypatch.setattr(module, 'make_pairs', None)
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
            transaction.put(b'1_s002', encode(random_image(4, 8)))
        with pytest.raises(PrepareError, match=r'lr_x4.lmdb: image 1_s002 .*\(4, 4\), stored: \(4, 8'):
            prepare_quietly([photographs], tmp_path / 'set')
        with lmdb.open(summary.lr_path) as env, env.begin(write=True) as transaction:
            transaction.delete(b'1_s002')
        with pytest.raises(PrepareError, match='holds 23 images, its meta_info.txt lists 24'):
            prepare_quietly([photographs], tmp_path / 'set')


class TestCommand:
    @pytest.fixture
    def main(self, repo_root):
        spec = importlib.util.spec_from_file_location('prepare_data', f'{repo_root}/scripts/prepare_data.py')
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        return script.main

    def test_names_the_data_and_the_skipped_images(self, main, photographs, tmp_path, capsys):
        (photographs / 'bad.jpg').touch()
        arguments = [str(photographs), str(tmp_path / 'set'), '--crop-size', '16', '--min-size', '8']
        assert main(arguments) == 0
        output = capsys.readouterr()
        assert f'dataroot_gt: {tmp_path}/set/set_hr.lmdb' in output.out
        assert f'dataroot_lq: {tmp_path}/set/set_lr_x4.lmdb' in output.out
        assert 'bad.jpg: the file is empty' in output.err
        assert main([*arguments, '--strict']) == 1
        assert 'Already complete' in capsys.readouterr().out

    def test_errors_are_one_line(self, main, photographs, tmp_path, capsys):
        assert main([str(photographs), str(tmp_path / 'set'), '--crop-size', '15']) == 2
        assert main([str(tmp_path / 'none'), str(tmp_path / 'set')]) == 1
        errors = capsys.readouterr().err.splitlines()
        assert errors[0].startswith('error: crop_size must be a multiple of the scale 4, got 15')
        assert errors[1].startswith(f'error: {tmp_path}/none does not exist')
        assert len(errors) == 2
