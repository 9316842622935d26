"""The command `irnsigma`.

Each subcommand is a module, named in `_ALL` and nowhere else: one function adds its parser and names the function
that does the work. Heavy imports belong into the latter, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import IO, Any, Callable, NoReturn

from irnsigma_plugin import __version__
from irnsigma_plugin.checks import did_you_mean, one_line
from irnsigma_plugin.files import WriteError

_ALL = (
    'downscale',
    'upscale',
    'evaluate',
    'compare',
    'demo',
    'info',
    'export',
    'card',
    'check',
    'options',
    'fetch_weights',
    'prepare',
)
COMMANDS: tuple[Any, ...] = tuple(import_module(f'irnsigma_plugin.commands.{name}') for name in _ALL)


class _Parser(argparse.ArgumentParser):
    """Parser that keeps the lines of its texts, and reports a wrong command line in one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{'formatter_class': argparse.RawDescriptionHelpFormatter, **settings})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, which names what is missing, and not the mistyped option that stands there instead."""
        own = args[:1] if self._subparsers else args[: [*args, '--'].index('--')]
        for name in (each.partition('=')[0] for each in own):
            is_option = name.strip('-')[:1].isalpha() and name.startswith('-') and ' ' not in name
            if is_option and not any(known.startswith(name) for known in self._option_string_actions):
                self.error(f'there is no option {name}.{did_you_mean(name, self._option_string_actions)}'.rstrip('.'))
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'irnsigma: error: {message} (see `{self.prog} --help`)\n')

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stderr).write(message)  # argparse's own hides that it cannot be written


class _Stream:
    """Standard output or standard error, whose failure names it, and happens only once."""

    def __init__(self, stream: IO[str] | None, name: str) -> None:
        # None where it was closed before the start (`2>&-`): what is written is lost then, and that is no fault.
        self._stream = stream or open(os.devnull, 'w', encoding='utf-8')  # noqa: SIM115  open until the process ends
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._stream, attribute)

    def write(self, text: str) -> int:
        encoding = getattr(self._stream, 'encoding', None) or 'utf-8'  # which may not have all of a file's name
        return self._attempt(self._stream.write, text.encode(encoding, 'backslashreplace').decode(encoding))

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, function: Callable[..., Any], *args: str) -> Any:
        try:
            return function(*args)
        except OSError as error:
            # What is left goes nowhere: the interpreter would try it again at its end, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if isinstance(error, BrokenPipeError):
                raise
            raise WriteError(error.errno, error.strerror, self._name) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default that of the process, without the program's name.

    Returns:
        Exit status: 0 success, 1 the command failed, 2 the command line is wrong, 130 interrupted, 141 nobody reads
        the output any more (`irnsigma ... | head`).
    """
    with (
        contextlib.redirect_stdout(_Stream(sys.stdout, 'standard output')),
        contextlib.redirect_stderr(_Stream(sys.stderr, 'standard error')),
    ):
        try:
            status = _run(argv)
            sys.stdout.flush()  # not at the interpreter's end, where a failure could not be told
            return status
        except KeyboardInterrupt:
            return _fail('interrupted', 130)
        except BrokenPipeError:
            return 141  # as of a program that SIGPIPE ends
        except (OSError, RuntimeError, ValueError, MemoryError, FloatingPointError) as error:
            return _fail(one_line(error), 1)


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = _build_parser().parse_args(sys.argv[1:] if argv is None else list(argv))
    except SystemExit as stop:  # argparse after --help, --version or a wrong command line
        return int(stop.code or 0)
    return args.run(args) or 0


def _fail(message: str, status: int) -> int:
    """Print an error, after what was printed before, if anybody listens."""
    for act in (sys.stdout.flush, lambda: print(f'irnsigma: error: {message}', file=sys.stderr)):
        with contextlib.suppress(OSError):
            act()
    return status


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog='irnsigma',
        description='Adjustable image rescaling with IRN_sigma.',
        epilog='example: irnsigma downscale photos/ small/\nexample: irnsigma fetch-weights\n'
        'Training and testing run through BasicSR: python -m basicsr.train -opt OPTIONS.yml',
    )
    parser.add_argument('--version', action='version', version=f'irnsigma_plugin {__version__}')
    subparsers = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for command in COMMANDS:
        command.add_command(subparsers)
    return parser


if __name__ == '__main__':
    sys.exit(main())
