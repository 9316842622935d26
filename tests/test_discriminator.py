import pytest
import torch
from basicsr.archs import build_network
from basicsr.archs.discriminator_arch import VGGStyleDiscriminator
from helpers.invertibility import random_image

from irnsigma_plugin.training.discriminator import IRNDiscriminator


@pytest.mark.parametrize('size', [128, 144, 159])
def test_one_logit_per_patch(size):
    net = build_network({'type': 'IRNDiscriminator', 'num_feat': 4, 'input_size': size})
    assert net(random_image(2, 3, size, size)).shape == (2, 1)


def test_144_is_the_default():
    assert IRNDiscriminator(num_feat=4)(random_image(2, 3, 144, 144)).shape == (2, 1)


def test_values_are_those_of_basicsr_at_128():
    reference = VGGStyleDiscriminator(3, 4)
    net = IRNDiscriminator(3, 4, input_size=128)
    net.load_state_dict(reference.state_dict(), strict=True)
    patches = random_image(2, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(net(patches), reference(patches))


def test_weights_do_not_depend_on_the_patch_size():
    shapes = [
        {key: value.shape for key, value in net.state_dict().items()}
        for net in (VGGStyleDiscriminator(3, 4), IRNDiscriminator(3, 4))
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize('size', [127, 160, 256, 0])
def test_sizes_whose_map_is_not_4x4_are_refused(size):
    with pytest.raises(ValueError, match=f'input_size must be 128 to 159.*but got {size}'):
        IRNDiscriminator(input_size=size)


def test_patches_of_another_size_are_refused():
    with pytest.raises(AssertionError, match='input_size'):
        IRNDiscriminator(num_feat=4)(random_image(2, 3, 128, 128))
