import math

import numpy as np
import pytest
import torch
from basicsr.utils.registry import METRIC_REGISTRY
from helpers.score_samples import sample_scores

from irnsigma_plugin.evaluation import measures
from irnsigma_plugin.evaluation.measures import ImageScore, Scores, distances, measure, perception_distortion_axes
from irnsigma_plugin.imagenet.weights import WeightsError


def test_means_by_hand():
    scores = sample_scores()
    assert scores.hr_means(0.0) == pytest.approx({'psnr_y': 32.0, 'lpips': 0.3})
    assert scores.hr_means(0.5) == pytest.approx({'psnr_y': 29.5, 'lpips': 0.175})
    assert scores.lr_means() == pytest.approx({'psnr': 42.5})
    assert scores.image_count == 2


def test_flat_names_are_unique_and_in_order():
    flat = sample_scores().flat_means()
    assert list(flat) == ['sigma_0/psnr_y', 'sigma_0/lpips', 'sigma_0.5/psnr_y', 'sigma_0.5/lpips', 'lr/psnr']
    assert flat['sigma_0.5/lpips'] == pytest.approx(0.175)
    assert flat['lr/psnr'] == 42.5


def test_without_metrics_of_the_low_resolution_image():
    scores = Scores('Set1', (1.0,), [ImageScore('a', 1.0, {'psnr': 20.0}, {})])
    assert scores.lr_means() == {}
    assert scores.flat_means() == {'sigma_1/psnr': 20.0}


def test_a_perfect_image_makes_an_infinite_mean():
    scores = Scores(
        'Set2', (0.0,), [ImageScore(name, 0.0, {'psnr': value}, {}) for name, value in (('a', math.inf), ('b', 30.0))]
    )
    assert scores.hr_means(0.0) == {'psnr': math.inf}


def test_empty():
    scores = Scores('Set0', (0.0, 1.0))
    assert (scores.flat_means(), scores.image_count) == ({}, 0)


def test_images_of_the_same_name_are_two():
    scores = Scores(
        'Set3', (0.0, 1.0), [ImageScore('a', sigma, {}, {}) for _ in ('a.png', 'a.jpg') for sigma in (0.0, 1.0)]
    )
    assert scores.image_count == 2


@pytest.mark.parametrize(
    ('types', 'expected'),
    [
        ({'s': 'ssim', 'p1': 'psnr', 'p2': 'psnr', 'l1': 'lpips', 'l2': 'lpips'}, ('p1', 'l1')),
        ({'p': 'psnr', 's': 'ssim'}, None),
        ({'l': 'lpips'}, None),
        ({}, None),
    ],
)
def test_axes_are_the_first_psnr_and_lpips(types, expected):
    metrics = {name: {'type': f'calculate_{kind}'} for name, kind in types.items()}
    assert perception_distortion_axes(metrics) == expected


def measure_alone(kind: str, height: int, width: int, **options) -> tuple[float, list[str]]:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    ((values,), faults) = measure({'m': {'type': f'calculate_{kind}', **options}}, [image], image)
    return values['m'], faults


@pytest.mark.parametrize(
    ('kind', 'height', 'width', 'options', 'smallest'),
    [
        ('ssim', 18, 40, {'crop_border': 4}, '19x19'),
        ('psnr', 40, 8, {'crop_border': 4}, '9x9'),
        ('niqe', 61, 50, {'crop_border': 0}, '96x192'),
        ('niqe', 191, 96, {'crop_border': 0}, '96x192'),  # BasicSR's estimates a covariance, of one block
        ('lpips', 20, 20, {}, '31x31'),
    ],
)
def test_an_image_that_is_too_small_has_no_figure(kind, height, width, options, smallest):
    value, faults = measure_alone(kind, height, width, **options)
    assert math.isnan(value)
    assert faults == [f'm: {width}x{height} pixels are too few, it takes {smallest} or more']


@pytest.mark.parametrize(
    ('kind', 'height', 'width', 'options'),
    [('ssim', 19, 19, {'crop_border': 4}), ('psnr', 9, 9, {'crop_border': 4}), ('niqe', 192, 96, {'crop_border': 0})],
)
def test_the_smallest_images_are_measured(kind, height, width, options):
    value, faults = measure_alone(kind, height, width, **options)
    assert value > 0
    assert faults == []


def test_a_metric_that_fails_is_told_apart_from_a_lack_of_memory_or_weights(monkeypatch):
    def own(img, img2, result):
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'calculate_own', own)
    assert measure_alone('own', 4, 4, result=2)[0] == 2
    assert measure_alone('own', 4, 4, result=KeyError('a'))[1] == ["m: 'a'"]
    assert measure_alone('own', 4, 4, result=math.nan)[1] == ['m: it gives no number']
    assert measure_alone('own', 4, 4, result=math.inf) == (math.inf, [])
    for error in (MemoryError('a'), WeightsError('b')):
        with pytest.raises(type(error)):
            measure_alone('own', 4, 4, result=error)


def test_means_leave_out_what_is_missing():
    values = {'a': (math.nan, 1.0), 'b': (math.nan, math.nan)}
    images = [ImageScore(str(i), 0.0, {name: pair[i] for name, pair in values.items()}, {}) for i in (0, 1)]
    means = Scores('Set4', (0.0,), images).hr_means(0.0)
    assert means['a'] == 1
    assert math.isnan(means['b'])


@pytest.mark.parametrize('device', ['cuda', 'cpu'])
def test_distances_on_a_gpu_are_as_exact_as_the_network(monkeypatch, device):
    """The settings are those of the process, and can be looked at without a GPU."""
    if not hasattr(torch.backends.cudnn, 'conv'):
        pytest.skip('before torch 2.9 the setting has another name')
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    monkeypatch.setattr(measures, 'metric_device', lambda: torch.device(device))
    seen = []

    def features(image):
        seen.append(conv.fp32_precision)
        return image.mean()

    black, white = np.zeros((4, 4, 3)), np.ones((4, 4, 3))
    assert distances([white, black], black, features, lambda a, b: abs(a - b)) == [1, 0]
    assert before != 'ieee'
    assert seen == ['ieee' if device == 'cuda' else before] * 3
    assert conv.fp32_precision == before
