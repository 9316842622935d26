import pytest
import torch
from basicsr.losses import build_loss
from basicsr.losses.gan_loss import GANLoss
from helpers.invertibility import random_image, randomise

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.archs.rescaling_net import RescaleResult
from irnsigma_plugin.losses.adversarial import per_sample_gan_loss
from irnsigma_plugin.losses.mixture_loss import MixtureLoss, charbonnier, latent_energy, squared_error
from irnsigma_plugin.losses.perceptual_loss import PerSamplePerceptualLoss
from irnsigma_plugin.training.discriminator import IRNDiscriminator

LAMBDAS = {'lambda_reconstruction': 0.01, 'lambda_guidance': 16.0, 'lambda_distribution': 0.5, 'lambda_perceptual': 0.1}
# Distances of two samples, by hand. The images are large, so that the 1e-6 under the root does not count:
# L_r = 300 + 400 and 200; L_g = 0.1² + 0.2² and 0.3²; z: 1 + 4 and 9; L_d and L_p are given as numbers.
HR = torch.tensor([[0.0, 1000.0], [0.0, 500.0]]).view(2, 1, 1, 2)
LR_REF = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).view(2, 1, 1, 2)
RESULT = RescaleResult(
    lr=torch.tensor([[0.6, 0.3], [0.5, 0.8]]).view(2, 1, 1, 2),
    lr_quantized=torch.full((2, 1, 1, 2), 99.0),
    latent=torch.tensor([[1.0, -2.0], [0.0, 3.0]]).view(2, 1, 1, 2),
    restored=torch.tensor([[300.0, 600.0], [0.0, 300.0]]).view(2, 1, 1, 2),
)
SIGMA = torch.tensor([0.25, 1.0])
ADVERSARIAL = torch.tensor([2.0, 0.6])
PERCEPTUAL = torch.tensor([10.0, 30.0])


def compute(**arguments):
    adversarial = None if arguments.get('distribution') == 'latent' else ADVERSARIAL
    return MixtureLoss(**{**LAMBDAS, **arguments})(RESULT, HR, LR_REF, SIGMA, adversarial, PERCEPTUAL)


def close(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=1e-4, atol=0)


def test_equation_2_term_by_term():
    loss, terms = compute()
    close(terms.reconstruction, 2.625)  # 0.01 · (0.75 · 700 + 0 · 200) / 2
    close(terms.guidance, 1.12)  # 16 · (0.05 + 0.09) / 2
    close(terms.distribution, 0.275)  # 0.5 · (0.25 · 2 + 1 · 0.6) / 2
    close(terms.perceptual, 1.625)  # 0.1 · (0.25 · 10 + 1 · 30) / 2
    close(loss, 5.645)


def test_equation_1_is_equal_weights():
    loss, terms = compute(weighting='equal')
    close(terms.reconstruction, 4.5)  # 0.01 · (700 + 200) / 2
    close(terms.guidance, 1.12)
    close(terms.distribution, 0.65)  # 0.5 · (2 + 0.6) / 2
    close(terms.perceptual, 2.0)  # 0.1 · (10 + 30) / 2
    close(loss, 8.27)


@pytest.mark.parametrize(('weighting', 'expected'), [('sigma', 2.5625), ('equal', 3.5)])
def test_latent_distribution(weighting, expected):
    loss, terms = compute(weighting=weighting, distribution='latent')
    close(terms.distribution, expected)  # 0.5 · (w · 5 + 1 · 9) / 2
    close(loss - sum(value for name, value in terms._asdict().items() if name != 'distribution'), expected)


def test_plain_irn_needs_neither_discriminator_nor_features():
    criterion = MixtureLoss(1.0, 16.0, 1.0, 0.0, weighting='equal', distribution='latent')
    loss, terms = criterion(RESULT, HR, LR_REF, SIGMA)
    close(loss, 458.12)  # (700 + 200) / 2 + 16 · 0.14 / 2 + (5 + 9) / 2
    assert terms.perceptual == 0


def test_an_adversarial_term_cannot_be_forgotten():
    with pytest.raises(ValueError, match='adversarial'):
        MixtureLoss()(RESULT, HR, LR_REF, SIGMA)


@pytest.mark.parametrize('name', LAMBDAS)
def test_each_lambda_scales_its_own_term(name):
    _, terms = compute()
    _, doubled = compute(**{name: 2 * LAMBDAS[name]})
    for term, value in terms._asdict().items():
        factor = 2 if name == f'lambda_{term}' else 1
        torch.testing.assert_close(getattr(doubled, term), factor * value)


@pytest.fixture(scope='module')
def networks():
    net = randomise(InvRescaleNet(2, [1], growth_channels=4))
    discriminator = IRNDiscriminator(num_feat=2, input_size=128).requires_grad_(False)
    return net, discriminator, PerSamplePerceptualLoss({'conv1_2': 1.0}, 'vgg16', weights='random')


