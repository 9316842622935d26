"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from irnsigma_plugin.checks import number, whole_number

if TYPE_CHECKING:
    import numpy as np

    from irnsigma_plugin.checkpoints.weights import FindClass
    from irnsigma_plugin.rescaling.rescaler import Rescaler

DEFAULT_WORKERS = min(4, os.cpu_count() or 1)
DEFAULT_SIGMAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`load_rescaler` and the methods of :class:`Rescaler` need."""
    parser.add_argument('--model', required=True, metavar='FILE', help='checkpoint: .pth or .safetensors')
    add_imports(parser)
    parser.add_argument(
        '--device',
        choices=('auto', 'cpu', 'cuda'),
        default='auto',
        help='where the network runs (default: auto, the GPU if there is one)',
    )
    parser.add_argument(
        '--overlap',
        type=count_from_0,
        metavar='N',
        help='how far each part of an image that is worked on looks beyond its border, in pixels of the large image; '
        'it changes the result (default: 16 pixels of the small image)',
    )


def add_imports(parser: argparse.ArgumentParser) -> None:
    """Add `--imports`, for :func:`network_finder`."""
    parser.add_argument(
        '--imports',
        action='append',
        metavar='MODULE|FILE',
        help='import a module or file, which has the network of the checkpoint; not needed for an installed extension '
        'and for networks of this plugin',
    )


def network_finder(args: argparse.Namespace) -> FindClass:
    """Import what the command line names, and return what finds a network's class, of installed extensions, too.

    Raises:
        OptionError: A module or file is not there, or has an error of its own.
    """
    if args.imports:
        from irnsigma_plugin.compat.extensions import import_named

        import_named(args.imports, '--imports')

    def find_class(network_type: str) -> type | None:
        from irnsigma_plugin.compat.registry import registered

        return registered()['arch'].get(network_type)

    return find_class


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Add sources, destination, and how to go about many files."""
    parser.add_argument(
        'sources', nargs='+', metavar='SRC', help='image file, folder (with the folders in it) or quoted glob'
    )
    parser.add_argument(
        'destination',
        metavar='DST',
        help='PNG file, for a single SRC file; otherwise a folder, which is arranged as SRC is',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace results that exist; they are skipped otherwise'
    )
    parser.add_argument(
        '--workers',
        type=count_from_1,
        default=DEFAULT_WORKERS,
        metavar='N',
        help='threads that read and write files beside the network, and images that wait for it '
        f'(default: {DEFAULT_WORKERS}); fewer need less memory',
    )


def add_sigmas(parser: argparse.ArgumentParser) -> None:
    """Add `--sigmas` and `--seed`."""
    parser.add_argument(
        '--sigmas',
        type=parse_sigma,
        nargs='+',
        default=DEFAULT_SIGMAS,
        metavar='SIGMA',
        help='restore every image at each of these (default: 0 0.25 0.5 0.75 1)',
    )
    add_seed(parser)


def add_sigma_map(parser: argparse._ActionsContainer) -> None:
    """Add `--sigma-map`, for :func:`read_sigma_map`."""
    parser.add_argument('--sigma-map', metavar='IMAGE', help='a sigma for every place, as the brightness of an image')


def read_sigma_map(path: str) -> np.ndarray:
    """Read a map of sigma as grey levels.

    Raises:
        ValueError: It cannot be read, or is transparent in places.
    """
    import cv2

    from irnsigma_plugin.images.picture import ImageReadError, read_picture

    try:
        picture = read_picture(path)
    except ImageReadError as error:
        raise ValueError(f'--sigma-map {error}') from error  # which begins with the path
    if picture.alpha is not None and picture.alpha.min() < picture.alpha.max():
        raise ValueError(
            f'--sigma-map {path}: a sigma map has no transparency; save it as a grey image, white where '
            'the result shall be sharp.'
        )
    return picture.pixels if picture.pixels.ndim == 2 else cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2GRAY)


@contextlib.contextmanager
def named_sigma_map(path: str | None) -> Iterator[None]:
    """Let an error of a map of sigma within the block name the file."""
    from irnsigma_plugin.rescaling.latent import SigmaMapError

    try:
        yield
    except SigmaMapError as error:
        raise ValueError(f'--sigma-map {path}: {error}') from error


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add `--seed`."""
    parser.add_argument('--seed', type=int, default=0, help='of the restored detail (default: 0)')


def load_rescaler(args: argparse.Namespace) -> Rescaler:
    """Load the network that the command line names.

    Raises:
        ValueError: There is no such device.
        CheckpointError: The checkpoint is missing, damaged, or of another network.
    """
    import torch

    from irnsigma_plugin.rescaling.rescaler import Rescaler

    if args.device == 'cuda' and not torch.cuda.is_available():
        raise ValueError('--device cuda: there is no GPU that torch can use; leave --device out.')
    return Rescaler.from_checkpoint(args.model, args.device, network_finder(args))


def parse_sigma(text: str) -> float:
    """Read a sigma."""
    try:
        return number('sigma', float(text), smallest=0, largest=1)
    except ValueError:
        raise argparse.ArgumentTypeError(f'must be a number from 0 (faithful) to 1 (sharp), but is {text!r}') from None


def count_from_0(text: str) -> int:
    """Read a whole number, 0 or more."""
    return _count(text, 0)


def count_from_1(text: str) -> int:
    """Read a whole number, 1 or more."""
    return _count(text, 1)


def _count(text: str, smallest: int) -> int:
    try:
        return whole_number('it', int(text), smallest)
    except ValueError:
        raise argparse.ArgumentTypeError(f'must be a whole number, {smallest} or more, but is {text!r}') from None
