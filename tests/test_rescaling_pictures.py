"""Rescaling of whole pictures, and what an lr file notes of its original."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from helpers.invertibility import randomise

import irnsigma_plugin
from irnsigma_plugin.archs.bicubic import BicubicRescaleNet, bicubic_downscale, bicubic_upscale
from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.images import picture as picture_module
from irnsigma_plugin.images.picture import Picture
from irnsigma_plugin.rescaling.pictures import (
    LrNote,
    _fill_transparent,
    downscale_picture,
    read_note,
    settings_of,
    upscale_picture,
)
from irnsigma_plugin.rescaling.rescaler import Rescaler

NOTE = LrNote(480, 321, 16, 4, 'feedfeedfeedfeed')


@pytest.fixture(scope='module')
def rescaler():
    return Rescaler(BicubicRescaleNet(4))


def smooth(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    """A picture that survives rescaling: a slope from a tenth to nine tenths of the range."""
    slope = np.add.outer(np.linspace(0.1, 0.5, shape[0]), np.linspace(0, 0.4, shape[1]))
    slope = slope.reshape(*shape[:2], *(1 for _ in shape[2:])) * np.ones(shape)
    return (slope * np.iinfo(dtype).max).round().astype(dtype)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('shape', [(45, 38), (45, 38, 3), (48, 40, 3)])
def test_size_bits_and_channels_come_back(rescaler, shape, dtype):
    hr = Picture(smooth(*shape, dtype=dtype), icc=b'icc', exif=b'exif', warnings=('something',))
    lr = downscale_picture(rescaler, hr)
    assert (lr.pixels.shape, lr.pixels.dtype) == ((12, 10, *shape[2:]), np.uint8)
    assert read_note(lr.text)[:5] == (*shape[:2], hr.bits, 4, rescaler.model_hash)
    restored = upscale_picture(rescaler, lr, 'a')
    assert (restored.pixels.shape, restored.pixels.dtype) == (shape, dtype)
    unit = np.iinfo(dtype).max / 255
    assert np.abs(restored.pixels.astype(float) - hr.pixels)[4:-8, 4:-8].max() <= 2 * unit
    assert restored._replace(text=None)[1:] == (None, b'icc', b'exif', None, ('something',))


def test_opacity_is_rescaled_bicubically(rescaler):
    alpha = np.random.default_rng(0).integers(0, 256, (48, 40), np.uint8)
    lr = downscale_picture(rescaler, Picture(smooth(48, 40, 3), alpha))
    np.testing.assert_array_equal(lr.alpha, bicubic_downscale(alpha[..., None], 4)[..., 0])
    restored = upscale_picture(rescaler, lr, 'a')
    np.testing.assert_array_equal(restored.alpha, bicubic_upscale(lr.alpha[..., None], 4)[..., 0])


def disc(hidden: np.ndarray | tuple[int, ...], side: int = 96) -> Picture:
    """An orange disc with one pixel of antialiasing at its edge, and `hidden` under full transparency."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    alpha = (np.clip(side / 3 + 0.5 - np.hypot(y, x), 0, 1) * 255).round().astype(np.uint8)
    pixels = np.where(alpha[..., None] > 0, (255, 160, 40), hidden).astype(np.uint8)
    return Picture(pixels, alpha)


def on_white(picture: Picture) -> np.ndarray:
    opacity = picture.alpha[..., None] / np.iinfo(picture.alpha.dtype).max
    return picture.pixels / np.iinfo(picture.pixels.dtype).max * 255 * opacity + 255 * (1 - opacity)


