"""IRN_sigma for BasicSR: one invertible network rescales images, adjustable between fidelity and perception.

Importing this package is light: it only arranges that BasicSR, whenever it is imported, gets the fixes of
`irnsigma_plugin.compat` and this plugin's networks, losses, metrics, datasets and models.
"""

from irnsigma_plugin import _autoload

__version__ = '0.1.0'

_autoload.arm()
