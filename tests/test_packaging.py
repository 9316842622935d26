"""Installation: plugin and option files are there in the whole environment, and go without a trace."""

from __future__ import annotations

import importlib.util
import shutil
import tarfile
from importlib import metadata

import pytest
from helpers.environment import ROOT, Environment, copy_source
from helpers.experiment import has_alexnet, write_photographs
from helpers.preparation import save_photographs

import irnsigma_plugin
from irnsigma_plugin.checkpoints import builtin

if importlib.util.find_spec('wheel') is None or importlib.util.find_spec('setuptools') is None:
    pytest.skip('needs setuptools and wheel, to build without a download', allow_module_level=True)

DATA = [f'models/{name}/{file}' for name in builtin.names() for file in (builtin.FILE, builtin.CARD)]
DATA += ['py.typed', 'commands/card.md']
OPTION_FILES = sorted((ROOT / 'options').glob('*.yml'))
LOADED = "import sys; print([n for n in ('basicsr', 'irnsigma_plugin', 'torch') if n in sys.modules])"
REGISTERED = "from basicsr.utils.registry import MODEL_REGISTRY as R; print('IRNSigmaModel' in R)"
SPAWN_WORKER = """
import multiprocessing, sys
def worker():
    print('irnsigma_plugin' in sys.modules)
if __name__ == '__main__':
    process = multiprocessing.get_context('spawn').Process(target=worker)
    process.start(); process.join()
"""


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path / 'env')


@pytest.fixture
def source(tmp_path):
    return copy_source(tmp_path / 'source')


@pytest.mark.parametrize('way', ['directory', 'editable', 'strictly editable', 'wheel'])
def test_every_way_of_installing_autoloads(environment, source, tmp_path, way):
    before = set(environment.site.rglob('*'))
    if way == 'wheel':  # by way of a source distribution
        environment.run('setup.py', '-q', 'sdist', '-d', tmp_path, cwd=source)
        environment.pip('wheel', '-w', tmp_path / 'wheels', *tmp_path.glob('*.tar.gz'))
        environment.install(*(tmp_path / 'wheels').glob('*.whl'))
    else:
        strict = ['--config-settings=editable_mode=strict'] * way.startswith('strictly')
        environment.install(*strict, *(['-e', source] if way.endswith('editable') else [source]))

    assert environment.run('-c', LOADED) == "['irnsigma_plugin']"
    assert environment.run('-c', LOADED, IRNSIGMA_AUTOLOAD='0') == '[]'
    worker = tmp_path / 'spawn_worker.py'
    worker.write_text(SPAWN_WORKER)
    assert environment.run(worker) == 'True'
    if way == 'directory':
        assert environment.run('-c', REGISTERED) == 'True'
    environment.run(environment.python.with_name('irnsigma'), 'options', '--to', '.')
    contents = {path.name: path.read_bytes() for path in environment.work.iterdir()}
    assert contents == {path.name: path.read_bytes() for path in OPTION_FILES}

    environment.run('-m', 'pip', 'uninstall', '-q', '-y', 'irnsigma_plugin')
    assert set(environment.site.rglob('*')) == before


def test_what_a_wheel_says_of_itself(environment, source):
    environment.install(source)
    (installed,) = metadata.distributions(name='irnsigma_plugin', path=[str(environment.site)])
    assert installed.version == irnsigma_plugin.__version__
    extras = {'demo', 'heif', 'onnx', 'openvino', 'safetensors', 'spandrel', 'test'}
    assert extras == set(installed.metadata.get_all('Provides-Extra'))
    assert {'filelock', 'safetensors'} < set(installed.requires)
    assert [(each.name, each.value) for each in installed.entry_points] == [('irnsigma', 'irnsigma_plugin.cli:main')]
    for file in DATA:
        assert (environment.site / 'irnsigma_plugin' / file).exists(), f'{file} is not in the wheel'


def test_the_data_is_in_the_source_distribution(environment, source):
    environment.run('setup.py', '-q', 'sdist', cwd=source)
    (archive,) = (source / 'dist').glob('*.tar.gz')
    with tarfile.open(archive) as opened:
        names = {name.partition('/')[2] for name in opened.getnames()}
    assert {f'irnsigma_plugin/{file}' for file in DATA} <= names


@pytest.mark.skipif(not has_alexnet(), reason='needs the weights of AlexNet')
def test_a_training_after_an_installation_from_a_wheel(environment, source):
    """As README has it, from an empty folder; only shorter."""
    environment.install(source)
    shutil.rmtree(source)
    save_photographs(environment.work / 'BSDS400')
    write_photographs(environment.work / 'datasets/BSD100/HR', count=1)
    write_photographs(environment.work / 'datasets/quickstart/val', count=1)
    irnsigma, file = environment.python.with_name('irnsigma'), 'options/train_IRN_x4_small.yml'
    environment.run(irnsigma, 'prepare', 'BSDS400', 'datasets/BSDS400', '--crop-size=24', '--min-size=24')
    environment.run(irnsigma, 'options', 'train_IRN_x4_small')
    short = ['network_g:block_num=[1,1]', 'datasets:train:gt_size=16', 'train:total_iter=2', 'val:pbar=false']
    output = environment.run('-m', 'basicsr.train', '-opt', file, '--force_yml', *short)
    assert 'End of training' in output
    assert (environment.work / 'experiments/IRN_x4_small/models/net_g_latest.pth').exists()


def test_pth_without_the_package_is_silent(environment, source):
    environment.install(source)
    shutil.rmtree(environment.site / 'irnsigma_plugin')
    assert environment.run('-c', 'print("started")') == 'started'


def test_start_stays_cheap(environment, source):
    """One module and no time to speak of; the bound leaves room for a busy machine."""
    environment.install(source)
    code = 'import time; start = time.process_time(); import irnsigma_plugin; print(time.process_time() - start)'
    seconds = sorted(float(environment.run('-c', code, IRNSIGMA_AUTOLOAD='0')) for _ in range(5))
    assert seconds[2] < 0.02
