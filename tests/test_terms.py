import pytest
import torch
from helpers.invertibility import random_image

from irnsigma_plugin.losses.mixture_loss import charbonnier, latent_energy, squared_error

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
