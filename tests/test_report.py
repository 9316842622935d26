import csv
import dataclasses
import math

import cv2
import numpy as np
import pytest
from helpers.score_samples import METRICS, sample_scores

from irnsigma_plugin.evaluation import report
from irnsigma_plugin.evaluation.pictures import decode_png

TABLE = """\
**Set2**, 2 images

| σ | psnr_y ↑ | lpips ↓ |
|---|---|---|
| 0 | 32.0000 | 0.3000 |
| 0.5 | 29.5000 | 0.1750 |

Low-resolution images against bicubic: psnr 42.5000
"""


def test_csv_holds_every_image_at_every_sigma(tmp_path):
    report.write_csv(sample_scores(), tmp_path / 'metrics.csv')
    with open(tmp_path / 'metrics.csv', newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ['image', 'sigma', 'psnr_y', 'lpips', 'lr_psnr']
    assert [row['image'] for row in rows] == ['a,1', 'a,1', 'b', 'b']
    assert [float(row['sigma']) for row in rows] == [0, 0.5, 0, 0.5]
    assert [float(row['psnr_y']) for row in rows] == [30, 28, 34, 31]
    assert [float(row['lpips']) for row in rows] == [0.2, 0.1, 0.4, 0.25]
    assert [float(row['lr_psnr']) for row in rows] == [40, 40, 45, 45]
    assert [path.name for path in tmp_path.iterdir()] == ['metrics.csv']


def test_markdown_table():
    assert report.markdown_table(sample_scores(), METRICS) == TABLE


def test_the_model_that_was_measured_is_named():
    scores = dataclasses.replace(sample_scores(), model='0123456789abcdef')
    assert report.markdown_table(scores, METRICS) == f'{TABLE}\nModel hash: 0123456789abcdef\n'


def backwards(change: float):
    """The sample, but with the LPIPS of every image at sigma 0, and `change` at the other."""
    scores = sample_scores()
    faithful = {image.image: image.hr['lpips'] for image in scores.images if not image.sigma}
    for index, image in enumerate(scores.images):
        lpips = faithful[image.image] + (change if image.sigma else 0)
        scores.images[index] = dataclasses.replace(image, hr={**image.hr, 'lpips': lpips})
    return scores


@pytest.mark.parametrize('change', [0.01, 0, -0.01])
def test_a_knob_that_turns_backwards_is_never_shown_without_the_reason(tmp_path, change):
    scores = backwards(change)
    pictures = report.write_report(tmp_path, scores, METRICS, None)
    text = (tmp_path / 'table.md').read_text(encoding='utf-8')
    assert ('σ = 0.5 is no sharper than σ = 0 here (lpips' in text) == (change >= 0)
    assert (pictures['curve'] == report.draw_curve(scores, ('psnr_y', 'lpips'), vain=True)) == (change >= 0)
    assert report.draw_curve(scores, ('psnr_y', 'lpips'), vain=True) != report.draw_curve(scores, ('psnr_y', 'lpips'))


def test_what_cannot_be_measured_says_nothing_of_the_knob():
    assert report.sigma_in_vain(backwards(math.nan), METRICS) == ''


def test_tables_name_images_whose_names_are_no_utf8(tmp_path):
    scores = backwards(math.nan)
    scores.images = [dataclasses.replace(image, image='caf\udce9', faults=('too small',)) for image in scores.images]
    report.write_report(tmp_path, scores, METRICS, None)
    report.write_tables([scores], METRICS, tmp_path / 'tables.md')
    for file in ('table.md', 'tables.md'):
        assert 'caf\\udce9' in (tmp_path / file).read_text(encoding='utf-8')


def test_one_sigma_or_no_metric_of_perception_says_nothing_of_the_knob():
    scores = dataclasses.replace(sample_scores(), sigmas=(0.0,))
    assert report.sigma_in_vain(scores, METRICS) == ''
    assert report.sigma_in_vain(backwards(1), {'psnr_y': METRICS['psnr_y']}) == ''


def test_markdown_table_without_metrics_of_the_low_resolution_image():
    scores = sample_scores()
    scores.images = [dataclasses.replace(image, lr={}) for image in scores.images]
    assert report.markdown_table(scores, METRICS) == TABLE.partition('\nLow')[0]


def test_tables_of_several_data_sets_in_one_file(tmp_path):
    other = sample_scores()
    other.dataset = 'Set14'
    report.write_tables([sample_scores(), other], METRICS, tmp_path / 'table.md')
    text = (tmp_path / 'table.md').read_text(encoding='utf-8')
    assert text == TABLE + '\n' + TABLE.replace('Set2', 'Set14')


def blue_pixels(png):
    """Coordinates (row, column) of the pixels in the colour of the curve, tab:blue."""
    image = decode_png(png).astype(int)
    return np.argwhere(np.abs(image - (31, 119, 180)).max(2) < 3)


def test_curve_is_a_png_of_the_promised_size(tmp_path):
    png = report.draw_curve(sample_scores(), ('psnr_y', 'lpips'))
    path = tmp_path / 'curve.png'
    path.write_bytes(png)
    assert cv2.imread(str(path)).shape == (600, 750, 3)
    assert decode_png(png).dtype == np.uint8


def test_curve_rises_to_the_right_where_both_metrics_do():
    """PSNR and LPIPS are both larger at sigma = 0, so the line goes from lower left to upper right."""
    rows, columns = blue_pixels(report.draw_curve(sample_scores(), ('psnr_y', 'lpips'))).T
    assert np.ptp(rows) > 200
    assert np.ptp(columns) > 200
    assert np.corrcoef(rows, columns)[0, 1] < -0.9


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('name', [r'x$\y$', '\u7167\u7247'])
def test_curve_of_a_data_set_of_any_name(name):
    scores = dataclasses.replace(sample_scores(), dataset=name)
    assert decode_png(report.draw_curve(scores, ('psnr_y', 'lpips'))).shape == (600, 750, 3)


def test_curve_of_a_perfect_restoration_can_be_drawn():
    scores = sample_scores()
    perfect = {'psnr_y': math.inf, 'lpips': 0.0}
    scores.images = [dataclasses.replace(image, hr=perfect) for image in scores.images]
    assert decode_png(report.draw_curve(scores, ('psnr_y', 'lpips'))).shape == (600, 750, 3)


def test_decoded_colours_are_rgb():
    red = np.zeros((2, 3, 3), np.uint8)
    red[..., 0] = 255
    png = cv2.imencode('.png', red[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_png(png), red)
