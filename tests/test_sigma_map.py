import numpy as np
import pytest
import torch

from irnsigma_plugin.rescaling.sigma_map import check_sigma_map, sigma_of_cells

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
