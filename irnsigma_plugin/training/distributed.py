"""Work of several processes (ranks) of one training or test."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Callable, TypeVar

import torch
from basicsr.utils.dist_util import get_dist_info
from torch.utils.data import DataLoader, Subset

Result = TypeVar('Result')


def on_all_ranks(what: str, work: Callable[[], Result], failure: type[Exception] = RuntimeError) -> list[Result]:
    """Do `work` on every rank, and return the results (to be pickled) of all ranks, in order, on every rank.

    A failure on one rank becomes an error on all, so that none waits for it forever: all have to call this. A process
    by itself just does the work, and its errors stay as they are.

    Raises:
        failure: `work` failed somewhere; the message names `what` it is, each such rank and its reason.
    """
    _, world_size = get_dist_info()
    if world_size == 1:
        return [work()]
    result = cause = reason = None
    try:
        result = work()
    except Exception as error:  # whatever it is, the other ranks must hear of it
        cause, reason = error, f'{type(error).__name__}: {error}'
    outcomes: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(outcomes, (result, reason))
    failures = [f'rank {rank} ({reason})' for rank, (_, reason) in enumerate(outcomes) if reason]
    if failures:
        raise failure(f'{what} failed on {", ".join(failures)}.') from cause
    return [result for result, _ in outcomes]


def shard(dataloader: DataLoader) -> DataLoader:
    """A loader of this rank's share of single images: each rank gets one in turn."""
    rank, world_size = get_dist_info()
    dataset: Any = dataloader.dataset
    return DataLoader(Subset(dataset, range(rank, len(dataset), world_size)))


def unshard(shares: Sequence[Sequence[Result | None]]) -> list[Result]:
    """Put what was made of all ranks' shares, an item of each, into the data set's order; None is left out."""
    return [item for turn in zip_longest(*shares) for item in turn if item is not None]
