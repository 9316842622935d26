"""Explains a lack of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from irnsigma_plugin.memory import is_lack_of_memory


@contextmanager
def explained_lack_of_memory(what: str, remedy: str) -> Iterator[None]:
    """Turn a lack of memory, of a GPU or of the machine, into one line with the remedy.

    Args:
        what: The work that needs it.
        remedy: What to do to need less.

    Raises:
        MemoryError: In the place of torch's errors.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_lack_of_memory(error):
            raise
        gpu = isinstance(error, torch.OutOfMemoryError)
        raise MemoryError(
            f'The {what} needs more memory than the {"GPU" if gpu else "machine"} has left: {remedy}, or end what else '
            'uses it. What was saved is untouched: resume with --auto_resume.') from None
