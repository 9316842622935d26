"""Checks of numbers that people give: in option files, on the command line, in calls."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def whole_number(name: str, value: Any, smallest: int = 1) -> int:
    """Return `value` if it is a whole number from `smallest`.

    Raises:
        ValueError: It is not; the message names `name` and the value.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < smallest:
        raise ValueError(f'{name} must be a whole number, {smallest} or more, but got {value!r}.')
    return int(value)


def number(
    name: str, value: Any, above: float = -math.inf, smallest: float = -math.inf, largest: float = math.inf
) -> float:
    """Return `value` if it is a finite number, more than `above` and from `smallest` to `largest`.

    Raises:
        ValueError: It is not; the message names `name`, the value, and YAML's trap of reading 1e-4 as text.
    """
    if (
        isinstance(value, Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value > above
        and smallest <= value <= largest
    ):
        return float(value)
    bounds = (
        [f'more than {above:g}'] * (above > -math.inf)
        + [f'{smallest:g} or more'] * (smallest > -math.inf)
        + [f'{largest:g} or less'] * (largest < math.inf)
    )
    hint = ' (text: write !!float before a number such as 1e-4)' if isinstance(value, str) else ''
    raise ValueError(f'{name} must be a number{"".join(f", {bound}" for bound in bounds)}, but got {value!r}{hint}.')
