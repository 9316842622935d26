"""Reading and writing image files."""

from __future__ import annotations

import io
import itertools
import os
import re
import struct
import subprocess
import sys
import threading
import zlib

import cv2
import numpy as np
import PIL
import pytest
import tifffile
from PIL import Image, ImageCms

from irnsigma_plugin.images import picture as module
from irnsigma_plugin.images import png
from irnsigma_plugin.images.picture import (
    ImageReadError,
    Picture,
    decode_picture,
    decode_rgb_image,
    read_picture,
    read_rgb_image,
    read_text,
    write_picture,
)


def random_image(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def encode(image: Image.Image, kind: str = 'png', **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def encode_by_opencv(pixels: np.ndarray, extension: str = '.png') -> bytes:
    return cv2.imencode(extension, pixels)[1].tobytes()


def exif_with(orientation: int, order: str = '<') -> bytes:
    """Camera data: a maker's name, which is longer than an entry, and the orientation."""
    head = struct.pack(order + '2sHIH', b'II' if order == '<' else b'MM', 42, 8, 2)
    make = struct.pack(order + 'HHII', 0x010F, 2, 8, 38)
    turn = struct.pack(order + 'HHIHH', 0x0112, 3, 1, orientation, 0)
    return head + make + turn + bytes(4) + b'Camera 1'


def encode_heif(*images: np.ndarray, mode: str = '', **settings) -> bytes:
    """A HEIC file, lossless; of uint16, their upper 10 bits."""
    heif = pytest.importorskip('pillow_heif')
    file, collection = io.BytesIO(), heif.HeifFile()
    for pixels in images:
        mode = mode or {2: 'L', 3: 'RGB', 4: 'RGBA'}[pixels.shape[-1] if pixels.ndim == 3 else 2]
        deep = {'L': 'I;16'}.get(mode, f'{mode};16') if pixels.dtype == np.uint16 else mode
        collection.add_frombytes(deep, pixels.shape[1::-1], pixels.tobytes())
    grey = images[0].ndim == 2
    collection.save(file, quality=-1, **({} if grey else {'chroma': 444, 'matrix_coefficients': 0}), **settings)
    return file.getvalue()


def encode_avif(pixels: np.ndarray, bits: int) -> bytes:
    """An AVIF file, lossless, of samples of so many bits; RGB or grey."""
    settings = [cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_QUALITY, 100]
    try:
        content = cv2.imencode(
            '.avif', pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]], settings
        )
    except cv2.error:
        pytest.skip('this OpenCV writes no AVIF')
    return content[1].tobytes()


def insert(content: bytes, *chunks: bytes) -> bytes:
    """Put chunks behind the header of a PNG file."""
    return content[:33] + b''.join(chunks) + content[33:]


