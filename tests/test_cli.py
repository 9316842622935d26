from __future__ import annotations

import os
import subprocess
import sys
from operator import itemgetter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.experiment import write_photographs

import irnsigma_plugin
from irnsigma_plugin import cli
from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.cli import main
from irnsigma_plugin.imagenet import weights as imagenet_weights

CHECKPOINT = Path(__file__).parent / 'data/parity/irn_x2_gc8.pth'


def one_error_line(text: str) -> str:
    assert text.startswith('irnsigma: error: ')
    assert text.count('\n') == 1
    assert text.endswith('\n')
    return text


def test_help_lists_the_commands_with_an_example(capsys):
    assert main(['--help']) == 0
    text = capsys.readouterr().out
    assert 'fetch-weights' in text
    assert 'example: irnsigma fetch-weights' in text


def test_help_of_a_command_has_examples_and_the_networks(capsys):
    assert main(['fetch-weights', '--help']) == 0
    text = capsys.readouterr().out
    assert 'irnsigma fetch-weights --net alexnet' in text
    assert 'alexnet, vgg16' in text


def test_version(capsys):
    assert main(['--version']) == 0
    assert capsys.readouterr().out == f'irnsigma_plugin {irnsigma_plugin.__version__}\n'


@pytest.mark.parametrize(
    ('argv', 'part'),
    [
        ([], 'COMMAND'),
        (['fetch'], 'fetch-weights'),
        (['fetch-weights', '--overwritten'], '--overwritten'),
        (['fetch-weights', '--net'], 'irnsigma fetch-weights --help'),
        (['prepare', 'photos', 'set', '--workers', '-1'], '--workers: must be a whole number, 1 or more, but is'),
        (['prepare', 'photos', 'set', '--no-crop', '--step', '8'], 'leave out --crop-size and --step'),
        (['demo', '--port', '78600'], '--port: must be a whole number, 1 to 65535, but is'),
    ],
)
def test_wrong_command_line_is_one_line_and_exit_status_2(capsys, argv, part):
    assert main(argv) == 2
    assert part in one_error_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ('command', 'message'),
    [
        ('downscale photos small --modle X', '--modle. Did you mean --model? (see `irnsigma downscale --help`)'),
        ('downscale photos small --modle=my X.pth', '--modle. Did you mean --model? (see `irnsigma downscale'),
        ('downscale photos -model X', '-model. Did you mean --model? (see `irnsigma downscale --help`)'),
        ('upscale a b --model X --sgima 1', '--sgima. Did you mean --sigma? (see `irnsigma upscale --help`)'),
        ('evaluate --zzz', '--zzz (see `irnsigma evaluate --help`)'),
        ('--verison', '--verison. Did you mean --version? (see `irnsigma --help`)'),
    ],
)
def test_an_unknown_option_is_named_whatever_else_is_missing(capsys, command, message):
    assert main(command.split(' ', 3 if '=' in command else -1)) == 2
    assert one_error_line(capsys.readouterr().err).startswith(f'irnsigma: error: there is no option {message}')


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['--mod', 'X', 'a', 'b'], ('X', ['a'], 'b', 0)),  # an option may be cut short
        (['a', 'b', '--model', 'X', '--seed', '-1'], ('X', ['a'], 'b', -1)),
        (['--model=X', '--', '--a', '--b'], ('X', ['--a'], '--b', 0)),
        (['--model', 'X', '-my photo.png', 'b'], ('X', ['-my photo.png'], 'b', 0)),
    ],
)
def test_what_is_no_unknown_option(arguments, expected):
    args = cli._build_parser().parse_args(['upscale', *arguments])
    assert (args.model, args.sources, args.destination, args.seed) == expected


@pytest.mark.parametrize(
    ('argv', 'part'), [(['--net', 'vgg19'], 'vgg_type: vgg16'), (['--archive', 'no-such-file'], 'no-such-file')]
)
def test_failure_is_one_line_and_exit_status_1(capsys, monkeypatch, tmp_path, argv, part):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    assert main(['fetch-weights', *argv]) == 1
    assert part in one_error_line(capsys.readouterr().err)


