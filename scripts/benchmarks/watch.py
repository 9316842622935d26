"""Where the time of a call goes."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

import torch

from benchmarks.measure import Moment, elapsed, moment


class Watch:
    """Divides the time of a call among named parts: it belongs to the part that was entered last and not yet left.

    On a GPU it is the time of the GPU, by events among its work: the call is neither made to wait for it nor changed
    otherwise.

    Args:
        device: What works.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._entered: list[str] = []
        self._marks: list[tuple[Moment, str | None]] = []  # where a part begins, and which

    def watch(self, owner: object, method: str, part: str | Callable[[], str]) -> None:
        """Make every call of a method of this object a part, named at once or at each call."""
        call = getattr(owner, method)

        @functools.wraps(call)
        def watched(*args, **kwargs):
            with self.part(part if isinstance(part, str) else part()):
                return call(*args, **kwargs)

        setattr(owner, method, watched)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Enter a part, and leave it at the end of the block."""
        self._entered.append(name)
        self._mark()
        try:
            yield
        finally:
            self._entered.pop()
            self._mark()

    def change(self, name: str) -> None:
        """Let another part take the place of the one entered last."""
        self._entered[-1] = name
        self._mark()

    def read(self) -> dict[str, float]:
        """Seconds of each part since the last reading."""
        taken: dict[str, float] = defaultdict(float)
        for (start, name), (end, _) in zip(self._marks, self._marks[1:]):
            if name is not None:
                taken[name] += elapsed(start, end)
        self._marks.clear()
        return dict(taken)

    def _mark(self) -> None:
        self._marks.append((moment(self.device), self._entered[-1] if self._entered else None))