class TestKinds:
    @pytest.mark.parametrize('extension', ['png', 'bmp', 'tiff', 'webp', 'ppm'])
    def test_colour_of_8_bits(self, extension):
        pixels = random_image(5, 7, 3)
        settings = {'lossless': True} if extension == 'webp' else {}
        picture = decode_picture(encode(Image.fromarray(pixels), extension, **settings), 'a')
        np.testing.assert_array_equal(picture.pixels, pixels)
        assert picture[1:] == (None, None, None, None, ())

    @pytest.mark.parametrize('extension', ['png', 'bmp', 'tiff', 'ppm'])
    def test_grey_stays_grey(self, extension):
        pixels = random_image(5, 7)
        np.testing.assert_array_equal(decode_picture(encode(Image.fromarray(pixels), extension), 'a').pixels, pixels)

    @pytest.mark.parametrize('extension', ['.png', '.tiff', '.ppm'])
    @pytest.mark.parametrize('shape', [(5, 7), (5, 7, 3)])
    def test_16_bits_stay(self, extension, shape):
        pixels = random_image(*shape, dtype=np.uint16)
        extension = '.pgm' if extension == '.ppm' and len(shape) == 2 else extension
        content = cv2.imencode(extension, pixels[..., ::-1] if len(shape) == 3 else pixels)[1].tobytes()
        picture = decode_picture(content, 'a')
        assert picture.bits == 16
        np.testing.assert_array_equal(picture.pixels, pixels)

    def test_jpeg(self):
        colour, grey = (
            decode_picture(encode(Image.new(mode, (9, 6), value), 'jpeg'), 'a').pixels
            for mode, value in (('RGB', (200, 100, 50)), ('L', 77))
        )
        assert np.abs(colour.astype(int) - (200, 100, 50)).max() <= 2
        np.testing.assert_array_equal(grey, np.full((6, 9), 77, np.uint8))

    def test_1_bit_becomes_grey_and_a_palette_colour(self):
        bits = np.array([[0, 255, 0], [255, 255, 0]], np.uint8)
        for extension in ('png', 'tiff', 'ppm'):
            content = encode(Image.fromarray(bits).convert('1'), extension)
            np.testing.assert_array_equal(decode_picture(content, 'a').pixels, bits)
        pixels = random_image(4, 4, 3) // 128 * 128
        palette = Image.fromarray(pixels).quantize(8)
        for extension in ('png', 'gif', 'tiff'):
            np.testing.assert_array_equal(decode_picture(encode(palette, extension), 'a').pixels, pixels)

    @pytest.mark.parametrize(('mode', 'channels'), [('LA', 2), ('RGBA', 4)])
    def test_opacity_is_apart(self, mode, channels):
        samples = random_image(5, 7, channels)
        picture = decode_picture(encode(Image.fromarray(samples, mode)), 'a')
        np.testing.assert_array_equal(picture.pixels, samples[..., 0] if channels == 2 else samples[..., :3])
        np.testing.assert_array_equal(picture.alpha, samples[..., -1])

    def test_a_transparent_colour_of_the_palette_is_opacity(self):
        image = Image.new('P', (2, 1))
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.putpixel((1, 0), 1)
        picture = decode_picture(encode(image, transparency=1), 'a')
        np.testing.assert_array_equal(picture.pixels, [[[10, 20, 30], [40, 50, 60]]])
        np.testing.assert_array_equal(picture.alpha, [[255, 0]])

    def test_a_transparent_grey_or_colour_is_opacity(self):
        for pixels, key in (
            (np.array([[0, 255]], np.uint8), b'\0\0'),
            (np.array([[0, 65535]], np.uint16), b'\0\0'),
            (np.array([[[0] * 3, [9] * 3]], np.uint8), bytes(6)),
            (np.array([[[0] * 3, [9] * 3]], np.uint16), bytes(6)),
        ):
            content = insert(cv2.imencode('.png', pixels)[1].tobytes(), png.make_chunk(b'tRNS', key))
            picture = decode_picture(content, 'a')
            np.testing.assert_array_equal(picture.pixels, pixels)
            np.testing.assert_array_equal(picture.alpha, [[0, np.iinfo(pixels.dtype).max]])
        for depth, byte, grey in ((2, 0x70, 85), (4, 0x1F, 17)):  # samples 1 and the largest, of which 1 is transparent
            header = png.make_chunk(b'IHDR', struct.pack('>IIBBBBB', 2, 1, depth, 0, 0, 0, 0))
            pixels = png.make_chunk(b'IDAT', zlib.compress(bytes([0, byte]))) + png.make_chunk(b'IEND', b'')
            picture = decode_picture(png.SIGNATURE + header + png.make_chunk(b'tRNS', b'\0\1') + pixels, 'a')
            np.testing.assert_array_equal(picture.pixels, [[grey, 255]])
            np.testing.assert_array_equal(picture.alpha, [[0, 255]])
        bits = encode(Image.fromarray(np.array([[0, 255]], np.uint8)).convert('1'))
        picture = decode_picture(insert(bits, png.make_chunk(b'tRNS', b'\0\0')), 'a')
        np.testing.assert_array_equal(picture.pixels, [[0, 255]])
        np.testing.assert_array_equal(picture.alpha, [[0, 255]])

    @pytest.mark.parametrize('shape', [(6, 8), (6, 8, 3), (6, 8, 4)])
    def test_heic(self, shape):
        samples = random_image(*shape)
        picture = decode_picture(encode_heif(samples), 'a')
        np.testing.assert_array_equal(picture.pixels, samples[..., :3] if len(shape) == 3 else samples)
        np.testing.assert_array_equal(picture.alpha, samples[..., 3] if shape[2:] == (4,) else None)
        assert picture[2:] == (None, None, None, ())

    @pytest.mark.parametrize(('kind', 'bits'), [('heic', 10), ('avif', 10), ('avif', 12)])
    @pytest.mark.parametrize('shape', [(6, 8), (6, 8, 3), (6, 8, 4)])
    def test_10_and_12_bits_become_16(self, kind, bits, shape):
        """Black and white stay black and white, and rounding to the bits of the file gives its samples back."""
        largest = 2**bits - 1
        samples = np.random.default_rng(0).integers(0, largest + 1, shape, np.uint16)
        samples[0, :2] = np.array([0, largest]).reshape(2, *(1 for _ in shape[2:]))
        content = encode_heif(samples << 6) if kind == 'heic' else encode_avif(samples, bits)
        picture = decode_picture(content, 'a')
        assert picture.bits == 16
        expected = np.rint(samples / largest * 65535)
        np.testing.assert_array_equal(picture.pixels, expected[..., :3] if len(shape) == 3 else expected)
        np.testing.assert_array_equal(picture.alpha, expected[..., 3] if shape[2:] == (4,) else None)

    @pytest.mark.parametrize('mode', ['L', 'LA', 'RGB', 'RGBA'])
    def test_avif(self, mode):
        image = Image.fromarray(np.full((6, 8, 4), (80, 80, 80, 120), np.uint8)).convert(mode)
        subsampling = '4:0:0' if mode[0] == 'L' else '4:4:4'
        picture = decode_picture(encode(image, 'avif', quality=100, subsampling=subsampling), 'a')
        assert (picture.pixels.ndim == 2, picture.alpha is not None) == (mode[0] == 'L', mode[-1] == 'A')
        assert np.abs(picture.pixels.astype(int) - 80).max() <= 1
        assert picture.alpha is None or (picture.alpha == 120).all()

    def test_premultiplied_heic(self):
        samples = np.full((8, 8, 4), (50, 20, 10, 128), np.uint8)
        picture = decode_picture(encode_heif(samples, mode='RGBa'), 'a')
        np.testing.assert_allclose(picture.pixels, np.broadcast_to([100, 40, 20], (8, 8, 3)), atol=1)
        with pytest.raises(ImageReadError, match='^a: .*type RGBa with 10 bits.*not supported'):
            decode_picture(encode_heif(samples.astype(np.uint16) << 8, mode='RGBa'), 'a')

    @pytest.mark.parametrize('kind', ['heif', 'avif'])
    def test_a_turned_heic_or_avif_is_turned_once(self, kind):
        pixels = np.repeat(np.repeat(random_image(2, 3, 3), 16, 0), 16, 1)
        exif = exif_with(6)
        content = encode_heif(pixels, exif=exif) if kind == 'heif' else encode(Image.fromarray(pixels), kind, exif=exif)
        picture = decode_picture(content, 'a')
        assert np.abs(picture.pixels.astype(int) - np.rot90(pixels, -1))[8::16, 8::16].max() < 30
        assert module._split_orientation(picture.exif) == (1, picture.exif)
        assert b'Camera 1' in picture.exif

    @pytest.mark.parametrize('kind', ['heif', 'avif'])
    def test_colours_of_heic_and_avif_without_a_profile(self, kind):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
        pixels = random_image(8, 8, 3)
        for icc, primaries, warnings in (
            (None, 1, ()),
            (profile, 9, ()),
            (None, 9, ('its colours (primaries 9, transfer function 13) are no sRGB, but have no profile',)),
        ):
            beside = {'icc_profile': icc} if icc else {}
            if kind == 'heif':
                content = encode_heif(pixels, **beside)
            else:
                content = encode(Image.fromarray(pixels), 'avif', **beside)
            numbers = b'colrnclx' + bytes([0, primaries, 0, 13])
            content = re.sub(rb'colrnclx.{4}', numbers, content, flags=re.DOTALL)
            content += b'' if numbers in content else b'\0\0\0\x13' + numbers + bytes(3)
            picture = decode_picture(content, 'a')
            assert (picture.icc, picture.warnings) == (icc, warnings)

    def test_several_images_in_a_heic_are_refused(self):
        with pytest.raises(ImageReadError, match=r'^a\.x: has 2 frames or pages.*save each'):
            decode_picture(encode_heif(random_image(8, 8, 3), random_image(8, 8, 3)), 'a.x')

    def test_heic_without_its_package_is_refused_by_name(self, monkeypatch):
        monkeypatch.setitem(sys.modules, 'pillow_heif', None)
        content = b'\0\0\0\x18ftypmif1\0\0\0\0mif1heic' + bytes(99)
        with pytest.raises(ImageReadError, match=r'^a\.heic: .*pip install irnsigma_plugin\[heif\]'):
            decode_picture(content, 'a.heic')

    def test_reading_heic_leaves_pillow_as_it_was(self):
        decode_picture(encode_heif(random_image(8, 8, 3)), 'a')
        assert 'HEIF' not in Image.OPEN

    def test_a_cameras_jpeg_with_further_images_gives_the_first(self):
        first, second = (Image.new('RGB', (8, 8), colour) for colour in ('white', 'black'))
        picture = decode_picture(encode(first, 'mpo', save_all=True, append_images=[second]), 'a')
        assert picture.pixels.min() > 250

    @pytest.mark.parametrize('extension', ['png', 'gif', 'webp', 'tiff', 'avif'])
    def test_several_frames_or_pages_are_refused(self, extension):
        frames = [Image.fromarray(random_image(8, 8) // value) for value in (1, 2, 3)]
        content = encode(frames[0], extension, save_all=True, append_images=frames[1:])
        with pytest.raises(ImageReadError, match=r'^a\.x: has 3 frames or pages.*save each'):
            decode_picture(content, 'a.x')

    @pytest.mark.parametrize(
        ('mode', 'message'),
        [
            ('CMYK', 'type CMYK .*convert the image to RGB'),
            ('LAB', 'type LAB'),
            ('F', 'type F with 32 bits'),
            ('I', 'type I with 32 bits'),
        ],
    )
    def test_what_needs_a_choice_is_refused(self, mode, message):
        with pytest.raises(ImageReadError, match=message):
            decode_picture(encode(Image.new(mode, (4, 4)), 'tiff'), 'a')

    def test_a_pnm_file_of_odd_depth_is_refused(self):
        with pytest.raises(ImageReadError, match='a: its largest value is 1023.*save it as PNG'):
            decode_picture(b'P5 2 1 1023\n' + bytes(4), 'a')


def lzw(raw: bytes) -> bytes:
    """LZW as TIFF has it, without any compression: codes of 9 bits, of bytes and, before their table is full, clear."""
    codes = [code for start in range(0, len(raw), 200) for code in (256, *raw[start : start + 200])] + [257]
    bits = ''.join(f'{code:09b}' for code in codes)
    bits += '0' * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, 'big')


def encode_by_tifffile(samples: np.ndarray, compression: str | None, **settings) -> bytes:
    """A TIFF file; tifffile itself has no LZW, so its deflated strips or tiles are compressed anew."""
    file = io.BytesIO()
    codec = 'deflate' if compression == 'lzw' else compression
    tifffile.imwrite(file, samples, compression=codec, metadata=None, **settings)
    if compression == 'lzw':
        content = file.getvalue()
        file.seek(0)
        with tifffile.TiffFile(file) as tiff:
            page = tiff.pages.first
            parts = [
                lzw(zlib.decompress(content[start : start + length]))
                for start, length in zip(page.dataoffsets, page.databytecounts)
            ]
            starts = [len(content) + sum(map(len, parts[:index])) for index in range(len(parts))]
            kind = 'Tile' if page.is_tiled else 'Strip'
            page.tags['Compression'].overwrite(5)
            page.tags[f'{kind}Offsets'].overwrite(starts)
            page.tags[f'{kind}ByteCounts'].overwrite(list(map(len, parts)))
            changed = file.getvalue()
        return changed[: len(content)] + b''.join(parts)
    return file.getvalue()


def decode_or_fault(content: bytes) -> tuple[Picture | None, str]:
    """The picture, or why it is refused."""
    try:
        return decode_picture(content, 'a.tif'), ''
    except ImageReadError as error:
        return None, str(error)


class TestTiff:
    """Every kind is exact or refused; what is named here as usual is exact."""

    # photometric, planes, opacity
    USUAL = {
        8: {
            ('minisblack', 'contig', None),
            ('minisblack', 'contig', 'unassalpha'),
            *([('minisblack', 'contig', 'assocalpha')] if int(PIL.__version__.split('.')[0]) >= 13 else []),
            ('miniswhite', 'contig', None),
            ('rgb', 'contig', None),
            ('rgb', 'contig', 'unassalpha'),
            ('rgb', 'contig', 'assocalpha'),
            ('rgb', 'separate', None),
            ('rgb', 'separate', 'unassalpha'),
        },
        16: {
            ('minisblack', 'contig', None),
            ('rgb', 'contig', None),
            ('rgb', 'contig', 'unassalpha'),
            ('rgb', 'separate', None),
            ('rgb', 'separate', 'unassalpha'),
        },
    }

    @pytest.mark.parametrize('extra', [None, 'unassalpha', 'assocalpha', 'unspecified'])
    @pytest.mark.parametrize('planes', ['contig', 'separate'])
    @pytest.mark.parametrize('photometric', ['minisblack', 'miniswhite', 'rgb'])
    @pytest.mark.parametrize('bits', [8, 16])
    def test_every_kind_is_exact_or_refused(self, bits, photometric, planes, extra):
        channels = (3 if photometric == 'rgb' else 1) + (extra is not None)
        if channels == 1 and planes == 'separate':
            pytest.skip('one channel is one plane')
        largest = 2**bits - 1
        samples = random_image(37, 45, channels, dtype=np.dtype(f'u{bits // 8}'))
        if extra:
            samples[:5, :, -1], samples[5:9, :, -1] = 0, largest
        if extra == 'assocalpha':
            samples[..., :-1] = np.minimum(samples[..., :-1], samples[..., -1:])
        expected = samples[..., : channels - (extra is not None)].astype(np.int64)
        if photometric == 'miniswhite':
            expected = largest - expected
        if extra == 'assocalpha':
            expected = expected * largest // np.maximum(samples[..., -1:], 1)
        stored = np.moveaxis(samples, 2, 0) if planes == 'separate' else samples[..., 0] if channels == 1 else samples
        kinds = ((None, 1), ('deflate', 1), ('deflate', 2), ('lzw', 1), ('lzw', 2))
        for (compression, predictor), order, tiled in itertools.product(kinds, '<>', (False, True)):
            content = encode_by_tifffile(
                np.ascontiguousarray(stored).astype(stored.dtype.newbyteorder(order)),
                compression,
                predictor=predictor == 2,
                byteorder=order,
                photometric=photometric,
                planarconfig=planes if channels > 1 else None,
                extrasamples=[extra] if extra else None,
                **({'tile': (16, 32)} if tiled else {'rowsperstrip': 16}),
            )
            usual = (photometric, planes, extra) in self.USUAL[bits]
            usual = usual and not (bits == 16 and planes == 'separate' and compression == 'lzw')
            picture, fault = decode_or_fault(content)
            if picture is None:
                assert not usual, fault
                assert re.match('a.tif: .*(save it as PNG|copy it again|convert the image)', fault)
                continue
            assert picture.bits == bits
            np.testing.assert_array_equal(picture.alpha is not None, extra in ('unassalpha', 'assocalpha'))
            seen = np.ones((37, 45), bool)
            if picture.alpha is not None:
                np.testing.assert_array_equal(picture.alpha, samples[..., -1])
                seen = picture.alpha > 0
            pixels = picture.pixels if picture.pixels.ndim == 3 else picture.pixels[..., None]
            np.testing.assert_array_equal(pixels[seen], expected[seen])

    @pytest.mark.parametrize('compression', ['raw', 'tiff_lzw', 'tiff_adobe_deflate', 'packbits'])
    @pytest.mark.parametrize('mode', ['L', 'LA', 'RGB', 'RGBA', 'I;16'])
    def test_what_pillow_writes_is_exact(self, mode, compression):
        samples = random_image(37, 45, dtype=np.uint16) if mode == 'I;16' else random_image(37, 45, len(mode))
        image = Image.fromarray(samples[..., 0] if mode == 'L' else samples)
        picture = decode_picture(encode(image, 'tiff', compression=compression), 'a')
        channels = [picture.pixels] if picture.alpha is None else [picture.pixels, picture.alpha]
        np.testing.assert_array_equal(np.squeeze(np.dstack(channels)), np.squeeze(samples))

    def test_white_is_zero(self):
        grey = random_image(5, 7, dtype=np.uint16)
        for compression in (None, 'deflate'):
            content = encode_by_tifffile(65535 - grey, compression, photometric='miniswhite')
            np.testing.assert_array_equal(decode_picture(content, 'a').pixels, grey)

    def test_opacity_without_a_tag(self):
        """So OpenCV writes it, and Pillow takes it."""
        samples = random_image(5, 7, 4, dtype=np.uint16)
        picture = decode_picture(encode_by_opencv(samples, '.tiff'), 'a')
        np.testing.assert_array_equal(np.dstack((picture.pixels[..., ::-1], picture.alpha)), samples)

    @pytest.mark.parametrize(
        ('settings', 'message'),
        [
            ({'extrasamples': ['assocalpha']}, r'RGB, CONTIG, NONE, ASSOCALPHA\) is not supported; save it as PNG'),
            ({'extrasamples': ['unspecified']}, r'UNSPECIFIED\) is not supported; save it as PNG'),
        ],
    )
    def test_what_needs_a_choice_is_named(self, settings, message):
        content = encode_by_tifffile(random_image(5, 7, 4, dtype=np.uint16), None, photometric='rgb', **settings)
        with pytest.raises(ImageReadError, match=f'^a: .*{message}'):
            decode_picture(content, 'a')

    def test_a_compression_that_nothing_decodes_exactly_is_named(self):
        planes = random_image(3, 5, 7, dtype=np.uint16)
        content = encode_by_tifffile(planes, 'lzw', photometric='rgb', planarconfig='separate')
        with pytest.raises(ImageReadError, match=r'^a: .*\(RGB, SEPARATE, LZW\) is not supported; save it as PNG'):
            decode_picture(content, 'a')

    @pytest.mark.parametrize('dtype', ['i1', 'i2'])
    def test_negative_values_are_refused(self, dtype):
        content = encode_by_tifffile(np.array([[-5, 5]], dtype), None, photometric='minisblack')
        with pytest.raises(
            ImageReadError, match='^a: .*(8 bits per sample, signed|MINISBLACK).* not supported; (convert|save)'
        ):
            decode_picture(content, 'a')

    @pytest.mark.parametrize('compression', [None, 'deflate', 'lzw'])
    def test_truncated_files_of_16_bits_are_refused(self, compression):
        content = encode_by_tifffile(random_image(64, 64, 3, dtype=np.uint16), compression, photometric='rgb')
        for length in (len(content) // 2, len(content) - 3):
            with pytest.raises(ImageReadError, match='^a: damaged'):
                decode_picture(content[:length], 'a')


class TestOrientation:
    TURNED = {
        1: [[1, 2, 3], [4, 5, 6]],
        2: [[3, 2, 1], [6, 5, 4]],
        3: [[6, 5, 4], [3, 2, 1]],
        4: [[4, 5, 6], [1, 2, 3]],
        5: [[1, 4], [2, 5], [3, 6]],
        6: [[4, 1], [5, 2], [6, 3]],
        7: [[6, 3], [5, 2], [4, 1]],
        8: [[3, 6], [2, 5], [1, 4]],
    }  # as the EXIF standard, 4.6.4, says

    @pytest.mark.parametrize('orientation', TURNED)
    @pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
    def test_pixels_are_turned_and_camera_data_kept(self, orientation, dtype):
        pixels = np.array([[1, 2, 3], [4, 5, 6]], dtype)
        for order in '<>':
            content = insert(
                cv2.imencode('.png', pixels)[1].tobytes(), png.make_chunk(b'eXIf', exif_with(orientation, order))
            )
            picture = decode_picture(content, 'a')
            np.testing.assert_array_equal(picture.pixels, self.TURNED[orientation])
            assert picture.exif == exif_with(1, order)

    @pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
    @pytest.mark.parametrize('orientation', TURNED)
    def test_tiff(self, orientation, dtype):
        image = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], dtype))
        for compression in ('raw', 'tiff_lzw', 'tiff_adobe_deflate'):
            content = encode(image, 'tiff', tiffinfo={0x0112: orientation}, compression=compression)
            picture = decode_picture(content, 'a')
            np.testing.assert_array_equal(picture.pixels, self.TURNED[orientation])
            assert picture.exif is None

    @pytest.mark.parametrize('orientation', [1, 6])
    def test_a_thumbnail_is_left_out_where_the_picture_is_turned(self, orientation):
        def with_second_directory(orientation: int, start: int) -> bytes:
            exif = exif_with(orientation)
            return (
                exif[:34] + struct.pack('<I', start) + exif[38:] + struct.pack('<HHHII', 1, 0x0103, 3, 1, 6) + bytes(4)
            )

        content = encode(Image.new('RGB', (16, 8)), 'jpeg', exif=b'Exif\0\0' + with_second_directory(orientation, 46))
        assert decode_picture(content, 'a').exif == with_second_directory(1, 46 if orientation == 1 else 0)

    def test_jpeg_and_webp(self):
        for extension in ('jpeg', 'webp'):
            content = encode(Image.new('RGB', (16, 8)), extension, exif=b'Exif\0\0' + exif_with(6))
            picture = decode_picture(content, 'a')
            assert picture.pixels.shape == (16, 8, 3)
            assert picture.exif == exif_with(1)


