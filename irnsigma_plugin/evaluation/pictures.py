"""Pictures of an image before and after rescaling, drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


DPI = 150


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of `width` x `height` inches.

    It is made without pyplot, which would choose a display and keep every figure in memory.
    """
    # Imported here, because it is slow and only a finished validation needs it.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout='constrained')


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png')
    return buffer.getvalue()


def decode_png(png: bytes) -> np.ndarray:
    """Decode a PNG to an RGB image (H, W, 3), uint8."""
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


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


def rescaling_panels(
    original: np.ndarray,
    lr: np.ndarray,
    enlarged: np.ndarray,
    restored: Mapping[float, np.ndarray],
    captions: Mapping[float, str],
    enlarged_caption: str = '',
) -> list[Panel]:
    """Panels of an image before and after rescaling.

    Args:
        original, lr: uint8 HWC BGR.
        enlarged: Bicubic enlargement of `lr`.
        restored: Restored image at each sigma.
        captions: Second line of each restored image's title; `enlarged_caption` that of the enlargement's.
    """
    return [
        Panel('original\n', original),
        Panel('low-resolution\n', lr),
        Panel(f'bicubic from it\n{enlarged_caption}', enlarged),
        *(Panel(f'restored, σ = {sigma:g}\n{captions[sigma]}', image) for sigma, image in restored.items()),
    ]


def caption(values: Mapping[str, float], names: Sequence[str]) -> str:
    """Some of an image's metrics in a line."""
    return ', '.join(f'{name} {values[name]:.3f}' for name in names)


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
