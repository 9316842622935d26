"""sigma: what values it may have, and how it is drawn during training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from irnsigma_plugin.checks import number

if TYPE_CHECKING:  # option files are checked without torch
    import torch
    from torch import Tensor

THREE_POINTS = (0.0, 0.5, 1.0)
STRATEGIES = ('points', 'uniform', 'fixed')
GRANULARITIES = ('sample', 'batch')


class SigmaSampler:
    """Draws the sigma of each training sample (IRN_sigma paper, Fig. 2a).

    Args:
        strategy: `points`: one of `values`, all equally likely; `uniform`: anywhere in [0, 1];
            `fixed`: always the one in `values`.
        values: Numbers in [0, 1]. For `points` the paper's best, {0, 0.5, 1}, by default; one number for
            `fixed`; none for `uniform`.
        per: `sample`: every sample of a batch draws its own sigma; `batch`: they share one.

    Raises:
        ValueError: An unknown strategy or granularity, or values that do not fit.

    Example:
        >>> sampler = SigmaSampler('points', values=[0, 1])
        >>> sampler(4)
        tensor([1., 0., 0., 1.])
    """

    def __init__(self, strategy: str = 'points', values: Sequence[float] | None = None, per: str = 'sample') -> None:
        if strategy not in STRATEGIES:
            raise ValueError(f'sigma: strategy must be one of {list(STRATEGIES)}, but got {strategy!r}.')
        if per not in GRANULARITIES:
            raise ValueError(f'sigma: per must be one of {list(GRANULARITIES)}, but got {per!r}.')
        if values is None:
            values = THREE_POINTS if strategy == 'points' else ()
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ValueError(f'sigma: values must be a list such as {list(THREE_POINTS)}, but got {values!r}.')
        expected = {'points': len(values) >= 1, 'uniform': not values, 'fixed': len(values) == 1}
        if not expected[strategy]:
            raise ValueError(
                f"sigma: 'points' takes one or more values, 'fixed' exactly one, 'uniform' none, "
                f'but got {list(values)} for {strategy!r}.'
            )
        self.strategy = strategy
        self.values = tuple(check_sigma(value) for value in values)
        self.per = per

    def __call__(self, batch_size: int, device: torch.device | str = 'cpu') -> Tensor:
        """Draw from torch's global CPU generator.

        Returns:
            (batch_size,) tensor on `device`.
        """
        import torch

        count = batch_size if self.per == 'sample' else 1
        if self.strategy == 'uniform':
            sigma = torch.rand(count)
        else:
            sigma = torch.tensor(self.values)[torch.randint(len(self.values), (count,))]
        return sigma.expand(batch_size).to(device, non_blocking=True)


def check_sigma(sigma: float) -> float:
    """Return `sigma` as a float.

    Raises:
        ValueError: `sigma` is no number in [0, 1].
    """
    try:
        return number('sigma', sigma, smallest=0, largest=1)
    except ValueError:
        raise ValueError(f'sigma must be a number from 0 (faithful) to 1 (sharp), but got {sigma!r}.') from None
