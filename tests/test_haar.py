import pytest
import torch
from helpers.invertibility import check_inverse, random_image

from irnsigma_plugin.archs.irn_arch import HaarDownsampling

BLOCK = torch.tensor([[10.0, 3.0], [5.0, 2.0]]).view(1, 1, 2, 2)
# By hand: (10+3+5+2)/4, (10-3+5-2)/4, (10+3-5-2)/4, (10-3-5+2)/4.
BANDS = torch.tensor([5.0, 2.5, 1.5, 1.0]).view(1, 4, 1, 1)


def test_bands_of_one_block():
    haar = HaarDownsampling(1)
    torch.testing.assert_close(haar(BLOCK), BANDS, rtol=0, atol=0)
    torch.testing.assert_close(haar.inverse(BANDS), BLOCK, rtol=0, atol=0)


def test_channels_are_ordered_band_first_and_blocks_stay_in_place():
    haar = HaarDownsampling(3)
    image = torch.zeros(1, 3, 4, 6)
    image[:, 1, 2:, 4:] = BLOCK  # green, second row and third column of blocks
    expected = torch.zeros(1, 12, 2, 3)
    expected[0, [1, 4, 7, 10], 1, 2] = BANDS.flatten()
    torch.testing.assert_close(haar(image), expected, rtol=0, atol=0)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('channels', [1, 3, 12])
def test_inverse(channels, dtype):
    check_inverse(
        HaarDownsampling(channels).to(dtype), random_image(2, channels, 6, 10, dtype=dtype), (2, 4 * channels, 3, 5)
    )


def test_weights_are_a_frozen_parameter_in_the_original_layout():
    ((name, weights),) = HaarDownsampling(3).named_parameters()
    assert name == 'haar_weights'
    assert not weights.requires_grad
    signs = [[[1, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]]
    torch.testing.assert_close(weights.data, torch.tensor(signs * 3, dtype=torch.float32).unsqueeze(1))


def test_gradients():
    haar = HaarDownsampling(2).double()
    for call, shape in ((haar, (1, 2, 2, 4)), (haar.inverse, (1, 8, 1, 2))):
        assert torch.autograd.gradcheck(call, random_image(*shape, dtype=torch.float64).requires_grad_())
