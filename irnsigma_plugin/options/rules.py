"""What a value in an option file may be: rules, and how they are put together.

A rule takes the dotted name of a key and its value, and yields one sentence for every fault, none for a good
value. So a whole file is judged in one go, and a new key needs one line: its name and its rule.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable

from irnsigma_plugin import checks

Rule = Callable[[str, Any], Iterator[str]]


class OptionError(ValueError):
    """Keys or values of an option file are wrong; the message lists all of them."""


def refuse(faults: Iterable[str], source: str = 'The option file') -> None:
    """Do nothing where there are no faults.

    Raises:
        OptionError: The only fault, or all of them below each other.
    """
    faults = list(faults)
    if len(faults) > 1:
        raise OptionError(f'{source} has {len(faults)} faults:' + ''.join(f'\n  {fault}' for fault in faults))
    if faults:
        raise OptionError(faults[0])


def anything(name: str, value: Any) -> Iterator[str]:
    """Whatever it is, it is judged elsewhere or not at all."""
    return iter(())


def satisfying(check: Callable[[str, Any], Any]) -> Rule:
    """What `check(name, value)` takes without a ValueError, whose text is the fault."""

    def rule(name: str, value: Any) -> Iterator[str]:
        try:
            check(name, value)
        except ValueError as error:
            yield str(error)

    return rule


def number(above: float = -math.inf, smallest: float = -math.inf, largest: float = math.inf) -> Rule:
    """A finite number within bounds, see :func:`irnsigma_plugin.checks.number`."""
    return satisfying(lambda name, value: checks.number(name, value, above, smallest, largest))


def whole(smallest: int = 1) -> Rule:
    """A whole number."""
    return satisfying(lambda name, value: checks.whole_number(name, value, smallest))


def integer(name: str, value: Any) -> Iterator[str]:
    """A whole number of either sign."""
    if isinstance(value, bool) or not isinstance(value, int):
        yield f'{name} must be an integer, but is {value!r}.'


def iterations(smallest: int = 1) -> Rule:
    """A whole number, which may be written `!!float 5e3` as in BasicSR's option files."""

    def check(name: str, value: Any) -> None:
        if not checks.number(name, value, smallest=smallest).is_integer():
            raise ValueError(f'{name} must be a whole number, but got {value!r}.')

    return satisfying(check)


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


def either(first: Rule, second: Rule) -> Rule:
    """What one of two rules takes; otherwise the faults that the second finds."""

    def rule(name: str, value: Any) -> Iterator[str]:
        return iter(()) if not any(first(name, value)) else second(name, value)

    return rule


def empty_or(other: Rule) -> Rule:
    """`~`, or what another rule takes."""
    return lambda name, value: iter(()) if value is None else other(name, value)


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
            yield _no_block(name, value)
        else:
            for key, element in value.items():
                yield from item(f'{name}.{key}', element)

    return rule


def block(keys: Mapping[str, Rule], hints: Mapping[str, str] | None = None) -> Rule:
    """A block with no other keys than these. One that is left empty (`~`) counts as absent.

    Args:
        keys: Rule of each key.
        hints: For keys that people expect but that do not exist: why, or what to take instead.
    """

    def rule(name: str, value: Any) -> Iterator[str]:
        if not isinstance(value, Mapping):
            yield _no_block(name, value)
        else:
            for key, element in value.items():
                if key not in keys:
                    yield unknown_key(name, key, keys, hints or {})
                elif element is not None:
                    yield from keys[key](_join(name, key), element)

    return rule


def arguments(keys: Mapping[str, Rule], needed: Iterable[str] = ()) -> Rule:
    """A block that becomes the arguments of a class or function, so that `~` is a value like others.

    Args:
        keys: Rule of each argument.
        needed: Those without a default.
    """

    def rule(name: str, value: Any) -> Iterator[str]:
        if not isinstance(value, Mapping):
            yield _no_block(name, value)
            return
        for key in needed:
            if key not in value:
                yield f'{_join(name, key)} is missing.'
        for key, element in value.items():
            if key in keys:
                yield from keys[key](_join(name, key), element)
            else:
                yield unknown_key(name, key, keys, {})

    return rule


def typed(types: Mapping[str, Rule], refused: Mapping[str, str] | None = None, closed: bool = False) -> Rule:
    """A block whose `type` says which rule judges the rest of it.

    Args:
        types: Rule of the block, without its `type`, for each type.
        refused: Types that exist but cannot be used here: why.
        closed: Whether there are no other types. Otherwise another one belongs to BasicSR or to an extension, and its
            block is not judged.
    """

    def rule(name: str, value: Any) -> Iterator[str]:
        if not isinstance(value, Mapping):
            yield _no_block(name, value)
            return
        kind = value.get('type')
        if kind is None:
            yield f'{name}.type is missing{f", for example {next(iter(types))}" if types else ""}.'
        elif not isinstance(kind, str):
            yield from text(f'{name}.type', kind)
        elif refused and kind in refused:
            yield f'{name}.type: {refused[kind]}'
        elif kind in types:
            yield from types[kind](name, {key: element for key, element in value.items() if key != 'type'})
        elif closed:
            yield from one_of(*types)(f'{name}.type', kind)

    return rule


def value_at(opt: Any, key: str) -> Any:
    """The value of a dotted key; None where it is absent, or where something on the way is no block."""
    for part in key.split('.'):
        opt = opt.get(part) if isinstance(opt, Mapping) else None
    return opt


def unknown_key(name: str, key: Any, known: Iterable[str], hints: Mapping[str, str]) -> str:
    """Say that nothing reads a key, and name the nearest one that something does."""
    if key in hints:
        return f'Unknown key {_join(name, key)}: {hints[key]}.'
    nearest = difflib.get_close_matches(str(key), known, n=1)
    hint = f'Did you mean {nearest[0]}?' if nearest else f'Known keys: {", ".join(sorted(known))}.'
    return f'Unknown key {_join(name, key)}. {hint}'


def _no_block(name: str, value: Any) -> str:
    return f'{name} must be a block of keys, but is {value!r}.'


def _join(name: str, key: Any) -> str:
    return f'{name}.{key}' if name else str(key)
