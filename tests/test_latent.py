import os

import numpy as np
import pytest
import torch

from irnsigma_plugin.rescaling.latent import check_sigma_map, draw_epsilon, sigma_of_cells

SHAPE = (1, 45, 3, 4)


@pytest.mark.parametrize(
    ('seed', 'name', 'expected'),
    [
        (0, 'baby', [0.9895722, -1.0834177, -0.0973020, -1.6564671]),
        (0, 'bird', [-2.0548098, -0.7677898, 0.2522920, -1.9242623]),
        (7, 'baby', [-0.9588740, 1.2584027, 0.7435433, 0.0075446]),
    ],
)
def test_first_values_never_change(seed, name, expected):
    """Published numbers depend on this noise: if it must change, say so in the release notes."""
    values = draw_epsilon(SHAPE, seed, name).flatten()[:4]
    torch.testing.assert_close(values, torch.tensor(expected), rtol=0, atol=1e-6)


def test_a_file_name_that_is_no_text_has_its_own():
    names = [os.fsdecode(name) for name in (b'caf\xe9', b'caf\xe8')]
    assert not torch.equal(*(draw_epsilon((1, 1, 4, 4), 0, name) for name in names))


def test_does_not_depend_on_what_was_drawn_before():
    torch.manual_seed(1)
    first = draw_epsilon(SHAPE, 0, 'baby')
    torch.randn(100)
    draw_epsilon(SHAPE, 0, 'bird')
    assert torch.equal(draw_epsilon(SHAPE, 0, 'baby'), first)


def test_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    draw_epsilon(SHAPE, 0, 'baby')
    assert torch.equal(torch.get_rng_state(), state)


def test_every_image_and_seed_has_its_own():
    draws = [draw_epsilon(SHAPE, seed, name) for seed in (0, 1, -1) for name in ('a', 'b', '', 'näme')]
    for index, draw in enumerate(draws):
        for other in draws[:index]:
            correlation = (draw * other).mean()
            assert abs(correlation) < 0.2


def test_is_standard_normal():
    epsilon = draw_epsilon((1, 45, 40, 40), 3, 'img_001')
    assert epsilon.shape == (1, 45, 40, 40)
    assert epsilon.dtype == torch.float32
    assert abs(epsilon.mean()) < 0.02
    assert abs(epsilon.std() - 1) < 0.02


def test_a_latent_without_elements():
    assert draw_epsilon((1, 0, 3, 4), 0, 'baby').shape == (1, 0, 3, 4)


# Blocks of 64x64: three rows and two columns of them, the last ones cut by the image.
WHOLE = (1, 2, 150, 70)


@pytest.mark.parametrize(
    ('rows', 'columns'),
    [((0, 150), (0, 70)), ((0, 64), (0, 64)), ((63, 65), (63, 65)), ((149, 150), (69, 70)), ((10, 140), (5, 6))],
)
def test_a_window_is_that_part_of_the_whole(rows, columns):
    whole = draw_epsilon(WHOLE, 0, 'baby')
    part = draw_epsilon(WHOLE, 0, 'baby', (slice(*rows), slice(*columns)))
    assert torch.equal(part, whole[..., slice(*rows), slice(*columns)])


def test_every_block_has_its_own():
    whole = draw_epsilon((1, 1, 128, 192), 0, 'baby')
    blocks = [whole[..., top : top + 64, left : left + 64] for top in (0, 64) for left in (0, 64, 128)]
    for index, block in enumerate(blocks):
        for other in blocks[:index]:
            assert abs((block * other).mean()) < 0.1


def test_a_window_touches_only_its_blocks(monkeypatch):
    drawn = []
    randn = torch.randn

    def counted(shape, **options):
        drawn.append(tuple(shape))
        return randn(shape, **options)

    monkeypatch.setattr(torch, 'randn', counted)
    draw_epsilon((1, 45, 10**6, 10**6), 0, 'baby', (slice(640, 700), slice(999_990, 10**6)))
    assert drawn == [(1, 45, 64, 64)]


ALL = (slice(0, 2), slice(0, 2))


def cells(sigma, hr_size, lr_size, scale, area=ALL):
    return sigma_of_cells(check_sigma_map(sigma, hr_size, lr_size), area, lr_size, scale)


def test_cells_are_means_by_hand():
    sigma = np.array([[0.0, 0.5, 1.0], [0.25, 0.25, 0.0], [1.0, 0.0, 0.75]])  # the last row and column are cut
    found = cells(sigma, (3, 3), (2, 2), 2)
    assert found.tolist() == [[[[0.25, 0.5], [0.5, 0.75]]]]
    assert found.dtype == torch.float32
    assert cells(sigma, (3, 3), (2, 2), 2, (slice(1, 2), slice(0, 1))).tolist() == [[[[0.5]]]]


def test_a_map_of_the_lr_size_is_taken_as_it_is():
    sigma = torch.tensor([[0.0, 0.25], [0.5, 1.0]])
    assert cells(sigma, (7, 8), (2, 2), 4).tolist() == [[sigma.tolist()]]


def test_white_is_sharp():
    assert cells(np.array([[0, 255], [51, 204]], np.uint8), (2, 2), (1, 1), 2, (slice(0, 1),) * 2).item() == 0.5
    assert cells(np.full((1, 1), 65535, np.uint16), (4, 4), (1, 1), 4, (slice(0, 1),) * 2).item() == 1


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
@pytest.mark.parametrize('value', [0.1, 0.3, 1 / 3, 0.7, 1.0])
def test_a_map_of_one_value_is_that_value(scale, value):
    for sigma in (np.full((2 * scale - 1, 2 * scale), value), torch.full((2 * scale - 1, 2 * scale), value)):
        found = cells(sigma, sigma.shape, (2, 2), scale)
        assert (found == torch.tensor(value)).all()
    grey_level = np.full((2 * scale, 2 * scale), 77, np.uint8)
    assert (cells(grey_level, grey_level.shape, (2, 2), scale) == torch.tensor(77 / 255)).all()


def test_a_map_may_be_of_bfloat16():
    checked = check_sigma_map(torch.full((8, 8), 0.5, dtype=torch.bfloat16), (8, 8), (2, 2))
    assert (sigma_of_cells(checked, (slice(0, 2), slice(0, 2)), (2, 2), 4) == 0.5).all()


def test_numbers_stay_numbers():
    for sigma in (0.3, np.float64(0.3), np.array(0.3), torch.tensor(0.3, dtype=torch.float64)):
        assert cells(sigma, (8, 8), (2, 2), 4) == 0.3


@pytest.mark.parametrize(
    ('sigma', 'part'),
    [
        (1.5, 'sigma must be a number from 0'),
        (np.zeros((3, 4)), 'large image, 8x7 pixels, or of the small image, 2x2, but has 4x3.'),
        (np.zeros((7, 8, 3)), '8x7 pixels, or of the small image, 2x2, but has the shape (7, 8, 3)'),
        (np.zeros((3, 7, 8)), 'the shape (3, 7, 8)'),
        (np.zeros(9), 'the shape (9,)'),
        (np.full((7, 8), 1.01), 'goes from 1.01 to 1.01'),
        (np.full((2, 2), np.nan), 'nan'),
        (np.ones((7, 8), np.int64), 'int64'),
    ],
)
def test_what_is_refused(sigma, part):
    with pytest.raises(ValueError, match='sigma') as error:
        check_sigma_map(sigma, (7, 8), (2, 2))
    assert part in str(error.value)
    assert '\n' not in str(error.value)
