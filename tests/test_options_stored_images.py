"""Faults of stored data sets are told from listings and headers."""

from __future__ import annotations

import pytest
from helpers.experiment import write_photographs
from PIL import Image

from irnsigma_plugin.options import stored_images
from irnsigma_plugin.options.stored_images import open_store, stored_faults
from irnsigma_plugin.preparation.pairs import prepare


@pytest.fixture
def folders(tmp_path):
    """Options of a PairedImageDataset of three pairs, 64x96 and 16x24."""
    write_photographs(tmp_path / 'hr', height=64, width=96)
    write_photographs(tmp_path / 'lr', height=16, width=24)
    return {
        'type': 'PairedImageDataset',
        'dataroot_gt': str(tmp_path / 'hr'),
        'dataroot_lq': str(tmp_path / 'lr'),
        'io_backend': {'type': 'disk'},
        'gt_size': 32,
        'batch_size_per_gpu': 1,
        'scale': 4,
        'phase': 'train',
    }


@pytest.fixture
def lmdbs(tmp_path):
    """Options of a PairedImageDataset of prepared LMDBs: twelve pairs of 48x48."""
    made = prepare(
        [write_photographs(tmp_path / 'photographs')],
        tmp_path / 'set',
        crop_size=48,
        step=48,
        min_size=48,
        workers=1,
        progress=False,
    )
    return {
        'type': 'PairedImageDataset',
        'dataroot_gt': made.hr_path,
        'dataroot_lq': made.lr_path,
        'io_backend': {'type': 'lmdb'},
        'gt_size': 32,
        'batch_size_per_gpu': 1,
        'scale': 4,
        'phase': 'train',
    }


def one_fault(options) -> str:
    (fault,) = stored_faults('datasets.train', options)
    assert fault.startswith('datasets.train')
    return fault


def test_good_data_sets(folders, lmdbs):
    assert list(stored_faults('a', folders)) == []
    assert list(stored_faults('a', lmdbs)) == []
    for options in (folders, lmdbs):
        hr_only = {**options, 'type': 'HRImageDataset'}
        del hr_only['dataroot_lq']
        assert list(stored_faults('a', hr_only)) == []
        lr_only = {**options, 'type': 'SingleImageDataset', 'phase': 'test'}
        del lr_only['dataroot_gt']
        assert list(stored_faults('a', lr_only)) == []


def test_missing_places_are_all_named(folders, lmdbs, tmp_path):
    for options in (folders, lmdbs):
        places = {'dataroot_gt': f'{tmp_path}/none.lmdb', 'dataroot_lq': f'{tmp_path}/nil.lmdb'}
        faults = list(stored_faults('datasets.train', {**options, **places}))
        assert len(faults) == 2
        assert faults[0].startswith('datasets.train.dataroot_gt: the ')
        assert f'{tmp_path}/none.lmdb does not exist (relative paths start at ' in faults[0]
        assert faults[1].startswith('datasets.train.dataroot_lq: the ')


def test_an_empty_folder(folders, tmp_path):
    (tmp_path / 'empty' / 'inside').mkdir(parents=True)
    fault = one_fault({**folders, 'dataroot_gt': str(tmp_path / 'empty')})
    assert 'no images in the folder' in fault
    assert 'Its subfolders are not searched: inside' in fault


def test_a_list_of_files(folders, tmp_path):
    listing = tmp_path / 'list.txt'
    listing.write_text('photo0.png (64,96,3)\nphoto7.png\n')
    faults = list(stored_faults('a', {**folders, 'meta_info_file': str(listing)}))
    assert any('photo7.png: missing or not an image' in fault for fault in faults)
    for line, name in (('', "''"), ('b c.png (64,96,3)', "'b c.png'")):
        listing.write_text(f'photo0.png (64,96,3)\n{line}\nphoto1.png (64,96,3)\n')
        (fault,) = stored_faults('a', {**folders, 'meta_info_file': str(listing)})
        assert f'line 2 of meta_info_file {listing} has the name {name}, for which BasicSR takes' in fault
    (tmp_path / 'hr' / 'photo0.png').rename(tmp_path / 'hr' / 'photo (1).png')
    listing.write_text('photo (1).png (64,96,3)\nphoto1.png (64, 96, 3) 1\n')
    opened = open_store(str(tmp_path / 'hr'), {**folders, 'type': 'HRImageDataset', 'meta_info_file': str(listing)})
    assert opened.names == ['photo (1).png', 'photo1.png']
    listing.write_text('')
    assert 'lists no images' in one_fault({**folders, 'meta_info_file': str(listing)})
    assert 'none.txt does not exist' in one_fault({**folders, 'meta_info_file': str(tmp_path / 'none.txt')})


@pytest.mark.parametrize(
    ('file', 'message'),
    [
        ('meta_info.txt', 'has no meta_info.txt; give an LMDB made by `irnsigma prepare`'),
        ('data.mdb', 'has no data.mdb'),
    ],
)
def test_an_incomplete_lmdb(lmdbs, tmp_path, file, message):
    (tmp_path / 'set' / 'set_hr.lmdb' / file).unlink()
    assert message in one_fault(lmdbs)


def test_a_damaged_list_of_an_lmdb(lmdbs, tmp_path):
    meta_info = tmp_path / 'set' / 'set_hr.lmdb' / 'meta_info.txt'
    meta_info.write_text('a.png (48,48,3) 1\nb.png\n')
    assert 'line 2 of' in one_fault(lmdbs)
    meta_info.write_text('')
    assert 'lists no images' in one_fault(lmdbs)


