"""Loads the plugin into BasicSR at the moment BasicSR is imported.

`python -m basicsr.train` imports only BasicSR's own folders, so a plugin has to be there before it. A `.pth`
file installed beside this package imports `irnsigma_plugin` at every interpreter start, which puts the finder
below in front of the import system. It waits for `import basicsr` and then wraps the execution of that
package: fixes first, then BasicSR itself, then the registration of this plugin's objects.

Every interpreter on the machine runs the top of this file, hence no imports here except `sys`.
"""

import sys

#: Modules whose import puts something into BasicSR's registries.
REGISTERING_MODULES = (
    'irnsigma_plugin.archs.registration',
    'irnsigma_plugin.archs.discriminator_arch',
    'irnsigma_plugin.losses.mixture_loss',
    'irnsigma_plugin.losses.perceptual_loss',
    'irnsigma_plugin.metrics.lpips_metric',
    'irnsigma_plugin.data.hr_image_dataset',
    'irnsigma_plugin.models.irn_sigma_model',
)


def arm():
    """Load the plugin into BasicSR: now if BasicSR is already imported, otherwise as soon as it is."""
    if 'basicsr' in sys.modules:
        _complete()
    elif _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def _complete():
    """Do what can only be done once BasicSR is imported. Harmless when repeated."""
    from importlib import import_module

    from irnsigma_plugin import compat

    try:
        compat.apply_after_import()
    except compat.ForeignBasicSRError as error:
        import warnings

        warnings.warn(f'irnsigma_plugin stays out of {sys.modules["basicsr"].__file__}, which is not BasicSR 1.4.2 or '
                      f'later: {error}.', stacklevel=2)
        return
    for name in REGISTERING_MODULES:
        try:
            import_module(name)
        except ImportError as error:
            raise ImportError(
                f'irnsigma_plugin could not register {name} with BasicSR: {error}. Install what is missing '
                '(installing this plugin with pip brings all it needs), or set IRNSIGMA_AUTOLOAD=0 to run '
                'BasicSR without this plugin.') from error


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
        from irnsigma_plugin import compat

        module.__loader__ = module.__spec__.loader = self._loader
        compat.apply_before_import()
        self._loader.exec_module(module)
        _complete()


_finder = _BasicsrFinder()
