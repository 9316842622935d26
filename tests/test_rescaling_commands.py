"""`irnsigma downscale`, `upscale`, `evaluate` and `compare`, as far as nothing is wrong; see test_bad_inputs.py."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from helpers.experiment import has_alexnet, has_dists, write_photographs
from PIL import Image

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.cli import main
from irnsigma_plugin.commands import batch
from irnsigma_plugin.commands.evaluate import _default_output
from irnsigma_plugin.evaluation.measures import LR_METRICS, hr_metrics
from irnsigma_plugin.evaluation.pictures import decode_png
from irnsigma_plugin.evaluation.restore import Restorer
from irnsigma_plugin.imagenet.weights import WeightsError
from irnsigma_plugin.images.picture import Picture, read_picture, write_picture
from irnsigma_plugin.options.train_val import ValOptions
from irnsigma_plugin.rescaling.rescaler import Rescaler
from irnsigma_plugin.training.validator import Validator

ROOT = Path(__file__).resolve().parents[1]


def random_net() -> InvRescaleNet:
    """A network whose restored images depend on sigma, but not too much."""
    torch.manual_seed(0)
    net = InvRescaleNet(4, [1, 1], 4)
    for name, parameter in net.named_parameters():
        if 'conv5' in name:
            torch.nn.init.normal_(parameter, std=0.01)
    return net.eval()


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch) -> Path:
    """Current directory with a model and three photographs: of colour, of colour in a folder, and grey."""
    monkeypatch.chdir(tmp_path)
    torch.save({'params': random_net().state_dict()}, 'model.pth')
    write_photographs(Path('photos'), height=70, width=97)
    grey = cv2.imread('photos/photo2.png', cv2.IMREAD_GRAYSCALE)
    cv2.imwrite('photos/photo2.png', grey)
    return tmp_path


def run(command: str) -> int:
    return main([*command.split(), '--model', 'model.pth'])


def test_down_and_up_again(capsys):
    """Size, bits, channels, opacity, profile, camera data and folders are those of the originals."""
    Path('photos/sub').mkdir()
    photo = read_picture('photos/photo0.png').pixels
    alpha = np.zeros(photo.shape[:2], np.uint16)
    alpha[:, 50:] = 65535
    full = Picture(photo.astype(np.uint16) * 257, alpha, b'profile', b'II*\0\x08\0\0\0\0\0\0\0\0\0')
    write_picture(full, 'photos/sub/full.png')
    Image.fromarray(photo).save('photos/sub/photo.jpg')
    assert run('downscale photos small') == 0
    assert run('upscale small restored --sigma 0') == 0
    assert capsys.readouterr().out.count('5 done, 0 skipped, 0 failed in') == 2
    for path in sorted(Path('photos').rglob('*.*')):
        original = read_picture(path)
        small = read_picture(Path('small', path.relative_to('photos')).with_suffix('.png'))
        restored = read_picture(Path('restored', path.relative_to('photos')).with_suffix('.png'))
        assert small.pixels.shape == (18, 25, *original.pixels.shape[2:])
        assert (restored.pixels.shape, restored.bits) == (original.pixels.shape, original.bits)
        assert restored[2:4] == small[2:4] == original[2:4]
        assert (small.bits, small.text is None, restored.text is None) == (8, False, False)
        if original.alpha is not None:
            assert restored.alpha.dtype == np.uint16
            assert np.abs(restored.alpha.astype(float) - alpha)[:, np.r_[:40, 60:97]].max() < 65535 * 0.05


def test_pictures_that_downscale_did_not_make_are_named_once(capsys):
    run('downscale photos/photo0.png photos/small.png')
    for name in ('edited', 'copied'):
        Image.open('photos/small.png').save(f'{name}.png')  # without the note
    capsys.readouterr()
    assert run('upscale photos/small.png restored.png') == 0
    assert capsys.readouterr().err == ''
    assert run('upscale edited.png restored.png copied.png photos/small.png large') == 0
    named = 'warning: no note of `irnsigma downscale` in edited.png and 2 more, so the results have the scale times'
    assert capsys.readouterr().err.count(named) == 1
    assert Image.open('large/edited.png').size == (100, 72)  # of 97 x 70


def test_a_turned_photograph_looks_the_same():
    photo = Image.open('photos/photo0.png')
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save('turned.jpg', exif=exif, quality=95)
    assert run('downscale turned.jpg small.png') == 0
    assert run('upscale small.png restored.png --sigma 0') == 0
    for path, shape in (('small.png', (25, 18, 3)), ('restored.png', (97, 70, 3))):
        assert cv2.imread(path).shape == shape  # OpenCV turns as viewers do
        assert Image.open(path).getexif().get(0x0112, 1) == 1


def test_what_exists_is_kept_unless_it_is_to_be_replaced(capsys):
    assert run('downscale photos small') == 0
    Path('small/photo1.png').write_bytes(b'mine')
    Path('small/photo2.png').unlink()
    capsys.readouterr()
    assert run('downscale photos small') == 0
    output, errors = capsys.readouterr()
    assert output.startswith(
        '1 done, 2 skipped (their results exist, 1 of other or unknown settings; --overwrite replaces them), 0 failed'
    )
    assert errors == (
        'irnsigma: warning: small/photo1.png: does not say with which settings it was made; --overwrite replaces it.\n'
    )
    assert Path('small/photo1.png').read_bytes() == b'mine'
    assert run('downscale photos small --overwrite --workers 1') == 0
    assert capsys.readouterr().out.startswith('3 done, 0 skipped, 0 failed in ')
    assert read_picture('small/photo1.png').pixels.shape == (18, 25, 3)


OTHER_MAP = r'sigma map \w{16} instead of '
OVERLAP = 'overlap None instead of 32'


@pytest.mark.parametrize(
    ('command', 'photo0', 'photo1'),
    [
        ('upscale small restored --sigma 0.5', '', OTHER_MAP + '0.5'),
        ('upscale small restored --sigma 1', 'sigma 0.5 instead of 1.0', OTHER_MAP + '1.0'),
        ('upscale small restored --sigma-map map.png', r'sigma 0.5 instead of map \w{16}', ''),
        ('upscale small restored --sigma-map map.png --seed 7', 'sigma .*, seed 0 instead of 7', 'seed 0 instead of 7'),
        ('upscale small restored --overlap 32', OVERLAP, OTHER_MAP + f'0.5, {OVERLAP}'),
        ('upscale small/photo0.png restored/photo1.png', '', OTHER_MAP + '0.5, name photo1 instead of photo0'),
        ('upscale small restored --engine torch', '', OTHER_MAP + '0.5'),
        (
            'upscale small restored --precision fp16',
            r'precision \w+ instead of fp16',
            OTHER_MAP + r'0.5, precision \w+ instead of fp16',
        ),
        ('downscale photos restored', 'sigma 0.5 instead of None', OTHER_MAP + 'None'),
        ('downscale photos small --overlap 32', OVERLAP, OVERLAP),
        ('downscale photos small', '', ''),
    ],
)
def test_results_of_other_settings_are_told_apart(capsys, command, photo0, photo1):
    """What was asked for is not there, so the exit status is 1."""
    Path('photos/photo2.png').unlink()
    cv2.imwrite('map.png', np.full((70, 97), 9, np.uint8))
    run('downscale photos small')
    run('upscale small/photo0.png restored/ --sigma 0.5')
    run('upscale small/photo1.png restored/ --sigma-map map.png')
    before = {path: path.read_bytes() for path in Path().rglob('*.png')}
    capsys.readouterr()
    assert run(command) == int(bool(photo0 or photo1))
    output, errors = capsys.readouterr()
    folder = command.split()[2].partition('/')[0]
    expected = [f'{folder}/photo{index}.png: has {how}' for index, how in enumerate((photo0, photo1)) if how]
    assert re.fullmatch(''.join(f'irnsigma: error: {each}; --overwrite replaces it.\n' for each in expected), errors)
    others = f', {len(expected)} of other or unknown settings' if expected else ''
    assert f' skipped (their results exist{others}; --overwrite replaces them), 0 failed' in output
    assert before == {path: path.read_bytes() for path in Path().rglob('*.png')}
    assert run(f'{command} --overwrite') == 0
    assert run(command) == 0


@pytest.mark.parametrize('kind', ['jpg', 'webp', 'avif'])
def test_restored_pictures_of_other_formats(kind, capsys):
    """Size, profile and camera data are there as in a PNG file; results are skipped and told apart as those are."""
    camera = b'II*\0\x08\0\0\0\1\0\x0f\1\2\0\4\0\0\0Cam\0\0\0\0\0'
    photo = read_picture('photos/photo0.png').pixels
    write_picture(Picture(photo, icc=b'profile', exif=camera), 'photos/photo0.png')
    assert run('downscale photos small') == 0
    assert run('upscale small restored --sigma 0') == 0
    assert run(f'upscale small restored --sigma 0 --format {kind} --quality 95') == 0
    assert sorted(path.suffix for path in Path('restored').iterdir()) == sorted(3 * ['.png', f'.{kind}'])
    for path in Path('restored').glob('*.png'):
        exact, lossy = read_picture(path), read_picture(path.with_suffix(f'.{kind}'))
        pixels = lossy.pixels if lossy.pixels.ndim == exact.pixels.ndim else lossy.pixels[..., 0]  # grey as WebP
        assert 0 < np.abs(pixels.astype(int) - exact.pixels).mean() < (30 if kind == 'webp' else 6)  # coarse colour
        assert (lossy.icc, lossy.exif is None) == (exact.icc, exact.exif is None)
        assert json.loads(lossy.text) == {**json.loads(exact.text), 'quality': 95}
    assert b'Cam' in read_picture(f'restored/photo0.{kind}').exif

    capsys.readouterr()
    assert run(f'upscale small restored --sigma 0 --format {kind} --quality 95') == 0
    assert capsys.readouterr().out.startswith('0 done, 3 skipped (their results exist; --overwrite')
    assert run(f'upscale small/photo0.png restored --sigma 1 --format {kind}') == 1
    error = (
        f'irnsigma: error: restored/photo0.{kind}: has sigma 0.0 instead of 1.0, quality 95 instead of 90; --overwrite'
    )
    assert capsys.readouterr().err.startswith(error)
    assert run(f'upscale small/photo0.png restored --sigma 1 --format {kind} --overwrite') == 0
    assert json.loads(read_picture(f'restored/photo0.{kind}').text)['quality'] == 90


def test_the_name_of_a_result_tells_its_format(capsys):
    assert run('downscale photos/photo0.png small.png') == 0
    assert run('upscale small.png restored.JPEG --sigma 0') == 0
    assert Image.open('restored.JPEG').format == 'JPEG'
    capsys.readouterr()
    for command, message in (
        (
            'upscale small.png a.gif',
            'a.gif: the result is a PNG, JPG, WEBP, AVIF file; name it .png, .jpg, .webp, .avif',
        ),
        ('upscale small.png a.png --format jpg', 'a.png: the result is a JPG file; name it .jpg, or a folder with /'),
        ('upscale small.png a.png --quality 9', '--quality: PNG files lose nothing and have no quality; leave it out'),
        ('downscale photos small --quality 9', '--quality: PNG files lose nothing'),
        ('downscale photos/photo0.png small.jpg', 'small.jpg: the result is a PNG file'),
        ('upscale small.png a.jpg --quality 101', 'argument --quality: must be a whole number, 1 to 100, but is'),
    ):
        assert run(command) > 0
        assert f'irnsigma: error: {message}' in capsys.readouterr().err
    assert not [path for path in ('a.gif', 'a.png', 'a.jpg', 'small.jpg', 'small') if os.path.exists(path)]


def test_what_a_jpeg_cannot_hold_is_refused_by_name(capsys):
    write_picture(Picture(np.zeros((40, 40), np.uint16)), 'photos/deep.png')
    write_picture(Picture(np.zeros((40, 40), np.uint8), np.eye(40, dtype=np.uint8)), 'photos/clear.png')
    assert run('downscale photos small') == 0
    capsys.readouterr()
    assert run('upscale small restored --format jpg') == 1
    output, errors = capsys.readouterr()
    assert '3 done, 0 skipped, 2 failed' in output
    assert errors.splitlines() == [
        'irnsigma: error: small/clear.png: a JPEG file cannot hold transparency; make it a PNG file.',
        'irnsigma: error: small/deep.png: a JPEG file cannot hold 16 bits per sample; make it a PNG file.',
    ]


@pytest.mark.parametrize('kind', ['jpg', 'webp', 'avif'])
def test_small_pictures_that_lose_detail(kind, capsys):
    """They are restored to the original's size, with a warning; nothing else but their quality tells them apart."""
    assert run(f'downscale photos small --lossy-lr {kind} --quality 80') == 0
    assert run('downscale photos exact') == 0
    assert run(f'downscale photos small --lossy-lr {kind}') == 1
    assert f'small/photo0.{kind}: has quality 80 instead of 90; --overwrite' in capsys.readouterr().err
    for path in sorted(Path('exact').iterdir()):
        exact, lossy = (json.loads(read_picture(file).text) for file in (path, Path('small', f'{path.stem}.{kind}')))
        assert (exact['quality'], lossy) == (None, {**exact, 'quality': 80})
    assert run('upscale small restored --sigma 0') == 0
    warning = 'it lost detail in its file (quality 80), and the restored picture with it'
    assert capsys.readouterr().err.splitlines() == [
        f'irnsigma: warning: small/photo{number}.{kind}: {warning}' for number in range(3)
    ]
    for path in Path('photos').iterdir():
        assert read_picture(Path('restored', path.name)).pixels.shape[:2] == read_picture(path).pixels.shape[:2]


