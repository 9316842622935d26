"""Which files are images. The search for them is tested through `test_batch.py`, too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from irnsigma_plugin.images.names import find_images, is_image_name


def test_names_of_images():
    assert all(map(is_image_name, ('a.png', 'B.JPG', 'c.d.tif', 'e.pgm')))
    assert not any(map(is_image_name, ('a.txt', '.a.png', 'png', 'a.png.part')))


@pytest.mark.parametrize('source', ['photos', 'photos/*', 'photos/**/*'])
def test_a_source_without_images_is_named(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    Path('photos').mkdir()
    Path('photos/notes.txt').touch()
    with pytest.raises(ValueError, match=r'^photos.*: there are no images \(\.png, .*check the path'):
        find_images([source])


@pytest.mark.parametrize('source', ['photos', 'photos/**/*.png'])
def test_a_link_to_a_folder_above_leads_nowhere_new(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    Path('photos/trip').mkdir(parents=True)
    Path('photos/trip/a.png').touch()
    Path('photos/trip/loop').symlink_to('..', target_is_directory=True)
    assert find_images([source]) == [(Path('photos/trip/a.png'), Path('trip/a.png'))]


@pytest.mark.parametrize('pattern', ['*.png', '**/*.png'])
def test_a_source_may_lead_up_and_down_again(tmp_path, monkeypatch, pattern):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos/a.png').touch()
    monkeypatch.chdir(tmp_path)
    source = f'../{tmp_path.name}/photos'
    assert find_images([f'{source}/{pattern}']) == [(Path(source, 'a.png'), Path('a.png'))]


def test_a_pattern_may_lead_up_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ('sets/a/hr', 'sets/a/lr'):
        Path(folder).mkdir(parents=True)
    Path('sets/a/lr/x.png').touch()
    ((found, _),) = find_images(['sets/*/hr/../lr/**/*.png'])
    assert found == Path('sets/a/hr/../lr/x.png')


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, 'Permission denied', str(path))

    (tmp_path / 'photos').mkdir()
    monkeypatch.setattr(os, 'listdir', refuse)
    with pytest.raises(OSError, match=r'photos: the folder cannot be read \(Permission denied\)'):
        find_images([str(tmp_path / 'photos')])
