import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.matlab_functions import imresize as basicsr_imresize

from irnsigma_plugin.archs.bicubic import (
    BicubicRescaleNet,
    bicubic_downscale,
    bicubic_downscale_crop,
    bicubic_upscale,
    imresize,
)


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_tensor(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
def test_imresize_equals_basicsr(scale):
    images = random_tensor(2, 3, 12 * scale, 15 * scale)
    small = imresize(images, 1 / scale)
    large = imresize(small, scale)
    for image, image_small, image_large in zip(images, small, large):
        # BasicSR computes in float32, which limits its positions to about 1e-5 pixels at the scale 3.
        torch.testing.assert_close(image_small.float(), basicsr_imresize(image.float(), 1 / scale), atol=2e-5, rtol=0)
        torch.testing.assert_close(image_large.float(), basicsr_imresize(image_small.float(), scale), atol=2e-5, rtol=0)


@pytest.mark.parametrize(('height', 'width'), [(41, 63), (42, 61), (47, 68)])
def test_imresize_rounds_sides_up_as_basicsr(height, width):
    image = random_tensor(1, 3, height, width)
    torch.testing.assert_close(
        imresize(image, 0.25)[0].float(), basicsr_imresize(image[0].float(), 0.25), atol=2e-5, rtol=0
    )


def test_imresize_by_two_has_the_weights_of_the_cubic():
    # Distances 1/4, 3/4, 5/4, 7/4 of the cubic with a = -1/2, halved.
    weights = torch.tensor([-3, -9, 29, 111, 111, 29, -9, -3], dtype=torch.float64) / 256
    ramp = random_tensor(1, 1, 2, 16).mean(2, keepdim=True).expand(1, 1, 8, 16)
    expected = (ramp[0, 0, 0, 3:11] * weights).sum()
    torch.testing.assert_close(imresize(ramp, 0.5)[0, 0, 1, 3], expected)


def test_imresize_is_differentiable_and_keeps_constants():
    images = torch.full((1, 3, 6, 9), 0.3, dtype=torch.float64, requires_grad=True)
    for factor in (1 / 3, 3):
        resized = imresize(images, factor)
        torch.testing.assert_close(resized, torch.full_like(resized, 0.3))
    (gradient,) = torch.autograd.grad(imresize(images, 1 / 3).sum(), images)
    torch.testing.assert_close(gradient.sum(), torch.tensor(3 * 2 * 3.0, dtype=torch.float64))


@pytest.mark.parametrize('factor', [0, -2, 1.5, 0.3])
def test_imresize_refuses_other_factors(factor):
    with pytest.raises(ValueError, match='whole number'):
        imresize(torch.zeros(1, 1, 8, 8), factor)


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
def test_8_bit_values_are_basicsrs_rounded(scale):
    image = random_image(13 * scale, 9 * scale)
    small = bicubic_downscale(image, scale)
    assert (small.dtype, small.shape) == (np.uint8, (13, 9, 3))
    # At exact halves BasicSR's own rounding error decides; half a level plus that error is the most.
    reference = basicsr_imresize(image.astype(np.float32) / 255, 1 / scale) * 255
    assert np.abs(small - reference.clip(0, 255)).max() <= 0.5 + 5e-3
    reference = basicsr_imresize(small.astype(np.float32) / 255, scale) * 255
    assert np.abs(bicubic_upscale(small, scale) - reference.clip(0, 255)).max() <= 0.5 + 5e-3


def test_8_bit_halves_are_rounded_up_and_overshoot_is_clamped():
    step = np.zeros((4, 16, 3), np.uint8)
    step[:, 8:] = 255
    # In 1/256 the four pixels at the edge see -3, -3 - 9 + 29 = 17, 239 and 259 of it.
    np.testing.assert_array_equal(bicubic_downscale(step, 2)[0, 2:6, 0], [0, 17, 238, 255])
    dots = np.zeros((8, 16, 3), np.uint8)
    dots[:, 7] = 128
    assert bicubic_downscale(dots, 2)[0, 3, 0] == 56  # 128 · 111 / 256 = 55.5


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_crop_equals_the_whole_image_cropped(scale):
    image = random_image(14 * scale, 11 * scale, seed=scale)
    whole = bicubic_downscale(image, scale)
    for size in (1, 4, 11):
        for top in range(14 - size + 1):
            for left in range(11 - size + 1):
                part = bicubic_downscale_crop(image, scale, top * scale, left * scale, size * scale)
                np.testing.assert_array_equal(part, whole[top : top + size, left : left + size])


def test_an_image_smaller_than_the_kernel_is_mirrored_more_than_once():
    image = random_image(4, 4)
    tiled = np.concatenate([image, image[::-1]] * 5)[:, [0, 1, 2, 3, 3, 2, 1, 0] * 5]
    np.testing.assert_array_equal(bicubic_downscale(image, 4), bicubic_downscale(tiled, 4)[4:5, 4:5])


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda image: bicubic_downscale(image[:30], 4), '30x24 pixels cannot be shrunk by 4.*multiples of 4'),
        (lambda image: bicubic_downscale(image / 255, 4), 'uint8'),
        (lambda image: bicubic_downscale(image[..., 0], 4), 'shape'),
        (lambda image: bicubic_upscale(image, 17), 'from 1 to 16'),
        (lambda image: bicubic_downscale_crop(image, 4, 2, 0, 8), 'multiples of the scale 4, got 2, 0, 8'),
        (lambda image: bicubic_downscale_crop(image, 4, 0, 20, 8), 'not inside the image of 32x24'),
        (lambda image: bicubic_downscale_crop(image, 4, -4, 0, 8), 'not inside'),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_image(32, 24))


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_network_equals_basicsrs_imresize(scale):
    net = build_network({'type': 'BicubicRescaleNet', 'scale': scale})
    hr = random_tensor(1, 3, 6 * scale, 5 * scale).float()
    lr, latent = net.downscale(hr)
    torch.testing.assert_close(lr[0], basicsr_imresize(hr[0], 1 / scale), rtol=0, atol=2e-5)
    torch.testing.assert_close(net.upscale(lr, latent)[0], basicsr_imresize(lr[0], scale), rtol=0, atol=2e-5)


def test_sigma_has_no_effect_and_any_size_comes_back():
    net, hr = BicubicRescaleNet(4), random_tensor(2, 3, 9, 2).float()
    faithful, sharp = net(hr, torch.zeros(2)), net(hr, torch.ones(2))
    assert faithful.lr.shape == (2, 3, 3, 1)
    assert faithful.latent.shape == net.latent_shape(faithful.lr.shape) == (2, 0, 3, 1)
    assert faithful.restored.shape == hr.shape
    assert torch.equal(faithful.restored, sharp.restored)


@pytest.mark.parametrize('scale', [0, -4, 1.5])
def test_wrong_scales_are_refused(scale):
    with pytest.raises(ValueError, match=f'scale must be.*got {scale}'):
        BicubicRescaleNet(scale)


def test_receptive_field_is_that_of_the_kernel():
    assert BicubicRescaleNet(4).receptive_field() == 8
