"""The command `irnsigma`.

Each subcommand is a module of `irnsigma_plugin.commands`: one function adds its parser and names the function that
does the work. It is listed in `COMMANDS` and nowhere else. Heavy imports belong into the function that does the work,
so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Callable, NoReturn

from irnsigma_plugin.commands import check, compare, downscale, evaluate, export, fetch_weights, info, upscale


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
        return args.run(args) or 0
    except SystemExit as stop:  # argparse after --help, --version or a wrong command line
        return stop.code
    except KeyboardInterrupt:
        return _fail('interrupted', 130)
    except (OSError, RuntimeError, ValueError) as error:
        return _fail(' '.join(str(error).split()) or type(error).__name__, 1)


def _fail(message: str, status: int) -> int:
    print(f'irnsigma: error: {message}', file=sys.stderr)
    return status


def _build_parser() -> argparse.ArgumentParser:
    from irnsigma_plugin import __version__

    parser = _Parser(
        prog='irnsigma',
        description='Adjustable image rescaling with IRN_sigma.',
        epilog='example: irnsigma downscale photos/ small/ --model net_g_latest.pth\n'
        'example: irnsigma fetch-weights\n'
        'Training and testing run through BasicSR: python -m basicsr.train -opt OPTIONS.yml',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'irnsigma_plugin {__version__}')
    subparsers = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for add_command in COMMANDS:
        add_command(subparsers)
    return parser


COMMANDS: tuple[Callable[[argparse._SubParsersAction], None], ...] = (
    downscale.add_command,
    upscale.add_command,
    evaluate.add_command,
    compare.add_command,
    info.add_command,
    export.add_command,
    check.add_command,
    fetch_weights.add_command,
)
