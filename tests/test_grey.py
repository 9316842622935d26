import numpy as np
import pytest
import torch

from irnsigma_plugin.rescaling import pixels as grey
from irnsigma_plugin.rescaling.pixels import is_grey, luma


def test_luma_by_hand():
    image = torch.tensor([1.0, 0.5, -2.0]).view(1, 3, 1, 1)
    expected = 0.299 + 0.2935 - 0.228  # before any clamping
    torch.testing.assert_close(luma(image), torch.full((1, 3, 1, 1), expected))


@pytest.mark.parametrize('as_tensor', [False, True])
@pytest.mark.parametrize('at_once', [1, 12, 1000])
def test_one_pixel_of_colour_makes_a_colour_image(monkeypatch, as_tensor, at_once):
    monkeypatch.setattr(grey, 'PIXELS_AT_ONCE', at_once)
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