@pytest.mark.parametrize('net', [BicubicRescaleNet(4), randomise(InvRescaleNet(4, block_num=[1, 1]))])
@pytest.mark.parametrize('side', [96, 93])
def test_nothing_depends_on_what_is_hidden_under_transparency(net, side):
    rescaler = Rescaler(net)
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3))
    results = []
    for hidden in ((0, 0, 0), (255, 255, 255), noise, (255, 160, 40)):
        lr = downscale_picture(rescaler, disc(hidden, side))
        others = np.where(lr.alpha[..., None] > 0, lr.pixels, np.resize(hidden, lr.pixels.shape)).astype(np.uint8)
        results.append([upscale_picture(rescaler, small, 'a') for small in (lr, lr._replace(pixels=others))] + [lr])
    for result in results[:3]:
        for picture, expected in zip(result, results[0]):
            np.testing.assert_array_equal(picture.pixels, expected.pixels)
            np.testing.assert_array_equal(picture.alpha, expected.alpha)
        np.testing.assert_array_equal(result[0].pixels, result[1].pixels)
    for picture, expected in zip(results[0], results[3]):  # the disc's own colour is what its neighbours have
        np.testing.assert_array_equal(picture.pixels, expected.pixels)


def test_there_is_no_dark_ring_around_a_disc(rescaler):
    hr = disc((0, 0, 0))
    lr = downscale_picture(rescaler, hr)
    assert np.abs(lr.pixels.astype(int) - (255, 160, 40)).max() <= 1
    restored = upscale_picture(rescaler, lr, 'a')
    assert np.abs(restored.pixels.astype(int) - (255, 160, 40)).max() <= 1
    assert (on_white(restored) >= (254, 159, 39)).all()


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('colour', [(), (3,)])
def test_transparent_pixels_take_the_mean_of_those_around_by_opacity(dtype, colour):
    pixels = np.array([[10, 99, 99, 99, 80], [30, 99, 99, 99, 99], [99, 99, 99, 99, 99]])
    alpha = np.array([[100, 0, 0, 0, 50], [100, 0, 0, 0, 0], [0, 0, 0, 0, 0]], dtype)
    pixels = (pixels.reshape(3, 5, *(1 for _ in colour)) * np.ones(colour, int)).astype(dtype)
    # 2 x 2 above left: 20; above right: 80; 4 x 4 above left: 20. No 4 x 4 below has any.
    expected = np.array([[10, 20, 20, 20, 80], [30, 20, 20, 20, 80], [20, 20, 20, 20, 80]])
    filled = _fill_transparent(pixels, alpha)
    assert filled.dtype == dtype
    np.testing.assert_array_equal(filled if not colour else filled[..., 1], expected)
    assert (_fill_transparent(pixels, np.zeros_like(alpha)) == 0).all()
    assert _fill_transparent(pixels, np.ones_like(alpha)) is pixels


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_opaque_and_transparent_stay_so(rescaler, dtype):
    for value in (0, np.iinfo(dtype).max):
        alpha = np.full((45, 38), value, dtype)
        lr = downscale_picture(rescaler, Picture(smooth(45, 38, dtype=dtype), alpha))
        np.testing.assert_array_equal(lr.alpha, np.full((12, 10), 255 if value else 0, np.uint8))
        restored = upscale_picture(rescaler, lr, 'a')
        np.testing.assert_array_equal(restored.alpha, alpha)
        assert restored.alpha.dtype == dtype


def test_any_picture_can_be_upscaled(rescaler):
    for dtype in (np.uint8, np.uint16):
        restored = upscale_picture(rescaler, Picture(smooth(12, 10, dtype=dtype)), 'a')
        assert (restored.pixels.shape, restored.pixels.dtype, restored.warnings) == ((48, 40), dtype, ())


def test_another_scale_is_refused(rescaler):
    lr = downscale_picture(Rescaler(BicubicRescaleNet(2)), Picture(smooth(45, 38)))
    with pytest.raises(ValueError, match='was downscaled by 2, but this model is for scale 4'):
        upscale_picture(rescaler, lr, 'a')


def test_another_model_costs_a_warning(rescaler):
    lr = downscale_picture(rescaler, Picture(smooth(45, 38)))
    other = lr._replace(text=lr.text.replace(rescaler.model_hash, 'f' * 16))
    restored = upscale_picture(rescaler, other, 'a')
    assert restored.pixels.shape == (45, 38)
    assert 'downscaled by the model ffffffffffffffff' in restored.warnings[0]


