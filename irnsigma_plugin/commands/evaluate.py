"""`irnsigma evaluate`: metrics of a folder of images at several sigmas."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from irnsigma_plugin.checks import printable
from irnsigma_plugin.commands import arguments

if TYPE_CHECKING:
    from irnsigma_plugin.evaluation.measures import MetricOptions, Scores


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `evaluate` to the command line."""
    parser = subparsers.add_parser(
        'evaluate',
        help='measure a model on a folder of images',
        description='Downscale images, restore them at several sigma, and measure: PSNR, PSNR-Y, SSIM-Y and LPIPS, as\n'
        '`python -m basicsr.test` does. Images are cut to a multiple of the scale. The table of means is\n'
        'printed; table.md, metrics.csv (every image), curve.png and comparison.png (the first image) are written,\n'
        'and replaced if they exist. After Ctrl-C they are those of the images measured so far.',
        epilog='examples:\n'
        '  irnsigma evaluate datasets/Set14/HR --model net_g_latest.pth\n'
        '  irnsigma evaluate photos/ --sigmas 0 0.5 1 --output results/photos',
    )
    parser.add_argument('source', metavar='HR_DIR', help='folder of original images (with the folders in it)')
    arguments.add_network_arguments(parser, 'fp32', 'torch')
    arguments.add_sigmas(parser)
    output_help = 'folder of the results (default: results/evaluate/ and the last two parts of HR_DIR)'
    parser.add_argument('--output', metavar='DIR', help=output_help)
    parser.add_argument('--dists', action='store_true', help='measure DISTS, too, which takes the weights of VGG16')
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from irnsigma_plugin.archs.bicubic import bicubic_downscale
    from irnsigma_plugin.commands.batch import Batch
    from irnsigma_plugin.evaluation.measures import LR_METRICS, Scores, score_image
    from irnsigma_plugin.evaluation.pictures import draw_example
    from irnsigma_plugin.evaluation.restore import Restorer
    from irnsigma_plugin.files import make_folder
    from irnsigma_plugin.images.names import find_images

    source = Path(args.source).resolve()
    output = Path(args.output or _default_output(source))
    if output.resolve() == source:
        raise ValueError(f'{args.source} is both HR_DIR and --output; choose another folder for the results.')
    images = find_images([args.source], output if args.output else output.parent)  # no pictures of earlier evaluations
    names = _unique_names(images)
    make_folder(output)  # now, for it would be a pity after hours
    rescaler = arguments.load_rescaler(args)
    scale, metrics = rescaler.scale, usable_metrics(rescaler.scale, args.dists)
    restorer = Restorer(rescaler, tuple(dict.fromkeys(args.sigmas)), args.seed, args.overlap)
    title = printable(args.source if args.source.strip('./') else source.name)
    scores, comparison = Scores(title, restorer.sigmas, model=rescaler.model_hash), None
    try:
        with Batch(len(images)) as batch:
            for name, (path, _) in zip(names, images):
                with batch.guard(path):
                    original, image = restorer.rescale_file(path)
                    image = image._replace(name=name)
                    scored = score_image(image, original, bicubic_downscale(original, scale), metrics, LR_METRICS)
                    scores.images += scored
                    for fault in scored[0].faults:
                        batch.say('error', path, fault)
                    comparison = comparison or draw_example(original, image, scored, metrics, scale)
                    batch.finish()
    finally:  # also of an interrupted evaluation
        if scores.images:
            _report(scores, metrics, comparison, len(images), output)
    return int(batch.failed > 0 or bool(scores.missing()))


def usable_metrics(scale: int, dists: bool = False) -> MetricOptions:
    """The papers' metrics; without LPIPS, and with a warning, where its weights cannot be had; DISTS as one asks."""
    from irnsigma_plugin.evaluation.measures import hr_metrics
    from irnsigma_plugin.imagenet.weights import WeightsError, imagenet_weights

    if dists:
        from irnsigma_plugin.evaluation.dists import check_dists

        check_dists()  # weights that are missing are named once, and now
    try:
        imagenet_weights('alexnet')
        return hr_metrics(scale, dists=dists)
    except WeightsError as error:
        print(f'irnsigma: warning: LPIPS is left out: {error}', file=sys.stderr)
        return hr_metrics(scale, lpips=False, dists=dists)


def _default_output(source: Path) -> Path:
    """Where results go, by the last two parts of a folder's whole path (without the `/` that it begins with)."""
    return Path('results', 'evaluate', '_'.join(source.parts[1:][-2:]))


def _unique_names(images: list[tuple[Path, Path]]) -> list[str]:
    """Path of each image below the folder, without extension."""
    files: dict[str, Path] = {}
    for path, relative in images:
        other = files.setdefault(relative.with_suffix('').as_posix(), path)
        if other is not path:
            raise ValueError(f'{other} and {path} have the same name in tables; rename one.')
    return list(files)


def _report(scores: Scores, metrics: MetricOptions, comparison: bytes | None, total: int, output: Path) -> None:
    """Print and write the report; `total` is the number of images that there are."""
    from irnsigma_plugin.evaluation.report import markdown_table, write_report

    note = f'\n{scores.image_count} of {total} images were measured.\n' if scores.image_count < total else ''
    try:
        print(f'\n{markdown_table(scores, metrics)}{note}')  # first, should the disk be full
    finally:  # and the other way round, should nobody read it
        write_report(output, scores, metrics, comparison, note)
    print(f'Tables and pictures: {output}')