def test_heic_and_avif_in_every_command(monkeypatch, capsys):
    heif = pytest.importorskip('pillow_heif')
    Path('phone').mkdir()
    image = Image.fromarray(read_picture('photos/photo0.png').pixels)
    heif.from_pillow(image).save('phone/a.heic', quality=95)
    image.save('phone/b.avif', quality=95)
    assert run('downscale phone small') == run('upscale small restored') == 0
    assert {path.name: read_picture(path).pixels.shape for path in Path('restored').iterdir()} == {
        'a.png': (70, 97, 3),
        'b.png': (70, 97, 3),
    }
    assert run('evaluate phone --sigmas 0 --output figures') == 0
    assert len(Path('figures/metrics.csv').read_text().splitlines()) == 3
    assert run('compare phone/a.heic --sigmas 0 --output c.png') == 0
    assert main(['prepare', 'phone', 'out', '--no-crop', '--min-size', '32']) == 0
    options = {'name': 'phone', 'phase': 'val', 'scale': 4, 'type': 'HRImageDataset', 'dataroot_gt': 'phone'}
    dataset = build_dataset({**options, 'io_backend': {'type': 'disk'}})
    assert [tuple(item['gt'].shape) for item in dataset] == 2 * [(3, 68, 96)]
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    capsys.readouterr()
    assert run('downscale phone again') == 1
    assert capsys.readouterr().err == (
        'irnsigma: error: phone/a.heic: a HEIC file needs the package pillow-heif: pip install irnsigma_plugin[heif], '
        'or save it as PNG or JPEG.\n'
    )


