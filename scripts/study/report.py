"""The results of a study: table 1, the curves of figures 2a and 2b, the crops of figure 3, and what they say."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from irnsigma_plugin.archs.bicubic import bicubic_upscale
from irnsigma_plugin.evaluation.pictures import Panel, decode_png, draw_comparison, new_figure, png_bytes
from irnsigma_plugin.files import atomic_write
from study.measured import BLEND, IMAGES, INTERPOLATIONS, SCALE, WEIGHTS, DataSet
from study.plan import IRN_SIGMA, OTHERS, SAMPLINGS, SIGMAS, short_name

COLUMNS = {'lpips': 4, 'dists': 4, 'psnr_y': 2, 'ssim_y': 4, 'psnr': 2, 'lr_psnr_y': 2}  # of tables, with digits
# The paper's LPIPS, PSNR-Y and SSIM-Y at x4, on each of these data sets.
PUBLISHED_SETS = ('BSD100', 'Urban100', 'DIV2K')
PUBLISHED = {
    'RCAN': ((0.3589, 27.74, 0.742), (0.1967, 26.75, 0.806), (0.2547, 30.72, 0.844)),
    'ESRGAN': ((0.1630, 25.29, 0.649), (0.1239, 24.35, 0.732), (0.1150, 28.17, 0.775)),
    'IRN': ((0.1654, 31.63, 0.881), (0.0836, 31.40, 0.915), (0.1174, 35.07, 0.931)),
    'IRN+': ((0.0749, 28.93, 0.818), (0.0550, 28.24, 0.867), (0.0541, 32.24, 0.891)),
    'IRN_σ, σ = 0': ((0.1626, 31.48, 0.879), (0.0798, 31.20, 0.913), (0.1130, 34.91, 0.929)),
    'IRN_σ, σ = 1': ((0.0778, 30.17, 0.848), (0.0487, 30.19, 0.896), (0.0534, 33.66, 0.910)),
}
RIVALS = {WEIGHTS: 'weights of IRN ↔ IRN+', IMAGES: 'images of IRN ↔ IRN+', BLEND: 'ends of IRN_σ, blended'}
CROPPED = 4  # images of figure 3

Row = Mapping[str, Any]
Table = Sequence[Row]


class Point(NamedTuple):
    """A point of a curve: sigma, or the second end's part, and the means there."""

    at: float
    means: Mapping[str, float]


Curves = Mapping[str, Sequence[Point]]  # by what the legend says


def curve(data: DataSet, name: str) -> list[Point]:
    """An arm at its sigmas, or an interpolation with both of its ends."""
    points = [Point(at, means) for at, means in sorted(data.means(name).items())]
    if name in INTERPOLATIONS:
        first, second = (data.means(arm)[sigma] for arm, sigma in data.ends(name))
        points = [Point(0, first), *points, Point(1, second)]
    return points


def excesses(points: Sequence[Point], rival: Sequence[Point]) -> list[float]:
    """LPIPS of points above the least of the rival's curve at their PSNR-Y or more, where that curve goes so far."""
    curve = [(each.means['psnr_y'], each.means['lpips']) for each in rival]

    def least(psnr: float) -> float:
        found = [y for x, y in curve if x >= psnr]
        for (x1, y1), (x2, y2) in map(sorted, zip(curve, curve[1:])):
            if x1 < psnr < x2:
                found.append(y1 + (psnr - x1) / (x2 - x1) * (y2 - y1))
        return min(found)

    most = max(curve)[0]
    return [each.means['lpips'] - least(each.means['psnr_y']) for each in points if each.means['psnr_y'] <= most]


def methods(data: DataSet, sigmas: Sequence[float]) -> list[tuple[str, str, float]]:
    """What is compared: a title, the name of its results, and sigma. IRN and IRN+ have one sigma each."""
    fixed = [(f'{arm}, σ = {sigma:g}', arm, sigma) for arm, sigma in data.ends(WEIGHTS)]
    others = [(name, name, 0.0) for name in OTHERS if data.results(name).exists()]
    return [*others, *fixed, *((f'IRN_σ, σ = {sigma:g}', IRN_SIGMA, float(sigma)) for sigma in sigmas)]


