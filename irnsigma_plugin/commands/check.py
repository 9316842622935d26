"""`irnsigma check`: say what is wrong with option files, without training, or which keys there are."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `check` to the command line."""
    parser = subparsers.add_parser(
        'check',
        help='check option files before a training or test',
        description='Check option files: every key, every value, what must agree with each other, the images and\n'
        'checkpoints that they name, and what else a run on this machine would stumble over. All faults are\n'
        'listed at once. The files are read safely: nothing that is written into them is run, unless you say\n'
        '--run-imports. BasicSR and torch are loaded, which takes a few seconds. The exit status is 0 if all\n'
        'are good, 1 otherwise.',
        epilog='examples:\n  irnsigma check options/train_IRNsigma_x4.yml\n  irnsigma check --no-data options/*.yml\n'
        '  irnsigma check --list-keys',
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('options', nargs='*', default=[], metavar='OPT', help='option file')
    parser.add_argument(
        '--no-data',
        action='store_true',
        help='leave out what is of this machine, if the run is to be on another one: images, weights, GPUs, packages',
    )
    parser.add_argument(
        '--run-imports',
        action='store_true',
        help='import the modules and files that `imports` names, which runs their code, to check the blocks of theirs',
    )
    what.add_argument(
        '--list-keys', action='store_true', help='print the keys of option files as tables in Markdown, with defaults'
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    if args.list_keys:
        print('\n\n'.join(_tables()))
    refused = [path for path in args.options if not _check(path, not args.no_data, args.run_imports)]
    if refused:
        raise ValueError(f'{len(refused)} of {len(args.options)} option file(s) with faults: {", ".join(refused)}')


def _check(path: str, with_data: bool, run_imports: bool) -> bool:
    from irnsigma_plugin.compat import extensions, registry, start
    from irnsigma_plugin.options import check
    from irnsigma_plugin.options.file import read_option_file
    from irnsigma_plugin.options.rules import OptionError, value_at
    from irnsigma_plugin.options.train_val import expand_metrics

    try:
        opt = read_option_file(path)
    except OptionError as error:
        print(error)
        return False
    imports = value_at(opt, 'imports')
    faults = list(extensions.import_faults(imports))
    if run_imports and not faults:
        try:
            extensions.import_named(imports)
        except OptionError as error:
            faults.append(str(error))
    known = registry.registered()
    expand_metrics(opt)
    is_training = isinstance(opt, Mapping) and check.is_training(opt)
    imported = not imports or run_imports and not faults
    faults += start.all_faults(opt, is_training, path, with_data, imported)
    if isinstance(value_at(opt, 'model_type'), str):
        names = ', '.join(name for name, _ in check.data_sets(opt))
        outside = f'with the images of {names}, and checkpoints' if with_data else 'without images and checkpoints'
        unchecked = ', '.join(check.unchecked_blocks(opt, known))
        left = f'; left to BasicSR or an extension: {unchecked}' if unchecked else ''
        purpose = f'{"training" if is_training else "test"} of {opt["model_type"]}'
        print(f'{path}: {purpose}, {_count_keys(opt)} keys, {outside}{left}')
        if imports and not run_imports:
            blocks = ', '.join(check.unknown_types(opt, known)) or 'none'
            unrun = 'imports is not run (--run-imports: run its code)'
            print(f'  {unrun}; blocks that could not be checked for that: {blocks}')
    else:
        print(path)
    for fault in faults:
        print(f'  {fault}')
    print(f'  {len(faults)} fault(s)' if faults else '  OK')
    return not faults


def _count_keys(block: Any) -> int:
    return len(block) + sum(map(_count_keys, block.values())) if isinstance(block, Mapping) else 0


def _tables() -> Iterator[str]:
    """A table for each block: its keys, with defaults and meanings that are asked of those who own them."""
    from irnsigma_plugin.compat.registry import own_components
    from irnsigma_plugin.options import keys, train_val
    from irnsigma_plugin.sigma import SigmaSampler

    blocks = {
        'the file': keys.TOP,
        'datasets, type: HRImageDataset': {**keys.HR_ROOT, **keys.PATCHES, **keys.IMAGES, **keys.LOADING},
        'path': keys.PATH,
        'logger': keys.LOGGER,
        'train': train_val.TRAIN,
        'train.sigma': _arguments(SigmaSampler),
        'train.gan_opt, type: GANLoss': keys.GAN_LOSS,
        'val': train_val.VAL,
    }
    for block, kind, component in own_components():
        if kind in ('arch', 'loss', 'metric'):
            blocks[f'{block}, type: {component.__name__}'] = _arguments(component)
    shown = {'Ellipsis': '', '{}': '', 'None': 'none', 'True': '`true`', 'False': '`false`'}
    for title, rows in blocks.items():
        table = [f'**`{title}`**', '', '| key | default | meaning |', '|---|---|---|']
        for name, key in rows.items():
            if key.meaning:
                default = str(list(key.default) if isinstance(key.default, tuple) else key.default)
                is_sentence = key.meaning.endswith('.')
                meaning = key.meaning if is_sentence else f'{key.meaning[0].upper()}{key.meaning[1:]}.'
                table.append(f'| `{name}` | {shown.get(default, f"`{default}`")} | {meaning} |')
        yield '\n'.join(table)


def _arguments(cls: Callable[..., Any]) -> dict[str, Any]:
    """Arguments of a class or function as keys, each with what its docstring says of it."""
    from irnsigma_plugin.options.keys import Key
    from irnsigma_plugin.options.rules import anything

    plain = re.sub(r':\w+:`~?(?:\w+\.)*(\w+)`', r'`\1`', inspect.getdoc(cls) or '')
    meanings = dict(re.findall(r'^ {4}(\w+): (.*(?:\n {8}.*)*)', plain, flags=re.MULTILINE))
    return {
        name: Key(anything, ' '.join(meanings[name].split()), ... if each.default is each.empty else each.default)
        for name, each in inspect.signature(cls).parameters.items()
        if name in meanings
    }
