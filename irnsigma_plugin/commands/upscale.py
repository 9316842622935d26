"""`irnsigma upscale`: lr files to restored hr files."""

from __future__ import annotations

import argparse

from irnsigma_plugin.commands.arguments import (
    add_file_arguments,
    add_network_arguments,
    add_seed,
    add_sigma_map,
    load_rescaler,
    read_sigma_map,
    sigma,
)


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `upscale` to the command line."""
    parser = subparsers.add_parser(
        'upscale',
        help='restore images, from faithful to sharp',
        description='Restore small images. Those of `irnsigma downscale` get the size and the bits of their\n'
        'originals, any others the scale times their size. Use the model that made them.\n\n'
        'sigma = 0 is the most faithful, sigma = 1 the sharpest. A map has a sigma for every place: an image\n'
        'of the size of the original or of the small image, white where the result shall be sharp (1), black\n'
        'where it shall be faithful (0).',
        epilog='examples:\n'
        '  irnsigma upscale small.png restored.png --model net_g_latest.pth --sigma 1\n'
        '  irnsigma upscale small/ restored/ --model net_g_latest.pth --sigma 0.5 --seed 7\n'
        '  irnsigma upscale small.png restored.png --model net_g_latest.pth --sigma-map mask.png',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_file_arguments(parser)
    add_network_arguments(parser)
    either = parser.add_mutually_exclusive_group()
    either.add_argument('--sigma', type=sigma, default=0.5, help='from 0 (faithful) to 1 (sharp), default: 0.5')
    add_sigma_map(either)
    add_seed(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from irnsigma_plugin.commands.batch import rescale_files
    from irnsigma_plugin.commands.sources import plan_jobs
    from irnsigma_plugin.rescaling.pictures import upscale_picture

    jobs = plan_jobs(args.sources, args.destination)
    sigma = read_sigma_map(args.sigma_map) if args.sigma_map else args.sigma
    rescaler = load_rescaler(args)
    return rescale_files(jobs, lambda picture, path: upscale_picture(rescaler, picture, path.stem, sigma, args.seed,
                                                                     args.tile, args.overlap),
                         args.overwrite, args.workers)