def test_names_that_are_no_text(capsys):
    """File names may be any bytes, such as those of old archives."""
    folder, name = (os.fsdecode(b'caf\xe9' + end) for end in (b'', b'.png'))
    try:
        Path('photos').rename(folder)
    except OSError:
        pytest.skip('this file system refuses such names')
    for index in (0, 1):
        Path(folder, f'photo{index}.png').rename(Path(folder, name if index else f'{index}{name}'))
    assert run(f'downscale {folder} small') == run('upscale small restored --sigma 0.5') == 0
    assert run('upscale small restored --sigma 0.5') == 0  # they are told to be the same
    assert run(f'evaluate {folder} --sigmas 0 1 --output report{folder}') == 0
    assert os.fsencode(Path(name).stem) in Path(f'report{folder}/metrics.csv').read_bytes()
    assert Path(f'report{folder}/table.md').read_text().startswith('**caf\\udce9**, 3 images')
    assert run(f'compare {folder}/{name} --sigmas 0') == 0
    output, errors = capsys.readouterr()
    assert output.endswith('wrote caf\\udce9_comparison.png\n')
    assert [line for line in errors.splitlines() if has_alexnet() or 'LPIPS is left out' not in line] == []


def test_small_pictures_of_another_model_are_told_apart(capsys):
    torch.save({'params': {key: 2 * value for key, value in random_net().state_dict().items()}}, 'other.pth')
    run('downscale photos small')
    capsys.readouterr()
    assert main(['downscale', 'photos', 'small', '--model', 'other.pth']) == 1
    errors = capsys.readouterr().err
    models = [Rescaler.from_checkpoint(path).model_hash for path in ('model.pth', 'other.pth')]
    assert errors.count(f'has model {models[0]} instead of {models[1]}; --overwrite replaces it.\n') == 3


