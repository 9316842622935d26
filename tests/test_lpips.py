from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_metric

from irnsigma_plugin.evaluation import lpips as lpips_metric
from irnsigma_plugin.evaluation.lpips import BACKBONES, calculate_lpips
from irnsigma_plugin.imagenet import weights as imagenet_weights


def pair() -> tuple[np.ndarray, np.ndarray]:
    """Two coloured BGR images, the second with half the contrast."""
    image = np.random.RandomState(1).randint(0, 256, (64, 80, 3)).astype(np.uint8)
    image[:, 40:] //= 4
    image[..., 0] //= 2
    return image, image // 2 + 40


def need(net: str) -> None:
    name = BACKBONES[net][0]
    if imagenet_weights.find_weights(name) is None:
        pytest.skip(f'the ImageNet weights of {name} are not in the hub cache')


@pytest.fixture
def alex():
    need('alex')


# The package lpips 0.1.4 itself on these images, as RGB in [-1, 1].
@pytest.mark.parametrize(('net', 'coloured', 'grey'), [('alex', 0.098587, 0.086319), ('vgg', 0.085162, 0.235970)])
def test_equals_the_package(net, coloured, grey):
    need(net)
    image, reference = pair()
    assert calculate_lpips(image, reference, net=net) == pytest.approx(coloured, abs=2e-4)
    grey_image = image[..., 1]
    assert calculate_lpips(grey_image, grey_image[::-1], net=net) == pytest.approx(grey, abs=2e-4)


def test_basicsr_calls_it_by_name(alex):
    image, reference = pair()
    options = {'type': 'calculate_lpips', 'better': 'lower', 'crop_border': 0}
    value = calculate_metric({'img': image, 'img2': reference}, options)
    assert isinstance(value, float)
    assert value == calculate_lpips(image, reference)


def test_equal_images_have_distance_zero(alex):
    image, _ = pair()
    assert calculate_lpips(image, image) == 0


def test_grey_shapes_are_the_same_image(alex):
    image, reference = (one[..., 1] for one in pair())
    expected = calculate_lpips(np.stack([image] * 3, -1), np.stack([reference] * 3, -1))
    assert calculate_lpips(image, reference) == expected
    assert calculate_lpips(image[..., None], reference[..., None]) == expected


def test_crop_border_cuts_each_side(alex):
    image, reference = pair()
    expected = calculate_lpips(image[4:-4, 4:-4], reference[4:-4, 4:-4])
    assert calculate_lpips(image, reference, crop_border=4) == expected
    assert calculate_lpips(image, reference) != expected


@pytest.mark.parametrize('net', list(BACKBONES))
def test_equals_the_packages_forward_pass(net):
    need(net)
    model = lpips_metric._load_lpips(net, torch.device('cpu'))
    image, reference = pair()
    # From BGR, height first, to what the package takes.
    tensors = [
        torch.from_numpy(each[..., ::-1] / np.float32(255)).permute(2, 0, 1)[None] for each in (image, reference)
    ]
    with torch.no_grad():
        expected = model(*tensors, normalize=True).item()
    assert calculate_lpips(image, reference, net) == pytest.approx(expected, rel=1e-6)


def test_many_images_of_one_reference(alex):
    image, reference = pair()
    images = [image, reference, reference // 2]
    options = {'net': 'alex', 'crop_border': 4, 'better': 'lower'}
    expected = [calculate_lpips(each, reference, **options) for each in images]
    seen = []
    backbone = lpips_metric._load_lpips('alex', torch.device('cpu')).net
    handle = backbone.register_forward_hook(lambda *_: seen.append(1))
    assert calculate_lpips.many(images, reference, **options) == expected
    handle.remove()
    assert len(seen) == 4


def test_loading_is_silent_happens_once_and_draws_no_random_numbers(alex, capfd):
    image, reference = pair()
    lpips_metric._load_lpips.cache_clear()
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        calculate_lpips(image, reference)
        calculate_lpips(image, reference)
    assert torch.equal(torch.get_rng_state(), state)
    assert lpips_metric._load_lpips.cache_info().misses == 1
    assert tuple(capfd.readouterr()) == ('', '')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'img2': np.zeros((32, 33, 3), np.uint8)}, r'one shape, got \(32, 32, 3\) and \(32, 33, 3\)'),
        ({'img': np.zeros((32, 32, 3)), 'img2': np.zeros((32, 32, 3))}, 'expected uint8 .* got float64'),
        ({'img': np.zeros((32, 32, 4), np.uint8), 'img2': np.zeros((32, 32, 4), np.uint8)}, r'\(32, 32, 4\)'),
        ({'net': 'resnet'}, "net must be one of .*'alex', 'vgg', 'squeeze'.*'resnet'"),
        ({'better': 'higher'}, "better must be one of .*'lower'.*'higher'"),
        ({'crop_border': 1}, 'H, W >= 31, got .*30, 30'),
    ],
)
def test_wrong_values_are_refused(change, message):
    data = {'img': np.zeros((32, 32, 3), np.uint8), 'img2': np.zeros((32, 32, 3), np.uint8), **change}
    with pytest.raises(ValueError, match=message):
        calculate_lpips(**data)


def test_unknown_option_is_refused():
    image, reference = pair()
    with pytest.raises(TypeError, match='crop_boarder'):
        calculate_metric({'img': image, 'img2': reference}, {'type': 'calculate_lpips', 'crop_boarder': 4})


def test_missing_weights_are_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    lpips_metric._load_lpips.cache_clear()
    with pytest.raises(
        imagenet_weights.WeightsError, match=r'alexnet-owt-7be5be79.pth.*irnsigma fetch-weights --net alexnet'
    ):
        calculate_lpips(*pair())
