"""What a validation and `irnsigma evaluate` leave behind: tables, the trade-off as a curve, and an image to look at."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path

from irnsigma_plugin.evaluation.measures import MetricOptions, Scores, lower_is_better, perception_distortion_axes
from irnsigma_plugin.evaluation.pictures import new_figure, png_bytes
from irnsigma_plugin.files import atomic_path, atomic_write


def write_report(
    folder: Path, scores: Scores, metrics: MetricOptions, comparison: bytes | None, note: str = ''
) -> dict[str, bytes]:
    """Write metrics.csv, table.md (`note` at its end), comparison.png and, where its metrics are measured, curve.png.

    `folder` must exist; such pictures of an earlier run go. Returns the pictures' contents, by name without extension.
    """
    write_csv(scores, folder / 'metrics.csv')
    atomic_write(folder / 'table.md', (markdown_table(scores, metrics) + note).encode())
    axes = perception_distortion_axes(metrics)
    vain = bool(sigma_in_vain(scores, metrics))
    drawn = {'comparison': comparison, 'curve': draw_curve(scores, axes, vain) if axes else None}
    pictures = {name: png for name, png in drawn.items() if png}
    for name in drawn.keys() - pictures.keys():
        (folder / f'{name}.png').unlink(missing_ok=True)
    for name, png in pictures.items():
        atomic_write(folder / f'{name}.png', png)
    return pictures


def write_csv(scores: Scores, path: Path) -> None:
    """Write one line per image (by the bytes of its name) and sigma; columns of the lr image begin with `lr_`."""
    first = scores.images[0]
    with atomic_path(path) as temporary, open(temporary, 'w', -1, 'utf-8', 'surrogateescape', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['image', 'sigma', *first.hr, *(f'lr_{name}' for name in first.lr)])
        for score in scores.images:
            values = (*score.hr.values(), *score.lr.values())
            writer.writerow([score.image, f'{score.sigma:g}', *(f'{value:.6f}' for value in values)])


def write_tables(all_scores: Sequence[Scores], metrics: MetricOptions, path: Path) -> None:
    """Write the tables of several data sets into one Markdown file."""
    tables = '\n'.join(markdown_table(scores, metrics) for scores in all_scores)
    atomic_write(path, tables.encode())


def markdown_table(scores: Scores, metrics: MetricOptions) -> str:
    """The means of one data set: a line per sigma, then sentences on lr images, a sigma in vain, the model."""
    titles = [f'{name} {"↓" if lower_is_better(metrics[name]) else "↑"}' for name in scores.hr_means(scores.sigmas[0])]
    lines = [f'**{scores.dataset}**, {scores.image_count} images', '', f'| σ | {" | ".join(titles)} |']
    lines.append('|---|' + '---|' * len(titles))
    for sigma in scores.sigmas:
        lines.append(f'| {sigma:g} | ' + ' | '.join(f'{mean:.4f}' for mean in scores.hr_means(sigma).values()) + ' |')
    lr_means = ', '.join(f'{name} {mean:.4f}' for name, mean in scores.lr_means().items())
    sentences = [lr_means and f'Low-resolution images against bicubic: {lr_means}', sigma_in_vain(scores, metrics)]
    sentences += [(missing := scores.missing()) and f'{missing}.', scores.model and f'Model hash: {scores.model}']
    for sentence in filter(None, sentences):
        lines += ['', sentence]
    return '\n'.join(lines) + '\n'


def sigma_in_vain(scores: Scores, metrics: MetricOptions) -> str:
    """Says why, where the largest sigma is no sharper than the smallest, by the metric of perception; else nothing."""
    axes = perception_distortion_axes(metrics)
    least, most = min(scores.sigmas), max(scores.sigmas)
    if axes is None or least == most:
        return ''
    faithful, sharp = (scores.hr_means(sigma)[axes[1]] for sigma in (least, most))
    if not sharp >= faithful:  # nor where it cannot be measured (nan)
        return ''
    return (
        f'σ = {most:g} is no sharper than σ = {least:g} here ({axes[1]} {sharp:.4f} and {faithful:.4f}): a network '
        'learns the sharp end last, from perceptual terms; this one was trained too briefly, or without them.'
    )


def draw_curve(scores: Scores, axes: tuple[str, str], vain: bool = False) -> bytes:
    """Draw the perception-distortion curve, a point per sigma, as a PNG file's content; `axes` are its metrics.

    The title says so where the sharp end is no sharper (`vain`, see :func:`sigma_in_vain`).
    """
    sigmas = sorted(scores.sigmas)
    x, y = ([scores.hr_means(sigma)[name] for sigma in sigmas] for name in axes)
    figure = new_figure(5, 4)
    plot = figure.add_subplot()
    plot.plot(x, y, 'o-', color='tab:blue')
    # Beside a curve that rises to the right, by turns, as neighbours can lie close together.
    sides = itertools.cycle([((7, -13), 'left'), ((-7, 5), 'right')])
    for sigma, point, (offset, alignment) in zip(sigmas, zip(x, y), sides):
        plot.annotate(f'σ = {sigma:g}', point, textcoords='offset points', xytext=offset, ha=alignment)
    plot.margins(0.2)
    plot.grid(alpha=0.3)
    plot.set(
        title=scores.dataset + '\nthe sharp end is not trained, see table.md' * vain,
        xlabel=f'{axes[0]} (dB), more faithful →',
        ylabel=f'{axes[1]}, ← sharper, more natural',
    )
    return png_bytes(figure)
