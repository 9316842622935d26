import pickle
import random

import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.paired_image_dataset import PairedImageDataset
from PIL import Image
from torch.utils.data import DataLoader

from irnsigma_plugin.archs.bicubic import bicubic_downscale
from irnsigma_plugin.images.picture import ImageReadError
from irnsigma_plugin.preparation.pairs import prepare
from irnsigma_plugin.training.hr_image_dataset import HRImageDataset

SIZES = {'a.png': (34, 41), 'b.png': (24, 24), 'c.png': (50, 27)}


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def to_tensor(image):
    return torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / 'hr'
    folder.mkdir()
    for seed, (name, size) in enumerate(SIZES.items()):
        Image.fromarray(random_image(*size, seed)).save(folder / name)
    (folder / 'notes.txt').touch()
    return folder


def options(folder, **changes):
    opt = {
        'name': 'hr',
        'type': 'HRImageDataset',
        'dataroot_gt': str(folder),
        'io_backend': {'type': 'disk'},
        'scale': 4,
        'phase': 'train',
        'gt_size': 16,
        'use_hflip': False,
        'use_rot': False,
        **changes,
    }
    return {name: value for name, value in opt.items() if value is not None}


def whole_pair(folder, name, scale=4):
    hr = np.array(Image.open(folder / name))
    hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
    return to_tensor(hr), to_tensor(bicubic_downscale(hr, scale))


def places(part, whole):
    """Where a part (3, h, w) lies in a whole (3, H, W)."""
    windows = whole.unfold(1, part.shape[1], 1).unfold(2, part.shape[2], 1)
    return (windows == part[:, None, None]).all(-1).all(-1).all(0).nonzero().tolist()


def test_is_registered_and_sorted(folder):
    dataset = build_dataset(options(folder))
    assert isinstance(dataset, HRImageDataset)
    assert len(dataset) == 3
    assert [dataset[index]['gt_path'] for index in range(3)] == [str(folder / name) for name in SIZES]
    assert dataset[0]['lq_path'] == dataset[0]['gt_path']


