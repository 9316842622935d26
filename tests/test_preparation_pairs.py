"""Photographs to pairs of sub-images."""

import os

import numpy as np
import pytest
from helpers.preparation import lmdb_content, prepare_quietly, random_image, save, save_photographs

from irnsigma_plugin.archs.bicubic import bicubic_downscale
from irnsigma_plugin.images.picture import decode_rgb_image, read_rgb_image
from irnsigma_plugin.preparation import pairs as module
from irnsigma_plugin.preparation.pairs import crop_starts, find_photographs
from irnsigma_plugin.preparation.store import PrepareError


@pytest.fixture
def photographs(tmp_path):
    return save_photographs(tmp_path / 'photographs')


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
        odd = prepare_quietly([photographs], tmp_path / 'odd', crop_size=20, step=None)
        assert odd.pairs == 4 * 2 * 3  # every 8 of 24 x 32: half of 20 is no multiple of 4

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


class TestSources:
    def test_keys_are_ascii_without_dots_and_unique(self, tmp_path):
        for name in ('a.b.png', 'a_b.jpg', 'sub/a.png', 'sub_a.png', 'bäum 1.png', '.hidden.png'):
            save(tmp_path / 'one' / name, random_image(4, 4))
        (tmp_path / 'one' / 'notes.txt').touch()
        save(tmp_path / 'two' / 'sub_a.png', random_image(4, 4))
        found = find_photographs([tmp_path / 'one', tmp_path / 'two', tmp_path / 'one' / 'a_b.jpg'])
        assert list(found) == ['a_b', 'a_b_2', 'b_um_1', 'sub_a', 'sub_a_2', 'sub_a_3']

    def test_folders_that_are_linked_count_and_hidden_ones_do_not(self, photographs, tmp_path):
        save(photographs / '.thumbnails' / 'a.png', random_image(4, 4))
        save(tmp_path / 'elsewhere' / 'b.png', random_image(4, 4))
        (photographs / 'linked').symlink_to(tmp_path / 'elsewhere')
        (photographs / 'linked' / 'round').symlink_to(photographs)
        assert list(find_photographs([photographs])) == ['0', '1', '2', '3', 'linked_b']

    def test_a_folder_that_cannot_be_read_is_named(self, photographs, monkeypatch):
        monkeypatch.setattr(os, 'listdir', lambda path: os.scandir(f'{path}/none'))
        with pytest.raises(PrepareError, match=r'photographs: the folder cannot be read \(No such file'):
            find_photographs([photographs])

    def test_missing_and_empty_sources_are_named(self, tmp_path):
        with pytest.raises(PrepareError, match=r'none: there is no such file or folder; check the path'):
            find_photographs([tmp_path / 'none'])
        with pytest.raises(PrepareError, match=rf'^{tmp_path}: there are no images .*\.png.*check the path'):
            find_photographs([tmp_path])

    def test_unusable_images_are_named_and_skipped(self, photographs, tmp_path):
        (photographs / '1.png').write_bytes((photographs / '1.png').read_bytes()[:500])
        save(photographs / 'small.png', random_image(7, 40))
        summary = prepare_quietly([photographs], tmp_path / 'set')
        assert (summary.photographs, summary.pairs) == (3, 18)
        assert '1.png: damaged' in summary.skipped[0]
        assert 'small.png: 40x7 pixels, 40x4 in whole lr pixels, a side is' in summary.skipped[1]

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
