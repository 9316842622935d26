"""Protection of the weights against non-finite gradients, and of running statistics against non-finite images."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_logger = logging.getLogger('basicsr')  # whose messages the log file of a training has


@contextmanager
def finite_statistics(*nets: nn.Module) -> Iterator[None]:
    """Take back what makes a buffer of a network, such as a running mean, non-finite, and so for ever, in the block.

    Nothing waits for a GPU. Autograd must be done with the networks by the end of the block.
    """
    buffers = [each for net in nets for each in net.buffers() if each.is_floating_point()]
    before = [buffer.clone() for buffer in buffers]
    yield
    for buffer, value in zip(buffers, before):
        buffer.copy_(torch.where(torch.isfinite(buffer), buffer, value))


class StepGuard:
    """Takes an optimiser's step only where all gradients are finite.

    Any other step would ruin the weights, and with them every later checkpoint. It is skipped and counted instead, the
    optimiser's state untouched; `max_skipped` in a row, of one network, mean that the training has diverged.

    A fused optimiser skips the step on its device. Then nothing waits for a GPU: the counts stay there until
    :meth:`check` reads them. Any other optimiser has to wait for the gradient's norm. On a CPU every step checks.
    """

    def __init__(self, max_skipped: int = 10) -> None:
        self.max_skipped = max_skipped
        self.skipped = 0  # steps so far, of all networks; as of the last check
        # For each network: steps skipped since the last check, in a row by now, in a row at worst.
        self._counts: dict[str, Tensor] = {}

    def step(self, optimizer: torch.optim.Optimizer, what: str, max_norm: float | None = None) -> None:
        """Clip the gradient's L2 norm over all parameters of the optimiser, if `max_norm` is given, and step.

        `what` names the network, each of which is counted by itself. Errors as of :meth:`check`, on a CPU.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
        norm = nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)
        skip = ~torch.isfinite(norm)
        if all(group.get('fused') for group in optimizer.param_groups):
            fused: Any = optimizer  # takes what torch's GradScaler sets to have a step skipped on the device
            fused.grad_scale, fused.found_inf = None, skip.float()
            fused.step()
            del fused.grad_scale, fused.found_inf
        elif not skip:
            optimizer.step()
        skipped, in_a_row, at_worst = self._counts.get(what, skip.new_zeros(3, dtype=torch.long))
        in_a_row = (in_a_row + 1) * skip
        self._counts[what] = torch.stack((skipped + skip, in_a_row, torch.maximum(at_worst, in_a_row)))
        if norm.device.type == 'cpu':
            self.check()

    def check(self) -> None:
        """Read the counts, which waits for the GPU, and warn of skipped steps.

        Raises:
            FloatingPointError: `max_skipped` steps in a row of one network had to be skipped.
        """
        for what, counts in self._counts.items():
            skipped, in_a_row, at_worst = counts.tolist()
            if not skipped:
                continue
            self.skipped += skipped
            self._counts[what] = counts.new_tensor([0, in_a_row, in_a_row])
            steps = f'{skipped} step{"s" * (skipped > 1)} of the {what}'
            _logger.warning(f'Skipped {steps}: the gradient was not finite ({at_worst} in a row).')
            if at_worst >= self.max_skipped:
                raise FloatingPointError(
                    f'{at_worst} steps in a row of the {what} had non-finite gradients, so training has diverged and '
                    'stops. The saved checkpoints are untouched: lower the learning rate or train.grad_clip, check the '
                    'training images, and resume with --auto_resume.'
                )

    def state_dict(self) -> dict[str, Any]:
        """The counts, for a training state."""
        counts = {what: each.tolist() for what, each in self._counts.items()}
        skipped = self.skipped + sum(skipped for skipped, _, _ in counts.values())
        return {'skipped': skipped, 'in_a_row': {what: in_a_row for what, (_, in_a_row, _) in counts.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the counts of :meth:`state_dict`."""
        self.skipped = state['skipped']
        self._counts = {what: torch.tensor([0, count, count]) for what, count in state['in_a_row'].items()}
