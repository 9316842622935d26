"""What keeps BasicSR from running today, or from running this plugin well, and the remedies.

Each remedy is one function that says why it exists. It acts only where the fault is present, and option
files that use nothing of this plugin keep BasicSR's own behaviour. BasicSR 1.4.2 and its later git master are
served.
"""

import importlib

from irnsigma_plugin.compat.launch import launch_without_gpu
from irnsigma_plugin.compat.missing_modules import alias_distutils_version, alias_functional_tensor
from irnsigma_plugin.compat.start import replace_parse_options

# What this plugin builds on, and older versions lack.
_NEEDED = (('basicsr.utils.options', 'parse_options'), ('basicsr.utils.registry', 'ARCH_REGISTRY'),
           ('basicsr.utils.dist_util', '_init_dist_pytorch'))


def apply_before_import() -> None:
    """Apply what BasicSR needs in order to be imported."""
    alias_functional_tensor()
    alias_distutils_version()


class ForeignBasicSRError(ImportError):
    """The package `basicsr` is not one that this plugin can work with."""


def apply_after_import() -> None:
    """Apply what changes BasicSR's behaviour, once `basicsr` is imported. Harmless when repeated.

    Raises:
        ForeignBasicSRError: It is an older one, as some repositories carry with them.
    """
    for module, name in _NEEDED:
        try:
            getattr(importlib.import_module(module), name)
        except (AttributeError, ModuleNotFoundError) as error:
            if isinstance(error, AttributeError) or error.name == module:
                raise ForeignBasicSRError(f'{module} has no {name}') from None
            raise
    replace_parse_options()
    launch_without_gpu()
