"""sigma: what values it may have, and how it is drawn during training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from irnsigma_plugin.checks import list_of, number, one_of, raise_faults

if TYPE_CHECKING:  # `irnsigma --help` answers without torch
    import torch
    from torch import Tensor


class SigmaSampler:
    """Draws the sigma of each training sample (IRN_sigma paper, Fig. 2a).

    Args:
        strategy: `points`: one of `values`, all equally likely; `uniform`: anywhere in [0, 1];
            `fixed`: always the one in `values`.
        values: List of numbers in [0, 1]. For `points` the paper's best, [0, 0.5, 1], by default; a single one for
            `fixed`; left out for `uniform`.
        per: `sample`: every sample of a batch draws its own sigma; `batch`: they share one.

    Raises:
        ValueError: An unknown strategy, or values that do not fit.

    Example:
        >>> sampler = SigmaSampler('points', values=[0, 1])
        >>> sampler(4)
        tensor([1., 0., 0., 1.])
    """

    def __init__(self, strategy: str = 'points', values: Sequence[float] | None = None, per: str = 'sample') -> None:
        raise_faults('sigma', SigmaSampler.check(strategy, values, per))
        self.strategy = strategy
        self.values = tuple(map(float, _points(strategy) if values is None else values))
        self.per = per

    @staticmethod
    def check(strategy: Any, values: Any, per: Any) -> Iterator[str]:
        yield from one_of('points', 'uniform', 'fixed')('strategy', strategy)
        yield from one_of('sample', 'batch')('per', per)
        values = _points(strategy) if values is None else values
        yield from list_of(sigma_value, '[0, 0.5, 1]', shortest=0)('values', values)
        if isinstance(values, (list, tuple)):
            fits = {'points': len(values) > 0, 'uniform': len(values) == 0, 'fixed': len(values) == 1}
            if not fits.get(str(strategy), True):
                expected = "'points' takes one or more, 'fixed' exactly one, 'uniform' none"
                yield f'values: {expected}, but got {list(values)} for {strategy!r}.'

    def __call__(self, batch_size: int, device: torch.device | str = 'cpu') -> Tensor:
        """Draw from torch's global CPU generator: a tensor (batch_size,) on `device`."""
        import torch

        count = batch_size if self.per == 'sample' else 1
        if self.strategy == 'uniform':
            sigma = torch.rand(count)
        else:
            sigma = torch.tensor(self.values)[torch.randint(len(self.values), (count,))]
        return sigma.expand(batch_size).to(device, non_blocking=True)


def _points(strategy: Any) -> tuple[float, ...]:
    return (0.0, 0.5, 1.0) if strategy == 'points' else ()


def sigma_value(name: str, value: Any) -> Iterator[str]:
    """Rule: a number in [0, 1]."""
    try:
        check_sigma(value)
    except ValueError as error:
        yield f'{name}: {error}'


def check_sigma(sigma: float) -> float:
    """Return `sigma` as a float; raise a ValueError if it is no number in [0, 1]."""
    try:
        return number('sigma', sigma, smallest=0, largest=1)
    except ValueError:
        raise ValueError(f'sigma must be a number from 0 (faithful) to 1 (sharp), but got {sigma!r}.') from None
