from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.experiment import has_alexnet, write_photographs
from helpers.invertibility import randomise

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.cli import main
from irnsigma_plugin.demo.studio import Studio, flat, painted_map
from irnsigma_plugin.evaluation.measures import hr_metrics
from irnsigma_plugin.images.picture import ImageReadError, Picture, read_picture, write_picture
from irnsigma_plugin.rescaling.rescaler import Rescaler

ORANGE, BLUE = (255, 122, 0), (0, 120, 255)


@pytest.fixture
def studio(tmp_path, monkeypatch) -> Studio:
    """With a small model, which is also in the current directory, beside photographs."""
    monkeypatch.chdir(tmp_path)
    net = randomise(InvRescaleNet(4, [1, 1], 2))
    torch.save({'params': net.state_dict()}, 'model.pth')
    write_photographs(Path('photos'), count=1, height=72, width=96)
    Path('written').mkdir()
    metrics = hr_metrics(4, lpips=has_alexnet())
    return Studio({'own': Rescaler(net)}, lambda _: metrics, (0.0, 0.5, 1.0), 20_000, Path('written'))


def command(line: str) -> None:
    assert main([*line.split(), '--model', 'model.pth']) == 0


@pytest.mark.parametrize('bits', [8, 16])
def test_files_are_those_of_the_commands(studio, bits):
    """Byte by byte, with opacity, and of a size that is no multiple of the scale."""
    pixels = read_picture('photos/photo0.png').pixels[:71, :94]
    factor, kind = (257, np.uint16) if bits == 16 else (1, np.uint8)
    alpha = np.full(pixels.shape[:2], 200 * factor, kind)
    write_picture(Picture(pixels.astype(kind) * factor, alpha), 'photo.png')
    small = studio.shrink(studio.open(Path('photo.png')), 'own')
    command('downscale photo.png small/')
    assert small.path.name == 'photo.png'
    assert small.path.read_bytes() == Path('small/photo.png').read_bytes()
    sigma_map = np.zeros((18, 24), np.uint8)
    sigma_map[:9] = 255
    write_picture(Picture(sigma_map), 'map.png')
    for sigma, choice in ((0.3, '--sigma 0.3'), (1, '--sigma 1'), (sigma_map, '--sigma-map map.png')):
        restored = studio.write(studio.restore(small, sigma, 7), 'restored')
        command(f'upscale small restored --seed 7 {choice} --overwrite')
        assert restored.read_bytes() == Path('restored/photo.png').read_bytes()
    alone = studio.shrink(studio.open(Path('small/photo.png')), 'own')
    assert (studio.restore(alone, sigma_map, 7).pixels == read_picture('restored/photo.png').pixels).all()
    assert studio.measure(alone, studio.restore(alone, 0, 0)) == {}


def test_what_is_small_is_told_by_its_note(studio):
    command('downscale photos small/')
    command('upscale small restored/')
    assert studio.open(Path('small/photo0.png')).original is None
    restored = studio.open(Path('restored/photo0.png'))  # it has a note, too, but is a photograph like any other
    assert restored.original is restored.picture
    damaged = read_picture('small/photo0.png')._replace(text='{')
    write_picture(damaged, 'damaged.png')
    assert studio.open(Path('damaged.png')).original is None


def test_figures_are_those_of_evaluate(studio):
    small = studio.shrink(studio.open(Path('photos/photo0.png')), 'own')
    command('evaluate photos --sigmas 0 0.5 --seed 3 --output results')
    with open('results/metrics.csv', newline='') as file:
        for row in csv.DictReader(file):
            for name, value in studio.measure(small, studio.restore(small, float(row['sigma']), 3)).items():
                assert value == pytest.approx(float(row[name]), abs=1e-6)


def test_large_pictures_are_refused(studio):
    cv2.imwrite('large.png', np.zeros((201, 100), np.uint8))
    with pytest.raises(ImageReadError, match='large.png: 100x201 pixels are more than the 0.02 megapixels'):
        studio.open(Path('large.png'))
    cv2.imwrite('fits.png', np.zeros((198, 101), np.uint8))
    small = studio.shrink(studio.open(Path('fits.png')), 'own')
    assert studio.shrink(studio.open(small.path), 'own').picture.pixels.shape[:2] == (50, 26)
    write_picture(small.picture._replace(pixels=np.zeros((50, 60), np.uint8)), 'note.png')
    with pytest.raises(ImageReadError, match='note.png, restored: 237x197 pixels are more than'):
        studio.shrink(studio.open(Path('note.png')), 'own')


def test_curve(studio):
    small = studio.shrink(studio.open(Path('photos/photo0.png')), 'own')
    seen = []

    def progress(sigmas):
        for sigma in sigmas:
            seen.append(sigma)
            yield sigma

    if has_alexnet():
        assert studio.curve(small, 0, progress).shape == (600, 750, 3)
        assert seen == [0, 0.5, 1]
    else:
        with pytest.raises(ValueError, match='fetch-weights'):
            studio.curve(small, 0, progress)
    tiny = Path('photos/tiny.png')
    write_picture(Picture(np.zeros((28, 24, 3), np.uint8)), tiny)
    with pytest.raises(ValueError, match='tiny is too small for a curve' if has_alexnet() else 'fetch-weights'):
        studio.curve(studio.shrink(studio.open(tiny), 'own'), 0, progress)
    with pytest.raises(ValueError, match='photo0 is a small picture, but a curve needs the original'):
        studio.curve(studio.shrink(studio.open(small.path), 'own'), 0, progress)


def test_flat_is_on_white():
    grey = Picture(np.array([[0, 65535]], np.uint16), np.array([[0, 65535]], np.uint16))
    assert flat(grey).tolist() == [[[255] * 3, [255] * 3]]
    assert flat(grey._replace(alpha=np.array([[13107, 0]], np.uint16))).tolist() == [[[204] * 3, [255] * 3]]


class TestPaintedMap:
    def layer(self, **parts: tuple[tuple[int, int, int], int]) -> np.ndarray:
        """4x4 RGBA with colour and alpha in quarters: `top_left=(ORANGE, 153)`."""
        layer = np.zeros((4, 4, 4), np.uint8)
        for name, (colour, alpha) in parts.items():
            layer[2 * ('bottom' in name) :][:2, 2 * ('right' in name) :][:, :2] = (*colour, alpha)
        return layer

    def test_nothing_painted(self):
        assert painted_map([], 0.6, 0.5, (2, 2)) is None
        assert painted_map([self.layer()], 0.6, 0.5, (2, 2)) is None

    def test_orange_is_sharp_blue_is_faithful_and_the_rest_as_the_slider(self):
        layer = self.layer(top_left=(ORANGE, 153), top_right=(BLUE, 153), bottom_left=(ORANGE, 220))
        assert painted_map([layer], 0.6, 0.2, (2, 2)).tolist() == [[255, 0], [255, 51]]

    def test_thin_paint_lets_the_slider_through(self):
        layer = self.layer(top_left=(ORANGE, 51), top_right=(BLUE, 51))
        assert painted_map([layer], 0.8, 0.2, (2, 2)).tolist() == [[102, 38], [51, 51]]

    def test_a_later_layer_covers_an_earlier_one(self):
        layers = [self.layer(top_left=(ORANGE, 255)), self.layer(top_left=(BLUE, 255))]
        assert painted_map(layers, 1, 0.2, (4, 4))[0].tolist() == [0, 0, 51, 51]