class TestWriting:
    @pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
    @pytest.mark.parametrize('colour', [(), (3,)], ids=['grey', 'colour'])
    @pytest.mark.parametrize('has_alpha', [False, True])
    def test_everything_comes_back(self, tmp_path, dtype, colour, has_alpha):
        icc = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
        alpha = random_image(301, 211, dtype=dtype) if has_alpha else None
        picture = Picture(random_image(301, 211, *colour, dtype=dtype), alpha, icc, exif_with(1), '{"a": "µ"}')
        write_picture(picture, tmp_path / 'a.png')
        again = read_picture(tmp_path / 'a.png')
        np.testing.assert_array_equal(again.pixels, picture.pixels)
        assert again.pixels.dtype == dtype
        if has_alpha:
            np.testing.assert_array_equal(again.alpha, alpha)
        assert again[1 + has_alpha :] == picture[1 + has_alpha :]

    def test_other_readers_agree(self, tmp_path):
        pixels = random_image(40, 30, 3)
        write_picture(Picture(pixels, None, b'profile', exif_with(1), 'text'), tmp_path / 'a.png')
        with Image.open(tmp_path / 'a.png') as image:
            np.testing.assert_array_equal(np.array(image), pixels)
            assert image.info['icc_profile'] == b'profile'
            assert image.text == {'irnsigma': 'text'}
            assert image.getexif()[0x010F] == 'Camera 1'
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / 'a.png'))[..., ::-1], pixels)

    def test_a_smooth_image_becomes_small(self, tmp_path):
        ramp = np.add.outer(np.arange(256), np.arange(256)).astype(np.uint8)
        write_picture(Picture(ramp), tmp_path / 'a.png')
        assert (tmp_path / 'a.png').stat().st_size < 1000

    def test_what_cannot_be_written_is_named(self, tmp_path):
        with pytest.raises(OSError, match=r'none/a\.png: cannot be written \(No such file.*choose another place'):
            write_picture(Picture(random_image(2, 2)), tmp_path / 'none/a.png')


