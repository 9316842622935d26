import pytest
import torch
from basicsr.losses import build_loss
from basicsr.losses.gan_loss import GANLoss

from irnsigma_plugin.losses.adversarial import per_sample_gan_loss

GAN_TYPES = ('vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge')


def logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gan_loss(gan_type, kind='GANLoss'):
    return build_loss({'type': kind, 'gan_type': gan_type, 'loss_weight': 0.3})


@pytest.mark.parametrize('is_disc', [False, True])
@pytest.mark.parametrize('is_real', [False, True])
@pytest.mark.parametrize('gan_type', GAN_TYPES)
@pytest.mark.parametrize('shape', [(4, 1), (4, 1, 5, 6)])
def test_the_mean_is_basicsrs_loss_of_the_batch(gan_type, shape, is_real, is_disc):
    criterion, prediction = gan_loss(gan_type), logits(*shape)
    values = per_sample_gan_loss(criterion, prediction, is_real, is_disc)
    assert values.shape == (4,)
    torch.testing.assert_close(values.mean(), criterion(prediction, is_real, is_disc=is_disc))


@pytest.mark.parametrize(
    ('gan_type', 'is_real', 'is_disc', 'expected'),
    [
        ('vanilla', True, True, [0.126928, 1.313262]),  # ln(1 + exp(-x))
        ('vanilla', False, True, [2.126928, 0.313262]),  # ln(1 + exp(x))
        ('lsgan', True, True, [1.0, 4.0]),  # (x - 1)²
        ('wgan', False, True, [2.0, -1.0]),  # x
        ('hinge', True, True, [0.0, 2.0]),  # max(0, 1 - x)
        ('hinge', True, False, [-0.6, 0.3]),  # -0.3 x: loss_weight is the generator's alone
    ],
)
def test_values_of_two_samples_by_hand(gan_type, is_real, is_disc, expected):
    values = per_sample_gan_loss(gan_loss(gan_type), torch.tensor([[2.0], [-1.0]]), is_real, is_disc)
    torch.testing.assert_close(values, torch.tensor(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize('gan_type', GAN_TYPES)
@pytest.mark.parametrize('nested', [False, True])
def test_several_scales(gan_type, nested):
    criterion = gan_loss(gan_type, 'MultiScaleGANLoss')
    prediction = [logits(3, 1, 4, 4), logits(3, 1, 2, 2, seed=1)]
    if nested:  # features first, of which only the last is compared
        prediction = [[logits(3, 7, 8, 8, seed=2), each] for each in prediction]
    values = per_sample_gan_loss(criterion, prediction, True, is_disc=False)
    assert values.shape == (3,)
    torch.testing.assert_close(values.mean(), criterion(prediction, True, is_disc=False))
    first = [[part[:1] for part in each] if nested else each[:1] for each in prediction]
    torch.testing.assert_close(values[0], criterion(first, True, is_disc=False))


class OtherGANLoss(GANLoss):
    """Not known to the plugin, hence applied to one sample after the other."""


@pytest.mark.parametrize('is_disc', [False, True])
@pytest.mark.parametrize('is_real', [False, True])
@pytest.mark.parametrize('gan_type', GAN_TYPES)
def test_all_at_once_equals_one_after_the_other(gan_type, is_real, is_disc):
    values, gradients = [], []
    for criterion in (GANLoss(gan_type, 0.9, 0.1, 0.3), OtherGANLoss(gan_type, 0.9, 0.1, 0.3)):
        prediction = logits(4, 1, 5, 6).requires_grad_()
        values.append(per_sample_gan_loss(criterion, prediction, is_real, is_disc))
        gradients += torch.autograd.grad((values[-1] * torch.arange(4)).sum(), prediction)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


def test_the_gradient_stays_within_the_sample():
    prediction = logits(3, 1).requires_grad_()
    per_sample_gan_loss(gan_loss('vanilla'), prediction, True, is_disc=False)[1].backward()
    assert prediction.grad.flatten().ne(0).tolist() == [False, True, False]


def test_unknown_gan_types_are_refused_by_basicsr():
    with pytest.raises(NotImplementedError, match='relativistic'):
        gan_loss('relativistic')
