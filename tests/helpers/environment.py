"""Fresh virtual environments, into which packages are installed as users do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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

    def run(self, *args: str | Path, cwd: Path | None = None, check: bool = True, **env: str) -> str:
        """Run Python; return what it prints, errors, too."""
        done = subprocess.run(
            [str(self.python), *map(str, args)],
            cwd=cwd or self.work,
            env={**self.env, **env},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
        )
        assert not check or done.returncode == 0, done.stdout
        return done.stdout.strip()

    def pip(self, command: str, *args: str | Path) -> None:
        """`pip install` or `pip wheel`, without any download."""
        self.run('-m', 'pip', command, '-q', '--no-deps', '--no-build-isolation', '--no-index', *args)

    def install(self, *what: str | Path) -> None:
        """`pip install`."""
        self.pip('install', *what)


def copy_source(folder: Path) -> Path:
    """A copy of what is packaged, so that builds leave the checkout alone."""
    folder.mkdir()
    for name in ('setup.py', 'pyproject.toml', 'LICENSE', 'README.md'):
        shutil.copy(ROOT / name, folder)
    for name in ('irnsigma_plugin', 'options'):
        shutil.copytree(ROOT / name, folder / name)
    return folder