@pytest.mark.parametrize('sigma', [0.0, 0.5, 1.0])
def test_which_terms_reach_the_restored_image(networks, sigma):
    """The gradient of the weighted sum is the gradient of the terms that sigma leaves, and of no other."""
    net, discriminator, perceptual = networks
    hr = random_image(2, 3, 128, 128)
    lr_ref, sigmas = hr[..., ::2, ::2], torch.full((2,), sigma)
    result = net(hr, sigmas)
    restored = result.restored.detach().requires_grad_()
    adversarial = per_sample_gan_loss(GANLoss('vanilla'), discriminator(restored), True, is_disc=False)
    result = result._replace(restored=restored)
    _, terms = MixtureLoss()(result, hr, lr_ref, sigmas, adversarial, perceptual(restored, hr))

    def reached(term):
        (gradient,) = torch.autograd.grad(term, restored, retain_graph=True, allow_unused=True)
        return gradient is not None and bool(gradient.any())

    assert not reached(terms.guidance)
    assert [reached(terms.reconstruction), reached(terms.distribution), reached(terms.perceptual)] == [
        sigma < 1,
        sigma > 0,
        sigma > 0,
    ]


@pytest.mark.parametrize(('sigma', 'absent', 'present'), [(0.0, 'dp', 'r'), (1.0, 'r', 'dp')])
def test_generator_gradient_at_the_ends(networks, sigma, absent, present):
    """Scaling the absent terms a hundredfold changes no gradient of the generator, scaling others does."""
    net, discriminator, perceptual = networks
    hr, sigmas = random_image(2, 3, 128, 128), torch.full((2,), sigma)
    names = {'r': 'lambda_reconstruction', 'd': 'lambda_distribution', 'p': 'lambda_perceptual'}

    def gradient(scaled):
        result = net(hr, sigmas, epsilon=torch.ones(2, 9, 64, 64))
        adversarial = per_sample_gan_loss(GANLoss('vanilla'), discriminator(result.restored), True, is_disc=False)
        criterion = MixtureLoss(**{names[letter]: 100.0 for letter in scaled})
        loss, _ = criterion(result, hr, hr[..., ::2, ::2], sigmas, adversarial, perceptual(result.restored, hr))
        trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, trainable)])

    plain = gradient('')
    torch.testing.assert_close(gradient(absent), plain, rtol=0, atol=0)
    for letter in present:
        assert not torch.allclose(gradient(letter), plain)


def test_built_by_basicsr_with_the_values_of_irn_plus():
    criterion = build_loss({'type': 'MixtureLoss', 'weighting': 'equal'})
    assert isinstance(criterion, MixtureLoss)
    assert tuple(criterion.lambdas) == (0.01, 16, 1, 0.01)
    assert list(criterion.parameters()) == []


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'weighting': 'sigmas'}, "weighting must be one of .*'sigma', 'equal'.*'sigmas'"),
        ({'distribution': 'gan'}, "distribution must be one of .*'adversarial', 'latent'.*'gan'"),
        ({'lambda_guidance': -1.0}, 'lambda_guidance must be a number, 0 or more, but got -1'),
        ({'lambda_perceptual': float('nan')}, 'lambda_perceptual must be a number, 0 or more, but got nan'),
        ({'lambda_perceptual': float('inf')}, 'lambda_perceptual must be a number, 0 or more, but got inf'),
        ({'lambda_perceptual': '1e-2'}, "lambda_perceptual must be a number, 0 or more, but got '1e-2' .*!!float"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=f'MixtureLoss: .*{message}'):
        MixtureLoss(**arguments)


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match='lambda_pixel'):
        build_loss({'type': 'MixtureLoss', 'lambda_pixel': 1.0})


A = torch.tensor([[[[1.0, 2.0]]], [[[0.0, 0.0]]]], dtype=torch.float64)
B = torch.tensor([[[[4.0, 2.0]]], [[[0.0, -0.002]]]], dtype=torch.float64)


@pytest.mark.parametrize(
    ('term', 'arguments', 'expected'),
    [
        # sqrt(9 + 1e-6) + sqrt(1e-6); sqrt(1e-6) + sqrt(4e-6 + 1e-6)
        (charbonnier, (A, B), [3.00100016666666, 0.00323606797749979]),
        (squared_error, (A, B), [9.0, 4e-6]),
        (latent_energy, (A,), [5.0, 0.0]),
    ],
)
def test_values_by_hand(term, arguments, expected):
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(term(*arguments), expected, rtol=1e-12, atol=0)


def test_charbonnier_takes_the_square_root_of_another_eps():
    assert charbonnier(A, A, eps=0.25).tolist() == [1.0, 1.0]


@pytest.mark.parametrize('term', [charbonnier, squared_error, lambda x, y: latent_energy(x - y)])
def test_gradients_are_finite_at_zero_and_right(term):
    x, y = (random_image(2, 3, 2, 2, dtype=torch.float64, seed=seed).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(term, (x, y))
    (gradient,) = torch.autograd.grad(term(x, x.detach()).sum(), x)
    assert torch.equal(gradient, torch.zeros_like(x))
