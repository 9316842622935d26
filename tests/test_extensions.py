"""Extensions: installed packages with an entry point, and what an option file names under `imports`."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from basicsr.utils import options as basicsr_options
from basicsr.utils import registry
from helpers.environment import Environment, copy_source
from helpers.experiment import options_to_test, options_to_train, write_photographs, write_yaml
from safetensors.torch import save_file

from irnsigma_plugin.checkpoints.weights import CheckpointError, build_network, read_checkpoint
from irnsigma_plugin.cli import main
from irnsigma_plugin.compat import extensions
from irnsigma_plugin.compat.registry import registered, uses_plugin
from irnsigma_plugin.options.rules import OptionError

ROOT = Path(__file__).resolve().parents[1]
TOY = ROOT / 'tests/third_party/irn_toy'
REGISTRIES = [getattr(registry, f'{kind}_REGISTRY') for kind in ('ARCH', 'DATASET', 'LOSS', 'METRIC', 'MODEL')]
METRIC = 'from basicsr.utils.registry import METRIC_REGISTRY\n\n\n@METRIC_REGISTRY.register()\ndef {}(a, b, **_): ...\n'
# A data set and a model of one's own, in a file that has a helper beside it.
MY_TRAINING = """
from basicsr.utils.registry import DATASET_REGISTRY, MODEL_REGISTRY
from my_helper import GREETING
from irnsigma_plugin.training.hr_image_dataset import HRImageDataset
from irnsigma_plugin.training.model import IRNSigmaModel


@DATASET_REGISTRY.register()
class MyDataset(HRImageDataset):
    pass


@MODEL_REGISTRY.register()
class MyModel(IRNSigmaModel):
    def __init__(self, opt):
        print(f'{GREETING} rank {opt["rank"]}', flush=True)
        super().__init__(opt)
"""


@pytest.fixture(autouse=True)
def _forget(monkeypatch, tmp_path):
    """Work in a folder of its own; whatever a test imports and registers goes with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr(extensions, '_loaded', set())
    monkeypatch.setattr(extensions, '_failed', {})
    monkeypatch.setattr(registry.Registry, 'get', registry.Registry.get)
    for known in REGISTRIES:
        monkeypatch.setattr(known, '_obj_map', dict(known._obj_map))
    modules = set(sys.modules)
    importlib.invalidate_caches()
    yield
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], '__file__', '')).startswith((str(tmp_path), str(TOY))):
            del sys.modules[name]


def toy_options(photographs: Path) -> dict:
    """Train ToyNet with ToyLoss for three iterations, and measure it by calculate_mae."""
    options = options_to_train(photographs)
    options['network_g'] = {'type': 'ToyNet', 'scale': 4, 'kernel_size': 5}
    options['train']['mixture_opt'] = {'type': 'ToyLoss', 'power': 1.5}
    options['train']['total_iter'] = 3
    options['logger']['save_checkpoint_freq'] = 1
    options['val']['metrics'] = {'mae': {'type': 'calculate_mae', 'better': 'lower'}}
    options['val']['lr_metrics'] = {}
    return options


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
    if importlib.util.find_spec('wheel') is None or importlib.util.find_spec('setuptools') is None:
        pytest.skip('needs setuptools and wheel, to build without a download')
    folder = tmp_path_factory.mktemp('installed')
    environment = Environment(folder / 'env')
    toy = folder / 'irn_toy'
    toy.mkdir()
    for file in TOY.iterdir():
        if file.is_file():
            (toy / file.name).write_text(file.read_text())
    environment.install(copy_source(folder / 'source'), toy)
    broken = environment.site / 'broken-1.0.dist-info'  # what pip leaves of a package that lacks a library
    broken.mkdir()
    (broken / 'METADATA').write_text('Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n')
    (broken / 'entry_points.txt').write_text('[basicsr.plugins]\nbroken = broken_module\n')
    (environment.site / 'broken_module.py').write_text('\nimport no_such_library\n')
    return environment


