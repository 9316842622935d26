"""One picture of an image before and after rescaling, at several sigmas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from irnsigma_plugin.validation.figure import new_figure, png_bytes

PANEL_INCHES = 2.4
LARGEST_CUTOUT = 192


class Panel(NamedTuple):
    """One image of the row.

    Attributes:
        title: Written above.
        image: uint8 HWC BGR. Smaller images are enlarged to the first panel's size, pixel by pixel.
    """

    title: str
    image: np.ndarray


def draw_comparison(panels: Sequence[Panel]) -> bytes:
    """Draw images side by side, the same cutout of each, large enough to see pixels.

    Args:
        panels: The original first.

    Returns:
        A PNG file's content.
    """
    height, width = panels[0].image.shape[:2]
    rows, columns = (_middle(side) for side in (height, width))
    figure = new_figure(PANEL_INCHES * len(panels), PANEL_INCHES + 0.6)
    for plot, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        image = panel.image
        if image.shape[:2] != (height, width):
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
        plot.imshow(cv2.cvtColor(image[rows, columns], cv2.COLOR_BGR2RGB), interpolation='nearest')
        plot.set_title(panel.title, fontsize=9)
        plot.set_axis_off()
    return png_bytes(figure)


def _middle(side: int) -> slice:
    length = min(side, LARGEST_CUTOUT)
    start = (side - length) // 2
    return slice(start, start + length)
