"""Rules of blocks in option files, beside those of single values in :mod:`irnsigma_plugin.checks`.

A whole file is judged in one go, so a rule yields every fault.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, Callable

from irnsigma_plugin.checks import Rule, did_you_mean, one_line, one_of, text

UNKNOWN = 'Unknown key '
_VARIABLE = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


class OptionError(ValueError):
    """Keys or values of an option file are wrong; the message lists all of them."""


def refuse(faults: Iterable[str], source: str = 'The option file') -> None:
    """Raise an OptionError with the only fault, or all of them below each other, if there are any."""
    faults = list(faults)
    if faults:
        listed = ''.join(f'\n  {fault}' for fault in faults)
        raise OptionError(f'{source} has {len(faults)} faults:{listed}' if len(faults) > 1 else faults[0])


def anything(name: str, value: Any) -> Iterator[str]:
    """Whatever it is, it is judged elsewhere or not at all."""
    return iter(())


def file_name(name: str, value: Any) -> Iterator[str]:
    """A text that can be the name of a folder."""
    yield from text(name, value)
    if isinstance(value, str) and (os.sep in value or value in ('.', '..')):
        yield f'{name} must be a name without {os.sep}, but is {value!r}.'


def block(keys: Mapping[str, Rule], needed: Iterable[str] = (), hints: Mapping[str, str] = {}) -> Rule:
    """A block with no other keys than these; `hints` say of others what to take instead, or why they do not exist."""

    def rule(name: str, value: Any) -> Iterator[str]:
        if not isinstance(value, Mapping):
            yield f'{name} must be a block of keys, but is {value!r}.'
            return
        yield from (f'{join(name, key)} is missing.' for key in needed if key not in value)
        for key, element in value.items():
            if key in keys:
                yield from keys[key](join(name, key), element)
            elif key in hints:
                yield f'{UNKNOWN}{join(name, key)}: {hints[key]}.'
            else:
                hint = did_you_mean(key, keys) or f' Known keys: {", ".join(sorted(keys))}.'
                yield f'{UNKNOWN}{join(name, key)}.{hint}'

    return rule


def join(name: str, key: Any) -> str:
    """The dotted name of a key in a block; the file itself has no name."""
    return f'{name}.{key}' if name else str(key)


def prefixed(name: str, faults: Iterable[str]) -> Iterator[str]:
    """Sentences that begin with the name of an argument, or with `Unknown key` and the name, within a block."""
    for fault in faults:
        start = UNKNOWN * fault.startswith(UNKNOWN)
        yield f'{start}{name}.{fault[len(start) :]}'


def constructed(cls: Callable[..., Any], given: Container[str] = ()) -> Rule:
    """A block that becomes the arguments of a class or function, which owns them (:mod:`irnsigma_plugin.checks`).

    Those `given` do not come from the option file.
    """
    defaults = {name: default for name, default in _defaults(cls).items() if name not in given}
    needed = [name for name, default in defaults.items() if default is inspect.Parameter.empty]

    def rule(name: str, value: Any) -> Iterator[str]:
        values = {**defaults, **value} if isinstance(value, Mapping) else defaults
        yield from block(dict.fromkeys(values if takes_all(cls) else defaults, anything), needed)(name, value)
        if hasattr(cls, 'check') and isinstance(value, Mapping):
            owner = next(base for base in getattr(cls, '__mro__', (cls,)) if 'check' in vars(base))
            values = {**_defaults(owner), **values}  # a subclass may set arguments of the class whose check it inherits
            names = inspect.signature(cls.check).parameters
            judged = {key: values.get(key, inspect.Parameter.empty) for key in names}
            if inspect.Parameter.empty not in judged.values():
                yield from asked(cls, name, **judged)

    return rule


def asked(cls: Any, name: str, *arguments: Any, **named: Any) -> Iterator[str]:
    """What the `check` of a class says of its arguments, those of the block `name`."""
    try:
        yield from prefixed(name, list(cls.check(*arguments, **named)))
    except Exception as error:  # an extension's, by a value that it is not prepared for
        yield f'{name}: {cls.__name__}.check ends in {type(error).__name__}: {one_line(error)}.'


def default_of(cls: Callable[..., Any] | None, argument: str) -> Any:
    """The default of a class's or function's argument; None where it has none, or there is no class."""
    default = _defaults(cls).get(argument, inspect.Parameter.empty)
    return None if default is inspect.Parameter.empty else default


def takes_all(cls: Callable[..., Any] | None) -> bool:
    """Whether a class or function takes arguments that its signature does not name."""
    return any(each.kind in _VARIABLE for each in _parameters(cls).values())


def _parameters(cls: Callable[..., Any] | None) -> Mapping[str, inspect.Parameter]:
    return {} if cls is None else inspect.signature(cls).parameters


def _defaults(cls: Callable[..., Any] | None) -> dict[str, Any]:
    """Of all arguments that the signature names; those without a default have `Parameter.empty`."""
    return {name: each.default for name, each in _parameters(cls).items() if each.kind not in _VARIABLE}


def typed(types: Mapping[str, Rule]) -> Rule:
    """A block whose `type` says which rule judges the rest of it."""

    def rule(name: str, value: Any) -> Iterator[str]:
        kind = value_at(value, 'type')
        yield from type_faults(name, value, next(iter(types)))
        if isinstance(kind, str):
            yield from types[kind](name, without_type(value)) if kind in types else one_of(*types)(f'{name}.type', kind)

    return rule


def type_faults(name: str, value: Any, example: str) -> Iterator[str]:
    """What keeps a block from being one with a `type`."""
    if not isinstance(value, Mapping):
        yield from block({})(name, value)
    elif value.get('type') is None:
        yield f'{name}.type is missing, for example {example}.'
    else:
        yield from text(f'{name}.type', value['type'])


def without_type(value: Mapping[str, Any]) -> dict[str, Any]:
    """A block without its `type`."""
    return {key: element for key, element in value.items() if key != 'type'}


def value_at(opt: Any, key: str) -> Any:
    """The value of a dotted key; None where it is absent, or where something on the way is no block."""
    found: Any = opt
    for part in key.split('.'):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