@pytest.mark.parametrize('scale', [2, 4, 8])
def test_a_training_patch_is_a_part_of_the_whole_pair(folder, scale):
    dataset = HRImageDataset(options(folder, scale=scale))
    seen = set()
    for _ in range(20):
        item = dataset[0]
        hr, lr = whole_pair(folder, 'a.png', scale)
        ((top, left),) = places(item['gt'], hr)
        assert (item['gt'].dtype, item['gt'].shape) == (torch.float32, (3, 16, 16))
        torch.testing.assert_close(
            item['lq'], lr[:, top // scale : (top + 16) // scale, left // scale : (left + 16) // scale], rtol=0, atol=0
        )
        assert top % scale == left % scale == 0
        seen.add((top, left))
    assert len(seen) > 4


def test_augmentation_turns_hr_and_lr_alike(folder):
    hr, lr = whole_pair(folder, 'b.png')
    dataset = HRImageDataset(options(folder, gt_size=24, use_hflip=True, use_rot=True))
    seen = set()
    for _ in range(200):
        item = dataset[1]
        turned = [
            index
            for index, (hflip, vflip, transpose) in enumerate(np.ndindex(2, 2, 2))
            if torch.equal(item['gt'], turn(hr, hflip, vflip, transpose))
            and torch.equal(item['lq'], turn(lr, hflip, vflip, transpose))
        ]
        assert len(turned) == 1
        seen.update(turned)
    assert seen == set(range(8))


def turn(image, hflip, vflip, transpose):
    image = image.flip(2) if hflip else image
    image = image.flip(1) if vflip else image
    return image.transpose(1, 2) if transpose else image


@pytest.mark.parametrize('phase', ['val', 'test'])
def test_validation_takes_the_whole_image(folder, phase):
    dataset = HRImageDataset(options(folder, phase=phase, gt_size=None, use_hflip=None, use_rot=None))
    for index, name in enumerate(SIZES):
        hr, lr = whole_pair(folder, name)
        item = dataset[index]
        torch.testing.assert_close(item['gt'], hr, rtol=0, atol=0)
        torch.testing.assert_close(item['lq'], lr, rtol=0, atol=0)


def test_equals_basicsrs_dataset_on_prepared_data(folder, tmp_path):
    made = prepare([folder], tmp_path / 'set', crop_size=None, min_size=8, progress=False)
    paired = PairedImageDataset(
        {
            **options(made.hr_path),
            'dataroot_lq': made.lr_path,
            'io_backend': {'type': 'lmdb'},
            'use_hflip': True,
            'use_rot': True,
        }
    )
    expected = []
    random.seed(3)
    for index in range(3):
        expected.append(paired[index])
    del paired  # the LMDB can be opened once per process
    dataset = HRImageDataset(options(made.hr_path, io_backend={'type': 'lmdb'}, use_hflip=True, use_rot=True))
    random.seed(3)
    for index in range(3):
        item = dataset[index]
        assert item['gt_path'] == expected[index]['gt_path']
        torch.testing.assert_close(item['gt'], expected[index]['gt'], rtol=0, atol=1e-7)
        torch.testing.assert_close(item['lq'], expected[index]['lq'], rtol=0, atol=1e-7)


def test_meta_info_file_chooses_and_orders(folder, tmp_path):
    listing = tmp_path / 'list.txt'
    listing.write_text('c.png (50,27,3)\n\na.png\n')
    dataset = HRImageDataset(options(folder, meta_info_file=str(listing)))
    assert dataset.paths == [str(folder / 'c.png'), str(folder / 'a.png')]
    listing.write_text('d.png\n')
    with pytest.raises(ValueError, match=r'd\.png: missing'):
        HRImageDataset(options(folder, meta_info_file=str(listing)))


def test_lmdb_in_workers_after_use_in_the_main_process(folder, tmp_path):
    made = prepare([folder], tmp_path / 'set', crop_size=None, min_size=8, progress=False)
    datasets = [
        HRImageDataset(options(made.hr_path, io_backend={'type': 'lmdb'}, phase='val', gt_size=None)) for _ in range(2)
    ]
    expected = [datasets[0][index] for index in range(3)]
    # Forked workers inherit what is open; spawned ones get a pickle.
    for dataset in (datasets[0], datasets[1], pickle.loads(pickle.dumps(datasets[0]))):
        loader = DataLoader(dataset, num_workers=1, multiprocessing_context='fork')
        for item, other in zip(expected, loader):
            torch.testing.assert_close(item['gt'][None], other['gt'], rtol=0, atol=0)
            assert [item['gt_path']] == other['gt_path']


def test_workers_draw_from_basicsrs_seed(folder):
    def batch(seed):
        opt = options(folder, batch_size_per_gpu=3, num_worker_per_gpu=1, use_hflip=True)
        torch.manual_seed(0)
        return next(iter(build_dataloader(build_dataset(opt), opt, seed=seed)))['gt']

    torch.testing.assert_close(batch(1), batch(1), rtol=0, atol=0)
    assert not torch.equal(batch(1), batch(2))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'gt_sise': 16}, r'gt_sise\. Did you mean gt_size'),
        ({'mean': [0, 0, 0]}, 'mean: the network takes images in'),
        ({'color': 'y'}, 'color: the network takes RGB'),
        ({'dataroot_lq': 'x'}, 'dataroot_lq: .*PairedImageDataset'),
        ({'gt_size': None}, 'gt_size is missing'),
        ({'gt_size': 18}, 'gt_size must be a multiple of the scale, 4, but is 18'),
        ({'gt_size': '16'}, "gt_size must be a whole number, 1 or more, but got '16'"),
        ({'gt_size': 28}, r'smaller than gt_size 28.*: b.png \(24x24\), c.png \(50x27\); remove them or lower'),
        ({'phase': 'val', 'scale': 25}, r'smaller than the scale 25.*b.png \(24x24\); remove them\.'),
        ({'scale': None}, 'scale is missing'),
        ({'phase': 'training'}, 'phase must be one of .*train.*val.*test.*training'),
        ({'use_rot': 1}, 'use_rot must be true or false, but is 1'),
        ({'io_backend': {'type': 'memcached'}}, r'io_backend\.type must be one of .*disk.*lmdb.*memcached'),
        ({'io_backend': {'type': 'lmdb'}}, "must end with '.lmdb'"),
    ],
)
def test_wrong_options_are_named(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        HRImageDataset(options(folder, **changes))


def test_missing_and_empty_places_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match='the folder .*none does not exist'):
        HRImageDataset(options(tmp_path / 'none'))
    with pytest.raises(ValueError, match='no images in the folder .*Its subfolders are not searched: hr'):
        HRImageDataset(options(tmp_path))
    with pytest.raises(ValueError, match='meta_info_file none.txt does not exist'):
        HRImageDataset(options(folder, meta_info_file='none.txt'))
    (tmp_path / 'x.lmdb').mkdir()
    with pytest.raises(ValueError, match='x.lmdb has no meta_info.txt; give an LMDB made by `irnsigma prepare`'):
        HRImageDataset(options(tmp_path / 'x.lmdb', io_backend={'type': 'lmdb'}))


def test_too_small_and_missing_images_of_an_lmdb_are_named(folder, tmp_path):
    made = prepare([folder], tmp_path / 'set', crop_size=None, min_size=8, progress=False)
    opt = options(made.hr_path, io_backend={'type': 'lmdb'}, gt_size=28)
    with pytest.raises(ValueError, match=r'smaller than gt_size 28.*: b \(24x24\), c \(48x24\)'):
        HRImageDataset(opt)
    with open(f'{made.hr_path}/meta_info.txt', 'a') as file:
        file.write('d.png (48,48,3) 1\n')
    with pytest.raises(ImageReadError, match='image d: listed in meta_info.txt but not stored'):
        HRImageDataset({**opt, 'gt_size': 16})[3]


def test_damaged_images_are_named(folder):
    content = (folder / 'a.png').read_bytes()
    (folder / 'a.png').write_bytes(content[: len(content) // 2])
    dataset = HRImageDataset(options(folder))
    with pytest.raises(ImageReadError, match=r'a\.png: damaged'):
        dataset[0]
    (folder / 'a.png').write_bytes(b'')
    with pytest.raises(ValueError, match=r'a\.png: missing or not an image'):
        HRImageDataset(options(folder))


def test_real_photographs(shared_dir):
    folder = shared_dir / 'data' / 'Set14' / 'HR'  # one of them is grey
    if not folder.is_dir():
        pytest.skip(f'needs the folder {folder}')
    dataset = HRImageDataset(options(folder, gt_size=144, use_hflip=True, use_rot=True))
    assert len(dataset) == 14
    for index in range(14):
        item = dataset[index]
        assert (item['gt'].shape, item['lq'].shape) == ((3, 144, 144), (3, 36, 36))
