import numpy as np
import pytest
import torch

from irnsigma_plugin.rescaling import pixels as pixels_module
from irnsigma_plugin.rescaling.pixels import empty_like, is_grey, luma, read_region, write_region

REGION = (slice(0, 1), slice(1, 3))


def test_read_by_hand():
    colour = np.array([[[0, 0, 0], [255, 51, 0], [0, 102, 255]]], np.uint8)
    expected = torch.tensor([[1.0, 0.0], [0.2, 0.4], [0.0, 1.0]]).view(1, 3, 1, 2)
    part = read_region(colour, REGION)
    assert torch.equal(part, expected)
    assert part.is_contiguous()
    assert torch.equal(read_region(torch.from_numpy(colour / 255).permute(2, 0, 1), REGION), expected)
    grey = np.array([[0, 65535, 13107]], np.uint16)
    assert torch.equal(read_region(grey, REGION), torch.tensor([1.0, 0.2]).expand(1, 3, 1, 2))


def test_write_rounds_and_clamps():
    pixels = torch.tensor([[-1.0, 0.2], [0.3, 2.0], [0.5 / 255, 1.5 / 255]]).view(1, 3, 1, 2)
    colour = np.full((1, 3, 3), 7, np.uint8)
    write_region(colour, REGION, pixels)
    assert colour.tolist() == [[[7, 7, 7], [0, 76, 0], [51, 255, 2]]]  # halves to the even number
    grey = np.full((1, 3), 7, np.uint16)
    write_region(grey, REGION, pixels)
    assert grey.tolist() == [[7, 0, 13107]]
    tensor = empty_like(torch.zeros(3, 1, 1), (1, 3), np.uint8)
    write_region(tensor, REGION, pixels)
    assert torch.equal(tensor[None, ..., 1:], pixels.clamp(0, 1))


def test_a_new_image_has_the_form_of_the_other():
    assert empty_like(np.zeros((5, 5), np.uint8), (2, 3), np.uint16).shape == (2, 3)
    assert empty_like(np.zeros((5, 5, 3), np.uint8), (2, 3), np.uint16).dtype == np.uint16
    assert empty_like(torch.zeros(3, 5, 5), (2, 3), np.uint8).shape == (3, 2, 3)


def test_luma_by_hand():
    image = torch.tensor([1.0, 0.5, -2.0]).view(1, 3, 1, 1)
    expected = 0.299 + 0.2935 - 0.228  # before any clamping
    torch.testing.assert_close(luma(image), torch.full((1, 3, 1, 1), expected))


@pytest.mark.parametrize('as_tensor', [False, True])
@pytest.mark.parametrize('at_once', [1, 12, 1000])
def test_one_pixel_of_colour_makes_a_colour_image(monkeypatch, as_tensor, at_once):
    monkeypatch.setattr(pixels_module, 'PIXELS_AT_ONCE', at_once)
    image = np.repeat(np.arange(35, dtype=np.uint8).reshape(7, 5, 1), 3, axis=2)

    def found():
        return is_grey(torch.from_numpy(image.transpose(2, 0, 1) / 255.0) if as_tensor else image)

    assert found()
    for place in [(0, 0, 0), (6, 4, 1), (3, 2, 2)]:
        image[place] += 1
        assert not found()
        image[place] -= 1


def test_an_image_without_channels_is_grey():
    assert is_grey(np.zeros((3, 4), np.uint16))
