"""Every fault of a file or a command line is one line that names it and the remedy, and the other files are done."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.cli import main
from irnsigma_plugin.imagenet.weights import WeightsError
from irnsigma_plugin.images import png
from irnsigma_plugin.images.picture import Picture, write_picture
from irnsigma_plugin.rescaling.pictures import LrNote

DOWN = 'downscale src out --model x4.pth'
UP = 'upscale src out --model x4.pth'
SIZE = 48


class Case(NamedTuple):
    """One fault.

    Attributes:
        name: What it is.
        make: Puts it into the current directory, where there are src/good.png, file.txt, x2.pth and x4.pth.
        command: What is run.
        words: What the line must contain.
        good_is_done: Whether src/good.png is done all the same.
        status: Expected exit status.
    """

    name: str
    make: Callable[[], object]
    command: str
    words: tuple[str, ...]
    good_is_done: bool = True
    status: int = 1


def pixels(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape or (SIZE, SIZE, 3), dtype)


def encode(image: Image.Image, kind: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def photo(kind: str) -> bytes:
    return encode(Image.fromarray(pixels()), kind)


def frames(kind: str) -> bytes:
    images = [Image.fromarray(pixels() // value) for value in (1, 2, 3)]
    return encode(images[0], kind, save_all=True, append_images=images[1:])


def header(width: int, height: int) -> bytes:
    ihdr = png.make_chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    return png.SIGNATURE + ihdr + png.make_chunk(b'IDAT', b'') + png.make_chunk(b'IEND', b'')


def damaged_png() -> bytes:
    content = bytearray(photo('png'))
    content[len(content) // 2] ^= 255
    return bytes(content)


def put(path: str, content: bytes) -> Callable[[], None]:
    def make() -> None:
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_bytes(content)

    return make


def noted_lr(scale: int) -> Callable[[], None]:
    note = LrNote(SIZE * scale, SIZE * scale, 8, scale, 'feedfeedfeedfeed')
    return lambda: write_picture(Picture(pixels(), text=note.to_text()), 'src/bad.png')


def small_map() -> None:
    cv2.imwrite('map.png', pixels(5, 7))


class Malicious:
    """An object whose unpickling writes a file."""

    def __reduce__(self):
        return open, ('executed', 'w')


def save(content: object) -> Callable[[], None]:
    return lambda: torch.save(content, 'bad.pth')


def truncated_checkpoint() -> None:
    content = Path('x4.pth').read_bytes()
    Path('bad.pth').write_bytes(content[: len(content) // 2])


def nothing() -> None:
    pass


def bad(name: str, content: bytes, *words: str, command: str = DOWN) -> Case:
    """A file in the folder that cannot be used; its extension is the last word of the name."""
    path = f'src/bad.{name.split()[-1].lower()}'
    return Case(name, put(path, content), command, (path, *words))


def link(name: str, target: str, *words: str) -> Case:
    return Case(name, lambda: os.symlink(target, 'src/bad.png'), DOWN, ('src/bad.png', *words))


def refused(name: str, make: Callable[[], object], command: str, *words: str, status: int = 1) -> Case:
    """What ends the command before any file is done."""
    return Case(name, make, command, words, good_is_done=False, status=status)


def model(name: str, make: Callable[[], object], *words: str) -> Case:
    return refused(name, make, 'downscale src out --model bad.pth', 'bad.pth', *words)


AGAIN = ('damaged', 'copy it again')
NO_IMAGE = ('is no image of a supported kind', 'save it as PNG of 8 or 16 bits per sample')
CONVERT = 'convert the image to RGB or grey with 8 or 16 bits'
CASES = [
    bad('truncated PNG', photo('png')[:1000], *AGAIN),
    bad('truncated JPG', photo('jpeg')[:600], *AGAIN),
    bad('truncated TIFF', photo('tiff')[:600], *AGAIN),
    bad('truncated WebP', photo('webp')[:200], *AGAIN),
    bad('truncated BMP', photo('bmp')[:600], *AGAIN),
    bad('truncated PPM', photo('ppm')[:600], *AGAIN),
    bad('truncated 16-bit PNG', cv2.imencode('.png', pixels(SIZE, SIZE, dtype=np.uint16))[1].tobytes()[:900], *AGAIN),
    Case(
        'named like a lack of memory',
        put('src/allocated.png', photo('png')[:1000]),
        DOWN,
        ('src/allocated.png', *AGAIN),
    ),
    bad('zero bytes PNG', b'', 'is empty', 'copy it again'),
    bad('signature alone PNG', png.SIGNATURE, *AGAIN),
    bad('no pixels PNG', header(9, 9), *AGAIN),
    bad('wrong checksum of pixels PNG', damaged_png(), *AGAIN),
    bad('text named PNG', b'not an image', *NO_IMAGE),
    bad('web page named JPG', b'<!DOCTYPE html><html></html>', *NO_IMAGE),
    bad('PDF named JPG', b'%PDF-1.4\n', *NO_IMAGE),
    bad('width of zero PNG', header(0, 9), *AGAIN),
    bad(
        'more pixels than memory PNG',
        header(2_000_000, 1_000_000),
        '2000000x1000000 pixels need about',
        'are free',
        'cut the image into parts',
    ),
    bad('CMYK JPG', encode(Image.new('CMYK', (9, 9)), 'jpeg'), 'CMYK', CONVERT),
    bad('CMYK TIFF', encode(Image.new('CMYK', (9, 9)), 'tiff'), 'CMYK', CONVERT),
    bad('LAB TIFF', encode(Image.new('LAB', (9, 9)), 'tiff'), 'LAB', CONVERT),
    bad('grey float TIFF', encode(Image.new('F', (9, 9)), 'tiff'), 'F with 32 bits', CONVERT),
    bad('RGB float TIFF', cv2.imencode('.tiff', np.zeros((9, 9, 3), np.float32))[1].tobytes(), *NO_IMAGE),
    bad('32-bit TIFF', encode(Image.new('I', (9, 9)), 'tiff'), 'I with 32 bits', CONVERT),
    bad('10-bit PPM', b'P6 1 1 1023\n' + bytes(6), 'largest value is 1023', 'save it as PNG'),
    bad('several pages TIFF', frames('tiff'), '3 frames or pages', 'save each'),
    bad('animated GIF', frames('gif'), '3 frames or pages', 'save each'),
    bad('animated PNG', frames('png'), '3 frames or pages', 'save each'),
    bad('animated WebP', frames('webp'), '3 frames or pages', 'save each'),
    link('dangling link', 'nowhere', 'No such file', 'check the path'),
    link('link to itself', 'bad.png', 'symbolic links', 'check the path'),
    link('endless device', '/dev/zero', 'is no file', 'name an image file'),
    Case('pipe', lambda: os.mkfifo('src/bad.png'), DOWN, ('src/bad.png', 'is no file', 'name an image file')),
    Case(
        'target is a folder',
        lambda: (os.makedirs('out/bad.png'), put('src/bad.png', photo('png'))()),
        DOWN,
        ('out/bad.png', 'cannot be written (Is a directory)', 'choose another place'),
    ),
    Case('lr of another scale', noted_lr(2), UP, ('src/bad.png', 'downscaled by 2', 'scale 4', 'feedfeedfeedfeed')),
    refused(
        'checkpoint of another scale',
        lambda: (noted_lr(4)(), shutil.move('src/bad.png', 'src/good.png')),
        'upscale src out --model x2.pth',
        'src/good.png',
        'downscaled by 4',
        'scale 2',
    ),
    refused(
        'map of another size',
        small_map,
        f'{UP} --sigma-map map.png',
        'src/good.png: --sigma-map map.png: ',
        '192x192',
        '48x48',
        'has 7x5',
    ),
    refused('map that is no image', nothing, f'{UP} --sigma-map file.txt', '--sigma-map file.txt: ', *NO_IMAGE),
    refused(
        'missing map', nothing, f'{UP} --sigma-map none.png', '--sigma-map none.png: ', 'No such file', 'check the path'
    ),
    refused('animated map', put('map.png', frames('png')), f'{UP} --sigma-map map.png', 'map.png', '3 frames'),
    refused(
        'map of transparency',
        lambda: cv2.imwrite('map.png', pixels(192, 192, 4)),
        f'{UP} --sigma-map map.png',
        '--sigma-map map.png: ',
        'has no transparency',
        'grey image',
    ),
    refused(
        'sigma is no number', nothing, f'{UP} --sigma nan', '--sigma', 'from 0 (faithful) to 1 (sharp)', 'nan', status=2
    ),
    refused(
        'sigma is too large', nothing, f'{UP} --sigma 1.5', '--sigma', 'from 0 (faithful) to 1 (sharp)', '1.5', status=2
    ),
    refused('sigma is negative', nothing, f'{UP} --sigma=-0.1', '--sigma', 'from 0 (faithful) to 1 (sharp)', status=2),
    refused('sigma is a word', nothing, f'{UP} --sigma sharp', '--sigma', "'sharp'", status=2),
    refused(
        'sigma and a map', nothing, f'{UP} --sigma 0 --sigma-map map.png', '--sigma-map', 'not allowed with', status=2
    ),
    model('missing checkpoint', nothing, 'There is no checkpoint'),
    model('text as checkpoint', put('bad.pth', b'not a checkpoint'), 'no readable PyTorch checkpoint', 'Fetch or save'),
    model('empty checkpoint', put('bad.pth', b''), 'no readable PyTorch checkpoint', 'Fetch or save'),
    model('truncated checkpoint', truncated_checkpoint, 'no readable PyTorch checkpoint', 'Fetch or save'),
    model(
        'checkpoint that runs code', save(Malicious()), 'is refused: it asks for', 'could run code', 'that you trust'
    ),
    model('checkpoint without weights', save({'iter': 3}), 'no network weights'),
    model('checkpoint of another network', save({'conv.weight': torch.zeros(3)}), 'InvRescaleNet', 'conv.weight'),
    model(
        'checkpoint of a training that diverged',
        save({'params': {'operations.1.F.conv1.bias': torch.tensor([0, float('nan')])}}),
        'operations.1.F.conv1.bias has values that are infinite or no numbers',
        'use an earlier checkpoint',
    ),
    model('folder as checkpoint', lambda: os.mkdir('bad.pth'), 'is no file', 'name a checkpoint'),
    model('pipe as checkpoint', lambda: os.mkfifo('bad.pth'), 'is no file', 'name a checkpoint'),
    refused('missing source', nothing, 'downscale none out --model x4.pth', 'none', 'no such file', 'check the path'),
    refused('empty folder', lambda: os.mkdir('empty'), 'downscale empty out --model x4.pth', 'empty: there are no'),
    refused(
        'folder without images',
        put('texts/a.txt', b'a'),
        'downscale texts out --model x4.pth',
        'texts: there are no images',
        '.png',
    ),
    refused('glob without match', nothing, 'downscale src/*.webp out --model x4.pth', 'src/*.webp: there are no'),
    refused('file as DST', nothing, 'downscale src file.txt --model x4.pth', 'file.txt is a file', 'name a folder'),
    refused('SRC is DST', nothing, 'downscale src src --model x4.pth', 'src is both SRC and DST', 'choose another'),
    refused(
        'result would replace its source',
        nothing,
        'downscale src/good.png src --model x4.pth',
        'src/good.png would replace a source',
        'choose another',
    ),
    refused(
        'results of one name',
        put('src/good.jpg', photo('jpeg')),
        DOWN,
        'src/good.jpg and src/good.png',
        'both become out/good.png',
        'rename one',
        'Nothing has been written',
    ),
    refused(
        'result is no PNG file', nothing, 'downscale src/good.png small.jpg --model x4.pth', 'small.jpg', 'name it .png'
    ),
    refused(
        'DST below a file',
        nothing,
        'downscale src file.txt/out --model x4.pth',
        'file.txt/out',
        'Not a directory',
        'choose another place',
    ),
    refused(
        'DST that takes no files',
        nothing,
        'downscale src /proc/out --model x4.pth',
        '/proc/out',
        'choose another place',
    ),
    refused('unknown device', nothing, f'{DOWN} --device tpu', '--device', 'cuda', status=2),
    refused('overlap is a word', nothing, f'{DOWN} --overlap big', '--overlap', '0 or more', "'big'", status=2),
    refused('no workers', nothing, f'{DOWN} --workers 0', '--workers', '1 or more', status=2),
    refused('evaluation of nothing', lambda: os.mkdir('empty'), 'evaluate empty --model x4.pth', 'empty: there are no'),
    refused(
        'evaluation of two images of one name',
        put('src/good.jpg', photo('jpeg')),
        'evaluate src --model x4.pth',
        'src/good.jpg and src/good.png',
        'rename one',
    ),
    refused(
        'evaluation into a file',
        nothing,
        'evaluate src --model none.pth --output file.txt',
        'file.txt: cannot be written (Not a directory)',
        'choose another place',
    ),
    refused(
        'comparison of a damaged image',
        put('bad.png', photo('png')[:500]),
        'compare bad.png --model x4.pth',
        'bad.png',
        *AGAIN,
    ),
    refused('comparison of a folder', nothing, 'compare src --model x4.pth', 'src: is no file', 'name an image file'),
    refused(
        'comparison that exists',
        nothing,
        'compare src/good.png --model x4.pth --output src/good.png',
        'src/good.png is there already',
        '--overwrite',
    ),
    refused(
        'comparison below a file',
        nothing,
        'compare src/good.png --model none.pth --output file.txt/a.png',
        'file.txt: cannot be written (Not a directory)',
        'choose another place',
    ),
    refused(
        'comparison with a map of another size',
        small_map,
        'compare src/good.png --model x4.pth --sigmas 0 --sigma-map map.png',
        '--sigma-map map.png: ',
        '48x48',
        '12x12',
        'has 7x5',
    ),
    refused(
        'comparison that is no PNG file',
        nothing,
        'compare src/good.png --model x4.pth --output a.jpg',
        'a.jpg',
        'name it .png',
    ),
]


@pytest.fixture(scope='session')
def checkpoints(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('checkpoints')
    for scale, block_num in ((2, [1]), (4, [1, 1])):
        torch.save({'params': InvRescaleNet(scale, block_num, 4).state_dict()}, folder / f'x{scale}.pth')
    return folder


@pytest.fixture
def workplace(tmp_path, monkeypatch, checkpoints) -> Path:
    """Current directory with src/good.png, file.txt, x2.pth and x4.pth."""
    monkeypatch.chdir(tmp_path)
    put('src/good.png', photo('png'))()
    put('file.txt', b'text')()
    for checkpoint in checkpoints.iterdir():
        shutil.copy(checkpoint, tmp_path)
    return tmp_path


def error_lines(text: str) -> list[str]:
    assert all(line.startswith('irnsigma: ') for line in text.splitlines()), text
    return [line for line in text.splitlines() if line.startswith('irnsigma: error: ')]


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_fault(case, workplace, capsys):
    case.make()
    assert main(case.command.split()) == case.status
    output, errors = capsys.readouterr()
    (line,) = error_lines(errors)
    assert all(word in line for word in case.words), line
    assert Path('out/good.png').is_file() == case.good_is_done
    if case.good_is_done:
        assert '1 done, 0 skipped, 1 failed in' in output
    assert not Path('executed').exists()
    assert not [path for path in workplace.rglob('.*') if path.is_file()], 'a temporary file was left behind'


def test_no_gpu(workplace, capsys):
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    assert main(f'{DOWN} --device cuda'.split()) == 1
    assert '--device cuda: there is no GPU' in error_lines(capsys.readouterr().err)[0]


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_faults_of_the_disk(code, workplace, monkeypatch, capsys):
    """One file meets the fault, the next does not."""
    put('src/bad.png', photo('png'))()
    failed, original = [], open

    def failing(path, mode='r', *args):
        if 'w' in mode and not failed:
            failed.append(path)
            raise OSError(code, os.strerror(code), str(path))
        return original(path, mode, *args)

    monkeypatch.setattr('irnsigma_plugin.images.picture.open', failing, raising=False)
    assert main([*DOWN.split(), '--workers', '1']) == 1
    (line,) = error_lines(capsys.readouterr().err)
    assert f'out/bad.png: cannot be written ({os.strerror(code)}); check the rights and the free space' in line
    assert os.listdir('out') == ['good.png']


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """A real limit of the size of files, as a full disk would be one."""
    resource = pytest.importorskip('resource')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_that_cannot_be_written_whole_is_not_there(workplace, capsys):
    put('src/large.png', encode(Image.fromarray(pixels(256, 256, 3)), 'png'))()
    with no_file_larger_than(9000):
        assert main(DOWN.split()) == 1
    (line,) = error_lines(capsys.readouterr().err)
    assert 'out/large.png: cannot be written (File too large)' in line
    assert os.listdir('out') == ['good.png']


@pytest.mark.parametrize('kind', ['jpg', 'webp'])
def test_a_full_disk_leaves_no_part_of_a_file_that_loses_detail(kind, workplace, capsys):
    command = [*DOWN.split(), '--lossy-lr', kind]
    assert main(command) == 0
    written = Path(f'out/good.{kind}')
    content = written.read_bytes()
    written.unlink()
    with no_file_larger_than(len(content) - 2):
        assert main(command) == 1
    (line,) = error_lines(capsys.readouterr().err)
    assert f'out/good.{kind}: cannot be written (File too large)' in line
    assert os.listdir('out') == []
    assert main(command) == 0
    assert written.read_bytes() == content


OF_THE_MACHINE = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")


@pytest.mark.parametrize(
    ('command', 'error', 'remedy'),
    [
        (f'{DOWN} --workers 2', OF_THE_MACHINE, 'use fewer --workers'),
        (f'{DOWN} --workers 1', OF_THE_MACHINE, 'cut the image into parts'),
        ('evaluate src --model x4.pth --output report', OF_THE_MACHINE, 'cut the image into parts'),
        (DOWN, torch.OutOfMemoryError('CUDA out of memory.'), 'use --device cpu'),
    ],
)
def test_memory_that_runs_out_has_a_remedy(command, error, remedy, workplace, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr('irnsigma_plugin.rescaling.rescaler.Rescaler.downscale', fail)
    assert main(command.split()) == 1
    assert f'src/good.png: there is not enough memory; {remedy}.' in error_lines(capsys.readouterr().err)[0]


@pytest.mark.parametrize(
    ('name', 'fault', 'words'),
    [
        (
            'too small for the scale',
            put('src/bad.png', encode(Image.new('RGB', (50, 3)), 'png')),
            'too few for scale 4',
        ),
        ('transparent', put('src/bad.png', encode(Image.new('RGBA', (32, 32)), 'png')), 'without alpha'),
        ('damaged', put('src/bad.png', photo('png')[:500]), 'damaged'),
    ],
)
def test_evaluation_goes_on_without_an_image(name, fault, words, workplace, monkeypatch, capsys):
    def missing(name):
        raise WeightsError('no weights')

    monkeypatch.setattr('irnsigma_plugin.imagenet.weights.imagenet_weights', missing)
    fault()
    assert main(['evaluate', 'src', '--model', 'x4.pth', '--sigmas', '0', '--output', 'report']) == 1
    output, errors = capsys.readouterr()
    (line,) = error_lines(errors)
    assert words in line
    assert 'irnsigma: warning: LPIPS is left out: no weights\n' in errors
    assert '| σ | psnr ↑ | psnr_y ↑ | ssim_y ↑ |' in output
    assert '**src**, 1 images' in output
    assert 'good,0,' in Path('report/metrics.csv').read_text()


def test_images_of_which_a_network_makes_no_numbers_are_named(workplace, capsys):
    """Its weights are finite; what it computes from them is too large for float32."""
    weights = torch.load('x4.pth', weights_only=True)
    for key in ('operations.1.F.conv5.weight', 'operations.3.F.conv5.weight'):
        weights['params'][key].fill_(3e38)
    torch.save(weights, 'huge.pth')
    for command in ('downscale src out', 'upscale src out --sigma 1', 'evaluate src'):
        assert main([*command.split(), '--model', 'huge.pth']) == 1
        output, errors = capsys.readouterr()
        (line,) = error_lines(errors)
        assert 'src/good.png: the network makes infinite values or no numbers of this image' in line
        assert '0 done, 0 skipped, 1 failed' in output
    assert not Path('out/good.png').exists()


WHOLE_NOTE = LrNote(SIZE * 4, SIZE * 4, 8, 4, 'feedfeedfeedfeed')


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('no note', 'is damaged'),
        ('[]', 'is damaged'),
        ('{}', 'is damaged'),
        ('[' * 100000, 'is damaged'),
        (WHOLE_NOTE._replace(height=-1).to_text(), 'is damaged'),
        (WHOLE_NOTE._replace(bits=12).to_text(), 'is damaged'),
        (WHOLE_NOTE._replace(scale='4').to_text(), 'is damaged'),
        (WHOLE_NOTE._replace(width=999).to_text(), 'has been resized since it was downscaled from 999x192'),
        (WHOLE_NOTE.to_text(), 'was downscaled by the model feedfeedfeedfeed, not by this one'),
    ],
)
def test_what_an_lr_notes_wrongly_costs_a_warning(text, words, workplace, capsys):
    write_picture(Picture(pixels(), text=text), 'src/good.png')
    assert main(UP.split()) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('irnsigma: warning: src/good.png: ')
    assert words in line
    assert cv2.imread('out/good.png').shape == (SIZE * 4, SIZE * 4, 3)


def test_damage_beside_the_pixels_costs_a_warning(workplace, capsys):
    content = photo('png')
    put('src/good.png', content[:33] + png.make_chunk(b'iCCP', b'broken') + content[33:])()
    assert main(DOWN.split()) == 0
    assert capsys.readouterr().err == 'irnsigma: warning: src/good.png: its colour profile (ICC) is damaged\n'
