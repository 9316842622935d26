"""What all tests share: paths, a small model, and ways to run Python as a user would, or in several processes."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

REPO_ROOT = Path(__file__).resolve().parents[1]
SHARED_DIR = REPO_ROOT.parent / 'shared'

# Before torch is imported anywhere. Small tensors gain nothing from more threads, and those of several processes, which
# inherit this, would wait for each other's cores.
os.environ.setdefault('OMP_NUM_THREADS', '1')
# OpenVINO compiles for seconds, and keeps it in the user's folder of caches: its own tests have one of their own.
os.environ['IRNSIGMA_ENGINE'] = 'torch'
if (SHARED_DIR / 'torch_home').is_dir():
    os.environ.setdefault('TORCH_HOME', str(SHARED_DIR / 'torch_home'))

import irnsigma_plugin  # noqa: E402, F401  arms the plugin for every test that imports basicsr
from irnsigma_plugin.imagenet import weights as imagenet_weights  # noqa: E402
from irnsigma_plugin.rescaling import rescaler  # noqa: E402


@pytest.fixture(scope='session', autouse=True)
def _no_server() -> Iterator[None]:
    """No result depends on the network: torchvision's server is out of reach, except for other processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imagenet_weights, 'SERVER', 'http://127.0.0.1:9/')
        yield


@pytest.fixture(scope='session', autouse=True)
def _one_precision() -> Iterator[None]:
    """No result depends on what this machine is fast in: `auto` is fp32, except in other processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rescaler, 'native_precision', lambda device: 'fp32')
        yield


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """No result depends on what was drawn before, and so on which tests this process has run."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def basicsr_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged, with BasicSR's logger, which by itself passes nothing on."""
    from basicsr.utils import get_root_logger

    monkeypatch.setattr(get_root_logger(), 'propagate', True)  # the first call sets it to False
    caplog.set_level('INFO', 'basicsr')
    return caplog


@pytest.fixture(scope='session')
def repo_root() -> Path:
    """The checkout."""
    return REPO_ROOT


@pytest.fixture(scope='session')
def shared_dir() -> Path:
    """The folder `shared` beside the checkout (images, fixtures); a test that needs it is skipped without."""
    if not SHARED_DIR.is_dir():
        pytest.skip(f'needs the folder {SHARED_DIR}')
    return SHARED_DIR


@pytest.fixture(scope='session')
def checkout_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PYTHONPATH under which an interpreter has the plugin of this checkout, installed or not."""
    if Path(sysconfig.get_path('purelib'), 'irnsigma_plugin.pth').exists():
        return str(REPO_ROOT)
    autoload = tmp_path_factory.mktemp('autoload')  # does what the installed .pth file would do
    (autoload / 'sitecustomize.py').write_text(
        "import os\nif os.environ.get('IRNSIGMA_AUTOLOAD') != '0':\n    import irnsigma_plugin\n"
    )
    return os.pathsep.join([str(autoload), str(REPO_ROOT)])


@pytest.fixture
def make_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Build an IRNSigmaModel of random weights from small options, as `basicsr.train` does, and feed it a batch.

    Called as `make_model(adversarial, change)`, where `change(options)` changes the options.
    """
    import torch
    from basicsr.models import build_model
    from basicsr.utils.options import parse_options
    from helpers.experiment import options_to_train, write_photographs, write_yaml

    monkeypatch.chdir(tmp_path)
    photographs = write_photographs(tmp_path / 'photographs')

    def make(adversarial: bool = True, change: Callable[[dict], None] = lambda options: None):
        options = options_to_train(photographs, adversarial)
        change(options)
        file = write_yaml(options, tmp_path / 'train.yml')
        monkeypatch.setattr('sys.argv', ['train.py', '-opt', str(file)])
        opt, _ = parse_options(str(tmp_path), is_train=True)
        for folder in ('models', 'training_states'):
            Path(opt['path'][folder]).mkdir(parents=True, exist_ok=True)
        model = build_model(opt)
        torch.manual_seed(0)
        for parameter in model.net_g.parameters():  # conv5 starts at zero: give every layer a gradient
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.05)
        hr = torch.rand(3, 3, 32, 32)
        model.feed_data({'gt': hr, 'lq': torch.nn.functional.avg_pool2d(hr, 4)})
        return model

    return make


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """This process is a distributed training's only one."""
    import torch

    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
    gc.collect()  # of models that hold on to it: forked processes that end it wait for its threads, which they lack


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts, also where it is ignored because a script started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope='session')
def rank_server(checkout_path: str) -> None:
    """What `ranks.run_ranks` needs."""
    from helpers.ranks import start_rank_server

    start_rank_server(checkout_path)


@pytest.fixture
def run_cli(tmp_path: Path, checkout_path: str) -> Callable[..., subprocess.CompletedProcess]:
    """Run `python <args>` in another process, by default in `tmp_path`.

    Called as `run_cli('-m', 'basicsr.train', '-opt', 'a.yml', cwd=folder, TORCH_HOME='...')`; keywords other
    than `cwd` and `check` are environment variables. Returns the finished process with stdout and stderr
    together in `stdout`. If it fails, so does the test, which shows that output (`check=False`: it does not).
    """

    def run(*args: str, cwd: Path = tmp_path, check: bool = True, **env: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=cwd,
            text=True,
            timeout=300,
            env={**os.environ, 'PYTHONPATH': checkout_path, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if check and done.returncode != 0:
            pytest.fail(f'{done.args} ended with status {done.returncode}:\n{done.stdout}', pytrace=False)
        return done

    return run
