"""IRN_sigma for BasicSR: one invertible network rescales images, adjustable between fidelity and perception.

Importing this package is light: it only arranges that BasicSR, whenever it is imported, gets the fixes of
`irnsigma_plugin.compat` and this plugin's networks, losses, metrics, datasets and models, and spandrel its networks.
"""

import sys

__version__ = '0.1.0'
_HOSTS = ('basicsr', 'spandrel')

TYPE_CHECKING = False  # to type checkers it is true; `typing` is not to be imported at every interpreter start
if TYPE_CHECKING:
    from irnsigma_plugin.formats.spandrel import register_spandrel as register_spandrel
    from irnsigma_plugin.rescaling.rescaler import Rescaler as Rescaler


class _HostFinder:
    def find_spec(self, name, path=None, target=None):
        if name not in _HOSTS:
            return None
        from irnsigma_plugin.compat.loading import find_host

        return find_host(name, path, target)


def __getattr__(name):
    """What brings torch along, at its first use."""
    if name == 'Rescaler':
        from irnsigma_plugin.rescaling import rescaler as owner
    elif name == 'register_spandrel':
        from irnsigma_plugin.formats import spandrel as owner
    else:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(owner, name)


for _host in _HOSTS:
    if _host in sys.modules:
        from irnsigma_plugin.compat.loading import complete

        complete(_host)
sys.meta_path.insert(0, _HostFinder())
