"""Rules of blocks in option files, beside those of single values in :mod:`irnsigma_plugin.checks`.

A whole file is judged in one go, so a rule yields every fault. A new key needs one line: its name and its rule.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, Callable

from irnsigma_plugin.checks import Rule, empty_or, one_line, one_of, text

NO_HINTS: Mapping[str, str] = {}
UNKNOWN = 'Unknown key '


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


def block(keys: Mapping[str, Rule], hints: Mapping[str, str] = NO_HINTS) -> Rule:
    """A block with no other keys than these. One that is left empty (`~`) counts as absent.

    Args:
        keys: Rule of each key.
        hints: For keys that people expect but that do not exist: why, or what to take instead.
    """
    return _of_keys({key: empty_or(rule) for key, rule in keys.items()}, (), hints)


def arguments(keys: Mapping[str, Rule], needed: Iterable[str] = ()) -> Rule:
    """A block that becomes the arguments of a class or function, so that `~` is a value like others.

    Args:
        keys: Rule of each argument.
        needed: Those without a default.
    """
    return _of_keys(keys, needed, NO_HINTS)


def _of_keys(keys: Mapping[str, Rule], needed: Iterable[str], hints: Mapping[str, str]) -> Rule:
    def rule(name: str, value: Any) -> Iterator[str]:
        if not isinstance(value, Mapping):
            yield f'{name} must be a block of keys, but is {value!r}.'
            return
        yield from (f'{_join(name, key)} is missing.' for key in needed if key not in value)
        for key, element in value.items():
            yield from keys[key](_join(name, key), element) if key in keys else [_unknown_key(name, key, keys, hints)]

    return rule


def constructed(cls: Callable[..., Any], given: Container[str] = ()) -> Rule:
    """A block that becomes the arguments of a class or function, which owns them (:mod:`irnsigma_plugin.checks`).

    Names, and which of them are needed, are those of its signature, where `**kwargs` takes all; values are judged by
    its `check`, if it has one.

    Args:
        cls: The class or function.
        given: Arguments that do not come from the option file.
    """
    parameters = inspect.signature(cls).parameters
    defaults = {name: each.default for name, each in parameters.items() if name not in given and not _is_variable(each)}
    needed = [name for name, default in defaults.items() if default is inspect.Parameter.empty]

    def rule(name: str, value: Any) -> Iterator[str]:
        known = {**defaults, **value} if takes_all(cls) and isinstance(value, Mapping) else defaults
        yield from arguments(dict.fromkeys(known, anything), needed)(name, value)
        check = getattr(cls, 'check', None)
        if check is not None and isinstance(value, Mapping):
            values = {**defaults, **value}
            judged = {key: values.get(key, inspect.Parameter.empty) for key in inspect.signature(check).parameters}
            if inspect.Parameter.empty not in judged.values():
                yield from asked(cls, name, **judged)

    return rule


def asked(cls: Any, name: str, *arguments: Any, **named: Any) -> Iterator[str]:
    """What the `check` of a class says of its arguments, those of the block `name`."""
    try:
        yield from prefixed(name, list(cls.check(*arguments, **named)))
    except Exception as error:  # an extension's, by a value that it is not prepared for
        yield f'{name}: {cls.__name__}.check ends in {type(error).__name__}: {one_line(error)}.'


def prefixed(name: str, faults: Iterable[str]) -> Iterator[str]:
    """Sentences that begin with the name of an argument, or with `Unknown key` and the name, within a block."""
    for fault in faults:
        start = UNKNOWN * fault.startswith(UNKNOWN)
        yield f'{start}{name}.{fault[len(start) :]}'


def default_of(cls: Callable[..., Any] | None, argument: str) -> Any:
    """The default of a class's or function's argument; None where it has none, or there is no class."""
    default = _parameters(cls)[argument].default if argument in _parameters(cls) else inspect.Parameter.empty
    return None if default is inspect.Parameter.empty else default


def takes_all(cls: Callable[..., Any] | None) -> bool:
    """Whether a class or function takes arguments that its signature does not name."""
    return any(map(_is_variable, _parameters(cls).values()))


def _parameters(cls: Callable[..., Any] | None) -> Mapping[str, inspect.Parameter]:
    return {} if cls is None else inspect.signature(cls).parameters


def _is_variable(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


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


def _unknown_key(name: str, key: Any, known: Iterable[str], hints: Mapping[str, str]) -> str:
    """Say that nothing reads a key, and name the nearest one that something does."""
    nearest = difflib.get_close_matches(str(key), known, n=1)
    hint = f'Did you mean {nearest[0]}?' if nearest else f'Known keys: {", ".join(sorted(known))}.'
    return f'{UNKNOWN}{_join(name, key)}' + (f': {hints[key]}.' if key in hints else f'. {hint}')


def _join(name: str, key: Any) -> str:
    return f'{name}.{key}' if name else str(key)
