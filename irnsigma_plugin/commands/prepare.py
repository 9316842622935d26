"""`irnsigma prepare`: photographs to training data."""

from __future__ import annotations

import argparse
import sys

from irnsigma_plugin.commands.arguments import count_from


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `prepare` to the command line."""
    parser = subparsers.add_parser(
        'prepare',
        help='make training data from photographs',
        description="Turn photographs into training data for BasicSR's PairedImageDataset: DST/<name>_hr.lmdb\n"
        '(dataroot_gt in the option file) and DST/<name>_lr_x<scale>.lmdb (dataroot_lq).\n\n'
        'Each image is cut to a multiple of the scale (at its right and bottom), shrunk bicubically as a\n'
        "whole (the values of MATLAB's imresize), and both are cut into overlapping sub-images, which load\n"
        'faster in training. Grey images get three channels, 16 bits become 8, opaque alpha is dropped, the\n'
        "camera's orientation is applied. Damaged, transparent, CMYK and too small images are named and\n"
        'skipped.\n\n'
        'The command can be stopped at any moment, also by a kill; the same command again goes on from\n'
        'there, and checks the data where it is complete already. Every stored image is read back at the end.',
        epilog='examples:\n'
        '  irnsigma prepare DIV2K_train_HR datasets/DIV2K --scale 4 --crop-size 480 --step 240\n'
        '  irnsigma prepare BSDS400 datasets/BSDS400 --scale 4 --crop-size 240 --step 120  (481x321 pixels)\n'
        '  irnsigma prepare Set14/HR datasets/Set14 --scale 4 --no-crop --min-size 4       (for validation)\n\n'
        'exit status: 0 the data is complete (images may have been skipped), 1 it is not, or --strict and an\n'
        'image was skipped, 2 wrong arguments, 130 interrupted.',
    )
    add = parser.add_argument
    add('sources', nargs='+', metavar='SRC', help='image files or folders of images (with their subfolders)')
    add('destination', metavar='DST', help='folder for the LMDBs')
    add('--scale', type=int, default=4, help='factor between hr and lr (default: 4)')
    size_help = 'side of the hr sub-images, a multiple of the scale; shorter sides are kept (default: 480)'
    add('--crop-size', type=int, metavar='PIXELS', help=size_help)
    step_help = 'distance of sub-images, a multiple of the scale (default: half the crop size, or the next below)'
    add('--step', type=int, metavar='PIXELS', help=step_help)
    add('--no-crop', action='store_true', help='keep the images whole')
    min_help = 'skip images with a shorter side; use at least the gt_size of the training (default: 144)'
    add('--min-size', type=int, default=144, metavar='PIXELS', help=min_help)
    add('--name', help='first part of the names of the LMDBs (default: the name of DST)')
    add('--workers', type=count_from(1), metavar='N', help='images at a time (default: number of cores)')
    add('--overwrite', action='store_true', help='replace existing LMDBs of the same name')
    add('--strict', action='store_true', help='exit with status 1 if an image was skipped')
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from irnsigma_plugin.preparation.pairs import prepare

    names = ('scale', 'step', 'min_size', 'name', 'workers', 'overwrite')
    options = {name: getattr(args, name) for name in names}
    crop_size = None if args.no_crop else 480 if args.crop_size is None else args.crop_size
    try:
        if args.no_crop and (args.crop_size or args.step):
            raise ValueError('--no-crop keeps images whole: leave out --crop-size and --step.')
        summary = prepare(args.sources, args.destination, crop_size=crop_size, **options)
    except ValueError as error:
        print(f'irnsigma: error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('\nirnsigma: error: interrupted; the same command again goes on from here.', file=sys.stderr)
        return 130
    if summary.was_complete:
        print('Already complete, nothing to do but to check it (--overwrite makes it anew).')
    print(f'{summary.pairs} pairs of sub-images from {summary.photographs} images, every one read back:')
    print(f'  dataroot_gt: {summary.hr_path}\n  dataroot_lq: {summary.lr_path}')
    if summary.skipped:
        print(f'{len(summary.skipped)} images were skipped:', *summary.skipped, sep='\n  ', file=sys.stderr)
    return 1 if args.strict and summary.skipped else 0
