"""`irnsigma downscale`: hr files to lr files."""

from __future__ import annotations

import argparse

from irnsigma_plugin.commands import arguments
from irnsigma_plugin.images.names import LOSSY


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `downscale` to the command line."""
    parser = subparsers.add_parser(
        'downscale',
        help='make small images that can be restored',
        description='Make small images, which look like any others and can be restored by `irnsigma upscale`. They\n'
        'are 8-bit PNG files; grey stays grey, and transparency, colour profile and camera data are kept. Each\n'
        'notes the size, the bits and the model, so that restoring gives back the original size.',
        epilog='examples:\n'
        '  irnsigma downscale photo.jpg small.png\n'
        '  irnsigma downscale photos/ small/ --model net_g_latest.pth\n'
        "  irnsigma downscale 'photos/**/*.jpg' small/ --overwrite",
    )
    arguments.add_file_arguments(parser)
    lossy_help = (
        'write small images that lose detail, and the restored with them, about 2 dB at quality 95: see docs/formats.md'
    )
    parser.add_argument('--lossy-lr', choices=LOSSY, help=lossy_help)
    arguments.add_network_arguments(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from irnsigma_plugin.commands.batch import plan_jobs, rescale_files
    from irnsigma_plugin.images.picture import Picture
    from irnsigma_plugin.rescaling.pictures import downscale_picture, settings_of

    jobs = plan_jobs(args.sources, args.destination, [args.lossy_lr or 'png'])
    rescaler = arguments.load_rescaler(args)

    def downscale(picture: Picture, _: object) -> Picture:
        return downscale_picture(rescaler, picture, args.overlap)

    settings = settings_of(rescaler, args.overlap)
    return rescale_files(jobs, downscale, settings, args.overwrite, args.workers, args.quality)
