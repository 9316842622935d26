"""Loads the plugin into BasicSR at the moment BasicSR is imported.

`python -m basicsr.train` imports only BasicSR's own folders, so a plugin has to be there before it. A `.pth` file
beside this package imports `irnsigma_plugin` at every interpreter start, which puts the finder below in front of the
import system. It waits for `import basicsr` and then wraps the execution of that package: fixes first, then BasicSR,
then the registration of this plugin's objects, then extensions. Hence no imports at the top of this file except `sys`.
"""

import sys

# What this plugin builds on, and older versions lack.
NEEDED = (
    ('basicsr.utils.options', 'parse_options'),
    ('basicsr.utils.registry', 'ARCH_REGISTRY'),
    ('basicsr.utils.dist_util', '_init_dist_pytorch'),
)


def arm():
    """Load the plugin into BasicSR: now if BasicSR is already imported, otherwise as soon as it is."""
    if 'basicsr' in sys.modules:
        complete()
    elif _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def prepare():
    """Apply what BasicSR needs in order to be imported."""
    from irnsigma_plugin.compat.missing_modules import alias_distutils_version, alias_functional_tensor

    alias_functional_tensor()
    alias_distutils_version()


def change():
    """Apply what changes BasicSR's behaviour, once it is imported. Harmless when repeated.

    Returns:
        What keeps this plugin out: BasicSR is an older one, as some repositories carry with them. Otherwise none.
    """
    from importlib import import_module

    for module, name in NEEDED:
        try:
            getattr(import_module(module), name)
        except (AttributeError, ModuleNotFoundError) as error:
            if isinstance(error, AttributeError) or error.name == module:
                return f'{module} has no {name}'
            raise
    from irnsigma_plugin.compat.launch import launch_without_gpu
    from irnsigma_plugin.compat.start import replace_parse_options

    replace_parse_options()
    launch_without_gpu()
    return None


def complete():
    """Do what takes an imported BasicSR: change its behaviour, register, import extensions. Harmless when repeated."""
    lacking = change()
    if lacking:
        import warnings

        file = sys.modules['basicsr'].__file__
        warnings.warn(
            f'irnsigma_plugin stays out of {file}, which is no BasicSR 1.4.2 or later: {lacking}.', stacklevel=2
        )
        return
    try:
        from irnsigma_plugin.compat.registry import register_all

        register_all()
    except ImportError as error:
        raise ImportError(
            f'irnsigma_plugin could not register with BasicSR: {error}. Install what is missing '
            '(installing this plugin with pip brings all it needs), or set IRNSIGMA_AUTOLOAD=0 to run '
            'BasicSR without this plugin.'
        ) from error
    from irnsigma_plugin.compat.extensions import import_installed

    import_installed()


class _BasicsrFinder:
    """Finds `basicsr` where everybody else finds it, but has it executed by `_BasicsrLoader`."""

    def find_spec(self, name, path=None, target=None):
        if name != 'basicsr':
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, 'find_spec'):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    if spec.loader is not None:  # None: a mere folder of that name
                        spec.loader = _BasicsrLoader(spec.loader)
                    return spec
        return None


class _BasicsrLoader:
    """BasicSR's ordinary loader, with the plugin's work before and after the package is executed."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def exec_module(self, module):
        module.__loader__ = module.__spec__.loader = self._loader
        prepare()
        self._loader.exec_module(module)
        complete()


_finder = _BasicsrFinder()
