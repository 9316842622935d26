"""JPEG, WebP and AVIF files: what comes back of what is written, and what they cannot hold."""

from __future__ import annotations

import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image
from test_images_picture import exif_with

from irnsigma_plugin.images import lossy
from irnsigma_plugin.images.names import LOSSY
from irnsigma_plugin.images.picture import Picture, fitted, read_picture, read_text, write_picture

NOTE = json.dumps({'sigma': 0.5, 'name': 'a "quoted" & <bracketed> name, \'ä\''})


def smooth(*shape: int) -> np.ndarray:
    """Noise of large grains, of which a good quality loses little."""
    grains = np.random.default_rng(0).integers(40, 216, (4, 5, *shape[2:]), np.uint8)
    return cv2.resize(grains, shape[1::-1], interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize('kind', LOSSY)
@pytest.mark.parametrize('shape', [(48, 60), (48, 60, 3)])
@pytest.mark.parametrize('has_alpha', [False, True])
def test_a_picture_and_what_belongs_to_it_come_back(tmp_path, kind, shape, has_alpha):
    if has_alpha and kind == 'jpg':
        pytest.skip('it has no alpha')
    path, alpha = tmp_path / f'a.{kind}', smooth(*shape[:2]) if has_alpha else None
    picture = Picture(smooth(*shape), alpha, b'profile' * 9, exif_with(1), NOTE)
    write_picture(fitted(picture, path), path, 95)
    again = read_picture(path)
    grey = again.pixels[..., 0] if kind == 'webp' and len(shape) == 2 else again.pixels  # WebP has no grey
    assert np.abs(grey.astype(int) - picture.pixels).mean() < 4
    assert alpha is None or np.abs(again.alpha.astype(int) - alpha).mean() < 2
    assert (again.alpha is None) == (alpha is None)
    assert (again.icc, again.text, again.warnings) == (picture.icc, NOTE, ())
    assert b'Camera 1' in again.exif
    assert read_text(path) == NOTE


@pytest.mark.parametrize('kind', LOSSY)
def test_colour_is_sharp_and_quality_counts(tmp_path, kind):
    """Half the rows and columns of the colours would leave nothing of stripes of one pixel; WebP keeps no more."""
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (200, 60, 60), (60, 60, 200)
    write_picture(Picture(stripes), tmp_path / f'a.{kind}', 95)
    assert kind == 'webp' or np.abs(read_picture(tmp_path / f'a.{kind}').pixels.astype(int) - stripes).mean() < 10
    noise, sizes = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8), []
    for quality in (95, 30):
        write_picture(Picture(noise), tmp_path / f'b.{kind}', quality)
        sizes.append((tmp_path / f'b.{kind}').stat().st_size)
    assert sizes[0] > 1.5 * sizes[1]


def test_a_text_that_another_program_has_written_anew():
    xmp = b'<rdf:Description xmlns:irnsigma="urn:irnsigma"><irnsigma:text>{&quot;a&quot;: 1}</irnsigma:text>'
    assert lossy.read_text(xmp) == '{"a": 1}'
    assert lossy.read_text(b'<x:xmpmeta/>') is lossy.read_text(None) is None


@pytest.mark.parametrize(
    ('picture', 'name', 'message'),
    [
        (Picture(np.zeros((2, 2), np.uint16)), 'a.avif', 'a AVIF file cannot hold 16 bits per sample; make it a PNG'),
        (Picture(np.zeros((2, 2), np.uint8), np.full((2, 2), 254, np.uint8)), 'a.JPEG', 'cannot hold transparency'),
        (Picture(np.zeros((2, 16384, 3), np.uint8)), 'a.webp', 'cannot hold sides of more than 16383 pixels'),
    ],
)
def test_what_a_file_cannot_hold_is_refused(picture, name, message):
    assert fitted(picture, 'a.png') is picture
    with pytest.raises(ValueError, match=message):
        fitted(picture, name)


def test_formats_that_the_installed_pillow_lacks_are_named(monkeypatch):
    Image.init()
    monkeypatch.delitem(Image.SAVE, 'AVIF')
    with pytest.raises(ValueError, match='anything by the installed Pillow'):
        fitted(Picture(np.zeros((2, 2), np.uint8)), 'a.avif')


def test_jpeg_drops_opaque_alpha_and_camera_data_that_are_too_long(tmp_path):
    opaque = Picture(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8), exif=exif_with(1).ljust(65527))
    picture = fitted(opaque, 'a.jpg')
    assert (picture.alpha, picture.exif, picture.warnings) == (None, opaque.exif, ())
    write_picture(picture, tmp_path / 'a.jpg')
    assert read_picture(tmp_path / 'a.jpg').exif == opaque.exif
    longer = fitted(opaque._replace(exif=opaque.exif + b' '), 'a.jpg')
    assert (longer.exif, longer.warnings) == (None, ('its camera data (EXIF) are too long for a JPEG file',))


def test_webp_drops_a_profile_of_grey(tmp_path):
    grey = Picture(np.zeros((2, 2), np.uint8), icc=bytes(16) + b'GRAYXYZ ' + bytes(104))
    picture = fitted(grey, 'a.webp')
    assert picture == grey._replace(icc=None, warnings=('its colour profile (ICC) is of grey, which WebP has not',))
    assert fitted(grey, 'a.jpg').icc == fitted(grey, 'a.avif').icc == grey.icc


def test_what_is_no_picture_of_ours_has_no_text(tmp_path):
    file = io.BytesIO()
    Image.new('RGB', (2, 2)).save(file, 'jpeg', comment=b'irnsigma')
    (tmp_path / 'a.jpg').write_bytes(file.getvalue())
    assert read_text(tmp_path / 'a.jpg') is None
    assert read_picture(tmp_path / 'a.jpg').text is None
