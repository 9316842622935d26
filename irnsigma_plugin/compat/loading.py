"""Loads the plugin into BasicSR and spandrel at the moment they are imported.

`python -m basicsr.train` imports only BasicSR's own folders. So a `.pth` file beside this package imports it at every
interpreter start, and its finder waits for `import basicsr`: then come fixes, BasicSR, this plugin, and extensions.
After `import spandrel`, of which the importing program knows no more, this plugin registers.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from types import ModuleType
from typing import Any

from irnsigma_plugin.checks import one_line

_PACKAGE = __name__.partition('.')[0]
# What this plugin builds on, and older versions lack.
_NEEDED = {
    'basicsr.utils.options': 'parse_options',
    'basicsr.utils.registry': 'ARCH_REGISTRY',
    'basicsr.utils.dist_util': '_init_dist_pytorch',
}


def find_host(name: str, path: Any, target: Any) -> Any:
    """Spec of a package as everybody else finds it, to be executed by `_Loader`; None where there is none."""
    others = [each for each in sys.meta_path if type(each).__module__ != _PACKAGE and hasattr(each, 'find_spec')]
    spec: Any = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
    if spec is not None and spec.loader is not None:  # None: a mere folder of that name
        spec.loader = _Loader(spec.loader)
    return spec


class _Loader:
    """A package's ordinary loader, with the plugin's work before and after the package is executed."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: Any) -> None:
        module.__loader__ = module.__spec__.loader = self._loader
        if module.__name__ == 'basicsr':
            prepare()
        self._loader.exec_module(module)
        complete(module.__name__)


def prepare() -> None:
    """Apply what BasicSR needs in order to be imported."""
    alias_functional_tensor()
    alias_distutils_version()


def alias_functional_tensor() -> None:
    """Provide the module from which `basicsr.data.degradations` imports a function; torchvision dropped it in 0.17."""
    name = 'torchvision.transforms.functional_tensor'
    try:
        present = name in sys.modules or importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return  # no torchvision at all: BasicSR's own import error says so best
    if not present:
        from torchvision.transforms.functional import rgb_to_grayscale

        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(rgb_to_grayscale=rgb_to_grayscale)


def alias_distutils_version() -> None:
    """Provide what `basicsr.archs.arch_util` compares versions by; Python 3.12 dropped it, setuptools may have it."""
    name = 'distutils.version'
    if name not in sys.modules and importlib.util.find_spec('distutils') is None:
        from packaging.version import Version

        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(LooseVersion=Version)


def change() -> str | None:
    """Change the behaviour of an imported BasicSR; return what keeps this plugin out of an older one, if anything."""
    for module, name in _NEEDED.items():
        try:
            getattr(importlib.import_module(module), name)
        except (AttributeError, ModuleNotFoundError) as error:
            if isinstance(error, AttributeError) or error.name == module:
                return f'{module} has no {name}'
            raise
    from irnsigma_plugin.compat.launch import launch_without_gpu
    from irnsigma_plugin.compat.start import replace_parse_options

    replace_parse_options()
    launch_without_gpu()
    return None


def complete(name: str) -> None:
    """Register with an imported package; change the behaviour of BasicSR, import extensions. Harmless when repeated."""
    if name == 'spandrel':
        try:
            importlib.import_module('irnsigma_plugin.formats.spandrel')
        except Exception as error:  # the program that imports spandrel may need nothing of this
            warnings.warn(f'irnsigma_plugin stays out of spandrel: {one_line(error)}', stacklevel=2)
        return
    if lacking := change():
        older = f'{sys.modules["basicsr"].__file__}, which is no BasicSR 1.4.2 or later'
        warnings.warn(f'irnsigma_plugin stays out of {older}: {lacking}.', stacklevel=2)
        return
    try:
        from irnsigma_plugin.compat.registry import register_all

        register_all()
    except ImportError as error:
        raise ImportError(
            f'irnsigma_plugin could not register with BasicSR: {error}. Install what is missing (installing this '
            'plugin with pip brings all it needs), or set IRNSIGMA_AUTOLOAD=0 to run BasicSR without this plugin.'
        ) from error
    from irnsigma_plugin.compat.extensions import import_installed

    import_installed()
