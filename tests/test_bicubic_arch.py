import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.matlab_functions import imresize
from helpers.invertibility import random_image

from irnsigma_plugin.archs.bicubic import BicubicRescaleNet


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_equals_basicsrs_imresize(scale):
    net = build_network({'type': 'BicubicRescaleNet', 'scale': scale})
    hr = random_image(1, 3, 6 * scale, 5 * scale)
    lr, latent = net.downscale(hr)
    torch.testing.assert_close(lr[0], imresize(hr[0], 1 / scale), rtol=0, atol=2e-5)
    torch.testing.assert_close(net.upscale(lr, latent)[0], imresize(lr[0], scale), rtol=0, atol=2e-5)


def test_sigma_has_no_effect_and_any_size_comes_back():
    net, hr = BicubicRescaleNet(4), random_image(2, 3, 9, 2)
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
