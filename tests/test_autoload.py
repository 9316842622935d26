"""Loading of the plugin: light at interpreter start, complete whatever is imported first."""

from __future__ import annotations

import pytest

#: A package in the place of BasicSR, to see the order of events without the cost of the real one.
FAKE_BASICSR = 'import sys\nsys.events.append("basicsr")\n'
WATCH_EVENTS = """
import sys
sys.events = []
import types
from irnsigma_plugin.compat import loading

def register_all():
    import registering

registry = types.ModuleType('irnsigma_plugin.compat.registry')
registry.register_all = register_all
sys.modules[registry.__name__] = registry
loading.prepare = lambda: sys.events.append('before')
loading.change = lambda: sys.events.append('after')
"""


@pytest.fixture
def fake_basicsr(tmp_path):
    """A folder with a tiny `basicsr` and a module that registers itself."""
    (tmp_path / 'basicsr').mkdir()
    (tmp_path / 'basicsr' / '__init__.py').write_text(FAKE_BASICSR)
    (tmp_path / 'basicsr' / 'utils.py').write_text('')
    (tmp_path / 'registering.py').write_text('import sys, basicsr.utils\nsys.events.append("registered")\n')
    return tmp_path


def test_import_is_light(run_cli):
    code = 'import sys; before = set(sys.modules); import irnsigma_plugin; print(sorted(set(sys.modules) - before))'
    out = run_cli('-c', code, IRNSIGMA_AUTOLOAD='0').stdout
    assert out.strip() == "['irnsigma_plugin']"


@pytest.mark.parametrize('first', ['basicsr', 'basicsr.utils', 'registering'])
def test_order_of_events(run_cli, fake_basicsr, first):
    out = run_cli('-c', f'{WATCH_EVENTS}\nimport {first}, basicsr, registering\nprint(sys.events)').stdout
    assert out.strip() == "['before', 'basicsr', 'after', 'registered']"


def test_arming_twice_does_the_work_once(run_cli, fake_basicsr):
    again = 'import importlib, irnsigma_plugin; importlib.reload(irnsigma_plugin); importlib.reload(irnsigma_plugin)'
    code = f'{WATCH_EVENTS}\n{again}\nimport basicsr\nprint(sys.events)'
    assert run_cli('-c', code).stdout.strip() == "['before', 'basicsr', 'after', 'registered']"


def test_looking_for_basicsr_does_not_disarm(run_cli, fake_basicsr):
    look = 'import importlib.util; assert importlib.util.find_spec("basicsr").name == "basicsr"'
    out = run_cli('-c', f'{WATCH_EVENTS}\n{look}\nimport basicsr\nprint(sys.events)').stdout
    assert out.strip() == "['before', 'basicsr', 'after', 'registered']"


def test_basicsr_keeps_its_ordinary_loader(run_cli, fake_basicsr):
    code = f'{WATCH_EVENTS}\nimport basicsr\nprint(type(basicsr.__loader__), type(basicsr.__spec__.loader))'
    assert run_cli('-c', code).stdout.count('SourceFileLoader') == 2


def test_missing_basicsr_raises_the_usual_error(run_cli):
    out = run_cli('-S', '-c', 'import irnsigma_plugin, basicsr', check=False).stdout
    assert out.splitlines()[-1] == "ModuleNotFoundError: No module named 'basicsr'"


def test_broken_basicsr_raises_its_own_error(run_cli, fake_basicsr):
    (fake_basicsr / 'basicsr' / '__init__.py').write_text('raise ImportError("libfoo is too old")')
    out = run_cli('-c', f'{WATCH_EVENTS}\nimport basicsr', check=False).stdout
    assert out.splitlines()[-1] == 'ImportError: libfoo is too old'


def test_an_older_basicsr_is_left_alone(run_cli, fake_basicsr):
    out = run_cli('-c', 'import sys; sys.events = []; import basicsr; print("imported")').stdout
    assert out.splitlines()[-1] == 'imported'
    assert 'irnsigma_plugin stays out of' in out
    assert 'basicsr.utils.options has no parse_options' in out


def test_failed_registration_names_module_reason_and_remedy(run_cli, fake_basicsr):
    (fake_basicsr / 'registering.py').write_text('import no_such_library')
    last_line = run_cli('-c', f'{WATCH_EVENTS}\nimport basicsr', check=False).stdout.splitlines()[-1]
    assert "could not register with BasicSR: No module named 'no_such_library'" in last_line
    assert 'IRNSIGMA_AUTOLOAD=0' in last_line


def test_registers_whatever_is_imported_first(run_cli, repo_root):
    """BasicSR, or any module of ours: that triggers the registration of all, itself unfinished."""
    users_of_basicsr = [
        '.'.join(path.relative_to(repo_root).with_suffix('').parts)
        for path in sorted((repo_root / 'irnsigma_plugin').rglob('*.py'))
        if 'from basicsr' in path.read_text() and 'compat' not in path.parts
    ]
    assert 'irnsigma_plugin.training.model' in users_of_basicsr
    code = f"""
import os, sys, types
import lmdb, matplotlib, tqdm  # what takes long to import stays imported in the children
import torchvision.transforms.functional as functional

alias = types.ModuleType('torchvision.transforms.functional_tensor')  # as users patch it themselves
alias.rgb_to_grayscale = functional.rgb_to_grayscale
sys.modules[alias.__name__] = alias
from basicsr.train import parse_options
from basicsr.utils.registry import MODEL_REGISTRY
assert 'irnsigma_plugin' not in sys.modules

def after_basicsr():
    assert 'IRNSigmaModel' not in MODEL_REGISTRY
    import irnsigma_plugin, basicsr.train
    assert 'IRNSigmaModel' in MODEL_REGISTRY
    assert basicsr.train.parse_options.__module__ == 'irnsigma_plugin.compat.start'
    assert parse_options is basicsr.train.parse_options  # the name this script had bound before
    assert sys.modules[alias.__name__] is alias

def first(name):
    for module in [module for module in sys.modules if module.partition('.')[0] == 'basicsr']:
        del sys.modules[module]
    import irnsigma_plugin
    __import__(name)
    from basicsr.utils.registry import MODEL_REGISTRY
    assert 'IRNSigmaModel' in MODEL_REGISTRY

for case, *name in [(after_basicsr, ), *((first, name) for name in {users_of_basicsr})]:
    child = os.fork()
    if child == 0:
        try:
            case(*name)
            os._exit(0)
        except BaseException as error:
            print(case.__name__, *name, repr(error), flush=True)
            os._exit(1)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit(1)
"""
    run_cli('-c', code, IRNSIGMA_AUTOLOAD='0')
