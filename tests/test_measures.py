import math

import pytest
from helpers.score_samples import sample_scores

from irnsigma_plugin.evaluation.measures import ImageScore, Scores, perception_distortion_axes


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
