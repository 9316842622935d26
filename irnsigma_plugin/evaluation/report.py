"""What a validation leaves behind: a table per image, a table of means and the trade-off as a picture."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from irnsigma_plugin.evaluation.measures import Scores
from irnsigma_plugin.evaluation.pictures import new_figure, png_bytes
from irnsigma_plugin.files import atomic_path, atomic_write

CURVE_INCHES = (5.0, 4.0)


def write_csv(scores: Scores, path: Path) -> None:
    """Write one line per image and sigma; the columns of the low-resolution image begin with `lr_`."""
    first = scores.images[0]
    with atomic_path(path) as temporary, open(temporary, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['image', 'sigma', *first.hr, *(f'lr_{name}' for name in first.lr)])
        for score in scores.images:
            values = (*score.hr.values(), *score.lr.values())
            writer.writerow([score.image, f'{score.sigma:g}', *(f'{value:.6f}' for value in values)])


def markdown_table(scores: Scores, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the means: a line per sigma, then a sentence on the low-resolution images.

    Args:
        scores: Of one data set.
        metrics: BasicSR's `val.metrics`, for the direction in which each metric improves.
    """
    names = list(scores.hr_means(scores.sigmas[0]))
    arrows = {name: '↓' if metrics[name].get('better') == 'lower' else '↑' for name in names}
    lines = [
        f'**{scores.dataset}**, {scores.image_count} images',
        '',
        '| σ | ' + ' | '.join(f'{name} {arrows[name]}' for name in names) + ' |',
        '|---|' + '---|' * len(names),
    ]
    for sigma in scores.sigmas:
        means = scores.hr_means(sigma)
        lines.append(f'| {sigma:g} | ' + ' | '.join(f'{means[name]:.4f}' for name in names) + ' |')
    lr_means = scores.lr_means()
    if lr_means:
        lines += [
            '',
            'Low-resolution images against bicubic: '
            + ', '.join(f'{name} {mean:.4f}' for name, mean in lr_means.items()),
        ]
    return '\n'.join(lines) + '\n'


def write_tables(all_scores: Sequence[Scores], metrics: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write the tables of one or several data sets into one Markdown file."""
    text = '\n'.join(markdown_table(scores, metrics) for scores in all_scores)
    atomic_write(path, text.encode())


def perception_distortion_axes(metrics: Mapping[str, Mapping[str, Any]]) -> tuple[str, str] | None:
    """Choose the curve's axes: a PSNR for distortion, that of Y if there is one, and LPIPS for perception.

    Returns:
        Names of the two metrics, or none where one of them is not measured.
    """
    distortion = [name for name, metric in metrics.items() if 'psnr' in metric['type']]
    distortion.sort(key=lambda name: not metrics[name].get('test_y_channel'))
    perception = [name for name, metric in metrics.items() if 'lpips' in metric['type']]
    return (distortion[0], perception[0]) if distortion and perception else None


def draw_curve(scores: Scores, axes: tuple[str, str]) -> bytes:
    """Draw the perception-distortion curve, a point per sigma.

    Args:
        scores: Of one data set.
        axes: Metrics of the x and y axis.

    Returns:
        A PNG file's content.
    """
    x_name, y_name = axes
    sigmas = sorted(scores.sigmas)
    x, y = ([scores.hr_means(sigma)[name] for sigma in sigmas] for name in axes)
    figure = new_figure(*CURVE_INCHES)
    plot = figure.add_subplot()
    plot.plot(x, y, 'o-', color='tab:blue')
    sides = itertools.cycle([((7, 5), 'left'), ((-7, -13), 'right')])  # neighbours can lie close together
    for sigma, *point, (offset, alignment) in zip(sigmas, x, y, sides):
        plot.annotate(f'σ = {sigma:g}', point, textcoords='offset points', xytext=offset, ha=alignment)
    plot.margins(0.2)
    plot.grid(alpha=0.3)
    plot.set_title(scores.dataset)
    plot.set_xlabel(f'{x_name} (dB), more faithful →')
    plot.set_ylabel(f'{y_name}, ← sharper, more natural')
    return png_bytes(figure)