def test_a_folder_is_no_lmdb(folders):
    faults = list(stored_faults('a', {**folders, 'io_backend': {'type': 'lmdb'}}))
    assert len(faults) == 2
    assert all("must end with '.lmdb'" in fault for fault in faults)


def test_pairs_of_another_scale(folders, lmdbs):
    for options, first in ((folders, 'photo0.png (64x96, lr 16x24)'), (lmdbs, ' (48x48, lr 12x12)')):
        fault = one_fault({**options, 'scale': 2})
        assert 'dataroot_gt must be 2 times the size of dataroot_lq' in fault
        assert first in fault


def test_a_border_that_basicsr_cuts_off_is_no_fault_of_a_test(folders, tmp_path):
    write_photographs(tmp_path / 'hr', height=66, width=97)
    assert 'photo0.png (66x97, lr 16x24)' in one_fault(folders)
    assert list(stored_faults('a', {**folders, 'phase': 'test'})) == []
    write_photographs(tmp_path / 'hr', height=75, width=107)  # as where the lr is of what is a multiple of 12
    assert list(stored_faults('a', {**folders, 'phase': 'test'})) == []
    for height in (60, 128):
        write_photographs(tmp_path / 'hr', height=height, width=97)
        assert f'photo0.png ({height}x97, lr 16x24)' in one_fault({**folders, 'phase': 'test'})


def test_photographs_on_their_side_are_taken_as_they_are_read(folders, tmp_path):
    for folder in ('hr', 'lr'):
        photograph = Image.open(tmp_path / folder / 'photo0.png')
        photograph.save(tmp_path / folder / 'photo0.jpg')
        (tmp_path / folder / 'photo0.png').unlink()
    exif = photograph.getexif()
    exif[0x0112] = 6
    on_its_side = Image.open(tmp_path / 'hr' / 'photo0.jpg').rotate(90, expand=True)
    on_its_side.save(tmp_path / 'hr' / 'photo0.jpg', exif=exif)
    assert Image.open(tmp_path / 'hr' / 'photo0.jpg').size == (64, 96)
    assert list(stored_faults('a', folders)) == []


def test_a_list_may_be_of_a_part_of_the_folders(folders, tmp_path):
    (tmp_path / 'list.txt').write_text('photo0.png\nphoto2.png\n')
    options = {**folders, 'meta_info_file': str(tmp_path / 'list.txt')}
    assert list(stored_faults('a', options)) == []
    (tmp_path / 'lr' / 'photo2.png').unlink()
    assert 'without lr: photo2.png.' in one_fault(options)


def test_lmdbs_of_different_preparations(lmdbs, tmp_path):
    prepare(
        [tmp_path / 'photographs'],
        tmp_path / 'set',
        scale=2,
        crop_size=48,
        step=48,
        min_size=48,
        workers=1,
        overwrite=True,
        progress=False,
    )
    fault = one_fault(lmdbs)
    assert f'{lmdbs["dataroot_gt"]} and {lmdbs["dataroot_lq"]} were not made together' in fault
    assert '--name' in fault


def test_images_without_counterpart(folders, lmdbs, tmp_path):
    (tmp_path / 'lr' / 'photo1.png').unlink()
    assert 'dataroot_gt lists 3 images and dataroot_lq 2; without lr: photo1.png.' in one_fault(folders)
    meta_info = tmp_path / 'set' / 'set_lr_x4.lmdb' / 'meta_info.txt'
    meta_info.write_text(''.join(meta_info.read_text().splitlines(keepends=True)[1:]))
    assert 'dataroot_gt lists 12 images and dataroot_lq 11; without lr: ' in one_fault(lmdbs)


def test_names_of_the_lr_files(folders, tmp_path):
    for path in (tmp_path / 'lr').iterdir():
        path.rename(path.with_name(f'{path.stem}x4.png'))
    assert 'without lr: photo0.png, photo1.png, photo2.png.' in one_fault(folders)
    assert list(stored_faults('a', {**folders, 'filename_tmpl': '{}x4'})) == []


def test_images_smaller_than_a_patch(folders, lmdbs):
    for options in (folders, lmdbs):
        fault = one_fault({**options, 'gt_size': 68})
        assert 'images smaller than gt_size 68: ' in fault
        assert 'remove them or lower gt_size' in fault


def test_images_that_are_none(folders, tmp_path):
    (tmp_path / 'hr' / 'photo1.png').write_text('<html>')
    assert 'photo1.png: missing or not an image' in one_fault(folders)


def test_of_a_large_folder_a_sample_is_looked_at(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(stored_images, 'HEADERS', 2)
    (tmp_path / 'hr' / 'photo1.png').write_text('<html>')  # the second of three
    assert list(stored_faults('a', folders)) == []


@pytest.mark.parametrize('namesake', ['photo1.jpg', 'night/photo1.png'])
def test_pictures_that_would_replace_one_another(folders, tmp_path, namesake):
    hr_only = {**folders, 'type': 'HRImageDataset', 'phase': 'val'}
    del hr_only['dataroot_lq']
    path = tmp_path / 'hr' / namesake
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((tmp_path / 'hr' / 'photo1.png').read_bytes())
    listing = tmp_path / 'list.txt'
    listing.write_text(f'photo0.png\nphoto1.png\n{namesake}\n')
    hr_only['meta_info_file'] = str(listing)
    assert list(stored_faults('datasets.val', hr_only)) == []
    (fault,) = stored_faults('datasets.val', hr_only, saves_pictures=True)
    assert fault.startswith(f'datasets.val: pictures of photo1.png and {namesake} would be saved under the same name')
