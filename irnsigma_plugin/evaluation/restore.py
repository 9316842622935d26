"""One image downscaled and restored at several sigmas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from irnsigma_plugin.images.picture import read_rgb_image

if TYPE_CHECKING:
    from irnsigma_plugin.rescaling.rescaler import Rescaler


class RescaledFile(NamedTuple):
    """An image before and after; all are uint8 HWC BGR, as metrics and pictures take them.

    Attributes:
        original: Cut to a multiple of the scale.
        lr: Low-resolution image.
        restored: Restored image for each sigma.
        mapped: Restored by a map of sigma, where there is one.
    """

    original: np.ndarray
    lr: np.ndarray
    restored: dict[float, np.ndarray]
    mapped: np.ndarray | None = None


def rescale_file(
    rescaler: Rescaler,
    path: Path,
    sigmas: Sequence[float],
    seed: int,
    overlap: int | None,
    sigma_map: np.ndarray | None = None,
) -> RescaledFile:
    """Downscale an image file and restore it at several sigmas, as `python -m basicsr.test` does.

    A map of sigma has the size of the image or of its low-resolution image.

    Raises:
        ValueError: The image cannot be used, see :func:`read_rgb_image`, or is smaller than the scale.
    """
    hr = read_rgb_image(path)
    height, width = (side - side % rescaler.scale for side in hr.shape[:2])
    if not height or not width:
        raise ValueError(
            f'{path}: {hr.shape[1]}x{hr.shape[0]} pixels are too few for scale {rescaler.scale}; use a larger image.'
        )
    if sigma_map is not None and sigma_map.shape[:2] == hr.shape[:2]:
        sigma_map = sigma_map[:height, :width]
    hr = hr[:height, :width]
    lr = rescaler.downscale(hr, overlap)

    def restore(sigma: float | np.ndarray) -> np.ndarray:
        return _to_bgr(rescaler.upscale(lr, sigma, seed, path.stem, overlap=overlap))

    return RescaledFile(
        _to_bgr(hr),
        _to_bgr(lr),
        {sigma: restore(sigma) for sigma in sigmas},
        None if sigma_map is None else restore(sigma_map),
    )


def _to_bgr(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[..., ::-1])
