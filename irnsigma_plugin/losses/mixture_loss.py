"""The joint loss of a training, and its distances, one value per sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from irnsigma_plugin.archs.rescaling_net import RescaleResult
from irnsigma_plugin.checks import finite, one_of, raise_faults


def charbonnier(prediction: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """Smooth L1 distance, `sum over C,H,W of sqrt((prediction - target)^2 + eps)`: (N, ...) twice -> (N,).

    `eps`, IRN's by default, gives it a gradient at 0.

    Raises:
        ValueError: The shapes differ.
    """
    return (_difference(prediction, target).square() + eps).sqrt().flatten(1).sum(1)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared L2 distance, summed per sample. Shapes and errors as of :func:`charbonnier`."""
    return _difference(prediction, target).square().flatten(1).sum(1)


def latent_energy(latent: Tensor) -> Tensor:
    """`sum of z^2`, the negative log-likelihood of z under N(0, I) up to scale and constant: (N, ...) -> (N,)."""
    return latent.square().flatten(1).sum(1)


def _difference(prediction: Tensor, target: Tensor) -> Tensor:
    shapes = tuple(prediction.shape), tuple(target.shape)
    if shapes[0] != shapes[1]:
        raise ValueError(f'Expected tensors of the same shape, but got {shapes[0]} and {shapes[1]}.')
    return prediction - target


class MixtureTerms(NamedTuple):
    """One value for each term of the loss."""

    reconstruction: Tensor
    guidance: Tensor
    distribution: Tensor
    perceptual: Tensor


class MixtureLoss(nn.Module):
    """Joint loss of fidelity and perception, eq. (2) of the IRN_sigma paper (Pan, ICASSP 2022).

    Averaged over the samples of a batch, each with its own sigma::

        L = (1 - sigma) λ1 L_r + λ2 L_g + sigma (λ3 L_d + λ4 L_p)      weighting: sigma    (IRN_sigma)
        L =             λ1 L_r + λ2 L_g +        λ3 L_d + λ4 L_p       weighting: equal    (IRN, IRN+)

    - L_r: reconstruction, the Charbonnier distance between restored and original image;
    - L_g: guidance, the squared distance between low-resolution image (before rounding) and bicubic;
    - L_d: distribution: adversarial (IRN+, IRN_sigma), or latent, the sum of z² (IRN);
    - L_p: perceptual, see :class:`~irnsigma_plugin.losses.perceptual_loss.PerSamplePerceptualLoss`.

    Each is summed over the elements of a sample. The defaults are IRN+'s values at x4.

    Args:
        lambda_reconstruction: λ1; IRN takes 1.
        lambda_guidance: λ2; scale² in the papers.
        lambda_distribution: λ3.
        lambda_perceptual: λ4.
        weighting: `sigma` or `equal`.
        distribution: `adversarial` or `latent`.

    Raises:
        ValueError: An unknown weighting or distribution, or a negative λ.
    """

    def __init__(
        self,
        lambda_reconstruction: float = 0.01,
        lambda_guidance: float = 16.0,
        lambda_distribution: float = 1.0,
        lambda_perceptual: float = 0.01,
        weighting: str = 'sigma',
        distribution: str = 'adversarial',
    ) -> None:
        super().__init__()
        lambdas = lambda_reconstruction, lambda_guidance, lambda_distribution, lambda_perceptual
        raise_faults('MixtureLoss', MixtureLoss.check(*lambdas, weighting, distribution))
        self.lambdas, self.weighting, self.distribution = lambdas, weighting, distribution

    @staticmethod
    def check(
        lambda_reconstruction, lambda_guidance, lambda_distribution, lambda_perceptual, weighting, distribution
    ) -> Iterator[str]:
        """What is wrong with the arguments, see :mod:`irnsigma_plugin.checks`."""
        lambdas = lambda_reconstruction, lambda_guidance, lambda_distribution, lambda_perceptual
        for term, value in zip(MixtureTerms._fields, lambdas):
            yield from finite(smallest=0)(f'lambda_{term}', value)
        yield from one_of('sigma', 'equal')('weighting', weighting)
        yield from one_of('adversarial', 'latent')('distribution', distribution)

    def forward(
        self,
        result: RescaleResult,
        hr: Tensor,
        lr_ref: Tensor,
        sigma: Tensor,
        adversarial: Tensor | None = None,
        perceptual: Tensor | None = None,
    ) -> tuple[Tensor, MixtureTerms]:
        """The loss of a batch, a scalar, and its four contributions.

        Args:
            result: What the network made of `hr`.
            hr: (N, 3, H, W) original images in [0, 1].
            lr_ref: (N, 3, h, w) their bicubic reductions.
            sigma: (N,) in [0, 1].
            adversarial: (N,) the generator's adversarial losses, for `distribution: adversarial`.
            perceptual: (N,) perceptual distances; none leaves the term out.

        Raises:
            ValueError: `sigma` is not (N,), or `adversarial` is missing where it is needed.
        """
        if sigma.shape != hr.shape[:1]:
            raise ValueError(f'MixtureLoss: sigma must be of shape ({len(hr)},), but is {tuple(sigma.shape)}.')
        distribution = latent_energy(result.latent) if self.distribution == 'latent' else adversarial
        if distribution is None:
            raise ValueError('MixtureLoss: distribution adversarial needs the adversarial loss of each sample.')
        perceptual = torch.zeros_like(sigma) if perceptual is None else perceptual
        per_sample = charbonnier(result.restored, hr), squared_error(result.lr, lr_ref), distribution, perceptual
        weighted = zip(self.lambdas, self.weights(sigma), per_sample)
        terms = MixtureTerms(*(factor * (weight * distance).mean() for factor, weight, distance in weighted))
        return torch.stack(terms).sum(), terms

    def weights(self, sigma: Tensor) -> MixtureTerms:
        """The sigma-dependent weight of each term, for each sample."""
        one = torch.ones_like(sigma)
        if self.weighting == 'equal':
            return MixtureTerms(one, one, one, one)
        return MixtureTerms(one - sigma, one, sigma, sigma)
