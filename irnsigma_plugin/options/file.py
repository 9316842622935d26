"""Reading an option file without running anything that is written into it."""

from __future__ import annotations

import os
from collections.abc import Hashable
from typing import Any

import yaml

from irnsigma_plugin.checks import one_line
from irnsigma_plugin.options.rules import OptionError

# Of `*name` in a file. Nested ones multiply: a few hundred bytes could stand for more than memory holds.
MAX_ALIASES = 32


class _Loader(yaml.SafeLoader):
    """Plain values only, in the order of the file, and every key once."""

    def construct_block(self, node: yaml.MappingNode) -> dict[Any, Any]:
        """As BasicSR does, that is without `<<`."""
        values: dict[Any, Any] = {}
        for (key, value), (key_node, _) in zip(self.construct_pairs(node), node.value):
            if isinstance(key, Hashable) and key not in values:
                values[key] = value
            else:
                twice = f'the key {key!r} stands there twice'
                fault = twice if isinstance(key, Hashable) else 'a list or block cannot be a key'
                raise yaml.constructor.ConstructorError(None, None, fault, key_node.start_mark)
        return values


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _Loader.construct_block)


def read_option_file(path: str | os.PathLike) -> Any:
    """Read an option file as BasicSR reads it, but safely: `!!float` and the like, no tag that makes Python objects.

    Raises:
        OptionError: It cannot be read, is no YAML, has a tag that could run code, a key twice, or too many aliases.
    """
    try:
        with open(path, 'rb') as file:
            content = file.read()
        aliases = [event for event in yaml.parse(content, Loader=_Loader) if isinstance(event, yaml.AliasEvent)]
        if len(aliases) > MAX_ALIASES:
            mark = aliases[MAX_ALIASES].start_mark
            raise yaml.composer.ComposerError(None, None, f'more than {MAX_ALIASES} aliases', mark)
        return yaml.load(content, Loader=_Loader)
    except OSError as error:
        raise OptionError(f'{path} cannot be read ({error.strerror}).') from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, 'problem_mark', None)
        place = f'{path}, line {mark.line + 1}' if mark else path
        problem = getattr(error, 'problem', None) or one_line(error)
        if not isinstance(error, yaml.constructor.ConstructorError):
            raise OptionError(f'{place} is no YAML: {problem}.') from None
        warning = ' Such a tag can run code when BasicSR reads the file: do not use it.' * ('python/' in problem)
        raise OptionError(f'{place}: {problem}.{warning}') from None
