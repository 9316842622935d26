"""Checks of what people give: in option files, on the command line, in calls.

A rule takes the name of a value and the value, and yields one sentence for every fault, none for a good value.

A class or function of BasicSR's registries owns its arguments. Which there are, and their defaults, is told by its
signature; what their values may be, by a static generator `check`, if it has one. That takes those arguments that it
judges, by name, and yields sentences that begin with an argument's name. The check of option files puts the dotted name
of the block before it, the constructor its class, by `raise_faults('MyNet', MyNet.check(scale))`::

    @staticmethod
    def check(scale: Any) -> Iterator[str]:
        yield from one_of(2, 4)('scale', scale)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any, Callable

Rule = Callable[[str, Any], Iterator[str]]


def raise_faults(name: str, faults: Iterable[str]) -> None:
    """Raise a ValueError with all faults, after `name` and a colon, if there are any."""
    text = ' '.join(faults)
    if text:
        raise ValueError(f'{name}: {text}')


def one_line(error: BaseException) -> str:
    """The first paragraph of an error's message, in one line; its type where it has none."""
    return ' '.join(str(error).partition('\n\n')[0].split()) or type(error).__name__


def whole_number(name: str, value: Any, smallest: int = 1) -> int:
    """Return `value` if it is a whole number from `smallest`; otherwise raise a ValueError that names it."""
    for fault in whole(smallest)(name, value):
        raise ValueError(fault)
    return int(value)


def number(name: str, value: Any, **bounds: float) -> float:
    """Return `value` if :func:`finite` with these bounds takes it; otherwise raise a ValueError that names it."""
    for fault in finite(**bounds)(name, value):
        raise ValueError(fault)
    return float(value)


def is_whole(value: Any, smallest: int = 1) -> bool:
    """Whether a value is a whole number from `smallest`; `true` and `false` are none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= smallest


def whole(smallest: int = 1) -> Rule:
    """A whole number."""

    def rule(name: str, value: Any) -> Iterator[str]:
        if not is_whole(value, smallest):
            yield f'{name} must be a whole number, {smallest} or more, but got {value!r}.'

    return rule


def integer(name: str, value: Any) -> Iterator[str]:
    """A whole number of either sign."""
    if isinstance(value, bool) or not isinstance(value, int):
        yield f'{name} must be an integer, but is {value!r}.'


def finite(above: float = -math.inf, smallest: float = -math.inf, largest: float = math.inf) -> Rule:
    """A finite number, more than `above` and from `smallest` to `largest`. Text such as 1e-4 is YAML's trap."""

    def rule(name: str, value: Any) -> Iterator[str]:
        is_finite = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if is_finite and value > above and smallest <= value <= largest:
            return
        bounds = [f', more than {above:g}'] * (above > -math.inf) + [f', {smallest:g} or more'] * (smallest > -math.inf)
        bounds += [f', {largest:g} or less'] * (largest < math.inf)
        hint = ' (text: write !!float before a number such as 1e-4)' if isinstance(value, str) else ''
        yield f'{name} must be a number{"".join(bounds)}, but got {value!r}{hint}.'

    return rule


def iterations(smallest: int = 1) -> Rule:
    """A whole number, which may be written `!!float 5e3` as in BasicSR's option files."""

    def rule(name: str, value: Any) -> Iterator[str]:
        faults = list(finite(smallest=smallest)(name, value))
        yield from faults
        if not faults and value != int(value):
            yield f'{name} must be a whole number, but got {value!r}.'

    return rule


def text(name: str, value: Any) -> Iterator[str]:
    """Text; a name such as 2024 needs quotes, since YAML reads it as a number."""
    if not isinstance(value, str) or not value:
        yield f'{name} must be text, in quotes where it looks like a number, but is {value!r}.'


def flag(name: str, value: Any) -> Iterator[str]:
    """`true` or `false`."""
    if not isinstance(value, bool):
        yield f'{name} must be true or false, but is {value!r}.'


def one_of(*choices: Any) -> Rule:
    """One of a few values, of the same type."""

    def rule(name: str, value: Any) -> Iterator[str]:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            yield f'{name} must be one of {list(choices)}, but is {value!r}.'

    return rule


def either(choice: Any, other: Rule) -> Rule:
    """One value, or what another rule takes."""
    return lambda name, value: other(name, value) if any(one_of(choice)(name, value)) else iter(())


def list_of(item: Rule, example: str, shortest: int = 1, longest: float = math.inf) -> Rule:
    """A list of good values."""

    def rule(name: str, value: Any) -> Iterator[str]:
        if not isinstance(value, (list, tuple)) or not shortest <= len(value) <= longest:
            yield f'{name} must be a list such as {example}, but is {value!r}.'
        else:
            for index, element in enumerate(value):
                yield from item(f'{name}[{index}]', element)

    return rule


def each(item: Rule) -> Rule:
    """A block with keys of any name, all values good."""

    def rule(name: str, value: Any) -> Iterator[str]:
        if not isinstance(value, Mapping):
            yield f'{name} must be a block of keys, but is {value!r}.'
        else:
            for key, element in value.items():
                yield from item(f'{name}.{key}', element)

    return rule
