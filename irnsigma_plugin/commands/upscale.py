"""`irnsigma upscale`: lr files to restored hr files."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from irnsigma_plugin.checkpoints import builtin
from irnsigma_plugin.commands import arguments
from irnsigma_plugin.images.names import LOSSY

_UNNOTED = (
    'so the results have the scale times their size. Small images of the network restore well as long as nobody '
    'changes them; others are merely enlarged.'
)


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `upscale` to the command line."""
    parser = subparsers.add_parser(
        'upscale',
        help='restore images, from faithful to sharp',
        description='Restore small images. Those of `irnsigma downscale` get the size and the bits of their\n'
        'originals, any others the scale times their size. Use the model that made them; without --model each\n'
        'gets the built-in one that it notes.\n\n'
        'sigma = 0 is the most faithful, sigma = 1 the sharpest. A map has a sigma for every place: an image\n'
        'of the size of the original or of the small image, white where the result shall be sharp (1), black\n'
        'where it shall be faithful (0).',
        epilog='examples:\n'
        '  irnsigma upscale small.png restored.png --sigma 1\n'
        '  irnsigma upscale small/ restored/ --model net_g_latest.pth --sigma 0.5 --seed 7\n'
        '  irnsigma upscale small/ restored/ --format jpg --quality 95\n'
        '  irnsigma upscale small.png restored.png --sigma-map mask.png',
    )
    arguments.add_file_arguments(parser)
    format_help = 'of the results; all but png lose detail (default: that of the name of a single file DST, else png)'
    parser.add_argument('--format', choices=('png', *LOSSY), help=format_help)
    arguments.add_network_arguments(parser, model=None)
    either = parser.add_mutually_exclusive_group()
    sigma_help = 'from 0 (faithful) to 1 (sharp), default: 0.5'
    either.add_argument('--sigma', type=arguments.parse_sigma, default=0.5, help=sigma_help)
    arguments.add_sigma_map(either)
    arguments.add_seed(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from irnsigma_plugin.commands.batch import plan_jobs, rescale_files
    from irnsigma_plugin.images.picture import Picture
    from irnsigma_plugin.rescaling.pictures import builtin_model, is_small, settings_of, upscale_picture

    jobs = plan_jobs(args.sources, args.destination, [args.format] if args.format else ['png', *LOSSY])
    sigma = arguments.read_sigma_map(args.sigma_map) if args.sigma_map else args.sigma
    load = functools.lru_cache(None)(functools.partial(arguments.load_rescaler, args))
    default = load(args.model or builtin.DEFAULT)  # now, for its error is not one of a picture
    if args.sigma_map and len(jobs) > 1:
        scales = {load(model).scale for model in ([args.model] if args.model else builtin.names())}
        _check_fits_any(args.sigma_map, sigma.shape, [job.source for job in jobs], scales)

    unnoted: list[Path] = []

    def upscale(picture: Picture, path: Path) -> Picture:
        if not is_small(picture):
            unnoted.append(path)
        rescaler = load(args.model or builtin_model(picture))
        with arguments.named_sigma_map(args.sigma_map):
            return upscale_picture(rescaler, picture, path.stem, sigma, args.seed, args.overlap)

    settings = settings_of(default, args.overlap, sigma, args.seed)
    if args.model is None:  # it is each picture's own
        del settings['model']
    for name in ('precision', 'engine'):
        if getattr(args, name) == 'auto':  # the machine's choice
            del settings[name]
    status = rescale_files(jobs, upscale, settings, args.overwrite, args.workers, args.quality)
    if unnoted:
        named = f'{unnoted[0]} and {len(unnoted) - 1} more' if len(unnoted) > 1 else unnoted[0]
        print(f'irnsigma: warning: no note of `irnsigma downscale` in {named}, {_UNNOTED}', file=sys.stderr)
    return status


def _check_fits_any(path: str, shape: tuple[int, int], sources: Sequence[Path], scales: Collection[int]) -> None:
    """Refuse a map of the size of no picture once, instead of with each of them."""
    from irnsigma_plugin.images.picture import ImageReadError, read_size

    height, width = shape
    sizes = {(-(-width // scale), -(-height // scale)) for scale in (1, *scales)}  # of the small pictures that fit
    for source in sources:
        if not source.is_file():
            return  # it is refused when its turn comes, as any that cannot be opened
        try:
            size = read_size(source)[::-1]
        except ImageReadError:
            return
        if size in sizes:
            return
    remedy = 'a map has the size of the original or of the small image.'
    raise ValueError(f'--sigma-map {path}: has {width}x{height} pixels, which fits none of the pictures; {remedy}')