@pytest.fixture(scope='module')
def trained(environment):
    """Output of a training, and the folder where it ran."""
    work = environment.work
    options = toy_options(write_photographs(work / 'photographs'))
    write_yaml(options, work / 'options.yml')
    env = {'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    return environment.run('-m', 'basicsr.train', '-opt', 'options.yml', **env), work


class TestInstalled:
    """The package of docs/extending.md, installed beside this plugin."""

    def test_the_literal_command_trains_it(self, trained):
        output, work = trained
        assert 'Network [ToyNet] is created.' in output
        assert re.search(r'# sigma 0\.5: .*mae', output)
        network = read_checkpoint(work / 'experiments/tiny/models/net_g_latest.pth').network
        assert network == {'type': 'ToyNet', 'scale': 4, 'kernel_size': 5}

    def test_a_package_that_cannot_be_imported_is_named_and_stops_nothing(self, trained, environment):
        output = trained[0]
        assert output.count('The BasicSR extension broken (broken_module) could not be imported') == 1
        assert "ModuleNotFoundError: No module named 'no_such_library' (" in output
        assert f'{environment.site}/broken_module.py, line 2). Option files that need it will not run. ' in output

    def test_two_processes_train_and_resume_it(self, trained, environment):
        work = trained[1]
        options = toy_options(work / 'photographs')
        options['train']['total_iter'] = 5
        write_yaml(options, work / 'longer.yml')
        output = environment.run(
            *('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', '-m', 'basicsr.train'),
            *('-opt', 'longer.yml', '--launcher', 'pytorch', '--auto_resume'),
            CUDA_VISIBLE_DEVICES='',
            OMP_NUM_THREADS='1',
        )
        assert 'DistributedDataParallel - ToyNet' in output
        assert re.search(r'Resuming training from epoch: \d, iter: 3\.', output)
        assert (work / 'experiments/tiny/models/net_g_5.pth').exists()

    def test_the_commands_know_its_checkpoint(self, trained, environment):
        work = trained[1]
        irnsigma = environment.python.with_name('irnsigma')
        checkpoint = work / 'experiments/tiny/models/net_g_latest.pth'
        assert environment.run(irnsigma, 'check', 'options.yml').splitlines()[-1] == '  OK'
        rows = dict(line.split(maxsplit=1) for line in environment.run(irnsigma, 'info', checkpoint).splitlines())
        assert (rows['network'], rows['scale'], rows['kernel_size'], rows['parameters']) == (
            'ToyNet',
            '4',
            '5',
            '3,375',
        )
        environment.run(irnsigma, 'downscale', 'photographs', 'small', '--model', checkpoint)
        environment.run(irnsigma, 'upscale', 'small', 'restored', '--model', checkpoint, '--sigma', '0')
        assert sorted(os.listdir(work / 'restored')) == ['photo0.png', 'photo1.png', 'photo2.png']


class TestEntryPoints:
    @pytest.fixture
    def install(self, tmp_path, monkeypatch):
        """Write a package that is found as an installed one."""

        def install(code: str, value: str = 'an_extension', name: str = 'an-extension') -> None:
            (tmp_path / f'{value.partition(":")[0]}.py').write_text(code)
            about = tmp_path / f'{name}-1.0.dist-info'
            about.mkdir()
            (about / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n')
            (about / 'entry_points.txt').write_text(f'[{extensions.GROUP}]\n{name} = {value}\n')
            importlib.invalidate_caches()

        sys.path.insert(0, str(tmp_path))
        # Those of this machine are not looked at.
        found = metadata.distributions
        monkeypatch.setattr(metadata, 'distributions', lambda **_: found(path=[str(tmp_path)]))
        return install

    def test_a_module(self, install):
        install(METRIC.format('calculate_a'))
        extensions.import_installed()
        assert registered()['metric']['calculate_a'].__module__ == 'an_extension'
        extensions.import_installed()  # once

    def test_a_function_is_called_once(self, install):
        install('calls = []\ndef register():\n    calls.append(1)\n', 'an_extension:register')
        extensions.import_installed()
        extensions.import_installed()
        assert sys.modules['an_extension'].calls == [1]

    def test_others_are_imported_when_one_fails(self, install, caplog):
        install('def register():\n    raise OSError("no\\nlicence")\n', 'bad:register', 'bad')
        install('import sys\nsys.exit(3)\n', 'ends', 'ends')
        install(METRIC.format('calculate_a'))
        extensions.import_installed()
        first, second = caplog.messages
        assert first.startswith('The BasicSR extension bad (bad:register) could not be imported: ')
        assert re.search(r'OSError: no licence \(.*/bad\.py, line 2\)\. Option files', first)
        assert 'SystemExit: 3' in second
        assert registered()['metric']['calculate_a']

    def test_an_unknown_type_mentions_those_that_failed(self, install, tmp_path, monkeypatch):
        install('import no_such_library')
        extensions.import_installed()
        mentioned = "The extension an-extension could not be imported: ModuleNotFoundError: No module named 'no_such_"
        options = toy_options(write_photographs(tmp_path / 'photographs'))
        options['train']['mixture_opt'] = {'type': 'Qxyz'}
        monkeypatch.setattr(sys, 'argv', ['', '-opt', str(write_yaml(options, tmp_path / 'options.yml'))])
        with pytest.raises(OptionError) as info:
            basicsr_options.parse_options(str(tmp_path))
        assert 'network_g: there is no ToyNet. ' in str(info.value)
        assert 'mixture_opt: there is no Qxyz. If it is of an extension, install that, or name it in imports.' in str(
            info.value
        )
        assert str(info.value).count(mentioned) == 1
        with pytest.raises(KeyError, match="No object named 'ToyNet' found in 'arch' registry!") as info:
            registry.ARCH_REGISTRY.get('ToyNet')  # as an option file of another model would
        assert mentioned in str(info.value)
        assert registry.ARCH_REGISTRY.get('EDSR')

    @pytest.mark.parametrize('first', ['waiting', 'waiting.net', 'basicsr'])
    def test_a_package_that_imports_basicsr_itself(self, run_cli, tmp_path, first):
        """Its entry point is used when it is whole, though BasicSR was imported in the middle of it."""
        package = tmp_path / 'waiting'
        package.mkdir()
        (package / '__init__.py').write_text('from waiting.net import Net\n')
        (package / 'net.py').write_text('import basicsr\nclass Net: pass\n')
        (package / 'plugin.py').write_text('from waiting.net import Net\nregistered = []\nregistered.append(Net)\n')
        about = tmp_path / 'waiting-1.0.dist-info'
        about.mkdir()
        (about / 'METADATA').write_text('Metadata-Version: 2.1\nName: waiting\nVersion: 1.0\n')
        (about / 'entry_points.txt').write_text(f'[{extensions.GROUP}]\nwaiting = waiting.plugin:registered.sort\n')
        (tmp_path / 'basicsr').mkdir()  # in the place of BasicSR, without its cost
        (tmp_path / 'basicsr/__init__.py').write_text('')
        code = (
            'import sys, types\n'
            'from irnsigma_plugin.compat import loading\n'
            'registry = types.ModuleType("irnsigma_plugin.compat.registry")\n'
            'registry.register_all = lambda: None\n'
            'sys.modules[registry.__name__] = registry\n'
            'loading.prepare = loading.change = lambda: None\n'
            f'import {first}\n'
            'from irnsigma_plugin.compat import extensions\n'
            'extensions.import_installed()\n'
            'print(sys.modules["waiting.plugin"].registered, extensions.failures())'
        )
        output = run_cli('-c', code).stdout
        assert output.strip() == "[<class 'waiting.net.Net'>]"


class TestImports:
    """`imports` of an option file, and `--imports` of the commands."""

    def test_modules_and_files(self, tmp_path, monkeypatch):
        (tmp_path / 'home/nets').mkdir(parents=True)
        monkeypatch.setenv('HOME', str(tmp_path / 'home'))
        monkeypatch.setattr(sys, 'path', [folder for folder in sys.path if folder])  # as of a console script
        (tmp_path / 'in_work_dir.py').write_text(METRIC.format('calculate_a'))
        (tmp_path / 'home/nets/at_home.py').write_text(METRIC.format('calculate_b'))
        (tmp_path / 'plain.py').write_text(METRIC.format('calculate_c'))
        extensions.import_named(['in_work_dir', '~/nets/at_home.py', 'plain.py'])
        modules = [registered()['metric'][f'calculate_{letter}'].__module__ for letter in 'abc']
        assert modules == ['in_work_dir', 'at_home', 'plain']

    def test_nothing_is_registered_twice(self, tmp_path):
        (tmp_path / 'my_metric.py').write_text(METRIC.format('calculate_a'))
        (tmp_path / 'other_name.py').symlink_to('my_metric.py')
        package = tmp_path / 'my_package'
        package.mkdir()
        (package / '__init__.py').write_text('from my_package import metric')
        (package / 'metric.py').write_text(METRIC.format('calculate_b'))
        names = ['my_metric', './my_metric.py', str(tmp_path / 'my_metric.py'), './other_name.py']
        names += ['my_package', './my_package/metric.py', 'my_package.metric']
        extensions.import_named(names)
        extensions.import_named(names)
        assert {'calculate_a', 'calculate_b'} <= registered()['metric'].keys()

    @pytest.mark.parametrize(
        ('code', 'message'),
        [
            (
                '\nimport no_such_library',
                r"ModuleNotFoundError: No module named 'no_such_library' \({file}, line 2\)\.",
            ),
            ('def f():\n    1 / 0\n\nf()', r'ZeroDivisionError: division by zero \({file}, line 2\)\.'),
            ('\n\nclass A\n', r"SyntaxError: expected ':' \({file}, line 3\)\.|SyntaxError: invalid syntax .*line 3"),
            (
                f'{METRIC}{METRIC}'.format('twice', 'twice'),
                r"AssertionError: An object named 'twice' was .*line (?:9|10)\)\.",
            ),
            ('import sys\nsys.exit("usage")', r'SystemExit: usage \({file}, line 2\)\.'),
        ],
        ids=['library', 'error', 'syntax', 'registered', 'exit'],
    )
    @pytest.mark.parametrize('name', ['./faulty.py', 'faulty'])
    def test_an_error_inside_is_told_with_its_line(self, tmp_path, code, message, name):
        (tmp_path / 'faulty.py').write_text(code)
        with pytest.raises(OptionError) as info:
            extensions.import_named([name])
        assert str(info.value).startswith(f'imports: {name}: ')
        assert re.search(message.replace('{file}', f'{tmp_path}/faulty.py'), str(info.value)), str(info.value)
        assert '\n' not in str(info.value)

    @pytest.mark.parametrize(
        ('names', 'message'),
        [
            (['./gone.py'], 'imports: ./gone.py: there is no such file (relative paths start at {cwd}).'),
            (['~/gone.py'], 'imports: ~/gone.py: there is no such file (relative paths start at {cwd}).'),
            (['gone'], 'imports: gone: there is no such module, not in {cwd} either. Install it, or name its file.'),
            (['a.b'], 'imports: a.b: there is no such module, not in {cwd} either. Install it, or name its file.'),
            ('gone', "imports must be a list of modules and files such as [my_net, ./my_loss.py], but is 'gone'."),
            ([1], 'imports must be a list of modules and files such as [my_net, ./my_loss.py], but is [1].'),
            (['./json.py'], 'imports: ./json.py: Python finds {json} under the name json; rename the file.'),
            (['./v1.0.py'], 'imports: ./v1.0.py: Python has no module v1.0; rename the file.'),
        ],
    )
    def test_faults_name_the_key(self, tmp_path, names, message):
        for name in ('json.py', 'v1.0.py'):
            (tmp_path / name).write_text('raise RuntimeError')
        with pytest.raises(OptionError) as info:
            extensions.import_named(names)
        assert str(info.value) == message.format(cwd=tmp_path, json=json.__file__)

    def test_all_missing_files_in_one_message(self):
        with pytest.raises(OptionError) as info:
            extensions.import_named(['./a.py', './b.py'])
        assert 'a.py' in str(info.value)
        assert 'b.py' in str(info.value)

    def test_before_the_file_is_checked(self, tmp_path, monkeypatch):
        (tmp_path / 'toy.py').write_text((TOY / 'irn_toy.py').read_text())
        options = toy_options(write_photographs(tmp_path / 'photographs'))
        file = write_yaml({**options, 'imports': ['./toy.py']}, tmp_path / 'options.yml')
        monkeypatch.setattr(sys, 'argv', ['', '-opt', str(file)])
        opt, _ = basicsr_options.parse_options(str(Path(registry.__file__).parents[2]))
        assert opt['path']['models'] == str(tmp_path / 'experiments/tiny/models')

        del options['num_gpu']  # what BasicSR stumbles over while it reads the file
        write_yaml({**options, 'imports': ['./toy.py']}, file)
        with pytest.raises(OptionError, match='num_gpu is missing'):
            basicsr_options.parse_options(str(tmp_path))
        write_yaml({**options, 'imports': ['./gone.py']}, file)
        with pytest.raises(OptionError, match=r'^imports: \./gone\.py: there is no such file'):
            basicsr_options.parse_options(str(tmp_path))

    def test_a_file_with_imports_is_this_plugins(self):
        assert uses_plugin({'model_type': 'SRModel', 'imports': ['my_net']})
        assert not uses_plugin({'model_type': 'SRModel', 'imports': None})

    def test_a_training_with_a_data_set_and_a_model_of_a_file(self, run_cli, tmp_path):
        """Two processes, each with a worker that reads images; then a test."""
        (tmp_path / 'code').mkdir()
        (tmp_path / 'code/my_training.py').write_text(MY_TRAINING)
        (tmp_path / 'code/my_helper.py').write_text("GREETING = 'my model on'\n")
        options = options_to_train(write_photographs(tmp_path / 'photographs'), adversarial=False)
        options.update(model_type='MyModel', imports=['./code/my_training.py'])
        options['datasets']['train'].update(type='MyDataset', num_worker_per_gpu=1)
        options['train']['total_iter'] = 3
        options['val']['metrics'] = options['val']['lr_metrics'] = {}
        file = write_yaml(options, tmp_path / 'options.yml')
        command = ('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', '-m', 'basicsr.train')
        one_thread = {'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
        output = run_cli(*command, '-opt', file, '--launcher', 'pytorch', **one_thread).stdout
        assert sorted(re.findall('my model on rank .', output)) == ['my model on rank 0', 'my model on rank 1']
        checkpoint = tmp_path / 'experiments/tiny/models/net_g_latest.pth'
        test = {**options_to_test(options, checkpoint), 'imports': options['imports']}
        output = run_cli('-m', 'basicsr.test', '-opt', write_yaml(test, tmp_path / 'test.yml'), **one_thread).stdout
        assert 'my model on rank 0' in output
        assert (tmp_path / 'results/test_tiny').is_dir()

    def test_a_worker_that_is_spawned_finds_the_file(self, run_cli, tmp_path):
        (tmp_path / 'code').mkdir()
        (tmp_path / 'code/my_data.py').write_text('class MyDataset:\n    def __len__(self):\n        return 7\n')
        (tmp_path / 'spawn.py').write_text(
            'import multiprocessing, sys\n'
            'if __name__ == "__main__":\n'
            '    from irnsigma_plugin.compat.extensions import import_named\n'
            '    import_named(["./code/my_data.py"])\n'
            '    with multiprocessing.get_context("spawn").Pool(1) as pool:\n'
            '        print(pool.apply(len, (sys.modules["my_data"].MyDataset(),)))\n'
        )
        assert run_cli('spawn.py', CUDA_VISIBLE_DEVICES='').stdout.strip() == '7'


class TestCheck:
    """`irnsigma check` runs nothing that an option file names, unless it is told to."""

    @pytest.fixture
    def options(self, tmp_path):
        code = (TOY / 'irn_toy.py').read_text()
        (tmp_path / 'toy.py').write_text(f'{code}\nimport os\nos.mkdir({str(tmp_path / "victim")!r})\n')
        return {**toy_options(write_photographs(tmp_path / 'photographs')), 'imports': ['./toy.py', 'toy']}

    def test_imports_are_not_run(self, options, tmp_path, capsys):
        assert main(['check', str(write_yaml(options, tmp_path / 'options.yml'))]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[1] == (
            '  imports is not run (--run-imports: run its code); blocks that could not be checked for that: '
            'network_g, train.mixture_opt, val.metrics.mae'
        )
        assert lines[-1] == '  OK'
        assert 'toy' not in sys.modules
        assert not (tmp_path / 'victim').exists()

    def test_imports_are_run_on_request(self, options, tmp_path, capsys):
        assert main(['check', '--run-imports', str(write_yaml(options, tmp_path / 'options.yml'))]) == 0
        assert 'could not be checked' not in capsys.readouterr().out
        assert (tmp_path / 'victim').exists()
        options['network_g']['kernel'] = options['network_g'].pop('kernel_size')
        options['train']['mixture_opt']['powr'] = 2
        assert main(['check', '--run-imports', str(write_yaml(options, tmp_path / 'options.yml'))]) == 1
        output = capsys.readouterr().out
        assert '  Unknown key network_g.kernel. Did you mean kernel_size?' in output
        assert '  Unknown key train.mixture_opt.powr. Did you mean power?' in output

    def test_faults_of_imports_are_faults_of_the_file(self, options, tmp_path, capsys):
        options['imports'] = ['./gone.py', './toy.py']
        options['train']['grad_clipp'] = 1
        file = str(write_yaml(options, tmp_path / 'options.yml'))
        for extra in ([], ['--run-imports']):
            assert main(['check', file, *extra]) == 1
            output = capsys.readouterr().out
            assert '  imports: ./gone.py: there is no such file (relative' in output
            assert '  Unknown key train.grad_clipp.' in output
        assert not (tmp_path / 'victim').exists()
        options['imports'] = 'toy'
        write_yaml(options, Path(file))
        assert main(['check', file]) == 1
        assert '  imports must be a list of modules' in capsys.readouterr().out


class TestCheckpoints:
    """Networks of extensions in the commands."""

    @pytest.fixture
    def checkpoint(self, tmp_path):
        """A checkpoint of a network whose file is toy.py, which is imported nowhere."""
        (tmp_path / 'toy.py').write_text((TOY / 'irn_toy.py').read_text())
        state_dict = {'correct.weight': torch.full((3, 45, 5, 5), 1e-4)}
        path = tmp_path / 'net_g.pth'
        torch.save({'params': state_dict, 'network_g': {'type': 'ToyNet', 'scale': 4, 'kernel_size': 5}}, path)
        return path

    def test_every_command_takes_imports(self, checkpoint, tmp_path, capsys):
        photo = str(write_photographs(tmp_path / 'photographs', 1) / 'photo0.png')
        network = ['--model', str(checkpoint), '--imports', './toy.py']
        assert main(['info', str(checkpoint), '--imports', 'toy']) == 0
        assert re.search(r'^network +ToyNet$', capsys.readouterr().out, re.MULTILINE)
        assert main(['downscale', photo, 'small.png', *network]) == 0
        assert main(['upscale', 'small.png', 'restored.png', *network]) == 0
        assert main(['evaluate', 'photographs', *network, '--sigmas', '0']) == 0
        assert main(['compare', photo, *network, '--sigmas', '0']) == 0
        assert {'small.png', 'restored.png', 'photo0_comparison.png'} < set(os.listdir(tmp_path))

    def test_export(self, checkpoint, tmp_path):
        pytest.importorskip('onnx')
        assert main(['export', str(checkpoint), 'onnx', '--imports', './toy.py']) == 0
        assert sorted(os.listdir(tmp_path / 'onnx')) == ['downscale.onnx', 'upscale.onnx']

    def test_safetensors(self, checkpoint, capsys):
        content = torch.load(checkpoint)
        file = checkpoint.with_name('net_g.safetensors')
        save_file(content['params'], file, {'network_g': json.dumps(content['network_g'])})
        assert main(['info', str(file), '--imports', './toy.py']) == 0
        assert re.search(r'^kernel_size +5$', capsys.readouterr().out, re.MULTILINE)
        assert main(['export', str(checkpoint), 'exported', '--format', 'safetensors', '--imports', './toy.py']) == 0
        assert main(['info', 'exported/net_g.safetensors', '--imports', './toy.py']) == 0
        assert re.search(r'^kernel_size +5$', capsys.readouterr().out, re.MULTILINE)
        for block, message in (('{', 'no readable safetensors file'), ('[1]', 'not of InvRescaleNet, or incomplete')):
            save_file(content['params'], file, {'network_g': block})
            assert main(['info', str(file), '--imports', './toy.py']) == 1
            assert message in capsys.readouterr().err

    def test_a_checkpoint_imports_nothing(self, checkpoint, tmp_path, capsys):
        (tmp_path / 'evil.py').write_text(f'import os\nos.mkdir({str(tmp_path / "victim")!r})\n')
        content = {**torch.load(checkpoint), 'imports': ['./evil.py']}
        for network_type in ('ToyNet', 'evil', 'evil.Net', './evil.py', 'evil:Net', ['evil']):
            content['network_g'] = {'type': network_type, 'imports': ['evil', './evil.py']}
            torch.save(content, checkpoint)
            assert main(['info', str(checkpoint)]) == 1
            assert 'nobody has registered: install the package that has it, or name its file: --imports' in (
                capsys.readouterr().err
            )
        assert not {'evil', 'toy'} & set(sys.modules)
        assert not (tmp_path / 'victim').exists()

    def test_faults_of_imports_are_one_line(self, checkpoint, capsys):
        assert main(['info', str(checkpoint), '--imports', './gone.py']) == 1
        assert capsys.readouterr().err.startswith('irnsigma: error: --imports: ./gone.py: there is no such file')

    @pytest.mark.parametrize(
        ('block', 'message'),
        [
            ({'type': 'EDSR', 'num_in_ch': 3}, 'is of the network EDSR, which is no RescalingNet'),
            ({'type': 'ToyNet', 'colour': 1}, 'ToyNet, which does not take the arguments saved with it: .*colour'),
            ({'type': 'ToyNet', 'kernel_size': 3}, r'correct\.weight has shape \(3, 45, 5, 5\) instead of'),
        ],
    )
    def test_blocks_that_do_not_fit(self, checkpoint, block, message):
        extensions.import_named(['./toy.py'])
        found = read_checkpoint(checkpoint)._replace(network=block)
        with pytest.raises(CheckpointError, match=message):
            build_network(found, find_class=registered()['arch'].get)
