"""DISTS: values of the package dists-pytorch, and behaviour as a metric of BasicSR."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from basicsr.metrics import calculate_metric
from helpers.experiment import has_dists
from torchvision.models.vgg import cfgs, make_layers

from irnsigma_plugin.evaluation import dists as module
from irnsigma_plugin.evaluation.dists import L2Pool, calculate_dists
from irnsigma_plugin.imagenet.weights import WeightsError, imagenet_weights

OPTIONS = {'type': 'calculate_dists', 'better': 'lower'}


def pair() -> tuple[np.ndarray, np.ndarray]:
    """Two coloured BGR images, the second with half the contrast."""
    image = np.random.RandomState(1).randint(0, 256, (64, 80, 3)).astype(np.uint8)
    image[:, 40:] //= 4
    image[..., 0] //= 2
    return image, image // 2 + 40


@pytest.fixture
def weights():
    if not has_dists():
        pytest.skip('the ImageNet weights of vgg16 are not in the hub cache, or dists-pytorch is not installed')


@pytest.fixture
def package(weights, monkeypatch):
    """The package's own network, with VGG16 from where we find it and its own weights from where pip put them."""
    features = make_layers(cfgs['D'])
    state = imagenet_weights('vgg16')
    features.load_state_dict({key: state[f'features.{key}'] for key in features.state_dict()})
    monkeypatch.setattr(torchvision.models, 'vgg16', lambda pretrained: SimpleNamespace(features=features))
    (folder,) = importlib.util.find_spec('DISTS_pytorch').submodule_search_locations
    monkeypatch.setattr(sys, 'prefix', folder)
    return pytest.importorskip('DISTS_pytorch').DISTS()


def to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image[..., ::-1] / np.float32(255)).permute(2, 0, 1)[None]


@pytest.mark.parametrize('size', [(64, 80), (33, 47)])
def test_equals_the_package(package, size):
    image, reference = (each[: size[0], : size[1]] for each in pair())
    for other in (reference, np.rot90(image, 2), 255 - image):
        expected = package(to_tensor(image), to_tensor(other.copy())).item()
        assert expected > 0.01
        assert calculate_dists(image, other) == pytest.approx(expected, abs=2e-5)


def test_equal_images_have_distance_zero(weights):
    image, _ = pair()
    assert calculate_dists(image, image) == 0


def test_basicsr_calls_it_by_name(weights):
    image, reference = pair()
    value = calculate_metric({'img': image, 'img2': reference}, {**OPTIONS, 'crop_border': 4})
    assert isinstance(value, float)
    assert value == calculate_dists(image[4:-4, 4:-4], reference[4:-4, 4:-4])


def test_many_images_of_one_reference(weights):
    image, reference = pair()
    images = [image, reference, reference // 2]
    expected = [calculate_dists(each, reference) for each in images]
    seen = []
    handle = module._load_vgg(torch.device('cpu')).register_forward_hook(lambda *_: seen.append(1))
    assert calculate_dists.many(images, reference, better='lower') == expected
    handle.remove()
    assert len(seen) == 4


def test_loading_draws_no_random_numbers(weights):
    module._load_vgg.cache_clear()
    state = torch.get_rng_state()
    calculate_dists(*pair())
    assert torch.equal(torch.get_rng_state(), state)


def test_pooling_is_the_root_of_weighted_squares():
    x = torch.tensor([[3.0, -4.0], [0.0, 12.0]]).expand(1, 2, 2, 2)
    expected = ((9 / 4 + 16 / 8 + 144 / 16) + 1e-12) ** 0.5  # weights 1/4, 1/8, 1/8, 1/16; zeros beyond the border
    torch.testing.assert_close(L2Pool()(x), torch.full((1, 2, 1, 1), expected))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'img2': np.zeros((32, 33, 3), np.uint8)}, r'one shape, got \(32, 32, 3\) and \(32, 33, 3\)'),
        ({'better': 'higher'}, "better must be one of .*'lower'.*'higher'"),
        ({'crop_border': -1}, 'crop_border must be a whole number, 0 or more'),
    ],
)
def test_wrong_values_are_refused(change, message):
    data = {'img': np.zeros((32, 32, 3), np.uint8), 'img2': np.zeros((32, 32, 3), np.uint8), **change}
    with pytest.raises(ValueError, match=message):
        calculate_dists(**data)


def test_images_that_vanish_in_the_network_are_refused(weights):
    with pytest.raises(ValueError, match='H, W >= 16, got .*15, 32'):
        calculate_dists(*[np.zeros((15, 32, 3), np.uint8)] * 2)


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    module._load_weights.cache_clear()
    monkeypatch.setattr(module.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(WeightsError, match='pip install dists-pytorch'):
        module._load_weights(torch.device('cpu'))
