"""Option files are read as BasicSR reads them, but nothing that is written into one is run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from basicsr.utils.options import ordered_yaml

from irnsigma_plugin.options.file import read_option_file
from irnsigma_plugin.options.rules import OptionError

OPTION_FILES = sorted((Path(__file__).resolve().parents[1] / 'options').glob('*.yml'))


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / 'options.yml'
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


@pytest.mark.parametrize('file', OPTION_FILES, ids=lambda file: file.stem)
def test_the_content_is_that_of_basicsrs_reader(file):
    with open(file, encoding='utf-8') as stream:
        theirs = yaml.load(stream, Loader=ordered_yaml()[0])
    ours = read_option_file(file)
    assert ours == theirs
    assert list(ours) == list(theirs)
    assert list(ours['datasets']) == list(theirs['datasets'])


def test_values(write):
    opt = read_option_file(write('b: !!float 1e-4\na: 1e-4\nc: ~\nd: [0, 0.5]\ne: {z: true, y: off}\n'))
    assert opt == {'b': 1e-4, 'a': '1e-4', 'c': None, 'd': [0, 0.5], 'e': {'z': True, 'y': False}}
    assert list(opt) == ['b', 'a', 'c', 'd', 'e']


@pytest.mark.parametrize(
    'payload',
    [
        '!!python/object/apply:os.system ["touch {victim}"]',
        '!!python/object/apply:os.mkdir ["{victim}"]',
        '!!python/object/new:os.mkdir ["{victim}"]',
        '!!python/name:os.system',
        '!!python/module:os',
        '!!python/object:os.stat_result {{}}',
    ],
)
def test_code_in_a_file_does_not_run(write, tmp_path, payload):
    victim = tmp_path / 'victim'
    path = write(f'name: tiny\nscale: {payload.format(victim=victim)}\n')
    with pytest.raises(OptionError, match=r'options\.yml, line 2: .*python/.* can run code .*do not use it') as info:
        read_option_file(path)
    assert '\n' not in str(info.value)
    assert not victim.exists()


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a: [1, 2\nb: 3\n', r'options\.yml, line 2 is no YAML: '),
        ('a: 1\n\tb: 2\n', r'options\.yml, line 2 is no YAML: .*\\t'),
        (b'a: \xff\xfe\xfa', r'options\.yml is no YAML: '),
        ('a: !!int text\n', r'options\.yml is no YAML: '),
        ('a: !unknown 1\n', r"options\.yml, line 1: .*'!unknown'"),
        ('val:\n  seed: 1\ntrain: {}\nval:\n  seed: 2\n', r"options\.yml, line 4: the key 'val' stands there twice"),
        ('val:\n  ? [1]\n  : 2\n', r'options\.yml, line 2: a list or block cannot be a key'),
    ],
)
def test_unreadable_files_are_named_with_the_line(write, text, message):
    with pytest.raises(OptionError, match=message) as info:
        read_option_file(write(text))
    assert '\n' not in str(info.value)


def test_aliases_are_few(write):
    assert read_option_file(write('a: &a {b: 1}\nc: *a\n')) == {'a': {'b': 1}, 'c': {'b': 1}}
    levels = [f'k{level}: &k{level} [{", ".join([f"*k{level - 1}"] * 9)}]' for level in range(1, 10)]
    with pytest.raises(OptionError, match=r'options\.yml, line 5 is no YAML: more than 32 aliases'):
        read_option_file(write('\n'.join(['k0: &k0 [1]', *levels])))


def test_missing_file(tmp_path):
    with pytest.raises(OptionError, match=r'none\.yml cannot be read \(No such file'):
        read_option_file(tmp_path / 'none.yml')
