"""What keeps BasicSR from running today, or from running this plugin well, and the remedies.

Each remedy is one function that says why it exists. It acts only where the fault is present, and option
files that use nothing of this plugin keep BasicSR's own behaviour. BasicSR 1.4.2 and its later git master are
served.
"""

from irnsigma_plugin.compat.launch import launch_without_gpu
from irnsigma_plugin.compat.missing_modules import alias_distutils_version, alias_functional_tensor
from irnsigma_plugin.compat.start import replace_parse_options


def apply_before_import() -> None:
    """Apply what BasicSR needs in order to be imported."""
    alias_functional_tensor()
    alias_distutils_version()


def apply_after_import() -> None:
    """Apply what changes BasicSR's behaviour, once `basicsr` is imported. Harmless when repeated."""
    replace_parse_options()
    launch_without_gpu()
