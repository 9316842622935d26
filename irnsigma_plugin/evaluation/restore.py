"""One image restored at several sigmas, as validation, `evaluate` and `compare` measure and show it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from irnsigma_plugin.images.picture import read_rgb_image
from irnsigma_plugin.rescaling.pixels import Image
from irnsigma_plugin.rescaling.rescaler import Rescaler


class RescaledImage(NamedTuple):
    """What became of an image: its lr, what is restored at each sigma, and `mapped` by `sigma_map` (H, W), if any.

    All are uint8 HWC BGR, as metrics and pictures take them. `name` is the file's, without folder and extension.
    """

    name: str
    lr: np.ndarray
    restored: dict[float, np.ndarray]
    mapped: np.ndarray | None = None
    sigma_map: np.ndarray | None = None

    @property
    def results(self) -> list[np.ndarray]:
        """Every restored image, `mapped` last."""
        return [*self.restored.values(), *([] if self.mapped is None else [self.mapped])]


@dataclasses.dataclass(frozen=True)
class Restorer:
    """Restores images at every one of `sigmas`; for `seed` and `overlap` see :meth:`Rescaler.upscale`."""

    rescaler: Rescaler
    sigmas: tuple[float, ...]
    seed: int = 0
    overlap: int | None = None

    def restore(
        self, lr: Image, name: str, size: tuple[int, int] | None = None, sigma_map: np.ndarray | None = None
    ) -> RescaledImage:
        """Restore one image: (h, w, 3) uint8 RGB, or a tensor (3, h, w) or (1, 3, h, w), RGB in [0, 1]."""

        def at(sigma: float | np.ndarray) -> np.ndarray:
            return to_bgr(self.rescaler.upscale(lr, sigma, self.seed, name, size, overlap=self.overlap))

        mapped = None if sigma_map is None else at(sigma_map)
        return RescaledImage(name, to_bgr(lr), {sigma: at(sigma) for sigma in self.sigmas}, mapped, sigma_map)

    def rescale_file(self, path: Path, sigma_map: np.ndarray | None = None) -> tuple[np.ndarray, RescaledImage]:
        """Downscale an image file and restore it, as `python -m basicsr.test` does.

        Returns the original (uint8 HWC BGR), cut to a multiple of the scale, and what became of it. Raises a
        ValueError for an image that :func:`read_rgb_image` refuses, or that is smaller than the scale.
        """
        hr, scale = read_rgb_image(path), self.rescaler.scale
        height, width = (side - side % scale for side in hr.shape[:2])
        if not height or not width:
            size = f'{hr.shape[1]}x{hr.shape[0]}'
            raise ValueError(f'{path}: {size} pixels are too few for scale {scale}; use a larger image.')
        if sigma_map is not None:  # of the whole image, or of its small one
            unit = 1 if sigma_map.shape[:2] == hr.shape[:2] else scale
            if sigma_map.shape[:2] == (-(-hr.shape[0] // unit), -(-hr.shape[1] // unit)):
                sigma_map = sigma_map[: height // unit, : width // unit]
        hr = hr[:height, :width]
        lr = self.rescaler.downscale(hr, overlap=self.overlap)
        return to_bgr(hr), self.restore(lr, path.stem, sigma_map=sigma_map)


def to_bgr(image: np.ndarray | Tensor) -> np.ndarray:
    """(H, W, 3) uint8 BGR, of a uint8 RGB array or of an RGB tensor, (3, H, W) or (1, 3, H, W), in [0, 1]."""
    if isinstance(image, Tensor):
        levels = (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        image = levels.reshape(image.shape[-3:]).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(image[..., ::-1])
