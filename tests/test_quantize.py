import pytest
import torch

from irnsigma_plugin.archs.rescaling_net import quantize


def test_values_are_those_of_an_8_bit_file():
    image = torch.tensor([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 0.5, 254.4 / 255, 1.0, 1.7])
    expected = torch.tensor([0.0, 0.0, 0.0, 1.0, 128.0, 254.0, 255.0, 255.0]) / 255  # 127.5 rounds to even
    torch.testing.assert_close(quantize(image), expected, rtol=0, atol=0)


def test_every_8_bit_value_is_kept_exactly():
    levels = torch.arange(256) / 255
    assert torch.equal(quantize(levels), levels)


def test_gradient_passes_unchanged_even_where_clamped():
    image = torch.tensor([-0.5, 0.3, 1.5], requires_grad=True)
    weight = torch.tensor([2.0, -3.0, 5.0])
    (quantize(image) * weight).sum().backward()
    assert torch.equal(image.grad, weight)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_short_types_are_rounded_in_full_precision(dtype):
    image = torch.tensor([0.3, 0.71], dtype=dtype, requires_grad=True)
    rounded = quantize(image)
    assert torch.equal(rounded, (image.float() * 255).round() / 255)
    rounded.sum().backward()
    assert torch.equal(image.grad, torch.ones(2, dtype=dtype))
