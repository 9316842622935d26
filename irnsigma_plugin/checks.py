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

import contextlib
import difflib
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Callable

LARGEST = sys.float_info.max
NAMED = 3  # of many things, in a message
Rule = Callable[[str, Any], Iterator[str]]


def raise_faults(name: str, faults: Iterable[str]) -> None:
    """Raise a ValueError with all faults, after `name` and a colon, if there are any."""
    if text := ' '.join(faults):
        raise ValueError(f'{name}: {text}')


def one_line(error: BaseException) -> str:
    """The first paragraph of an error's message, in one line; its type where it has none."""
    return ' '.join(str(error).partition('\n\n')[0].split()) or type(error).__name__


def printable(text: str) -> str:
    """Text that can be encoded: bytes of a file's name that are no UTF-8 are spelt out."""
    return text.encode(errors='backslashreplace').decode()


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """A question, after a space, that names what is most similar to `name`; empty where nothing is."""
    return ''.join(f' Did you mean {nearest}?' for nearest in difflib.get_close_matches(str(name), known, 1))


def name_some(items: Sequence[str], separator: str = ', ') -> str:
    """The first few of a list, and how many more there are."""
    return separator.join(items[:NAMED]) + f' and {len(items) - NAMED} more' * (len(items) > NAMED)


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


def is_whole(value: Any, smallest: float = 1) -> bool:
    """Whether a value is a whole number from `smallest`; `true` and `false` are none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= smallest


def _number_in_quotes(value: Any) -> str:
    """What to do about a text that looks like a number; empty for other values."""
    with contextlib.suppress(ValueError):
        if isinstance(value, str) and math.isfinite(float(value)):
            is_bare = 'e' not in value.lower()
            return f' (text: {"remove the quotes" if is_bare else "write !!float before a number such as 1e-4"})'
    return ''


def _rule(accepts: Callable[[Any], object], demand: str) -> Rule:
    def rule(name: str, value: Any) -> Iterator[str]:
        if not accepts(value):
            yield f'{name} must be {demand} {value!r}{_number_in_quotes(value)}.'

    return rule


def whole(smallest: int = 1, largest: float = math.inf) -> Rule:
    """A whole number."""
    bounds = f'{smallest} or more' if math.isinf(largest) else f'{smallest} to {largest}'
    return _rule(lambda value: is_whole(value, smallest) and value <= largest, f'a whole number, {bounds}, but got')


def one_of(*choices: Any) -> Rule:
    """One of a few values, of the same type."""
    known = [(type(choice), choice) for choice in choices]
    return _rule(lambda value: (type(value), value) in known, f'one of {list(choices)}, but is')


integer = _rule(lambda value: is_whole(value, -math.inf), 'an integer, but is')
flag = _rule(lambda value: isinstance(value, bool), 'true or false, but is')
#: A name such as 2024 needs quotes, since YAML reads it as a number.
text = _rule(lambda value: isinstance(value, str) and value, 'text, in quotes where it looks like a number, but is')


def finite(above: float = -math.inf, smallest: float = -math.inf, largest: float = math.inf) -> Rule:
    """A finite number, more than `above` and from `smallest` to `largest`. Text such as 1e-4 is YAML's trap."""

    def rule(name: str, value: Any) -> Iterator[str]:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not (is_number and value > above and max(smallest, -LARGEST) <= value <= min(largest, LARGEST)):
            limits = {', more than {:g}': above, ', {:g} or more': smallest, ', {:g} or less': largest}
            bounds = ''.join(words.format(limit) for words, limit in limits.items() if math.isfinite(limit))
            yield f'{name} must be a number{bounds}, but got {value!r}{_number_in_quotes(value)}.'

    return rule


def iterations(smallest: int = 1) -> Rule:
    """A whole number, which may be written `!!float 5e3` as in BasicSR's option files."""
    is_number = finite(smallest=smallest)
    is_integral = _rule(lambda value: value == int(value), 'a whole number, but got')
    return lambda name, value: iter(list(is_number(name, value)) or is_integral(name, value))


def either(choice: Any, other: Rule) -> Rule:
    """One value, or what another rule takes, whose message names the value, too, if it is a text."""
    demand = f' must be {choice}, or ' if isinstance(choice, str) else ' must be '
    return lambda name, value: (
        fault.replace(' must be ', demand, 1) for fault in other(name, value) if any(one_of(choice)(name, value))
    )


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
