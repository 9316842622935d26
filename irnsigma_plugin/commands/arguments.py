"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Callable

from irnsigma_plugin.checkpoints import builtin
from irnsigma_plugin.checks import number
from irnsigma_plugin.images.names import DEFAULT_QUALITY
from irnsigma_plugin.rescaling.precision import ENGINES, PRECISIONS
from irnsigma_plugin.sigma import check_sigma

if TYPE_CHECKING:
    import numpy as np

    from irnsigma_plugin.checkpoints.weights import FindClass
    from irnsigma_plugin.rescaling.rescaler import Rescaler

DEFAULT_WORKERS = min(4, os.cpu_count() or 1)
DEFAULT_SIGMAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def add_network_arguments(
    parser: argparse.ArgumentParser, precision: str = 'auto', engine: str = 'auto', model: str | None = builtin.DEFAULT
) -> None:
    """Add what :func:`load_rescaler` and the methods of :class:`Rescaler` need; all but `parser` are defaults."""
    default = model or f'the one that the image notes, else {builtin.DEFAULT}'
    model_help = f'checkpoint (.pth, .safetensors), or the name of a built-in model (default: {default})'
    parser.add_argument('--model', default=model, metavar='FILE|NAME', help=model_help)
    add_imports(parser)
    device_help = 'where the network runs (default: auto, the GPU if there is one)'
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto', help=device_help)
    precision_help = f'of the convolutions; auto: bf16 where it is faster, else fp32 (default: {precision})'
    parser.add_argument('--precision', choices=PRECISIONS, default=precision, help=precision_help)
    engine_help = f'what computes; auto: openvino where it is installed and faster, else torch (default: {engine})'
    parser.add_argument('--engine', choices=ENGINES, default=engine, help=engine_help)
    parser.add_argument(
        '--overlap',
        type=count_from(0),
        metavar='N',
        help='how far each part of an image that is worked on looks beyond its border, in pixels of the large image; '
        'it changes the result (default: 16 pixels of the small image)',
    )


def add_imports(parser: argparse.ArgumentParser) -> None:
    """Add `--imports`, for :func:`network_finder`."""
    imports_help = 'module or file to import, which has the network; not for those of installed extensions'
    parser.add_argument('--imports', action='append', metavar='MODULE|FILE', help=imports_help)


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


def load_rescaler(args: argparse.Namespace, model: str | None = None) -> Rescaler:
    """Load the network that the command line names, or `model`; a ValueError if there is no such device."""
    import torch

    from irnsigma_plugin.rescaling.rescaler import Rescaler

    if args.device == 'cuda' and not torch.cuda.is_available():
        raise ValueError('--device cuda: there is no GPU that torch can use; leave --device out.')
    find_class = network_finder(args)
    return Rescaler.from_checkpoint(model or args.model, args.device, find_class, args.precision, args.engine)


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Add sources, destination, and how to go about many files, also of lossy formats."""
    add = parser.add_argument
    add('sources', nargs='+', metavar='SRC', help='image file, folder (with the folders in it) or quoted glob')
    target_help = 'file, for a single SRC file; otherwise a folder, which is arranged as SRC is'
    add('destination', metavar='DST', help=target_help)
    overwrite_help = 'replace results that exist; they are skipped otherwise, and named where their settings are others'
    add('--overwrite', action='store_true', help=overwrite_help)
    quality_help = f'of jpg, webp and avif, from 1 to 100 (default: {DEFAULT_QUALITY})'
    add('--quality', type=count_from(1, 100), metavar='N', help=quality_help)
    workers_help = f'threads that read and write, images that wait (default: {DEFAULT_WORKERS}); fewer need less memory'
    add('--workers', type=count_from(1), default=DEFAULT_WORKERS, metavar='N', help=workers_help)


def add_sigmas(parser: argparse.ArgumentParser) -> None:
    """Add `--sigmas` and `--seed`."""
    sigmas_help = 'restore every image at each of these (default: 0 0.25 0.5 0.75 1)'
    parser.add_argument(
        '--sigmas', type=parse_sigma, nargs='+', default=DEFAULT_SIGMAS, metavar='SIGMA', help=sigmas_help
    )
    add_seed(parser)


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add `--seed`."""
    parser.add_argument('--seed', type=int, default=0, help='of the restored detail (default: 0)')


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
        remedy = 'save it as a grey image, white where the result shall be sharp.'
        raise ValueError(f'--sigma-map {path}: a sigma map has no transparency; {remedy}')
    return picture.pixels if picture.pixels.ndim == 2 else cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2GRAY)


@contextlib.contextmanager
def named_sigma_map(path: str | None) -> Iterator[None]:
    """Let an error of a map of sigma within the block name the file."""
    from irnsigma_plugin.rescaling.latent import SigmaMapError

    try:
        yield
    except SigmaMapError as error:
        raise ValueError(f'--sigma-map {path}: {error}') from error


def parse_sigma(text: str) -> float:
    """A type of arguments: a sigma."""
    try:
        return check_sigma(float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f'must be a number from 0 (faithful) to 1 (sharp), but is {text!r}') from None


def parse_gain(text: str) -> float:
    """A type of arguments: a factor of the weights of sigma."""
    with contextlib.suppress(ValueError):
        return number('G', float(text), above=0)
    raise argparse.ArgumentTypeError(f'must be a number above 0, but is {text!r}')


def count_from(smallest: int, largest: float = math.inf) -> Callable[[str], int]:
    """A type of arguments: a whole number, `smallest` or more, up to `largest`."""

    def parse(text: str) -> int:
        with contextlib.suppress(ValueError):
            if smallest <= int(text) <= largest:
                return int(text)
        bounds = f'{smallest} or more' if math.isinf(largest) else f'{smallest} to {largest}'
        raise argparse.ArgumentTypeError(f'must be a whole number, {bounds}, but is {text!r}')

    return parse