@pytest.mark.parametrize(
    ('command', 'default'),
    [
        ('downscale photos small', ('auto', 'auto')),
        ('upscale photos large', ('auto', 'auto')),
        ('evaluate photos', ('fp32', 'torch')),
        ('compare photos/photo0.png', ('fp32', 'torch')),
    ],
)
def test_precision_and_engine(command, default, monkeypatch, capsys):
    """Figures do not depend on the machine, unless they are asked to; pictures are made as fast as it can."""
    seen = []
    made = Rescaler.__init__

    def noted(self, net, device, precision, engine):
        seen.append((precision, engine))
        made(self, net, device, precision, 'torch')

    monkeypatch.setattr(Rescaler, '__init__', noted)
    other = f'{command} --overwrite --precision bf16 --engine openvino'.replace('photos --overwrite', 'photos')
    assert run(command) == run(other) == 0
    assert seen == [default, ('bf16', 'openvino')]
    assert run(f'{command} --precision half') == 2
    assert "argument --precision: invalid choice: 'half'" in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['of the original', 'of the small image', 'in colour', 'of 16 bits'])
def test_sigma_map(kind):
    """Left of the map is black, so faithful; right is white, so sharp."""
    run('downscale photos/photo0.png small.png')
    for sigma in (0, 1):
        run(f'upscale small.png sigma{sigma}.png --sigma {sigma}')
    values = np.zeros((18, 25) if kind == 'of the small image' else (70, 97), np.uint8)
    values[:, values.shape[1] // 2 :] = 255
    if kind == 'in colour':
        values = np.dstack([values] * 3)
    cv2.imwrite('map.png', values.astype(np.uint16) * 257 if kind == 'of 16 bits' else values)
    assert run('upscale small.png mixed.png --sigma-map map.png') == 0
    faithful, sharp, mixed = (cv2.imread(f'{name}.png') for name in ('sigma0', 'sigma1', 'mixed'))
    # The small network sees 60 pixels around: only the border columns are free of the other half.
    far = [
        np.abs(mixed.astype(int) - other)[:, columns].mean()
        for other in (faithful, sharp)
        for columns in (slice(0, 8), slice(-8, None))
    ]
    assert far[0] < far[2] / 4
    assert far[3] < far[1] / 4


def test_a_map_that_fits_no_picture_is_refused_once(capsys):
    run('downscale photos small')
    cv2.imwrite('map.png', np.zeros((5, 7), np.uint8))
    capsys.readouterr()
    assert run('upscale small restored --sigma-map map.png') == 1
    assert capsys.readouterr().err == (
        'irnsigma: error: --sigma-map map.png: has 7x5 pixels, which fits none of the pictures; a map has the size of '
        'the original or of the small image.\n'
    )
    for size in ((70, 97), (18, 25)):
        cv2.imwrite('map.png', np.zeros(size, np.uint8))
        assert run('upscale small restored --overwrite --sigma-map map.png') == 0
    cv2.imwrite('small/other.png', np.zeros((7, 5, 3), np.uint8))
    cv2.imwrite('map.png', np.zeros((7, 5), np.uint8))
    assert run('upscale small restored --sigma-map map.png --overwrite') == 1
    output, errors = capsys.readouterr()
    assert '1 done, 0 skipped, 3 failed' in output
    assert errors.count(': --sigma-map map.png: A sigma map must have the size of the large image, 97x70 pixels') == 3


@pytest.mark.usefixtures('interruptible')
def test_an_interruption_leaves_whole_files_only(monkeypatch, capsys):
    """Ctrl-C while the first file is being written and the second is with the network."""
    for index in range(3, 8):
        cv2.imwrite(f'photos/photo{index}.png', np.zeros((70, 97, 3), np.uint8))
    begun, interrupted = threading.Event(), threading.Event()

    def slow_write(picture, path, quality):
        begun.set()
        assert interrupted.wait(10)
        write_picture(picture, path, quality)

    def interrupt(picture, path):
        if path.name == 'photo1.png':
            assert begun.wait(10)
            interrupted.set()
            os.kill(os.getpid(), signal.SIGINT)
        return picture

    monkeypatch.setattr(batch, 'write_picture', slow_write)
    monkeypatch.setattr(
        'irnsigma_plugin.rescaling.pictures.downscale_picture',
        lambda rescaler, picture, overlap: interrupt(picture, Path(names.pop(0))),
    )
    names = [f'photo{index}.png' for index in range(8)]
    assert run('downscale photos small --workers 2') == 130
    output, errors = capsys.readouterr()
    assert errors == 'irnsigma: error: interrupted\n'
    assert output.startswith('1 done, 0 skipped, 0 failed')
    assert os.listdir('small') == ['photo0.png']
    np.testing.assert_array_equal(cv2.imread('small/photo0.png'), cv2.imread('photos/photo0.png'))


def test_a_folder_that_cannot_be_made_is_named_before_the_work(monkeypatch, capsys):
    monkeypatch.setattr(batch, 'read_picture', lambda path: pytest.fail('it begins'))
    assert run('downscale photos photos/photo0.png/small') == 1
    output, errors = capsys.readouterr()
    assert errors.startswith('irnsigma: error: photos/photo0.png/small: cannot be written (Not a directory)')
    assert not output


def test_evaluation_is_that_of_basicsr_test(capsys):
    """The same figures for every image at every sigma, from files on disk, from `evaluate` and from the validator."""
    metrics = hr_metrics(4, lpips=has_alexnet(), dists=has_dists())
    sigmas = (0.0, 0.5, 1.0)
    dataset = {
        'name': 'photos',
        'phase': 'val',
        'scale': 4,
        'type': 'HRImageDataset',
        'dataroot_gt': 'photos',
        'io_backend': {'type': 'disk'},
    }
    opt = {
        'name': 'test',
        'scale': 4,
        'is_train': False,
        'val': {'metrics': metrics, 'pbar': False},
        'path': {'results_root': 'results', 'visualization': 'images'},
    }
    Validator(opt, ValOptions(sigmas=sigmas, lr_metrics=LR_METRICS)).run(
        random_net(), build_dataloader(build_dataset(dataset), dataset), torch.device('cpu'), 'test', None, False
    )
    assert run('evaluate photos --sigmas 0 0.5 1 --output mine' + ' --dists' * has_dists()) == 0
    tables = []
    for path in ('results/photos/metrics.csv', 'mine/metrics.csv'):
        with open(path, newline='') as file:
            tables.append(list(csv.DictReader(file)))
    assert [[row['image'], row['sigma']] for row in tables[1]] == [
        [f'photo{index}', sigma] for index in range(3) for sigma in ('0', '0.5', '1')
    ]
    for theirs, ours in zip(*tables):
        assert set(ours) == set(theirs)
        assert [float(value) for value in list(ours.values())[1:]] == pytest.approx(
            [float(value) for value in list(theirs.values())[1:]], abs=1e-3
        )

    for path in Path('photos').iterdir():  # sides that are multiples of the scale, as the validator cuts them
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:68, :96])
    run('downscale photos small')
    from basicsr.metrics import calculate_psnr

    for row in tables[0]:
        run(f'upscale small/{row["image"]}.png restored.png --overwrite --sigma {row["sigma"]}')
        psnr = calculate_psnr(
            cv2.imread('restored.png'), cv2.imread(f'photos/{row["image"]}.png'), crop_border=4, test_y_channel=True
        )
        assert psnr == pytest.approx(float(row['psnr_y']), abs=1e-3)


