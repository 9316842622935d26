"""Protection of the weights against non-finite gradients."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import torch
from basicsr.utils import get_root_logger
from torch import nn


class StepGuard:
    """Takes an optimiser's step only where all gradients are finite.

    A step with a NaN or infinite gradient would ruin the weights, and with them every later checkpoint.
    It is skipped and counted instead; several in a row mean that training has diverged.

    Args:
        max_skipped: Number of skipped steps in a row, of one network, that stops the training.

    Attributes:
        skipped: Steps skipped so far, of all networks.
    """

    def __init__(self, max_skipped: int = 10) -> None:
        self.max_skipped = max_skipped
        self.skipped = 0
        self._in_a_row: Counter[str] = Counter()

    def step(self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], what: str,
             max_norm: float | None = None) -> bool:
        """Clip the gradients and step.

        Args:
            optimizer: Steps where the gradients are finite.
            parameters: The optimiser's parameters.
            what: Name of the network, for messages; each is counted by itself.
            max_norm: Bound of the gradient's L2 norm over all parameters; none for no clipping.

        Returns:
            Whether the step was taken.

        Raises:
            FloatingPointError: `max_skipped` steps in a row had to be skipped.
        """
        norm = nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)
        if torch.isfinite(norm):
            optimizer.step()
            self._in_a_row[what] = 0
            return True
        self.skipped += 1
        self._in_a_row[what] += 1
        get_root_logger().warning(f'Skipped a step of the {what}: its gradient is not finite '
                                  f'({self._in_a_row[what]} in a row).')
        if self._in_a_row[what] >= self.max_skipped:
            raise FloatingPointError(
                f'{self._in_a_row[what]} steps in a row of the {what} had non-finite gradients, so training has '
                'diverged and stops. The saved checkpoints are untouched: lower the learning rate or train.grad_clip, '
                'check the training images, and resume with --auto_resume.')
        return False
