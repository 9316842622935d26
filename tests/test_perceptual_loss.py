from __future__ import annotations

import math

import pytest
import torch
from basicsr.archs.vgg_arch import VGGFeatureExtractor
from basicsr.losses import build_loss
from torch.nn import functional as F

from irnsigma_plugin.imagenet import weights as imagenet_weights
from irnsigma_plugin.losses.perceptual_loss import PerSamplePerceptualLoss, VGGFeatures


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def random_loss(**layer_weights: float) -> PerSamplePerceptualLoss:
    torch.manual_seed(0)
    return PerSamplePerceptualLoss(layer_weights, vgg_type='vgg16', weights='random')


@pytest.fixture
def without_weights(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)


def normalised(image: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((image.movedim(1, -1) - mean) / std).movedim(-1, 1)


def test_features_are_the_named_outputs_of_the_stack():
    torch.manual_seed(0)
    vgg = VGGFeatures(['conv1_1', 'relu1_1', 'conv1_2', 'pool1'], 'vgg16', weights='random')
    first, second = vgg.net[0], vgg.net[2]
    image = images(2, 3, 8, 6)
    conv1_1 = F.conv2d(normalised(image), first.weight, first.bias, padding=1)
    conv1_2 = F.conv2d(conv1_1.relu(), second.weight, second.bias, padding=1)
    features = vgg(image)
    assert list(features) == ['conv1_1', 'relu1_1', 'conv1_2', 'pool1']
    assert features['conv1_1'].min() < 0  # before the ReLU, and not overwritten by it
    torch.testing.assert_close(features['conv1_1'], conv1_1)
    torch.testing.assert_close(features['relu1_1'], conv1_1.relu())
    torch.testing.assert_close(features['conv1_2'], conv1_2)
    torch.testing.assert_close(features['pool1'], F.max_pool2d(conv1_2.relu(), 2))


def test_network_ends_at_the_last_requested_layer():
    convolutions = [m for m in VGGFeatures(['conv3_1', 'conv2_1'], weights='random').net if hasattr(m, 'weight')]
    assert [m.out_channels for m in convolutions] == [64, 64, 128, 128, 256]


def test_loss_is_the_summed_charbonnier_distance_per_sample():
    loss = random_loss(conv1_1=2.0, conv1_2=0.5)
    prediction, target = images(3, 3, 8, 6), images(3, 3, 8, 6, seed=1)
    first, second = loss.vgg.net[0], loss.vgg.net[2]
    expected = []
    for sample in range(3):
        total = 0.0
        conv1_1, conv1_2 = [], []
        for image in (prediction, target):
            x = F.conv2d(normalised(image[sample : sample + 1]), first.weight, first.bias, padding=1)
            conv1_1.append(x)
            conv1_2.append(F.conv2d(x.relu(), second.weight, second.bias, padding=1))
        total += 2.0 * ((conv1_1[0] - conv1_1[1]).double() ** 2 + 1e-6).sqrt().sum()
        total += 0.5 * ((conv1_2[0] - conv1_2[1]).double() ** 2 + 1e-6).sqrt().sum()
        expected.append(total.item())
    value = loss(prediction, target)
    assert value.shape == (3,)
    torch.testing.assert_close(value, torch.tensor(expected), rtol=1e-5, atol=0)


def test_equal_images_give_the_root_of_epsilon_per_element():
    image = images(2, 3, 8, 6)
    value = random_loss(conv2_1=3.0)(image, image)
    torch.testing.assert_close(value, torch.full((2,), 3.0 * 128 * 4 * 3 * 1e-3))


def test_gradient_reaches_the_prediction_only():
    loss = random_loss(conv2_2=1.0).train()
    prediction, target = images(2, 3, 8, 8).requires_grad_(), images(2, 3, 8, 8, seed=1).requires_grad_()
    value = loss(prediction, target)
    value[0].backward()
    assert prediction.grad[0].abs().sum() > 0
    assert not prediction.grad[1].any()  # per sample: the second has no part in the first value
    assert target.grad is None
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert not any(module.training for module in loss.vgg.modules())


@pytest.mark.parametrize(('vgg_type', 'layer'), [('vgg16', 'conv5_3'), ('vgg19', 'conv5_4')])
def test_default_is_the_last_convolution_before_its_relu(vgg_type, layer):
    loss = build_loss({'type': 'PerSamplePerceptualLoss', 'vgg_type': vgg_type, 'weights': 'random'})
    assert loss.layer_weights == {layer: 1.0}
    assert isinstance(loss.vgg.net[-1], torch.nn.Conv2d)
    assert loss.vgg(images(1, 3, 16, 33))[layer].shape == (1, 512, 1, 2)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'vgg_type': 'vgg11'}, "vgg_type must be one of .*'vgg16', 'vgg19'.*'vgg11'"),
        (
            {'vgg_type': 'vgg16', 'layer_weights': {'conv5_4': 1.0}},
            'layer_weights.conv5_4 is no layer of vgg16; its last convolution is conv5_3',
        ),
        ({'layer_weights': {}}, 'layer_weights must be a block such as .*conv5_4: 1.*, but is {}'),
        ({'layer_weights': {'conv5_4': 0.0}}, 'layer_weights.conv5_4 must be a number, more than 0, but got 0.0'),
        ({'layer_weights': {'conv5_4': math.nan}}, 'layer_weights.conv5_4 must be a number, more than 0, but got nan'),
        ({'weights': 'none'}, "weights must be one of .*'imagenet', 'random'.*'none'"),
    ],
)
def test_wrong_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PerSamplePerceptualLoss(**options)


def test_options_of_basicsrs_loss_that_have_no_meaning_here_are_refused():
    with pytest.raises(TypeError, match='style_weight'):
        build_loss({'type': 'PerSamplePerceptualLoss', 'style_weight': 0})


@pytest.mark.parametrize('shape', [(1, 1, 16, 16), (3, 16, 16), (1, 3, 16, 15)])
def test_unsuitable_images_are_refused(shape):
    vgg = VGGFeatures(['conv5_3'], 'vgg16', weights='random')
    with pytest.raises(ValueError, match=r'conv5_3 needs images \(N, 3, H, W\) with H, W >= 16'):
        vgg(torch.zeros(shape))


@pytest.mark.parametrize(('vgg_type', 'remedy'), [('vgg16', 'irnsigma fetch-weights'), ('vgg19', 'vgg_type: vgg16')])
def test_no_weights_is_an_error_and_never_random_weights(without_weights, vgg_type, remedy):
    with pytest.raises(imagenet_weights.WeightsError, match=remedy):
        PerSamplePerceptualLoss(vgg_type=vgg_type)


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_equals_basicsrs_extractor_with_imagenet_weights():
    if not imagenet_weights.torchvision_path('vgg16').is_file():  # BasicSR would download it
        pytest.skip("torchvision's file of VGG16 is not in the hub cache")
    layers = ['conv1_2', 'relu3_3', 'conv5_3']
    image = images(1, 3, 32, 40)
    expected = VGGFeatureExtractor(layers, 'vgg16')(image)
    torch.testing.assert_close(VGGFeatures(layers, 'vgg16')(image), expected, rtol=0, atol=0)
