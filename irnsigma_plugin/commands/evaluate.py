"""`irnsigma evaluate`: metrics of a folder of images at several sigmas."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from irnsigma_plugin.commands.arguments import add_network_arguments, add_sigmas, load_rescaler

if TYPE_CHECKING:
    from irnsigma_plugin.evaluation.measures import MetricOptions, Scores


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `evaluate` to the command line."""
    parser = subparsers.add_parser(
        'evaluate',
        help='measure a model on a folder of images',
        description='Downscale images, restore them at several sigma, and measure: PSNR, PSNR-Y, SSIM-Y and LPIPS, as\n'
        '`python -m basicsr.test` does. Images are cut to a multiple of the scale. The table of means is\n'
        'printed; table.md, metrics.csv (every image) and curve.png are written, and replaced if they exist.\n'
        'After Ctrl-C they are those of the images measured so far.',
        epilog='examples:\n'
        '  irnsigma evaluate datasets/Set14/HR --model net_g_latest.pth\n'
        '  irnsigma evaluate photos/ --model net_g_latest.pth --sigmas 0 0.5 1 --output results/photos',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('source', metavar='HR_DIR', help='folder of original images (with the folders in it)')
    add_network_arguments(parser)
    add_sigmas(parser)
    parser.add_argument(
        '--output',
        metavar='DIR',
        help='folder of the results (default: results/evaluate/ and the last two parts of HR_DIR)',
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from irnsigma_plugin.archs.bicubic import bicubic_downscale
    from irnsigma_plugin.commands.arguments import usable_metrics
    from irnsigma_plugin.commands.batch import Batch
    from irnsigma_plugin.commands.sources import find_images
    from irnsigma_plugin.evaluation.measures import LR_METRICS, ImageScore, Scores, measure
    from irnsigma_plugin.evaluation.restore import rescale_file
    from irnsigma_plugin.files import make_folder

    images = find_images([args.source])
    names = _unique_names(images)
    output = Path(args.output or Path('results', 'evaluate', '_'.join(Path(args.source).resolve().parts[-2:])))
    make_folder(output)  # now, for it would be a pity after hours
    rescaler = load_rescaler(args)
    metrics = usable_metrics(rescaler.scale)
    sigmas = tuple(dict.fromkeys(args.sigmas))
    scores = Scores(args.source, sigmas)
    try:
        with Batch(len(images)) as batch:
            for name, (path, _) in zip(names, images):
                with batch.guard(path):
                    image = rescale_file(rescaler, path, sigmas, args.seed, args.overlap)
                    (lr,) = measure(LR_METRICS, [image.lr], bicubic_downscale(image.original, rescaler.scale))
                    hr = measure(metrics, list(image.restored.values()), image.original)
                    scores.images += [ImageScore(name, sigma, values, lr) for sigma, values in zip(image.restored, hr)]
                    batch.finish()
    finally:  # also of an interrupted evaluation
        if scores.images:
            _report(scores, metrics, len(images), output)
    return batch.status


def _unique_names(images: list[tuple[Path, Path]]) -> list[str]:
    """Path of each image below the folder, without extension."""
    files: dict[str, Path] = {}
    for path, relative in images:
        other = files.setdefault(relative.with_suffix('').as_posix(), path)
        if other is not path:
            raise ValueError(f'{other} and {path} have the same name in tables; rename one.')
    return list(files)


def _report(scores: Scores, metrics: MetricOptions, total: int, output: Path) -> None:
    """Print and write tables, and draw the curve; `total` is the number of images that there are."""
    from irnsigma_plugin.evaluation import report
    from irnsigma_plugin.files import atomic_write

    table = report.markdown_table(scores, metrics)
    if scores.image_count < total:
        table += f'\n{scores.image_count} of {total} images were measured.\n'
    try:
        print(f'\n{table}')  # first, should the disk be full
    finally:  # and the other way round, should nobody read it
        report.write_csv(scores, output / 'metrics.csv')
        atomic_write(output / 'table.md', table.encode())
        axes = report.perception_distortion_axes(metrics)
        if axes:
            atomic_write(output / 'curve.png', report.draw_curve(scores, axes))
        else:  # one of an earlier run does not belong to this table
            (output / 'curve.png').unlink(missing_ok=True)
    print(f'Tables and pictures: {output}')
