"""One photograph opened, made small, restored and measured, for whoever shows it."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Callable, NamedTuple

import cv2
import numpy as np

from irnsigma_plugin.evaluation.measures import ImageScore, MetricOptions, Scores, measure, perception_distortion_axes
from irnsigma_plugin.evaluation.pictures import decode_png
from irnsigma_plugin.evaluation.report import draw_curve
from irnsigma_plugin.evaluation.restore import to_bgr
from irnsigma_plugin.images.picture import Picture, check_size, decode_picture, to_8_bit, write_picture
from irnsigma_plugin.rescaling.pictures import downscale_picture, is_small, upscale_picture
from irnsigma_plugin.rescaling.rescaler import Rescaler


class Photograph(NamedTuple):
    """A picture that somebody has brought. As with the commands, restored detail depends on its file's stem."""

    path: Path
    file_bytes: int
    picture: Picture

    @property
    def original(self) -> Picture | None:
        """The picture, unless it is a small one already, which is told by its note."""
        return None if is_small(self.picture) else self.picture


class Small(NamedTuple):
    """The small picture of a photograph, its file, and the name of the model that restores it."""

    photograph: Photograph
    picture: Picture
    path: Path
    model: str


@dataclasses.dataclass(frozen=True)
class Studio:
    """Does with one picture what the commands do, by `models`, in files below `folder`.

    A picture has `most_pixels` as an original; `metrics` are those for a scale, `sigmas` those of the curve.
    """

    models: Mapping[str, Rescaler]
    metrics: Callable[[int], MetricOptions]
    sigmas: Sequence[float]
    most_pixels: int
    folder: Path
    overlap: int | None = None
    busy: threading.Lock = dataclasses.field(default_factory=threading.Lock)  # while anything is computed or written

    def open(self, path: Path) -> Photograph:
        """Read a file; ImageReadError if it cannot be used."""
        content = path.read_bytes()
        return Photograph(path, len(content), decode_picture(content, path.name, self.most_pixels))

    def shrink(self, photograph: Photograph, model: str) -> Small:
        """Downscale a photograph; ImageReadError if a small one would become too large."""
        path, scale = photograph.path, self.models[model].scale
        if photograph.original is None:
            height, width = (scale * (side - 1) + 1 for side in photograph.picture.pixels.shape[:2])
            check_size(width, height, self.most_pixels, f'{path.name}, restored')
            return Small(photograph, photograph.picture, path, model)
        with self.busy:
            lr = downscale_picture(self.models[model], photograph.original, self.overlap)
        return Small(photograph, lr, self.write(lr, path.stem), model)

    def restore(self, small: Small, sigma: float | np.ndarray, seed: int) -> Picture:
        """Restore a photograph from its small picture."""
        name = small.photograph.path.stem
        with self.busy:
            return upscale_picture(self.models[small.model], small.picture, name, sigma, seed, self.overlap)

    def measure(self, small: Small, restored: Picture) -> dict[str, float]:
        """Metrics of a restored picture against the original; none without one."""
        original = small.photograph.original
        if original is None:
            return {}
        metrics = self.metrics(self.models[small.model].scale)
        with self.busy:
            (values,), _ = measure(metrics, [to_bgr(flat(restored))], to_bgr(flat(original)))
        return {name: value for name, value in values.items() if not math.isnan(value)}  # of tiny pictures

    def curve(self, small: Small, seed: int, progress: Callable[[Sequence[float]], Iterable[float]]) -> np.ndarray:
        """Draw the perception-distortion curve of a photograph, as RGB; `progress` passes the sigmas on.

        Raises:
            ValueError: There is no original, or LPIPS cannot be measured.
        """
        name = small.photograph.path.stem
        axes = perception_distortion_axes(self.metrics(self.models[small.model].scale))
        if small.photograph.original is None:
            raise ValueError(f'{name} is a small picture, but a curve needs the original: open that.')
        if axes is None:
            raise ValueError('a curve needs LPIPS, whose weights are missing: irnsigma fetch-weights')
        values = {sigma: self.measure(small, self.restore(small, sigma, seed)) for sigma in progress(self.sigmas)}
        if not all(axis in value for value in values.values() for axis in axes):
            raise ValueError(f'{name} is too small for a curve: {" or ".join(axes)} cannot be measured.')
        scores = [ImageScore(name, sigma, value, {}) for sigma, value in values.items()]
        return decode_png(draw_curve(Scores(name, tuple(values), scores), axes))

    def write(self, picture: Picture, stem: str) -> Path:
        """Write a PNG file of this name, in a folder that nobody else has or can guess."""
        with self.busy:
            path = Path(tempfile.mkdtemp(dir=self.folder), f'{stem}.png')
            write_picture(picture, path)
        return path


def flat(picture: Picture) -> np.ndarray:
    """A picture as (H, W, 3) uint8 RGB, on white where it is transparent."""
    pixels = to_8_bit(picture.pixels)
    rgb = np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels
    if picture.alpha is None:
        return rgb
    opacity = to_8_bit(picture.alpha)[..., None] / 255
    return (rgb * opacity + 255 * (1 - opacity)).round().astype(np.uint8)


def painted_map(layers: Iterable[np.ndarray], opacity: float, sigma: float, size: tuple[int, int]) -> np.ndarray | None:
    """The map of sigma that is painted on a picture, uint8, of a height and width; None where nothing is.

    `layers` are RGBA, uint8, of any size: paint of more red than blue is sharp, any other faithful. It covers `sigma`
    where it has `opacity`, from 0 to 1, or more.
    """
    level: np.ndarray = np.full(size, sigma, np.float32)
    bare = True
    for layer in layers:
        cover = (layer[..., 3] / (255 * opacity)).clip(0, 1)
        planes = np.dstack((cover, cover * (layer[..., 0] > layer[..., 2])))
        cover, sharp = cv2.resize(planes, size[::-1], interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
        level = sharp + (1 - cover) * level
        bare = bare and not cover.any()
    return None if bare else (level * 255).round().astype(np.uint8)
