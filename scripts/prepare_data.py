"""Make training data from photographs: see `python scripts/prepare_data.py --help`."""

from __future__ import annotations

import argparse
import sys

DESCRIPTION = '''\
Turn photographs into training data for BasicSR's PairedImageDataset.

Each image is cut to a multiple of the scale (at its right and bottom), shrunk bicubically as a whole (the
values of MATLAB's imresize), and both are cut into overlapping sub-images, which load faster in training.
Written are two LMDBs with the same keys:

  DST/<name>_hr.lmdb       dataroot_gt in the option file
  DST/<name>_lr_x4.lmdb    dataroot_lq

The command can be stopped at any moment, also by a kill; the same command again goes on from there, and
checks the data where it is complete already. Every stored image is read back at the end.
'''

EPILOG = '''\
examples:
  DIV2K (sub-images of 480 pixels, every 240):
    python scripts/prepare_data.py DIV2K_train_HR datasets/DIV2K --scale 4 --crop-size 480 --step 240
  BSDS400 (481x321 photographs: smaller sub-images):
    python scripts/prepare_data.py BSDS400 datasets/BSDS400 --scale 4 --crop-size 240 --step 120
  whole images, for validation:
    python scripts/prepare_data.py Set14/HR datasets/Set14 --scale 4 --no-crop --min-size 4

images: PNG, JPEG, BMP, TIFF, WebP, PPM, GIF. Grey ones get three channels, 16 bits become 8, opaque alpha is dropped,
the camera's orientation is applied. Damaged, transparent, CMYK and too small images are named and skipped.

exit status: 0 the data is complete (images may have been skipped), 1 it is not, or --strict and an image was
skipped, 2 wrong arguments, 130 interrupted.
'''


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = build_parser().parse_args(argv)
    # Takes seconds, as it imports torch: after the arguments, so that --help answers at once.
    from irnsigma_plugin.preparation.pairs import PrepareError, prepare

    try:
        summary = prepare(
            args.sources,
            args.destination,
            scale=args.scale,
            crop_size=None if args.no_crop else args.crop_size,
            step=args.step,
            min_size=args.min_size,
            name=args.name,
            workers=args.workers,
            overwrite=args.overwrite,
        )
    except (PrepareError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print('\ninterrupted; the same command again goes on from here.', file=sys.stderr)
        return 130
    if summary.was_complete:
        print('Already complete, nothing to do but to check it (--overwrite makes it anew).')
    print(f'{summary.pairs} pairs of sub-images from {summary.photographs} images, every one read back:')
    print(f'  dataroot_gt: {summary.hr_path}\n  dataroot_lq: {summary.lr_path}')
    if summary.skipped:
        print(f'{len(summary.skipped)} images were skipped:', *summary.skipped, sep='\n  ', file=sys.stderr)
    return 1 if args.strict and summary.skipped else 0


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'sources', nargs='+', metavar='SRC', help='image files or folders of images (with their subfolders)'
    )
    parser.add_argument('destination', metavar='DST', help='folder for the LMDBs')
    parser.add_argument('--scale', type=int, default=4, help='factor between hr and lr (default: 4)')
    parser.add_argument(
        '--crop-size',
        type=int,
        default=480,
        metavar='PIXELS',
        help='side of the hr sub-images, a multiple of the scale; shorter sides are kept (default: 480)',
    )
    parser.add_argument(
        '--step',
        type=int,
        metavar='PIXELS',
        help='distance of sub-images, a multiple of the scale (default: half the crop size)',
    )
    parser.add_argument('--no-crop', action='store_true', help='keep the images whole')
    parser.add_argument(
        '--min-size',
        type=int,
        default=144,
        metavar='PIXELS',
        help='skip images with a shorter side; use at least the gt_size of the training (default: 144)',
    )
    parser.add_argument('--name', help='first part of the names of the LMDBs (default: the name of DST)')
    parser.add_argument('--workers', type=int, metavar='N', help='images at a time (default: number of cores)')
    parser.add_argument('--overwrite', action='store_true', help='replace existing LMDBs of the same name')
    parser.add_argument('--strict', action='store_true', help='exit with status 1 if an image was skipped')
    return parser


if __name__ == '__main__':
    sys.exit(main())