def test_a_note_of_another_size_is_passed_over(rescaler):
    lr = downscale_picture(rescaler, Picture(smooth(45, 38, dtype=np.uint16)))
    restored = upscale_picture(rescaler, lr._replace(pixels=lr.pixels[1:]), 'a')
    assert (restored.pixels.shape, restored.bits) == ((44, 40), 8)
    assert 'resized since it was downscaled from 38x45' in restored.warnings[0]


def test_the_memory_for_the_result_is_checked(rescaler, monkeypatch):
    monkeypatch.setattr(picture_module, 'available_memory', lambda: 1000)
    with pytest.raises(ValueError, match='the restored picture: 40x48 pixels need about'):
        upscale_picture(rescaler, Picture(smooth(12, 10)), 'a')


def test_arguments_reach_the_network():
    calls = {}

    class Recorder(Rescaler):
        def downscale(self, image, overlap=None):
            calls['downscale'] = overlap
            return super().downscale(image)

        def upscale(self, lr, sigma=0.0, seed=0, name='', size=None, overlap=None, dtype=None):
            calls['upscale'] = (sigma, seed, name, size, overlap, dtype)
            return super().upscale(lr, size=size)

    rescaler = Recorder(BicubicRescaleNet(4))
    lr = downscale_picture(rescaler, Picture(smooth(45, 38)), 32)
    upscale_picture(rescaler, lr, 'name', 0.25, 7, 64)
    assert calls == {'downscale': 32, 'upscale': (0.25, 7, 'name', (45, 38), 64, np.uint8)}


def test_a_note_is_plain_text_and_comes_back():
    text = NOTE.to_text()
    assert text == (
        '{"height": 480, "width": 321, "bits": 16, "scale": 4, "model": "feedfeedfeedfeed", "overlap": null, '
        f'"version": "{irnsigma_plugin.__version__}", "quality": null}}'
    )
    assert read_note(text) == NOTE
    assert read_note(text[:-1] + ', "more": 1}') == NOTE
    for name in ('overlap', 'quality'):  # of an earlier version
        assert read_note(re.sub(f'(, )?"{name}": null', '', text)) == NOTE


def test_a_restored_picture_notes_its_settings_and_can_be_restored_further(rescaler):
    lr = Picture(smooth(12, 10, 3))
    assert 'seed' not in settings_of(rescaler, None, 0, seed=7)  # which makes no difference
    sigma_map = np.zeros((12, 10), np.uint8)
    restored = upscale_picture(rescaler, lr, 'ä', 0.5, seed=7, overlap=64)
    assert json.loads(restored.text) == {
        'model': rescaler.model_hash,
        'sigma': 0.5,
        'overlap': 64,
        'precision': 'fp32',
        'engine': 'torch',
        'seed': 7,
        'name': 'ä',
        'version': irnsigma_plugin.__version__,
    }
    by_map = json.loads(upscale_picture(rescaler, lr, 'ä', sigma_map).text)['sigma']
    by_another = json.loads(upscale_picture(rescaler, lr, 'ä', sigma_map + np.uint8(1)).text)['sigma']
    assert by_map.startswith('map ')
    assert by_map != by_another
    further = upscale_picture(rescaler, restored, 'ä')
    assert (further.pixels.shape, further.warnings) == ((192, 160, 3), ())


@pytest.mark.parametrize(
    'text',
    [
        '',
        'null',
        '3',
        '[]',
        '{}',
        '{"height": 1',
        NOTE._replace(height=0).to_text(),
        NOTE._replace(width=1.5).to_text(),
        NOTE._replace(scale=None).to_text(),
        NOTE._replace(bits=1).to_text(),
        NOTE._replace(model=7).to_text(),
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match='.'):
        read_note(text)