def test_an_interrupted_evaluation_reports_what_it_has_measured(monkeypatch, capsys):
    def interrupt_at_the_last(restorer, path):
        if path.name == 'photo2.png':
            raise KeyboardInterrupt
        return original(restorer, path)

    original = Restorer.rescale_file
    monkeypatch.setattr(Restorer, 'rescale_file', interrupt_at_the_last)
    assert run('evaluate photos --sigmas 0 1 --output report') == 130
    output, errors = capsys.readouterr()
    assert errors.splitlines()[-1] == 'irnsigma: error: interrupted'
    table = Path('report/table.md').read_text()
    assert table in output
    assert table.startswith('**photos**, 2 images')
    assert table.endswith('\n2 of 3 images were measured.\n')
    with open('report/metrics.csv', newline='') as file:
        assert [row['image'] for row in csv.DictReader(file)] == ['photo0', 'photo0', 'photo1', 'photo1']


def test_figures_that_cannot_be_written_are_printed(capsys):
    Path('report/metrics.csv').mkdir(parents=True)
    assert run('evaluate photos --sigmas 0 --output report') == 1
    output, errors = capsys.readouterr()
    assert '\n**photos**, 3 images\n' in output
    assert 'were measured' not in output
    assert errors.splitlines()[-1].startswith('irnsigma: error: report/metrics.csv: cannot be written (Is a directory)')