def table_1(data: DataSet) -> Table:
    """A row per method, and the paper's below."""
    measured = [(title, 'measured', data.means(name)[sigma]) for title, name, sigma in methods(data, SIGMAS)]
    published = []
    if data.name in PUBLISHED_SETS:
        place = PUBLISHED_SETS.index(data.name)
        keys = ('lpips', 'psnr_y', 'ssim_y')
        published = [(name, 'published', dict(zip(keys, values[place]))) for name, values in PUBLISHED.items()]
    return [{'method': name, 'source': source, **_shown(means)} for name, source, means in [*measured, *published]]


def _shown(means: Mapping[str, float]) -> dict[str, str]:
    return {key: f'{means[key]:.{digits}f}' if key in means else '' for key, digits in COLUMNS.items()}


def claims(data: DataSet) -> Table:
    """What the paper promises, in figures of this study."""
    irn, plus = (data.means(arm)[sigma] for arm, sigma in data.ends(WEIGHTS))
    points = curve(data, IRN_SIGMA)
    faithful, sharp = points[0].means, points[-1].means
    loss, gain = faithful['psnr_y'] - irn['psnr_y'], sharp['psnr_y'] - plus['psnr_y']
    ratio = sharp['lpips'] / faithful['lpips']
    rises = [
        f'{key} rises to σ = {after.at:g}'
        for before, after in zip(points, points[1:])
        for key in ('psnr_y', 'lpips')
        if after.means[key] >= before.means[key]
    ]
    rows = [
        ('σ = 0 has the PSNR-Y of IRN, less 0.15 dB at most', f'{loss:+.2f} dB', loss >= -0.15),
        (
            'σ = 1 has no higher LPIPS than IRN+, at 0.8 dB more PSNR-Y',
            f'LPIPS {sharp["lpips"]:.4f} and {plus["lpips"]:.4f}, {gain:+.2f} dB',
            sharp['lpips'] <= plus['lpips'] and gain >= 0.8,
        ),
        (
            'PSNR-Y and LPIPS fall at every step of σ, LPIPS to 0.75 of what it was',
            ', '.join([f'LPIPS to {ratio:.2f}', *rises]),
            not rises and ratio <= 0.75,
        ),
    ]
    for rival, label in RIVALS.items():
        excess = [round(each, 4) for each in excesses(points, curve(data, rival))]
        worst = f'LPIPS {max(excess):+.4f} at worst, ' if excess else ''
        figures = f'{worst}{len(excess)} of {len(points)} points compared'
        rows.append((f'IRN_σ lies on or below the curve of {label}', figures, bool(excess) and max(excess) <= 0))
    return [{'claim': claim, 'measured': figures, 'holds': 'yes' if holds else 'no'} for claim, figures, holds in rows]


def sampling_curves(data: DataSet) -> Curves:
    """IRN_sigma by the strategies with which it was trained."""
    return {name: curve(data, name) for name in SAMPLINGS if data.results(name).exists()}


def samplings(data: DataSet) -> Table:
    """The strategies of figure 2a against each other."""
    curves = sampling_curves(data)
    rows = []
    for name, points in curves.items():
        faithful, sharp = (_shown(points[end].means) for end in (0, -1))
        excess = excesses(points, curves[IRN_SIGMA])
        row = {'sampling': short_name(name), 'PSNR-Y, σ = 0': faithful['psnr_y'], 'PSNR-Y, σ = 1': sharp['psnr_y']}
        row['LPIPS, σ = 1'] = sharp['lpips']
        row['LPIPS above 3-point at no less PSNR-Y, mean'] = f'{np.mean(excess):+.4f}' if excess else ''
        rows.append(row)
    return rows


def draw_curves(curves: Curves, title: str) -> bytes:
    """PSNR-Y against LPIPS, and against DISTS where it was measured."""
    metrics = [key for key in ('lpips', 'dists') if key in next(iter(curves.values()))[0].means]
    figure = new_figure(5.5 * len(metrics), 4.5)
    for plot, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics):
        for (label, points), marker in zip(curves.items(), 'osD^'):
            x, y = ([each.means[key] for each in points] for key in ('psnr_y', metric))
            plot.plot(x, y, f'{marker}-', label=label, markersize=4)
        plot.set(title=title, xlabel='PSNR-Y (dB), more faithful →', ylabel=f'{metric.upper()}, ← more natural')
        plot.grid(alpha=0.3)
        plot.legend(fontsize=8)
    return png_bytes(figure)


