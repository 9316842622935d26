import numpy as np
import pytest
import torch
from helpers.invertibility import PixelShuffleNet, random_image

from irnsigma_plugin.archs.rescaling_net import quantize, reflection_pad, scale_noise


@pytest.mark.parametrize('multiple', [1, 2, 3, 8])
@pytest.mark.parametrize(('height', 'width'), [(1, 1), (5, 1), (2, 3), (3, 17), (8, 24)])
def test_reflection_pad_equals_numpy(height, width, multiple):
    image = random_image(2, 3, height, width)
    missing = ((0, 0), (0, 0), (0, -height % multiple), (0, -width % multiple))
    expected = torch.from_numpy(np.pad(image.numpy(), missing, mode='reflect'))
    assert torch.equal(reflection_pad(image, multiple), expected)


def test_reflection_pad_by_hand():
    row = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 3)
    assert reflection_pad(row, 8).flatten().tolist() == [1, 2, 3, 2, 1, 2, 3, 2] * 8
    assert reflection_pad(row, 3)[0, 0].tolist() == [1, 2, 3]


def test_reflection_pad_leads_the_gradient_back():
    row = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    padded = reflection_pad(row.expand(5, 3), 5)  # 1 2 3 2 1
    padded.sum().backward()
    assert row.grad.tolist() == [[10.0, 10.0, 5.0]]


@pytest.mark.parametrize(
    'sigma',
    [
        0.5,
        1,
        torch.tensor(0.25),
        torch.tensor([0.0, 1.0]),
        torch.tensor([0.0, 1.0], dtype=torch.float64),
        torch.rand(2, 1, 3, 4),
        torch.rand(1, 1, 3, 4),
    ],
    ids=lambda sigma: str(tuple(sigma.shape)) if isinstance(sigma, torch.Tensor) else str(sigma),
)
def test_scale_noise(sigma):
    epsilon = random_image(2, 9, 3, 4)
    expected = np.empty((2, 9, 3, 4), np.float32)
    full = np.asarray(sigma, np.float32)
    full = np.broadcast_to(full.reshape(-1, 1, 1, 1) if full.ndim == 1 else full, (2, 9, 3, 4))
    for index in np.ndindex(*expected.shape):
        expected[index] = full[index] * epsilon[index].item()
    scaled = scale_noise(epsilon, sigma)
    assert scaled.dtype == epsilon.dtype
    torch.testing.assert_close(scaled, torch.from_numpy(expected))


def test_forward_is_the_cycle_step_by_step():
    net = PixelShuffleNet(gain=1.2)
    hr, sigma = random_image(2, 3, 5, 7), torch.tensor([0.5, 1.0])
    epsilon = torch.randn(2, 9, 3, 4, generator=torch.Generator().manual_seed(0))
    result = net(hr, sigma, epsilon)
    lr = 1.2 * hr[..., ::2, ::2]
    torch.testing.assert_close(result.lr, lr)
    torch.testing.assert_close(result.lr_quantized, (lr.clamp(0, 1) * 255).round() / 255)
    assert (lr > 1).any(), 'the clamp is not tested'
    torch.testing.assert_close(result.latent, net.downscale(hr)[1])
    assert result.restored.shape == hr.shape
    torch.testing.assert_close(result.restored[..., ::2, ::2], result.lr_quantized)
    torch.testing.assert_close(result.restored[0, 0, 1::2, ::2], 0.5 * epsilon[0, 1, :2])  # lower left pixels
    torch.testing.assert_close(result.restored[1, 2, ::2, 1::2], epsilon[1, 6, :, :3])  # upper right pixels


def test_forward_draws_standard_normal_noise_itself():
    net, hr = PixelShuffleNet(), random_image(1, 3, 64, 64)
    torch.manual_seed(0)
    first, second = net(hr, 1.0).restored[..., 1::2, :], net(hr, 1.0).restored[..., 1::2, :]
    assert not torch.equal(first, second)
    assert abs(first.mean()) < 0.05
    assert abs(first.std() - 1) < 0.05
    torch.manual_seed(0)
    assert torch.equal(net(hr, 1.0).restored[..., 1::2, :], first)


def test_gradient_goes_straight_through_the_rounding():
    net, hr = PixelShuffleNet(gain=1.5), random_image(1, 3, 4, 4)
    result = net(hr, 0.0)
    weight = random_image(1, 3, 4, 4, seed=1)
    (result.restored * weight).sum().backward()
    # hr' = quantize(gain · first pixels), so the derivative is that pixel, clamped or not.
    expected = (hr * weight)[..., ::2, ::2].sum()
    assert (result.lr > 1).any(), 'the clamp is not tested'
    torch.testing.assert_close(net.gain.grad, expected)


def test_latent_shape_of_a_bijection():
    assert PixelShuffleNet().latent_shape((2, 3, 5, 7)) == (2, 9, 5, 7)


def test_quantized_values_are_those_of_an_8_bit_file():
    image = torch.tensor([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 0.5, 254.4 / 255, 1.0, 1.7])
    expected = torch.tensor([0.0, 0.0, 0.0, 1.0, 128.0, 254.0, 255.0, 255.0]) / 255  # 127.5 rounds to even
    torch.testing.assert_close(quantize(image), expected, rtol=0, atol=0)


def test_every_8_bit_value_is_kept_exactly():
    levels = torch.arange(256) / 255
    assert torch.equal(quantize(levels), levels)


def test_gradient_of_quantize_passes_unchanged_even_where_clamped():
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
