"""`irnsigma compare`: one picture of an image before and after."""

from __future__ import annotations

import argparse
from pathlib import Path

from irnsigma_plugin.commands.arguments import (
    add_network_arguments,
    add_sigma_map,
    add_sigmas,
    load_rescaler,
    named_sigma_map,
    read_sigma_map,
)


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `compare` to the command line."""
    parser = subparsers.add_parser(
        'compare',
        help='draw an image beside what becomes of it',
        description='Draw side by side an image, its small image, what bicubic enlargement makes of that, and the\n'
        'images restored at several sigma, with their PSNR-Y and LPIPS. Of a large image the middle is shown; the\n'
        'figures are of the whole.',
        epilog='examples:\n'
        '  irnsigma compare photo.jpg --model net_g_latest.pth\n'
        '  irnsigma compare photo.jpg --model net_g_latest.pth --sigmas 0 1 --output comparison.png\n'
        '  irnsigma compare photo.jpg --model net_g_latest.pth --sigmas 0 1 --sigma-map mask.png',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('source', metavar='HR', help='original image')
    add_network_arguments(parser)
    add_sigmas(parser)
    add_sigma_map(parser)
    parser.add_argument(
        '--output',
        metavar='PNG',
        help='the picture (default: the name of HR and _comparison.png, in the current directory)',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace the picture if it is there')
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    output = Path(args.output or f'{Path(args.source).stem}_comparison.png')
    if output.suffix.lower() != '.png':
        raise ValueError(f'{output}: the picture is a PNG file; name it .png.')
    if output.exists() and not args.overwrite:
        raise FileExistsError(f'{output} is there already; use --overwrite, or another --output.')

    import cv2

    from irnsigma_plugin.archs.bicubic import bicubic_upscale
    from irnsigma_plugin.commands.arguments import usable_metrics
    from irnsigma_plugin.evaluation.measures import measure
    from irnsigma_plugin.evaluation.pictures import Panel, caption, draw_comparison, rescaling_panels
    from irnsigma_plugin.evaluation.restore import rescale_file
    from irnsigma_plugin.files import atomic_write, make_folder
    from irnsigma_plugin.images.picture import to_8_bit

    make_folder(output.parent)  # before the work, not after it
    sigma_map = read_sigma_map(args.sigma_map) if args.sigma_map else None
    rescaler = load_rescaler(args)
    metrics = {name: metric for name, metric in usable_metrics(rescaler.scale).items() if name in ('psnr_y', 'lpips')}
    with named_sigma_map(args.sigma_map):
        image = rescale_file(
            rescaler, Path(args.source), tuple(dict.fromkeys(args.sigmas)), args.seed, args.overlap, sigma_map
        )
    enlarged = bicubic_upscale(image.lr, rescaler.scale)
    figures = [
        caption(values, list(metrics))
        for values in measure(metrics, [enlarged, *image.restored.values()], image.original)
    ]
    panels = rescaling_panels(
        image.original, image.lr, enlarged, image.restored, dict(zip(image.restored, figures[1:])), figures[0]
    )
    if image.mapped is not None:
        figure = caption(measure(metrics, [image.mapped], image.original)[0], list(metrics))
        panels += [
            Panel('map of σ\n', cv2.cvtColor(to_8_bit(sigma_map), cv2.COLOR_GRAY2BGR)),
            Panel(f'restored by the map\n{figure}', image.mapped),
        ]
    atomic_write(output, draw_comparison(panels))
    print(f'wrote {output}')
