from __future__ import annotations

import functools
import hashlib
import http.server
import os
import threading
from pathlib import Path

import pytest
from helpers.imagenet import save_weights

from irnsigma_plugin.imagenet import weights as module
from irnsigma_plugin.imagenet.weights import (
    WeightsError,
    features_path,
    find_weights,
    imagenet_weights,
    torchvision_path,
)

UNREACHABLE = 'http://127.0.0.1:9/'


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Empty hub cache and current directory; no server."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(module, 'SERVER', UNREACHABLE)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'hub' / 'checkpoints'
    folder.mkdir(parents=True)
    return folder


def serve(folder: Path, monkeypatch, request) -> None:
    """Let a server on this machine take the place of torchvision's."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    request.addfinalizer(server.server_close)
    request.addfinalizer(server.shutdown)
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setattr(module, 'SERVER', f'http://127.0.0.1:{server.server_address[1]}/')


def test_basicsr_folder_comes_before_the_hub_cache(cache):
    save_weights(cache, 'vgg16', 1.0)
    assert imagenet_weights('vgg16')['features.28.weight'] == 1
    save_weights(Path('experiments/pretrained_models'), 'vgg16', 2.0)
    assert imagenet_weights('vgg16')['features.28.weight'] == 2


def test_complete_files_come_before_features_alone(cache):
    assert find_weights('vgg16') is None
    save_weights(cache, 'vgg16', 3.0)
    features_path('vgg16').parent.mkdir()
    (cache / 'vgg16-397923af.pth').rename(features_path('vgg16'))
    assert find_weights('vgg16') == features_path('vgg16')
    assert imagenet_weights('vgg16')['features.28.weight'] == 3
    save_weights(cache, 'vgg16', 1.0)
    assert find_weights('vgg16') == torchvision_path('vgg16')
    assert imagenet_weights('vgg16')['features.28.weight'] == 1


def test_a_damaged_file_of_features_is_named_with_the_remedy(cache):
    features_path('vgg16').parent.mkdir()
    features_path('vgg16').write_bytes(b'PK')
    with pytest.raises(WeightsError, match=r'irnsigma/vgg16_features.pth is damaged .*: delete it.*fetch-weights'):
        imagenet_weights('vgg16')


def test_file_of_another_network_is_not_used(cache):
    save_weights(Path('experiments/pretrained_models'), 'vgg19', 19.0)
    save_weights(cache, 'vgg16', 16.0)
    assert imagenet_weights('vgg16')['features.0.weight'] == 16
    assert imagenet_weights('vgg19')['features.0.weight'] == 19


@pytest.mark.parametrize(
    ('name', 'file', 'remedy'),
    [
        ('alexnet', 'alexnet-owt-7be5be79.pth', 'irnsigma fetch-weights --net alexnet'),
        ('vgg16', 'vgg16-397923af.pth', 'irnsigma fetch-weights --net vgg16'),
        ('vgg19', 'vgg19-dcbb9e9d.pth', 'vgg_type: vgg16'),
        ('squeezenet1_1', 'squeezenet1_1-b8a52dc0.pth', UNREACHABLE),
    ],
)
def test_missing_file_without_network_names_file_place_and_remedy(cache, name, file, remedy):
    with pytest.raises(WeightsError) as caught:
        imagenet_weights(name)
    message = str(caught.value)
    for part in (file, str(cache), 'experiments/pretrained_models', remedy):
        assert part in message
    assert '\n' not in message
    assert os.listdir(cache) == []


def test_unknown_name_is_refused(cache):
    with pytest.raises(ValueError, match='alexnet, vgg16, vgg19, squeezenet1_1'):
        imagenet_weights('resnet50')


@pytest.mark.parametrize('intact', [True, False])
def test_download_is_checked_and_complete_or_absent(cache, tmp_path, monkeypatch, request, intact):
    source = tmp_path / 'served'
    path = save_weights(source, 'vgg16', 5.0)
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()[:8] if intact else '00000000'
    file = f'vgg16-{checksum}.pth'
    path.rename(source / file)
    monkeypatch.setitem(module.NETWORKS, 'vgg16', module.NETWORKS['vgg16']._replace(file=file))
    serve(source, monkeypatch, request)
    if intact:
        assert imagenet_weights('vgg16')['features.0.weight'] == 5
        assert os.listdir(cache) == [file]
    else:
        with pytest.raises(WeightsError, match='invalid hash value'):
            imagenet_weights('vgg16')
        assert os.listdir(cache) == []


def test_a_download_that_stalls_ends(cache, tmp_path, monkeypatch, request):
    path = save_weights(tmp_path / 'served', 'vgg16', 5.0)
    stalled = threading.Event()

    def send_a_part(handler, source, output):
        output.write(source.read(100))
        stalled.wait(60)

    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, 'copyfile', send_a_part)
    serve(path.parent, monkeypatch, request)
    request.addfinalizer(stalled.set)
    monkeypatch.setattr(module, 'SERVER_TIMEOUT', 0.5)
    with pytest.raises(WeightsError, match=r'could not be downloaded \(.*timed out'):
        imagenet_weights('vgg16')
    assert not stalled.is_set()
    assert os.listdir(cache) == []


def test_truncated_file_is_named_with_the_remedy(cache):
    path = save_weights(cache, 'vgg16', 1.0)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(WeightsError, match=r'vgg16-397923af.pth is damaged .*: delete it.*fetch-weights --net vgg16'):
        imagenet_weights('vgg16')


def test_weights_that_are_no_numbers_are_refused(cache):
    path = save_weights(cache, 'vgg16', float('nan'))
    with pytest.raises(
        WeightsError, match=rf'{path} is damaged \(it has values that are infinite or no numbers\): delete'
    ):
        imagenet_weights('vgg16')


def test_mixed_up_file_is_refused(cache):
    save_weights(cache, 'vgg19', 1.0).rename(cache / 'vgg16-397923af.pth')
    with pytest.raises(WeightsError, match=r'does not hold the weights of vgg16 \(features.17.weight is missing\)'):
        imagenet_weights('vgg16')


def test_paths_follow_torch_home(cache):
    assert torchvision_path('vgg19') == cache / 'vgg19-dcbb9e9d.pth'
    assert features_path('vgg16') == cache.parent / 'irnsigma' / 'vgg16_features.pth'