def test_figures_that_nobody_reads_are_written(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise ZeroDivisionError

    monkeypatch.setattr('sys.stdout', Closed())
    with pytest.raises(ZeroDivisionError):
        run('evaluate photos --sigmas 0 --output report')
    assert Path('report/table.md').read_text().startswith('**photos**, 3 images')


def test_the_curve_of_an_earlier_evaluation_goes(monkeypatch):
    def missing(name):
        raise WeightsError('no weights')

    monkeypatch.setattr('irnsigma_plugin.imagenet.weights.imagenet_weights', missing)
    Path('report').mkdir()
    Path('report/curve.png').touch()
    assert run('evaluate photos --sigmas 0 --output report') == 0
    assert sorted(os.listdir('report')) == ['comparison.png', 'metrics.csv', 'table.md']


def test_dists_that_cannot_be_measured_is_refused_at_once(monkeypatch, capsys):
    def missing(device):
        raise WeightsError('no weights: do this')

    monkeypatch.setattr('irnsigma_plugin.evaluation.dists._load_vgg', missing)
    assert run('evaluate photos --dists --output report') == 1
    assert capsys.readouterr().err == 'irnsigma: error: no weights: do this\n'
    assert os.listdir('report') == []


@pytest.mark.parametrize('side', [12, 40])  # BasicSR's SSIM fails, or is no number
def test_an_image_too_small_to_be_measured_does_not_spoil_the_others(capsys, side):
    cv2.imwrite('photos/icon.png', np.full((side, 50, 3), 7, np.uint8))
    assert run('evaluate photos --sigmas 0') == 1
    output, errors = capsys.readouterr()
    fault = f'lr ssim_y: 12x{side // 4} pixels are too few, it takes 11x11 or more'
    assert f'irnsigma: error: photos/icon.png: {fault}\n' in errors
    missing = 1 if side == 40 else 2 + has_alexnet()
    assert f'\n{missing} figure(s) missing, in the means, too: icon: ' in output
    assert f'{fault}.\n' in output
    assert '4 images' in output
    assert 'nan' not in output


@pytest.mark.skipif(not has_alexnet(), reason='needs the weights of AlexNet')
def test_comparison_of_an_image_too_small_for_lpips(capsys):
    cv2.imwrite('icon.png', np.full((20, 20, 3), 7, np.uint8))
    assert run('compare icon.png --sigmas 0') == 0
    assert capsys.readouterr().err == (
        'irnsigma: warning: icon.png: lpips: 20x20 pixels are too few, it takes 31x31 or more\n'
    )


def test_evaluation_leaves_tables_and_pictures(capsys):
    Path('photos/sub').mkdir()
    Path('photos/photo1.png').rename('photos/sub/photo1.png')
    assert run('evaluate photos --sigmas 0 1 1') == 0
    output = capsys.readouterr().out
    folder = Path('results/evaluate', f'{Path.cwd().name}_photos')
    assert f'Tables and pictures: {folder}' in output
    table = (folder / 'table.md').read_text()
    assert table in output
    assert table.startswith('**photos**, 3 images')
    with open(folder / 'metrics.csv', newline='') as file:
        assert [(row['image'], row['sigma']) for row in csv.DictReader(file)] == [
            (image, sigma) for image in ('photo0', 'photo2', 'sub/photo1') for sigma in '01'
        ]
    assert (folder / 'curve.png').exists() == has_alexnet()
    assert decode_png((folder / 'comparison.png').read_bytes()).shape[1] == 5 * 2.4 * 150  # of the first image alone


@pytest.mark.parametrize('source', ['.', 'photos/..'])
def test_pictures_of_an_earlier_evaluation_are_no_photographs(source, workplace, capsys):
    for _ in range(2):
        assert run(f'evaluate {source} --sigmas 0') == 0
        assert f'\n**{workplace.name if source == "." else source}**, 3 images\n' in capsys.readouterr().out
    assert run('evaluate photos --sigmas 0 --output photos/../photos') == 1
    assert 'photos is both HR_DIR and --output' in capsys.readouterr().err


@pytest.mark.parametrize(('source', 'name'), [('/data/Set5/HR', 'Set5_HR'), ('/photos', 'photos'), ('/', '')])
def test_results_of_an_evaluation_lie_below_the_current_directory(source, name):
    assert _default_output(Path(source)) == Path('results/evaluate', name)


@pytest.mark.parametrize('picture', ['photos/photo0.png', 'map.png'])
def test_what_is_compared_is_not_replaced(picture, capsys):
    cv2.imwrite('map.png', np.zeros((70, 97), np.uint8))
    before = Path(picture).read_bytes()
    assert run(f'compare photos/photo0.png --sigma-map map.png --output {picture} --overwrite') == 1
    assert f'{picture} is what is compared; choose another --output.' in capsys.readouterr().err
    assert Path(picture).read_bytes() == before


def test_comparison_shows_every_image_with_its_figures(monkeypatch, capsys):
    from irnsigma_plugin.evaluation import pictures as comparison

    panels = []
    original = comparison.draw_comparison
    monkeypatch.setattr(comparison, 'draw_comparison', lambda shown: panels.extend(shown) or original(shown))
    assert run('compare photos/photo0.png --sigmas 0 1') == 0
    assert capsys.readouterr().out == 'wrote photo0_comparison.png\n'
    assert decode_png(Path('photo0_comparison.png').read_bytes()).shape[1] == 5 * 2.4 * 150
    titles = [panel.title.split('\n') for panel in panels]
    assert [title for title, _ in titles] == [
        'original',
        'low-resolution',
        'bicubic from it',
        'restored, σ = 0',
        'restored, σ = 1',
    ]
    psnr = [float(figures.split(',')[0].removeprefix('psnr_y ')) for _, figures in titles[2:]]
    assert psnr[1] > psnr[2]
    assert all(('lpips' in figures) == has_alexnet() for _, figures in titles[2:])
    assert panels[0].image.shape == panels[3].image.shape == (68, 96, 3)


def test_comparison_goes_into_a_new_folder():
    assert run('compare photos/photo0.png --sigmas 0 --output new/deep/a.png') == 0
    assert os.listdir('new/deep') == ['a.png']


def test_comparison_shows_a_map_of_sigma_and_its_result(monkeypatch):
    from irnsigma_plugin.evaluation import pictures as comparison

    panels = []
    monkeypatch.setattr(comparison, 'draw_comparison', lambda shown: panels.extend(shown) or b'')
    sigma_map = np.zeros((68, 96), np.uint8)
    sigma_map[:, 48:] = 255
    cv2.imwrite('map.png', sigma_map)
    assert run('compare photos/photo0.png --sigmas 0 1 --sigma-map map.png') == 0
    faithful, sharp, shown_map, mapped = (panel.image for panel in panels[3:])
    assert (shown_map == sigma_map[..., None]).all()
    assert (mapped != faithful).any()
    assert (mapped != sharp).any()


def test_the_metrics_are_those_of_the_option_file():
    from irnsigma_plugin.options.file import read_option_file
    from irnsigma_plugin.options.train_val import expand_metrics

    opt = read_option_file(ROOT / 'options/test_IRNsigma_x4.yml')
    expand_metrics(opt)
    assert opt['val']['metrics'] == hr_metrics(4)
    assert opt['val']['lr_metrics'] == LR_METRICS


@pytest.mark.parametrize('command', ['downscale', 'upscale', 'evaluate', 'compare'])
def test_help_teaches_by_examples(command, capsys):
    assert main([command, '--help']) == 0
    text = capsys.readouterr().out
    assert text.count(f'\n  irnsigma {command} ') >= 2
    assert all(option in text for option in ('--model', '--device', '--overlap'))
    assert 'it changes the result (default: 16 pixels of the small image)' in ' '.join(text.split())
    default = 'the one that the image notes, else irnsigma_x4' if command == 'upscale' else 'irnsigma_x4'
    assert f'name of a built-in model (default: {default})' in ' '.join(text.split())
