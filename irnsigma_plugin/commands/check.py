"""`irnsigma check`: say what is wrong with option files, without training."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `check` to the command line."""
    parser = subparsers.add_parser(
        'check',
        help='check option files before a training or test',
        description='Check option files: every key, every value, what must agree with each other, and the images and\n'
        'checkpoints that they name. All faults are listed at once. The files are read safely: nothing that\n'
        'is written into them is run, unless you say --run-imports. BasicSR and torch are loaded, which takes\n'
        'a few seconds. The exit status is 0 if all are good, 1 otherwise.',
        epilog='examples:\n  irnsigma check options/train_IRNsigma_x4.yml\n  irnsigma check --no-data options/*.yml\n'
        '  irnsigma check --list-keys',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('options', nargs='*', metavar='OPT', help='option file')
    parser.add_argument(
        '--no-data',
        action='store_true',
        help='leave out the images, checkpoints and training states, which may be on another machine',
    )
    parser.add_argument(
        '--run-imports',
        action='store_true',
        help='import the modules and files that `imports` names, which runs their code, to check the blocks of theirs',
    )
    parser.add_argument(
        '--list-keys', action='store_true', help='print the keys of option files as tables in Markdown, with defaults'
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from irnsigma_plugin.compat.registry import registered

    if args.list_keys:
        from irnsigma_plugin.options.table import markdown

        print(markdown(registered()))
    elif not args.options:
        raise ValueError('name one or more option files, or give --list-keys')
    refused = [path for path in args.options if not _check(path, not args.no_data, args.run_imports)]
    if refused:
        raise ValueError(f'{len(refused)} of {len(args.options)} option file(s) with faults: {", ".join(refused)}')


def _check(path: str, with_data: bool, run_imports: bool) -> bool:
    from irnsigma_plugin.compat.extensions import import_faults, import_named
    from irnsigma_plugin.compat.registry import registered
    from irnsigma_plugin.options.check import is_training, option_faults, outside_faults
    from irnsigma_plugin.options.file import read_option_file
    from irnsigma_plugin.options.rules import OptionError, value_at
    from irnsigma_plugin.options.train_val import expand_metrics

    try:
        opt = read_option_file(path)
    except OptionError as error:
        print(error)
        return False
    imports = value_at(opt, 'imports')
    faults = list(import_faults(imports))
    if run_imports and not faults:
        try:
            import_named(imports)
        except OptionError as error:
            faults.append(str(error))
    known = registered()
    expand_metrics(opt)
    faults += option_faults(opt, isinstance(opt, Mapping) and is_training(opt), known)
    if isinstance(opt, Mapping) and isinstance(opt.get('model_type'), str):
        print(f'{path}: {_looked_at(opt, known, with_data)}')
        if with_data:
            faults += outside_faults(opt, known)
        if imports and not run_imports:
            print(f'  {_left_out(opt)}')
    else:
        print(path)
    for fault in faults:
        print(f'  {fault}')
    print(f'  {len(faults)} fault(s)' if faults else '  OK')
    return not faults


def _looked_at(opt: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]], with_data: bool) -> str:
    from irnsigma_plugin.options.check import data_sets, is_training, unchecked_blocks

    names = ', '.join(name for name, _ in data_sets(opt))
    outside = f'with the images of {names}, and checkpoints' if with_data else 'without images and checkpoints'
    unchecked = unchecked_blocks(opt, known)
    return (
        f'{"training" if is_training(opt) else "test"} of {opt["model_type"]}, {_count_keys(opt)} keys, {outside}'
        + (f'; left to BasicSR or an extension: {", ".join(unchecked)}' if unchecked else '')
    )


def _left_out(opt: Mapping[str, Any]) -> str:
    """Say what could not be checked, since nothing that an option file names is run."""
    from irnsigma_plugin.compat.registry import unregistered

    blocks = ', '.join(f'{name} ({kind})' for name, kind, _ in unregistered(opt)) or 'none'
    return f'imports is not run (--run-imports: run its code); blocks that could not be checked for that: {blocks}'


def _count_keys(block: Any) -> int:
    if not isinstance(block, Mapping):
        return 0
    return len(block) + sum(map(_count_keys, block.values()))
