"""Stand-ins for modules that BasicSR imports and that are gone."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any


def alias_functional_tensor() -> None:
    """Provide `torchvision.transforms.functional_tensor`, which torchvision dropped in 0.17.

    `basicsr.data.degradations` takes `rgb_to_grayscale` from it; the function lives on under another path.
    """
    name = 'torchvision.transforms.functional_tensor'
    try:
        present = name in sys.modules or importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return  # no torchvision at all: BasicSR's own import error says so best
    if not present:
        from torchvision.transforms.functional import rgb_to_grayscale

        _stand_in(name, rgb_to_grayscale=rgb_to_grayscale)


def alias_distutils_version() -> None:
    """Provide `distutils.version`, which Python dropped in 3.12, where setuptools does not stand in for it.

    `basicsr.archs.arch_util` compares versions of torchvision by its `LooseVersion`.
    """
    name = 'distutils.version'
    if name not in sys.modules and importlib.util.find_spec('distutils') is None:
        from packaging.version import Version

        _stand_in(name, LooseVersion=Version)


def _stand_in(name: str, **content: Any) -> None:
    sys.modules[name] = module = ModuleType(name, f'Stand-in of {__name__} for a module that is gone.')
    vars(module).update(content)