class TestDamage:
    @pytest.mark.parametrize('extension', ['png', 'jpeg', 'bmp', 'tiff', 'webp', 'ppm', 'gif', 'avif', 'heif'])
    def test_truncated_files_are_refused(self, extension):
        pixels = random_image(64, 64, 3)
        content = encode_heif(pixels) if extension == 'heif' else encode(Image.fromarray(pixels), extension)
        for length in (len(content) // 2, 10):
            with pytest.raises(ImageReadError, match=r'(?s)^a: .*damaged.*(copy it again|save it as PNG)'):
                decode_picture(content[:length], 'a')

    @pytest.mark.parametrize('content', [b'text', b'\0\0\0\x18ftypqt  ' + bytes(99), b'8BPS\0\1' + bytes(99)])
    def test_other_kinds_are_refused_with_the_remedy(self, content):
        with pytest.raises(
            ImageReadError,
            match=r'^a: is no image of a supported kind \(\.png, .*save it as PNG of 8 '
            'or 16 bits per sample',
        ) as error:
            decode_picture(content, 'a')
        assert 'BytesIO' not in str(error.value)

    def test_a_heic_without_some_of_its_tiles_is_refused(self, monkeypatch):
        heif = pytest.importorskip('pillow_heif')
        if not hasattr(heif.options, 'GRID_TILE_SIZE'):
            pytest.skip('this pillow-heif writes no tiles')
        monkeypatch.setattr(heif.options, 'GRID_TILE_SIZE', 64)
        content = encode_heif(random_image(128, 128, 3))
        assert b'grid' in content
        assert decode_picture(content, 'a').pixels.shape == (128, 128, 3)
        for length in (len(content) - 1, len(content) // 2):
            with pytest.raises(ImageReadError, match='^a: damaged.*truncated.*copy it again'):
                decode_picture(content[:length], 'a')

    def test_damage_at_the_beginning_of_a_png_file_is_refused(self):
        for content in (png.SIGNATURE, png.SIGNATURE + bytes(99)):
            with pytest.raises(ImageReadError, match='^a: damaged at its beginning; copy it again or remove it.$'):
                decode_picture(content, 'a')

    def test_a_lack_of_memory_is_no_damage(self, monkeypatch):
        def lack(*_):
            raise MemoryError('Unable to allocate 9 TiB')

        monkeypatch.setattr(module, '_decode_8_bit', lack)
        with pytest.raises(MemoryError):
            decode_picture(encode(Image.new('L', (4, 4))), 'a')

    def test_damaged_pixels_are_refused(self):
        content = bytearray(encode(Image.fromarray(random_image(64, 64, 3))))
        content[len(content) // 2] ^= 255
        with pytest.raises(ImageReadError, match='a: damaged'):
            decode_picture(bytes(content), 'a')

    @pytest.mark.parametrize(
        ('kind', 'body', 'what'),
        [
            (b'iCCP', b'name\0\0no zlib', 'profile'),
            (b'iCCP', b'no end', 'profile'),
            (b'iCCP', b'a\0\0' + zlib.compress(bytes(1000))[:-4], 'profile'),
            (b'eXIf', b'II*\0', 'camera'),
            (b'eXIf', exif_with(6)[:20], 'camera'),
        ],
    )
    def test_damage_beside_the_pixels_costs_a_warning(self, kind, body, what):
        pixels = random_image(4, 4, 3)
        picture = decode_picture(insert(encode(Image.fromarray(pixels)), png.make_chunk(kind, body)), 'a')
        np.testing.assert_array_equal(picture.pixels, pixels)
        assert picture[2:5] == (None, None, None)
        assert len(picture.warnings) == 1
        assert what in picture.warnings[0]

    @pytest.mark.parametrize('kind', [b'iCCP', b'eXIf', b'tEXt', b'zTXt', b'iTXt', b'gAMA', b'pHYs'])
    def test_a_wrong_checksum_beside_the_pixels_costs_a_warning(self, kind):
        chunk = png.make_chunk(kind, b'irnsigma\0text')[:-4] + b'oops'
        picture = decode_picture(insert(encode(Image.new('L', (4, 4), 7)), chunk), 'a')
        np.testing.assert_array_equal(picture.pixels, np.full((4, 4), 7))
        assert (picture.text, len(picture.warnings)) == (None, 1)

    def test_texts_of_others_are_passed_over(self):
        chunks = (
            png.make_chunk(b'tEXt', b'irnsigma2\0no'),
            png.make_chunk(b'tEXt', b'irnsigma\0yes'),
            png.make_chunk(b'tEXt', b'Author\0me'),
            png.make_chunk(b'zTXt', b'broken'),
            png.make_chunk(b'iTXt', b'broken'),
        )
        picture = decode_picture(insert(encode(Image.new('L', (4, 4))), *chunks), 'a')
        assert (picture.text, picture.warnings) == ('yes', ())

    @pytest.mark.parametrize(
        ('kind', 'rest'),
        [
            (b'zTXt', b'\0' + zlib.compress(b'a text')),
            (b'iTXt', b'\0\0en\0irnsigma\0a text'),
            (b'iTXt', b'\1\0\0\0' + zlib.compress(b'a text')),
        ],
    )
    def test_the_text_as_other_programs_save_it(self, kind, rest, tmp_path):
        content = insert(encode(Image.new('L', (4, 4))), png.make_chunk(kind, b'irnsigma\0' + rest))
        (tmp_path / 'a.png').write_bytes(content)
        assert decode_picture(content, 'a').text == read_text(tmp_path / 'a.png') == 'a text'
        damaged = insert(encode(Image.new('L', (4, 4))), png.make_chunk(kind, b'irnsigma\0' + rest[:-1] + b'\xff'))
        picture = decode_picture(damaged, 'a')
        assert (picture.text, picture.warnings) == (None, ('a text in it is damaged',))

    @pytest.mark.parametrize('kind', [b'iCCP', b'zTXt'])
    def test_what_unpacks_without_end_is_refused(self, kind):
        bomb = png.make_chunk(kind, b'irnsigma\0\0' + zlib.compress(bytes(module.MAX_UNPACKED_BYTES + 1)))
        picture = decode_picture(insert(encode(Image.new('L', (4, 4))), bomb), 'a')
        assert (picture.icc, picture.text, len(picture.warnings)) == (None, None, 1)


class TestLeftOut:
    @pytest.mark.parametrize('tag', [0x8769, 0x8825])
    def test_camera_data_of_tiff(self, tag):
        content = encode_by_tifffile(random_image(4, 4), None, extratags=[(65000, 'I', 1, 8, True)])
        picture = decode_picture(content.replace(*(struct.pack('<HHI', each, 4, 1) for each in (65000, tag))), 'a')
        assert picture[3:] == (None, None, ('its camera data (EXIF) cannot be kept, as of any TIFF file',))

    def test_numbered_colours_of_png(self):
        profile = png.make_chunk(b'iCCP', b'a\0\0' + zlib.compress(b'profile'))
        fault = 'its colours (primaries 9, transfer function 16) are no sRGB, but have no profile'
        for numbers, beside, warnings in (
            (b'\1\15\0\1', b'', ()),
            (b'\11\20\0\1', b'', (fault,)),
            (b'\11\20\0\1', profile, ()),
            (b'\11', b'', ()),
        ):
            content = insert(encode(Image.new('RGB', (4, 4))), png.make_chunk(b'cICP', numbers), beside)
            assert decode_picture(content, 'a').warnings == warnings

    def test_described_colours_of_png(self):
        srgb = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
        adobe = (31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
        linear, usual = (
            png.make_chunk(b'gAMA', struct.pack('>I', 100000)),
            png.make_chunk(b'gAMA', struct.pack('>I', 45455)),
        )
        primaries, wide = (png.make_chunk(b'cHRM', struct.pack('>8I', *values)) for values in (srgb, adobe))
        profile = png.make_chunk(b'iCCP', b'a\0\0' + zlib.compress(b'profile'))
        end = 'are no sRGB, but have no profile'
        for chunks, warnings in (
            ((usual, primaries), ()),
            ((linear,), (f'its colours (gAMA 1) {end}',)),
            ((usual, wide), (f'its colours (cHRM 0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06) {end}',)),
            ((linear, wide, png.make_chunk(b'sRGB', b'\0')), ()),
            ((linear, png.make_chunk(b'cICP', b'\1\15\0\1')), ()),
            ((linear, profile), ()),
            ((png.make_chunk(b'gAMA', b'\0'),), ()),
        ):
            assert decode_picture(insert(encode(Image.new('RGB', (4, 4))), *chunks), 'a').warnings == warnings


class TestSize:
    def test_more_pixels_than_pillow_allows(self, monkeypatch):
        monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
        for extension in ('png', 'tiff', 'webp'):
            assert decode_picture(encode(Image.new('L', (50, 40)), extension), 'a').pixels.shape[:2] == (40, 50)
        assert Image.MAX_IMAGE_PIXELS == 10

    def test_the_limit_is_back_when_the_last_thread_has_left(self, monkeypatch):
        monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
        inside, leave = threading.Event(), threading.Event()

        def stay():
            with module._no_pixel_limit():
                inside.set()
                leave.wait(10)

        thread = threading.Thread(target=stay)
        thread.start()
        inside.wait(10)
        with module._no_pixel_limit():
            leave.set()
            thread.join()
            assert Image.MAX_IMAGE_PIXELS is None
        assert Image.MAX_IMAGE_PIXELS == 10

    def test_the_memory_is_checked_before_it_is_taken(self, monkeypatch):
        header = struct.pack('>IIBBBBB', 100_000, 200_000, 8, 2, 0, 0, 0)
        content = png.SIGNATURE + png.make_chunk(b'IHDR', header) + png.make_chunk(b'IDAT', b'')
        monkeypatch.setattr(module, 'available_memory', lambda: 64e9)
        with pytest.raises(ImageReadError, match='a: 100000x200000 pixels need about 240.0 GB of memory, but 64.0 GB'):
            decode_picture(content, 'a')


class TestPaths:
    def test_what_is_no_file(self, tmp_path):
        os.mkfifo(tmp_path / 'pipe.png')
        (tmp_path / 'link.png').symlink_to('nowhere')
        for path, message in (
            (tmp_path, 'is no file'),
            ('/dev/null', 'is no file'),
            (tmp_path / 'pipe.png', 'is no file'),
            (tmp_path / 'link.png', 'No such file'),
        ):
            with pytest.raises(ImageReadError, match=f'{path}: .*{message}'):
                read_picture(path)


class TestRgb:
    def test_grey_palette_and_opaque_alpha_become_rgb(self):
        image = random_image(5, 7, 3)
        grey = image[..., 0]
        np.testing.assert_array_equal(decode_rgb_image(encode_by_opencv(grey), 'grey'), np.stack([grey] * 3, -1))
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
        np.testing.assert_array_equal(
            decode_rgb_image(encode_by_opencv(values, extension), 'grey'), np.stack([expected] * 3, -1)
        )
        bgr = np.dstack([values, values * 0, values * 0 + 65535])
        np.testing.assert_array_equal(
            decode_rgb_image(encode_by_opencv(bgr, extension), 'colour'),
            np.dstack([expected * 0 + 255, expected * 0, expected]),
        )

    def test_the_orientation_of_cameras_is_applied(self):
        image = Image.fromarray(random_image(5, 7, 3))
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned clockwise
        file = io.BytesIO()
        image.save(file, 'png', exif=exif)
        np.testing.assert_array_equal(decode_rgb_image(file.getvalue(), 'turned'), np.rot90(image, -1))

    @pytest.mark.parametrize('extension', ['.png', '.jpg', '.bmp', '.tiff', '.webp'])
    def test_truncated_files_are_refused_by_name(self, extension):
        content = encode_by_opencv(random_image(64, 64, 3), extension)
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
        assert (decode_rgb_image(encode_by_opencv(pixels), 'opaque') == 255).all()
        pixels[0, 0, 3] = 65534
        with pytest.raises(ImageReadError, match='photo: has transparent'):
            decode_rgb_image(encode_by_opencv(pixels), 'photo')

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


def test_reading_loads_no_network():
    """Whoever reads pictures needs neither; and threads would meet half of BasicSR while it is being imported."""
    code = (
        'import sys; from irnsigma_plugin.images.picture import read_picture; '
        'assert not {"basicsr", "irnsigma_plugin.archs"} & set(sys.modules)'
    )
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, '-c', code], check=True, env=environment)
