"""Nothing that the plugin reads can run code: how its modules read files, told from their source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

MODULES = sorted((Path(__file__).resolve().parents[1] / 'irnsigma_plugin').rglob('*.py'))
#: Calls that could run what a file asks for, unless they have this argument.
GUARDS = {
    'torch.load': ('weights_only', 'True'),
    'yaml.load': ('Loader', '_Loader'),  # of option_file.py, derived from SafeLoader
    'np.load': ('allow_pickle', 'False'),
    **dict.fromkeys(
        (
            'pickle.load',
            'pickle.loads',
            'torch.jit.load',
            'yaml.unsafe_load',
            'yaml.full_load',
            'os.system',
            'eval',
            'exec',
        ),
        (None, None),
    ),
}


def unguarded(source: str) -> list[str]:
    """The calls in a source that lack their guard."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in GUARDS:
            keyword, value = GUARDS[name]
            if not any(argument.arg == keyword and ast.unparse(argument.value) == value for argument in node.keywords):
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize('path', MODULES, ids=lambda path: path.stem)
def test_every_file_is_read_safely(path):
    assert unguarded(path.read_text(encoding='utf-8')) == []


@pytest.mark.parametrize(
    'call',
    [
        'torch.load(path)',
        'torch.load(path, weights_only=False)',
        'pickle.load(file)',
        'yaml.load(file, Loader=yaml.Loader)',
        'np.load(path)',
        'eval(text)',
    ],
)
def test_the_search_finds_what_it_should(call):
    assert unguarded(f'def read(path):\n    return {call}') == [call]
