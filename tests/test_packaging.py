"""Installation: the plugin is there for every interpreter of the environment, and goes without a trace."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

if importlib.util.find_spec('wheel') is None or importlib.util.find_spec('setuptools') is None:
    pytest.skip('needs setuptools and wheel, to build without a download', allow_module_level=True)

LOADED = "import sys; print([n for n in ('basicsr', 'irnsigma_plugin', 'torch') if n in sys.modules])"
REGISTERED = "from basicsr.utils.registry import MODEL_REGISTRY as R; print('IRNSigmaModel' in R)"
SPAWN_WORKER = '''
import multiprocessing, sys
def worker():
    print('irnsigma_plugin' in sys.modules)
if __name__ == '__main__':
    process = multiprocessing.get_context('spawn').Process(target=worker)
    process.start(); process.join()
'''


class Environment:
    """A virtual environment that sees the libraries of the running one, but not this checkout."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        self.python = folder / 'bin' / 'python'
        self.site = Path(sysconfig.get_path('purelib', vars={'base': str(folder)}))
        self.work = folder / 'elsewhere'
        self.work.mkdir()
        # Adds the libraries without processing the .pth files beside them.
        (self.site / 'zz_running_environment.pth').write_text(sysconfig.get_path('purelib'))
        self.env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}

    def run(self, *args: str, **env: str) -> str:
        done = subprocess.run(
            [str(self.python), *map(str, args)],
            cwd=self.work,
            env={**self.env, **env},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout.strip()

    def install(self, *what: str) -> None:
        self.run('-m', 'pip', 'install', '-q', '--no-deps', '--no-build-isolation', '--no-index', *what)


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path / 'env')


@pytest.fixture
def source(tmp_path, repo_root):
    """A copy of what is packaged, so that builds leave the checkout alone."""
    copy = tmp_path / 'source'
    copy.mkdir()
    for name in ('setup.py', 'pyproject.toml', 'LICENSE', 'README.md'):
        if (repo_root / name).exists():
            shutil.copy(repo_root / name, copy)
    shutil.copytree(repo_root / 'irnsigma_plugin', copy / 'irnsigma_plugin')
    return copy


@pytest.mark.parametrize('way', ['directory', 'editable', 'wheel'])
def test_every_way_of_installing_autoloads(environment, source, tmp_path, way):
    before = set(environment.site.rglob('*'))
    if way == 'wheel':
        environment.run(
            '-m',
            'pip',
            'wheel',
            '-q',
            '--no-deps',
            '--no-build-isolation',
            '--no-index',
            '-w',
            tmp_path / 'wheels',
            source,
        )
        environment.install(*(tmp_path / 'wheels').glob('*.whl'))
    else:
        environment.install(*{'directory': [source], 'editable': ['-e', source]}[way])

    assert environment.run('-c', LOADED) == "['irnsigma_plugin']"
    assert environment.run('-c', LOADED, IRNSIGMA_AUTOLOAD='0') == '[]'
    worker = tmp_path / 'spawn_worker.py'
    worker.write_text(SPAWN_WORKER)
    assert environment.run(worker) == 'True'
    if way == 'directory':
        assert environment.run('-c', REGISTERED) == 'True'

    environment.run('-m', 'pip', 'uninstall', '-q', '-y', 'irnsigma_plugin')
    assert set(environment.site.rglob('*')) == before


def test_pth_without_the_package_is_silent(environment, source):
    environment.install(source)
    shutil.rmtree(environment.site / 'irnsigma_plugin')
    assert environment.run('-c', 'print("started")') == 'started'


def test_start_stays_cheap(environment, source):
    """Two modules and no time to speak of; the bound leaves room for a busy machine."""
    environment.install(source)
    code = 'import time; start = time.perf_counter(); import irnsigma_plugin; print(time.perf_counter() - start)'
    seconds = sorted(float(environment.run('-c', code, IRNSIGMA_AUTOLOAD='0')) for _ in range(5))
    assert seconds[2] < 0.02
