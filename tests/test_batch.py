"""Which files are meant, and where their results go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from irnsigma_plugin.commands.batch import plan_jobs


@pytest.fixture(autouse=True)
def photographs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        'photos/b.jpg',
        'photos/A.PNG',
        'photos/sub/deep/c.d.tif',
        'photos/notes.txt',
        'photos/.hidden.png',
        'photos/x.png/e.png',
        'other/f.webp',
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def plan(*sources: str, to: str) -> dict[str, str]:
    return {str(job.source): str(job.target) for job in plan_jobs(sources, to)}


def test_a_folder_keeps_its_tree():
    assert plan('photos', to='out') == {
        'photos/A.PNG': 'out/A.png',
        'photos/b.jpg': 'out/b.png',
        'photos/sub/deep/c.d.tif': 'out/sub/deep/c.d.png',
        'photos/x.png/e.png': 'out/x.png/e.png',
    }


@pytest.mark.parametrize(
    ('pattern', 'expected'),
    [
        ('photos/*.jpg', {'photos/b.jpg': 'out/b.png'}),
        ('photos/*', {'photos/A.PNG': 'out/A.png', 'photos/b.jpg': 'out/b.png'}),
        ('photos/**/*.tif', {'photos/sub/deep/c.d.tif': 'out/sub/deep/c.d.png'}),
        ('*/*.webp', {'other/f.webp': 'out/other/f.png'}),
        ('photos/sub/deep/?.d.tif', {'photos/sub/deep/c.d.tif': 'out/c.d.png'}),
    ],
)
def test_a_glob_keeps_the_tree_below_its_first_wildcard(pattern, expected):
    assert plan(pattern, to='out') == expected


def test_a_file_whose_name_looks_like_a_glob_is_a_file():
    Path('photos/[b].jpg').touch()
    assert plan('photos/[b].jpg', to='out/') == {'photos/[b].jpg': 'out/[b].png'}


def test_a_single_file_becomes_a_file_or_goes_into_a_folder():
    assert plan('photos/b.jpg', to='new/small.png') == {'photos/b.jpg': 'new/small.png'}
    assert plan('photos/b.jpg', to='new/') == {'photos/b.jpg': 'new/b.png'}
    assert plan('photos/b.jpg', to='other') == {'photos/b.jpg': 'other/b.png'}
    assert plan('photos/notes.txt', to='a.png') == {'photos/notes.txt': 'a.png'}  # its content decides


def test_several_sources():
    assert plan('photos/b.jpg', 'other', to='out') == {'photos/b.jpg': 'out/b.png', 'other/f.webp': 'out/f.png'}
    assert plan('photos/b.jpg', 'photos/*.jpg', to='out') == {'photos/b.jpg': 'out/b.png'}


def test_results_inside_of_the_source_are_no_sources():
    Path('photos/out/deep').mkdir(parents=True)
    Path('photos/out/b.png').touch()
    Path('photos/out/deep/g.png').touch()
    for source in ('photos', 'photos/**/*'):
        assert not [path for path in plan(source, to='photos/out') if path.startswith('photos/out')]


def test_a_source_inside_of_the_folder_for_results_is_a_source():
    assert plan('photos/sub', to='.') == {'photos/sub/deep/c.d.tif': 'deep/c.d.png'}
    assert plan('other/*.webp', to='.') == {'other/f.webp': 'f.png'}
    assert plan('other/*.webp', to='other') == {'other/f.webp': 'other/f.png'}


@pytest.mark.parametrize('again', ['photos/b.jpg', './photos/b.jpg', 'photos', 'linked/b.jpg'])
def test_a_file_given_twice_is_one_job(again):
    os.symlink('photos', 'linked')
    targets = [job.target for job in plan_jobs(['photos', again], 'out')]
    assert sorted(targets) == sorted(set(targets))
    assert len(targets) == 4


def test_a_source_under_another_name_is_still_a_source():
    os.symlink('photos', 'link')
    with pytest.raises(ValueError, match='photos is both SRC and DST'):
        plan('photos', to='link')
    Path('photos/b.png').touch()
    with pytest.raises(ValueError, match=r'link/b\.png would replace a source'):
        plan('photos/b.png', to='link')


def test_linked_folders_are_followed_but_not_in_circles():
    os.symlink('../../other', 'photos/sub/linked')
    os.symlink('..', 'photos/sub/round')
    os.symlink('round', 'photos/sub/again')
    assert plan('photos/sub', to='out') == {
        'photos/sub/again/A.PNG': 'out/again/A.png',
        'photos/sub/again/b.jpg': 'out/again/b.png',
        'photos/sub/again/x.png/e.png': 'out/again/x.png/e.png',
        'photos/sub/deep/c.d.tif': 'out/deep/c.d.png',
        'photos/sub/linked/f.webp': 'out/linked/f.png',
        'photos/sub/round/A.PNG': 'out/round/A.png',
        'photos/sub/round/b.jpg': 'out/round/b.png',
        'photos/sub/round/x.png/e.png': 'out/round/x.png/e.png',
    }


@pytest.mark.parametrize('source', ['photos', 'photos/**/*'])
def test_hidden_folders_are_left_out(source):
    for folder in ('photos/.git', 'photos/sub/.thumbnails/large'):
        Path(folder).mkdir(parents=True)
        Path(folder, 'g.png').touch()
    assert not [path for path in plan(source, to='out') if '/.' in path]
    assert plan('photos/.git', to='out') == {'photos/.git/g.png': 'out/g.png'}  # for it is named
