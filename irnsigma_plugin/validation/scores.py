"""Metrics of a data set at several sigmas, image by image."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from statistics import fmean


@dataclasses.dataclass(frozen=True)
class ImageScore:
    """Metrics of one image restored at one sigma; those of its low-resolution image are the same at all."""

    image: str
    sigma: float
    hr: Mapping[str, float]
    lr: Mapping[str, float]


@dataclasses.dataclass
class Scores:
    """All metrics of one data set.

    Attributes:
        dataset: Name of the data set.
        sigmas: In the order of the option file.
        images: One entry per image and sigma.
    """

    dataset: str
    sigmas: tuple[float, ...]
    images: list[ImageScore] = dataclasses.field(default_factory=list)

    def hr_means(self, sigma: float) -> dict[str, float]:
        """Mean of each metric of the restored images at one sigma."""
        return _means([score.hr for score in self.images if score.sigma == sigma])

    def lr_means(self) -> dict[str, float]:
        """Mean of each metric of the low-resolution images against bicubic."""
        return _means([score.lr for score in self.images if score.sigma == self.sigmas[0]])

    def flat_means(self) -> dict[str, float]:
        """All means under unique names: `sigma_0.5/psnr_y`, ..., `lr/psnr_y`, ..."""
        means = {f'sigma_{sigma:g}/{name}': mean for sigma in self.sigmas
                 for name, mean in self.hr_means(sigma).items()}
        means.update((f'lr/{name}', mean) for name, mean in self.lr_means().items())
        return means

    @property
    def image_count(self) -> int:
        """Number of images."""
        return len(self.images) // len(self.sigmas)


def _means(metrics: list[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(each[name] for each in metrics) for name in (metrics[0] if metrics else ())}
