"""Extensions: packages with an entry point, and modules or files that an option file names under `imports`.

Both register their classes with BasicSR when they are imported; nothing else is asked of them.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from irnsigma_plugin.options.rules import OptionError, refuse

#: Entry points of this group are imported with BasicSR: a module, or `module:function`, which is called.
GROUP = 'basicsr.plugins'

_logger = logging.getLogger(__name__.partition('.')[0])
_loaded: set[metadata.EntryPoint] = set()
_failed: dict[str, str] = {}  # name of an entry point -> what is wrong with it


def import_installed() -> None:
    """Import the installed packages that have an entry point in `GROUP`. Harmless when repeated.

    One that fails is named in a warning, and in the errors of types that nobody has registered. One that is being
    imported at this moment, and has imported BasicSR, waits for the next call.
    """
    points = metadata.entry_points()
    of_group = points.select(group=GROUP) if hasattr(points, 'select') else points.get(GROUP, ())  # Python 3.9
    for point in sorted(of_group):
        package = point.value.partition(':')[0].partition('.')[0].strip()
        if point in _loaded or _is_being_imported(package):
            continue
        _loaded.add(point)
        try:
            extension = point.load()
            if ':' in point.value:
                extension()
        except (Exception, SystemExit) as error:
            if not _failed:
                _mention_failures()
            _failed[point.name] = _explain(error, package)
            problem = f'{point.name} ({point.value}) could not be imported: {_failed[point.name]}'
            remedy = 'Option files that need it will not run. Install what it lacks, update it, or uninstall it'
            _logger.warning('The BasicSR extension %s. %s.', problem, remedy)


def import_named(names: Any, key: str = 'imports') -> None:
    """Import what `imports` (`key`) of an option file names, each once, or raise an OptionError."""
    refuse(import_faults(names, key))
    if not names:
        return
    import basicsr  # noqa: F401  what they derive from is registered first

    _search(os.getcwd())
    for name in names:
        module = _module_of(name, key) if _is_file(name) else name
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:
            problem = _explain(error, module.partition('.')[0])
            if isinstance(error, ModuleNotFoundError) and f'{module}.'.startswith(f'{error.name}.'):
                problem = f'there is no such module, not in {os.getcwd()} either. Install it, or name its file'
            raise OptionError(f'{key}: {name}: {problem}.') from error


def import_faults(names: Any, key: str = 'imports') -> Iterator[str]:
    """What is wrong with the value of `imports`, as far as it can be told without running anything."""
    if names is not None and not (isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)):
        yield f'{key} must be a list of modules and files such as [my_net, ./my_loss.py], but is {names!r}.'
        return
    for name in names or ():
        if _is_file(name) and not os.path.isfile(os.path.expanduser(name)):
            yield f'{key}: {name}: there is no such file (relative paths start at {os.getcwd()}).'


def failures() -> str:
    """A sentence about the installed extensions that could not be imported; empty where all could."""
    return ''.join(f' The extension {name} could not be imported: {error}.' for name, error in _failed.items())


def _mention_failures() -> None:
    """Let BasicSR's error of a type that nobody has registered mention the extensions that could not be imported."""
    from basicsr.utils.registry import Registry

    original = Registry.get

    def get(self, name, *args, **kwargs):
        try:
            return original(self, name, *args, **kwargs)
        except KeyError as error:
            raise KeyError(f'{error.args[0]}{failures()}') from None

    Registry.get = get


def _is_being_imported(package: str) -> bool:
    modules = [module for name, module in list(sys.modules.items()) if name.partition('.')[0] == package]
    return any(getattr(getattr(module, '__spec__', None), '_initializing', False) for module in modules)


def _search(folder: str) -> None:
    if folder not in sys.path:
        sys.path.append(folder)


def _is_file(name: str) -> bool:
    return name.endswith('.py') or os.sep in name


def _module_of(file: str, key: str) -> str:
    """Name of a file as a module, for workers that are spawned, too: that which it has already, or the file's own."""
    path = os.path.realpath(os.path.expanduser(file))
    for name, module in list(sys.modules.items()):
        if getattr(module, '__dict__', {}).get('__file__') == path:
            return name
    folder, name = os.path.split(os.path.splitext(path)[0])
    _search(folder)
    spec = None if '.' in name else find_spec(name)
    if spec is None or os.path.realpath(spec.origin or '') != path:
        found = f'finds {spec.origin or "another module"} under the name {name}' if spec else f'has no module {name}'
        raise OptionError(f'{key}: {file}: Python {found}; rename the file.')
    return name


def _explain(error: BaseException, package: str) -> str:
    """An error in one line, with the last line of `package` that led to it."""
    place = ''
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get('__name__', '').partition('.')[0] == package:
            place = f' ({frame.f_code.co_filename}, line {line})'
    text: object = error
    if isinstance(error, SyntaxError):
        text, place = error.msg, f' ({error.filename}, line {error.lineno})'
    return f'{type(error).__name__}: {" ".join(str(text).split())}{place}'
