"""IRN_sigma for BasicSR: one invertible network rescales images, adjustable between fidelity and perception.

Importing this package is light: it only arranges that BasicSR, whenever it is imported, gets the fixes of
`irnsigma_plugin.compat` and this plugin's networks, losses, metrics, datasets and models.
"""

from irnsigma_plugin.compat import loading

__version__ = '0.1.0'

loading.arm()

TYPE_CHECKING = False  # to type checkers it is true; `typing` is not to be imported at every interpreter start
if TYPE_CHECKING:
    from irnsigma_plugin.rescaling.rescaler import Rescaler as Rescaler


def __getattr__(name):
    """`Rescaler` at its first use: it brings torch along."""
    if name == 'Rescaler':
        from irnsigma_plugin.rescaling.rescaler import Rescaler

        return Rescaler
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def register_spandrel(sigma: float = 0.0, clamp: float = 1.0) -> None:
    """Let spandrel load checkpoints of this plugin and of the original IRN, as upscalers at a fixed sigma.

    A repeated call sets `sigma` and `clamp` of the models that are loaded after it.

    Args:
        sigma: In [0, 1]. Of a loaded model it can be changed: `descriptor.model.sigma = 0.5`.
        clamp: That of `network_g` in the training. spandrel passes on the weights alone, which do not show it.

    Raises:
        ImportError: spandrel is not installed.
        ValueError: An argument is out of range.

    Example:
        >>> irnsigma_plugin.register_spandrel()
        >>> hr = spandrel.ModelLoader().load_from_file('net_g_latest.pth')(lr)
    """
    try:
        import spandrel  # noqa: F401
    except ImportError as error:
        raise ImportError('register_spandrel needs spandrel 0.4 or later: pip install spandrel') from error
    from irnsigma_plugin.formats.spandrel import register

    register(sigma, clamp)
