"""What was measured, and what is measured here: interpolations between networks and between images."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Callable, NamedTuple

import cv2
import numpy as np
import torch

from irnsigma_plugin.archs.bicubic import bicubic_downscale
from irnsigma_plugin.checkpoints.weights import build_network, read_checkpoint
from irnsigma_plugin.evaluation.measures import (
    LR_METRICS,
    ImageScore,
    MetricOptions,
    Scores,
    mean_metrics,
    measure,
    score_image,
)
from irnsigma_plugin.evaluation.report import write_csv
from irnsigma_plugin.evaluation.restore import Restorer, to_bgr
from irnsigma_plugin.images.names import is_image_name
from irnsigma_plugin.images.picture import read_rgb_image
from irnsigma_plugin.rescaling.rescaler import Rescaler
from study.plan import IRN_SIGMA

SCALE = 4
BETWEEN = (0.25, 0.5, 0.75)  # of the way from the first end to the second
WEIGHTS, IMAGES, BLEND = 'interpolated_weights', 'interpolated_images', 'blended_ends'
INTERPOLATIONS = (WEIGHTS, IMAGES, BLEND)

Means = Mapping[float, Mapping[str, float]]  # of each metric, by sigma or place between two ends


class DataSet(NamedTuple):
    """A folder of originals, what was measured on it, and how."""

    name: str
    folder: Path
    study: Path
    metrics: MetricOptions

    def results(self, name: str) -> Path:
        """Where `basicsr.test` puts the figures of an arm, and this module others."""
        return self.study / 'results' / f'{name}_{self.name}' / self.name / 'metrics.csv'

    def means(self, name: str) -> Means:
        """Means over the images."""
        return {at: mean_metrics([*map(_numbers, rows)]) for at, rows in self._rows(name).items()}

    def of_image(self, name: str, image: str, at: float) -> Mapping[str, float]:
        """The metrics of one image."""
        return next(_numbers(row) for row in self._rows(name)[at] if row['image'] == image)

    def _rows(self, name: str) -> dict[float, list[dict[str, str]]]:
        found = defaultdict(list)
        with open(self.results(name), newline='', encoding='utf-8') as file:
            for row in csv.DictReader(file):
                found[float(row['sigma'])].append(row)
        return found

    def ends(self, name: str) -> list[tuple[str, float]]:
        """Both ends of an interpolation, each with its sigma: of IRN the one of the higher PSNR-Y, of IRN+ its only."""
        if name == BLEND:
            return [(IRN_SIGMA, 0.0), (IRN_SIGMA, 1.0)]
        means = {arm: self.means(arm) for arm in ('IRN', 'IRN+')}
        return [(arm, max(found, key=lambda sigma: found[sigma]['psnr_y'])) for arm, found in means.items()]

    def images(self) -> dict[str, Path]:
        """The originals by name, in its order."""
        return {path.stem: path for path in sorted(self.folder.iterdir()) if is_image_name(path.name)}

    def original(self, image: str) -> np.ndarray:
        """An original, as metrics take it, cut to a multiple of the scale."""
        rgb = read_rgb_image(self.images()[image])
        return to_bgr(rgb[: rgb.shape[0] // SCALE * SCALE, : rgb.shape[1] // SCALE * SCALE])

    def picture(self, name: str, image: str, end: str = '') -> np.ndarray:
        """What `basicsr.test` has saved of an image: `_sigma0.5`, `_lr`, or without an end."""
        file = f'{image}_{name}_{self.name}{end}.png'
        found = cv2.imread(str(self.study / 'results' / f'{name}_{self.name}' / 'visualization' / self.name / file))
        if found is None:
            raise FileNotFoundError(f'{file} is not among the results of {name} on {self.name}; delete study.json.')
        return found

    def write(self, name: str, scores: list[ImageScore]) -> None:
        """Save figures as `basicsr.test` does."""
        target = self.results(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_csv(Scores(self.name, (), scores), target)


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    return {key: float(value) for key, value in row.items() if key not in ('image', 'sigma')}


def measure_pictures(data: DataSet, name: str, pictures: Callable[[str], dict[float, np.ndarray]]) -> None:
    """Measure pictures of every image that are there already, by their place on a curve."""
    scores = []
    for image in data.images():
        found = pictures(image)
        values, _ = measure(data.metrics, list(found.values()), data.original(image))
        scores += [ImageScore(image, at, each, {}) for at, each in zip(found, values)]
    data.write(name, scores)


def measure_saved(data: DataSet, name: str) -> None:
    """Measure the pictures of a network that `basicsr.test` has restored."""
    measure_pictures(data, name, lambda image: {0.0: data.picture(name, image)})


def measure_blends(data: DataSet, name: str) -> None:
    """Measure mixtures of the saved pictures of two ends."""

    def mix(image: str) -> dict[float, np.ndarray]:
        ends = (data.picture(arm, image, f'_sigma{sigma:g}') for arm, sigma in data.ends(name))
        first, second = (end.astype(np.float32) for end in ends)
        return {at: np.rint(first + at * (second - first)).astype(np.uint8) for at in BETWEEN}

    measure_pictures(data, name, mix)


def measure_weights(data: DataSet, checkpoints: Mapping[str, Path], param_key: str) -> None:
    """Measure networks whose weights, and sigma, lie between those of IRN and IRN+."""
    arms, sigmas = zip(*data.ends(WEIGHTS))
    ends = [read_checkpoint(checkpoints[arm], param_key) for arm in arms]
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    scores = []
    for at in BETWEEN:
        weights = zip(ends[0].state_dict.items(), ends[1].state_dict.values())
        # What weights tell of the network's arguments, in characters, is the same at both ends.
        mixed = {key: torch.lerp(one, two, at) if one.is_floating_point() else one for (key, one), two in weights}
        sigma = sigmas[0] + at * (sigmas[1] - sigmas[0])
        net = build_network(ends[0]._replace(state_dict=mixed))
        restorer = Restorer(Rescaler(net, device, 'fp32'), (sigma,))  # as `basicsr.test`
        for image, path in data.images().items():
            original, restored = restorer.rescale_file(path)
            scored = score_image(restored, original, bicubic_downscale(original, SCALE), data.metrics, LR_METRICS)
            scores += [ImageScore(image, at, each.hr, each.lr) for each in scored]
    data.write(WEIGHTS, scores)
