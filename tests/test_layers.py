"""Imports between the folders of the package point down, without circles, and few folders know BasicSR."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / 'irnsigma_plugin'

# From the lowest to the highest; what stands in one line stands side by side. `__init__` is the package itself.
FLOORS = [
    {'checks'},
    {'files', 'memory', 'sigma'},
    {'archs'},
    {'imagenet'},
    {'losses'},
    {'images'},
    {'checkpoints'},
    {'formats'},
    {'rescaling'},
    {'evaluation'},
    {'options'},
    {'preparation'},
    {'demo'},
    {'training'},
    {'compat'},
    {'__init__'},
    {'commands'},
    {'cli'},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
VERSION = (PACKAGE.name, '__version__')  # known to all: it is there before any module is imported
MODULES = 81  # fewer than these have code

# BasicSR: anywhere in the first, inside functions alone in the second, and there only what is named.
BASICSR = {'training', 'compat'}
BASICSR_IN_FUNCTIONS = {
    'evaluation': ('basicsr.metrics', 'basicsr.utils.registry'),
    'losses.adversarial': ('basicsr.losses',),
}


class Import(NamedTuple):
    """A line that imports a module."""

    source: str  # 'archs.irn_arch', of the package; 'archs' for the `__init__` of a folder, '__init__' for the root's
    line: int
    target: str  # 'irnsigma_plugin.archs.bicubic', 'torch.nn'
    in_function: bool

    def __str__(self) -> str:
        return f'irnsigma_plugin/{self.source.replace(".", "/")}.py:{self.line} imports {self.target}'


def name_of(file: Path, package: Path) -> str:
    """Dotted name below the package: `archs.irn_arch`, `archs`, and `__init__` for the package's own."""
    parts = file.relative_to(package).with_suffix('').parts
    return '.'.join(parts[:-1] if len(parts) > 1 and parts[-1] == '__init__' else parts)


def imports_of(file: Path, package: Path) -> Iterator[Import]:
    """All imports of a file: at its top, in functions, for type checkers, and by `import_module('...')`."""
    source = name_of(file, package)

    def visit(node: ast.AST, in_function: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{file}:{node.lineno}: a relative import'
            folder = package.parent.joinpath(*str(node.module).split('.'))
            targets = [
                f'{node.module}.{alias.name}' if is_module(folder / alias.name) else str(node.module)
                for alias in node.names
                if (node.module, alias.name) != VERSION
            ]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split('.')[-1] in ('import_module', '__import__'):
            targets = [each.value for each in node.args if isinstance(each, ast.Constant)]
        else:
            targets = []
        for target in dict.fromkeys(targets):
            yield Import(source, node.lineno, target, in_function)
        inside = in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(file.read_text(encoding='utf-8')), False)


def is_module(path: Path) -> bool:
    return path.with_name(f'{path.name}.py').is_file() or (path / '__init__.py').is_file()


def imports_in(package: Path) -> list[Import]:
    return [each for file in sorted(package.rglob('*.py')) for each in imports_of(file, package)]


def inner(imports: list[Import]) -> Iterator[tuple[Import, str]]:
    """The imports of modules of the package, with the target's name below the package."""
    for each in imports:
        root, _, rest = each.target.partition('.')
        if root == PACKAGE.name:
            yield each, rest or '__init__'


def arrows_up(imports: list[Import]) -> list[str]:
    """Imports of a higher folder, or of a neighbour on the same floor."""
    found = []
    for each, target in inner(imports):
        here, there = each.source.partition('.')[0], target.partition('.')[0]
        if here != there and FLOOR.get(there, 0) >= FLOOR.get(here, 0):
            found.append(f'{each}: {there} is no lower than {here}')
    return found


