from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import irnsigma_plugin
from irnsigma_plugin import imagenet_weights
from irnsigma_plugin.cli import main


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
    ],
)
def test_wrong_command_line_is_one_line_and_exit_status_2(capsys, argv, part):
    assert main(argv) == 2
    assert part in one_error_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ('argv', 'part'),
    [(['--net', 'vgg19'], 'vgg_type: vgg16'), (['--archive', 'no-such-file'], 'no-such-file')],
)
def test_failure_is_one_line_and_exit_status_1(capsys, monkeypatch, tmp_path, argv, part):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    assert main(['fetch-weights', *argv]) == 1
    assert part in one_error_line(capsys.readouterr().err)


def test_interrupt_is_one_line(capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(imagenet_weights, 'fetch_weights', interrupt)
    assert main(['fetch-weights']) == 130
    assert one_error_line(capsys.readouterr().err) == 'irnsigma: error: interrupted\n'


def test_fetch_weights_says_what_it_kept(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    path = imagenet_weights.hub_path('alexnet')
    path.parent.mkdir(parents=True)
    torch.save({f'features.{position}.weight': torch.zeros(1) for position in (0, 3, 6, 8, 10)}, path)
    assert main(['fetch-weights', '--net', 'alexnet']) == 0
    assert capsys.readouterr().out == f'alexnet: already there, kept {path}\n'


def test_help_loads_neither_torch_nor_basicsr(repo_root):
    code = (
        'import sys\n'
        'from irnsigma_plugin.cli import main\n'
        'assert main(["--help"]) == 0\n'
        'assert not {"torch", "basicsr", "numpy"} & set(sys.modules)\n'
    )
    result = subprocess.run([sys.executable, '-c', code], cwd=repo_root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
