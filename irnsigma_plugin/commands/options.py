"""`irnsigma options`: the option files that come with the package, listed or copied."""

from __future__ import annotations

import argparse
from pathlib import Path

from irnsigma_plugin.checks import did_you_mean

PACKAGE = Path(__file__).resolve().parents[1]


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `options` to the command line."""
    parser = subparsers.add_parser(
        'options',
        help='list or copy the option files for trainings and tests',
        description='List the option files that come with this package, or copy them, to be changed and given to\n'
        'python -m basicsr.train or basicsr.test as -opt. Without NAME and --to they are listed.',
        epilog='examples:\n  irnsigma options\n  irnsigma options train_IRNsigma_x4\n  irnsigma options --to options',
    )
    add = parser.add_argument
    add('names', nargs='*', metavar='NAME', help='option file to copy (default: all)')
    add('--to', metavar='DIR', help='folder to copy to, made where it is missing (default: options)')
    add('--overwrite', action='store_true', help='replace files that were changed; they are kept otherwise')
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from irnsigma_plugin.files import atomic_write, make_folder

    # A wheel has them in the package, a checkout beside it.
    found = [*PACKAGE.glob('option_files/*.yml')] or [*PACKAGE.parent.glob('options/*.yml')]
    if not found:
        raise ValueError(f'{PACKAGE} has no option files with it: install the package anew.')
    shipped = {path.stem: path for path in sorted(found)}
    if not args.names and args.to is None:
        for name, path in shipped.items():
            print(f'{name:30}{path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")}')
        return
    names = [name.removesuffix('.yml') for name in args.names] or list(shipped)
    for name in set(names) - set(shipped):
        hint = did_you_mean(name, shipped) or ' `irnsigma options` lists them.'
        raise ValueError(f'there is no option file {name}.{hint}')
    folder = Path('options' if args.to is None else args.to)
    make_folder(folder)
    changed = []
    for name in names:
        content, target = shipped[name].read_bytes(), folder / f'{name}.yml'
        if target.exists() and not args.overwrite and target.read_bytes() != content:
            changed.append(str(target))
        else:
            atomic_write(target, content)
            print(target)
    if changed:
        raise ValueError(f'kept, for their content differs: {", ".join(changed)} (--overwrite replaces them)')
