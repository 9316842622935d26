"""Pictures of an image before and after rescaling, drawn without a display."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from irnsigma_plugin.archs.bicubic import bicubic_upscale
from irnsigma_plugin.evaluation.measures import ImageScore, MetricOptions, perception_distortion_axes
from irnsigma_plugin.evaluation.restore import RescaledImage
from irnsigma_plugin.images.picture import to_8_bit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
PANEL_INCHES = 2.4
LARGEST_CUTOUT = 192


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches, without pyplot, which chooses a display and keeps every figure."""
    from matplotlib.figure import Figure  # slow, and only a finished validation needs it

    return Figure(figsize=(width, height), dpi=DPI, layout='constrained')


def png_bytes(figure: Figure) -> bytes:
    """The figure as the content of a PNG file; its texts are shown as they are, as far as the font goes."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names of files may have dollar signs
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing from font')
        figure.savefig(buffer, format='png')
    return buffer.getvalue()


def decode_png(png: bytes) -> np.ndarray:
    """Decode a PNG to an RGB image (H, W, 3), uint8."""
    return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR))[..., ::-1].copy()


class Panel(NamedTuple):
    """One image of a row, uint8 HWC BGR, and what is written above it."""

    title: str
    image: np.ndarray


def draw_example(
    original: np.ndarray, image: RescaledImage, scores: Sequence[ImageScore], metrics: MetricOptions, scale: int
) -> bytes:
    """comparison.png: :func:`draw_rescaling` with those of an image's scores that the curve shows, else the first."""
    enlarged = bicubic_upscale(image.lr, scale)[: original.shape[0], : original.shape[1]]
    shown = perception_distortion_axes(metrics) or list(metrics)[:1]
    measured = [{name: score.hr[name] for name in shown} for score in scores]
    return draw_rescaling(original, image, enlarged, [{}, *measured])


def draw_rescaling(
    original: np.ndarray, image: RescaledImage, enlarged: np.ndarray, measured: Sequence[Mapping[str, float]]
) -> bytes:
    """Draw an image, its bicubically `enlarged` lr and what is restored, uint8 HWC BGR, as a PNG file's content.

    `measured` are the metrics to show of `enlarged` and of every restored image, of the one by the map last.
    """
    titles = ['bicubic from it', *(f'restored, σ = {sigma:g}' for sigma in image.restored), 'restored by the map']
    panels = [Panel('original\n', original), Panel('low-resolution\n', image.lr)]
    for title, each, values in zip(titles, [enlarged, *image.results], measured):
        panels.append(Panel(f'{title}\n' + ', '.join(f'{name} {value:.3f}' for name, value in values.items()), each))
    if image.sigma_map is not None:
        panels.insert(-1, Panel('map of σ\n', cv2.cvtColor(to_8_bit(image.sigma_map), cv2.COLOR_GRAY2BGR)))
    return draw_comparison(panels)


def draw_comparison(panels: Sequence[Panel]) -> bytes:
    """Draw the same cutout of all images, enlarged to the size of the first, side by side, as a PNG file's content."""
    height, width = panels[0].image.shape[:2]
    top, left = (max(0, side - LARGEST_CUTOUT) // 2 for side in (height, width))
    rows, columns = slice(top, top + LARGEST_CUTOUT), slice(left, left + LARGEST_CUTOUT)
    figure = new_figure(PANEL_INCHES * len(panels), PANEL_INCHES + 0.6)
    for plot, (title, image) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        enlarged = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
        plot.imshow(cv2.cvtColor(enlarged[rows, columns], cv2.COLOR_BGR2RGB), interpolation='nearest')
        plot.set_title(title, fontsize=9)
        plot.set_axis_off()
    return png_bytes(figure)
