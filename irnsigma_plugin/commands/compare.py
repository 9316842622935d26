"""`irnsigma compare`: one picture of an image before and after."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from irnsigma_plugin.commands import arguments
from irnsigma_plugin.commands.evaluate import usable_metrics


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `compare` to the command line."""
    parser = subparsers.add_parser(
        'compare',
        help='draw an image beside what becomes of it',
        description='Draw side by side an image, its small image, what bicubic enlargement makes of that, and the\n'
        'images restored at several sigma, with their PSNR-Y and LPIPS. Of a large image the middle is shown; the\n'
        'figures are of the whole.',
        epilog='examples:\n'
        '  irnsigma compare photo.jpg\n'
        '  irnsigma compare photo.jpg --sigmas 0 1 --output comparison.png\n'
        '  irnsigma compare photo.jpg --sigmas 0 1 --sigma-map mask.png',
    )
    parser.add_argument('source', metavar='HR', help='original image')
    arguments.add_network_arguments(parser, 'fp32', 'torch')
    arguments.add_sigmas(parser)
    arguments.add_sigma_map(parser)
    output_help = 'the picture (default: the name of HR and _comparison.png, in the current directory)'
    parser.add_argument('--output', metavar='PNG', help=output_help)
    parser.add_argument('--overwrite', action='store_true', help='replace the picture if it is there')
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    output = Path(args.output or f'{Path(args.source).stem}_comparison.png')
    if output.suffix.lower() != '.png':
        raise ValueError(f'{output}: the picture is a PNG file; name it .png.')
    if output.exists() and not args.overwrite:
        raise FileExistsError(f'{output} is there already; use --overwrite, or another --output.')
    if output.resolve() in (Path(each).resolve() for each in (args.source, args.sigma_map) if each):
        raise ValueError(f'{output} is what is compared; choose another --output.')

    from irnsigma_plugin.archs.bicubic import bicubic_upscale
    from irnsigma_plugin.evaluation.measures import measure
    from irnsigma_plugin.evaluation.pictures import draw_rescaling
    from irnsigma_plugin.evaluation.restore import Restorer
    from irnsigma_plugin.files import atomic_write, make_folder

    make_folder(output.parent)  # before the work, not after it
    sigma_map = arguments.read_sigma_map(args.sigma_map) if args.sigma_map else None
    rescaler = arguments.load_rescaler(args)
    metrics = {name: metric for name, metric in usable_metrics(rescaler.scale).items() if name in ('psnr_y', 'lpips')}
    restorer = Restorer(rescaler, tuple(dict.fromkeys(args.sigmas)), args.seed, args.overlap)
    with arguments.named_sigma_map(args.sigma_map):
        original, image = restorer.rescale_file(Path(args.source), sigma_map)
    enlarged = bicubic_upscale(image.lr, rescaler.scale)
    measured, faults = measure(metrics, [enlarged, *image.results], original)
    for fault in faults:
        print(f'irnsigma: warning: {args.source}: {fault}', file=sys.stderr)
    atomic_write(output, draw_rescaling(original, image, enlarged, measured))
    print(f'wrote {output}')