def test_interrupt_is_one_line(capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr('irnsigma_plugin.imagenet.fetch.fetch_weights', interrupt)
    assert main(['fetch-weights']) == 130
    assert one_error_line(capsys.readouterr().err) == 'irnsigma: error: interrupted\n'


def test_a_lack_of_memory_is_one_line(capsys, monkeypatch):
    def lack(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr('irnsigma_plugin.imagenet.fetch.fetch_weights', lack)
    assert main(['fetch-weights']) == 1
    assert one_error_line(capsys.readouterr().err) == 'irnsigma: error: MemoryError\n'


def test_fetch_weights_says_what_it_kept(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    path = imagenet_weights.torchvision_path('alexnet')
    path.parent.mkdir(parents=True)
    torch.save({f'features.{position}.weight': torch.zeros(1) for position in (0, 3, 6, 8, 10)}, path)
    assert main(['fetch-weights', '--net', 'alexnet']) == 0
    assert capsys.readouterr().out == f'alexnet: already there, kept {path}\n'


class TestStreams:
    """Standard output and standard error that take nothing."""

    CODE = 'import sys; from irnsigma_plugin.cli import main; sys.exit(main())'

    @pytest.fixture
    def run(self, tmp_path):
        def run(*command: str, **streams: object) -> tuple[int, str]:
            process = subprocess.run(
                [sys.executable, '-c', self.CODE, *command],
                cwd=tmp_path,
                text=True,
                timeout=300,
                check=False,
                **{'stderr': subprocess.PIPE, **streams},
            )
            return process.returncode, process.stderr

        return run

    @pytest.fixture(params=['', '1'], ids=['buffered', 'unbuffered'], autouse=True)
    def environment(self, request, monkeypatch, checkout_path):
        monkeypatch.setenv('PYTHONPATH', checkout_path)
        monkeypatch.setenv('PYTHONUNBUFFERED', request.param)

    @pytest.fixture
    def unread(self):
        reading, writing = os.pipe()
        os.close(reading)
        yield writing
        os.close(writing)

    @pytest.mark.parametrize('command', [['--help'], ['--version'], ['info', str(CHECKPOINT)]], ids=itemgetter(0))
    def test_a_reader_that_has_gone_ends_it_silently(self, run, unread, command):
        assert run(*command, stdout=unread) == (141, '')

    @pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
    @pytest.mark.parametrize('command', [['--help'], ['info', str(CHECKPOINT)]], ids=itemgetter(0))
    def test_output_that_cannot_be_written_is_one_line(self, run, command):
        with open('/dev/full', 'w') as full:
            status, errors = run(*command, stdout=full)
        assert status == 1
        assert one_error_line(errors).startswith(
            'irnsigma: error: standard output: cannot be written (No space left on device); '
        )

    def test_errors_that_nobody_reads_keep_the_status(self, run, unread):
        assert run('info', 'none.pth', stderr=unread) == (1, None)
        assert run('downscale', stderr=unread)[0] in (2, 141)

    def test_closed_streams_do_not_stop_the_work(self, run, tmp_path):
        cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((8, 8, 3), np.uint8))
        (tmp_path / 'b.png').write_text('an error to be told')
        for closed in ((2,), (1, 2)):
            folder = tmp_path / f'without {closed}'
            assert run(
                'downscale',
                'a.png',
                'b.png',
                str(folder),
                '--model',
                str(CHECKPOINT),
                stderr=None,
                preexec_fn=lambda closed=closed: [os.close(each) for each in closed],
            ) == (1, None)
            assert os.listdir(folder) == ['a.png']
        assert run('downscale', stderr=None, preexec_fn=lambda: os.close(2)) == (2, None)


def test_commands_import_no_more_than_they_need(run_cli, tmp_path):
    """In one process: what comes later may have loaded more. Imports are most of the time of a small picture."""
    write_photographs(tmp_path / 'photos', count=1, height=8, width=8)
    torch.save({'params': InvRescaleNet(4, [1, 1], 4).state_dict()}, tmp_path / 'net.pth')
    code = """
import sys
from irnsigma_plugin.cli import main
unused = {'basicsr', 'torchvision', 'lpips', 'scipy', 'skimage', 'matplotlib', 'onnx', 'onnxruntime', 'openvino'}
unused |= {'yaml', 'lmdb', 'cv2', 'tifffile', 'sympy', 'torch._dynamo', 'torch._inductor', 'gradio', 'spandrel'}
for command, more in (
    ('--help', {'torch', 'numpy', 'PIL', 'safetensors'}),
    ('info', {'torch', 'PIL'}),
    ('downscale photos small', set()),
    ('upscale small restored', set()),
    ('downscale photos small2 --model net.pth', set()),
    ('upscale small2 restored2 --model net.pth', set()),
):
    assert main(command.split()) == 0
    loaded = (unused | more) & set(sys.modules)
    assert not loaded, (command, loaded)
"""
    run_cli('-c', code)