def draw_table(rows: Table) -> bytes:
    """A table as a picture."""
    figure = new_figure(1.3 * len(rows[0]), 0.3 * len(rows) + 0.5)
    plot = figure.add_subplot()
    plot.set_axis_off()
    drawn = plot.table([list(row.values()) for row in rows], colLabels=list(rows[0]), loc='center')
    drawn.auto_set_column_width(list(range(len(rows[0]))))
    return png_bytes(figure)


def crops(data: DataSet) -> tuple[Table, bytes]:
    """Figure 3: the middle of a few images by every method, and the metrics of the whole images."""
    names, rows, strips = list(data.images()), [], []
    for image in names[:: max(1, len(names) // CROPPED)][:CROPPED]:
        small = bicubic_upscale(data.picture(IRN_SIGMA, image, '_lr'), SCALE)
        panels = [Panel(f'{image}\noriginal', data.original(image)), Panel('small image of IRN_σ,\nbicubic', small)]
        for title, name, sigma in methods(data, (0, 0.5, 1)):
            shown = _shown(data.of_image(name, image, sigma))
            rows.append({'image': image, 'method': title, **shown})
            end = '' if name in OTHERS else f'_sigma{sigma:g}'
            panel_title = f'{title}\n{shown["psnr_y"]} dB, LPIPS {shown["lpips"]}'
            panels.append(Panel(panel_title, data.picture(name, image, end)))
        strips.append(decode_png(draw_comparison(panels)))
    return rows, cv2.imencode('.png', np.vstack(strips)[..., ::-1])[1].tobytes()


def write_report(folder: Path, sets: Sequence[DataSet], head: str, cost: Table) -> None:
    """Write `report.md`, and below `folder` the tables and figures of every data set as CSV and PNG."""
    _write_csv(folder / 'cost.csv', cost)
    text = f'# IRN, IRN+ and IRN_σ\n\n{head}\n\n{_markdown(cost)}'
    for data in sets:
        target = folder / data.name
        target.mkdir(parents=True, exist_ok=True)
        curves = {
            'fig2a': {f'IRN_σ, {short_name(name)}': each for name, each in sampling_curves(data).items()},
            'fig2b': {'IRN_σ': curve(data, IRN_SIGMA), **{RIVALS[name]: curve(data, name) for name in RIVALS}},
        }
        tables = {'table1': table_1(data), 'claims': claims(data), 'samplings': samplings(data)}
        shown, picture = crops(data)
        drawn = {name: draw_curves(each, data.name) for name, each in curves.items()}
        for name, png in {**drawn, 'table1': draw_table(tables['table1']), 'fig3': picture}.items():
            atomic_write(target / f'{name}.png', png)
        for name, rows in {**tables, **{key: _points(each) for key, each in curves.items()}, 'fig3': shown}.items():
            _write_csv(target / f'{name}.csv', rows)
        first, second, third = map(_markdown, tables.values())
        figures = [f'![{name}]({data.name}/{name}.png)\n' for name in ('fig2a', 'fig2b', 'fig3')]
        text += '\n'.join([f'\n## {data.name}, {len(data.images())} images\n', first, second, third, *figures])
    atomic_write(folder / 'report.md', text.encode())


def _points(curves: Curves) -> Table:
    rows: list[Row] = []
    for label, points in curves.items():
        rows += [
            {'curve': label, 'at': at, **{key: f'{mean:.6f}' for key, mean in means.items()}} for at, means in points
        ]
    return rows


def _markdown(rows: Table) -> str:
    lines = [list(rows[0]), ['---'] * len(rows[0]), *(row.values() for row in rows)]
    return ''.join(f'| {" | ".join(map(str, line))} |\n' for line in lines)


def _write_csv(path: Path, rows: Table) -> None:
    text = io.StringIO(newline='')
    titles = dict.fromkeys(key for row in rows for key in row)  # interpolated images have no small one
    writer = csv.DictWriter(text, list(titles))
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(path, text.getvalue().encode())
