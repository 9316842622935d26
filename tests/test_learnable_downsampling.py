import pytest
import torch
from helpers.invertibility import check_inverse, random_image, randomise

from irnsigma_plugin.archs.irn_arch import LearnableDownsampling


def test_fresh_layer_takes_the_mean_and_the_other_pixels():
    layer = LearnableDownsampling(2)
    block = torch.tensor([[10.0, 3.0], [5.0, 2.0]]).view(1, 1, 2, 2)
    bands = torch.tensor([5.0, 3.0, 5.0, 2.0]).view(1, 4, 1, 1)
    torch.testing.assert_close(layer(block), bands)
    torch.testing.assert_close(layer.inverse(bands), block)


def test_every_colour_is_mixed_by_the_same_matrix_and_bands_come_first():
    layer = LearnableDownsampling(2)
    matrix = torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0], [4.0, 0.0, 0.0, 1.0]])
    layer.conv_weights.data.copy_(matrix)
    image = torch.zeros(1, 2, 2, 4)
    image[0, 0, :, 2:] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    image[0, 1, :, :2] = torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    expected = torch.zeros(1, 8, 1, 2)
    expected[0, 0::2, 0, 1] = torch.tensor([5.0, 2.0, -1.0, 8.0])  # matrix · (1, 2, 3, 4)
    expected[0, 1::2, 0, 0] = torch.tensor([17.0, 6.0, -1.0, 28.0])  # matrix · (5, 6, 7, 8)
    torch.testing.assert_close(layer(image), expected)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_inverse(scale, dtype):
    layer = randomise(LearnableDownsampling(scale), std=0.01).to(dtype)
    check_inverse(layer, random_image(2, 3, 4 * scale, 2 * scale, dtype=dtype), (2, 3 * scale**2, 4, 2))


def test_the_matrix_is_trainable_in_both_directions():
    layer = randomise(LearnableDownsampling(2)).double()
    image = random_image(1, 1, 2, 4, dtype=torch.float64).requires_grad_()
    bands = random_image(1, 4, 1, 2, dtype=torch.float64, seed=1).requires_grad_()

    def run(call, x, matrix):
        return torch.func.functional_call(Direction(layer, call), {'layer.conv_weights': matrix}, x)

    matrix = layer.conv_weights.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, m: run('forward', x, m), (image, matrix))
    assert torch.autograd.gradcheck(lambda y, m: run('inverse', y, m), (bands, matrix))


class Direction(torch.nn.Module):
    """Calls one direction of a layer, since functional_call knows only `forward`."""

    def __init__(self, layer, call):
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x):
        return getattr(self.layer, self.call)(x)


def test_autocast_does_not_shorten_it():
    layer = randomise(LearnableDownsampling(2), std=0.01)
    image = random_image(1, 3, 4, 4)
    with torch.autocast('cpu', torch.bfloat16):
        bands = layer(image)
        restored = layer.inverse(bands)
    assert torch.equal(bands, layer(image))
    assert torch.equal(restored, layer.inverse(bands))