def circles(imports: list[Import]) -> list[str]:
    """Modules that import each other, directly or by way of others."""
    graph: dict[str, set[str]] = {}
    for each, target in inner(imports):
        if target != each.source:
            graph.setdefault(each.source, set()).add(target)
    found: list[str] = []
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> None:
        if module in way:
            found.append(' -> '.join([*way[way.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                walk(target, [*way, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return found


def foreign_basicsr(imports: list[Import]) -> list[str]:
    """Imports of BasicSR where it must not be known."""
    found = []
    for each in imports:
        folder = each.source.partition('.')[0]
        if each.target.partition('.')[0] != 'basicsr' or folder in BASICSR:
            continue
        allowed = BASICSR_IN_FUNCTIONS.get(each.source, BASICSR_IN_FUNCTIONS.get(folder, ()))
        if not (each.in_function and any(f'{each.target}.'.startswith(f'{module}.') for module in allowed)):
            found.append(str(each))
    return found


def has_code(file: Path) -> bool:
    """Whether there is more than a docstring in a file."""
    return any(
        not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in ast.parse(file.read_text(encoding='utf-8')).body
    )


@pytest.fixture(scope='module')
def imports() -> list[Import]:
    return imports_in(PACKAGE)


def lines(found: list[str]) -> str:
    return '\n  '.join(['', *found])


def test_every_module_has_a_floor():
    rooms = {file.relative_to(PACKAGE).parts[0].removesuffix('.py') for file in PACKAGE.rglob('*.py')}
    assert rooms == set(FLOOR)


def test_contributors_are_told_the_floors():
    text = (PACKAGE.parent / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| (`.+`)(?: ↓)? \| ', text, re.MULTILINE)
    assert [set(re.findall('`(.+?)`', row)) for row in rows] == FLOORS[::-1]


def test_arrows_point_down(imports):
    found = arrows_up(imports)
    assert not found, lines(found)


def test_no_circles(imports):
    found = circles(imports)
    assert not found, lines(found)


def test_few_folders_know_basicsr(imports):
    found = foreign_basicsr(imports)
    assert not found, lines(found)


def test_number_of_modules():
    modules = [name_of(file, PACKAGE) for file in sorted(PACKAGE.rglob('*.py')) if has_code(file)]
    assert len(modules) < MODULES, f'{len(modules)} modules:{lines(modules)}'


def test_faults_are_found(tmp_path):
    """What the functions above are for, on a package made wrong on purpose."""
    package = tmp_path / 'irnsigma_plugin'
    for name, code in {
        '__init__': '"""Only a docstring."""',
        'archs/__init__': '',
        'archs/net': 'import torch\nfrom basicsr.archs import arch_util\nfrom irnsigma_plugin import sigma\n',
        'archs/a': 'from irnsigma_plugin.archs import b\n',
        'archs/b': 'def f():\n    from irnsigma_plugin.archs.a import g\n',
        'losses/terms': 'if TYPE_CHECKING:\n    import irnsigma_plugin.training.step\n',
        'losses/adversarial': 'def f():\n    from basicsr.losses.gan_loss import GANLoss\n    import basicsr.data\n',
        'evaluation/measures': 'from basicsr.metrics import calculate_metric\n',
        'training/step': 'import basicsr\nfrom irnsigma_plugin.losses import terms\n',
        'sigma': 'importlib.import_module("irnsigma_plugin.archs.net")\nimport irnsigma_plugin.checks',
        'files': 'import irnsigma_plugin.memory\nfrom irnsigma_plugin import __version__\n',
        'checks': '',
    }.items():
        file = package / f'{name}.py'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    imports = imports_in(package)
    assert arrows_up(imports) == [
        'irnsigma_plugin/files.py:1 imports irnsigma_plugin.memory: memory is no lower than files',
        'irnsigma_plugin/losses/terms.py:2 imports irnsigma_plugin.training.step: training is no lower than losses',
        'irnsigma_plugin/sigma.py:1 imports irnsigma_plugin.archs.net: archs is no lower than sigma',
    ]
    assert circles(imports) == [
        'archs.a -> archs.b -> archs.a',
        'archs.net -> sigma -> archs.net',
        'losses.terms -> training.step -> losses.terms',
    ]
    assert foreign_basicsr(imports) == [
        'irnsigma_plugin/archs/net.py:2 imports basicsr.archs',
        'irnsigma_plugin/evaluation/measures.py:1 imports basicsr.metrics',
        'irnsigma_plugin/losses/adversarial.py:3 imports basicsr.data',
    ]
    assert [name_of(file, package) for file in sorted(package.rglob('*.py')) if has_code(file)] == [
        'archs.a',
        'archs.b',
        'archs.net',
        'evaluation.measures',
        'files',
        'losses.adversarial',
        'losses.terms',
        'sigma',
        'training.step',
    ]
