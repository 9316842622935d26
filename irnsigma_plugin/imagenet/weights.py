"""The ImageNet weights of AlexNet, VGG and SqueezeNet: where they lie, reading and downloading them.

The perceptual loss and the LPIPS metric look at images through the convolutions of these networks. Complete files carry
torchvision's names; those of `irnsigma fetch-weights` hold the convolutions alone, under names of their own.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the command line imports this module, but torch only when it is needed
    from torch import Tensor

BASICSR_FOLDER = Path('experiments', 'pretrained_models')
SERVER = 'https://download.pytorch.org/models/'
SERVER_TIMEOUT = 15  # seconds; without one, a firewall that drops packets would look like a hang


class WeightsError(RuntimeError):
    """ImageNet weights are missing, damaged or cannot be fetched; the message says what to do."""


class Network(NamedTuple):
    """What there is to know about the weights of one network."""

    file: str  # torchvision's name of the complete file; it ends in the first digits of the checksum
    convolutions: tuple[int, ...]  # positions in torchvision's `features`; they tell mixed-up files
    scope: str = ''  # name in the source of `fetch-weights`, if it has this network


NETWORKS = {
    'alexnet': Network('alexnet-owt-7be5be79.pth', (0, 3, 6, 8, 10), 'AlexNet_0'),
    'vgg16': Network('vgg16-397923af.pth', (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), 'VGG16_0'),
    'vgg19': Network('vgg19-dcbb9e9d.pth', (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)),
    'squeezenet1_1': Network('squeezenet1_1-b8a52dc0.pth', (0,)),
}
FETCHABLE = tuple(name for name, network in NETWORKS.items() if network.scope)


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """Load the ImageNet weights of a torchvision network (a key of `NETWORKS`); download them if they are nowhere yet.

    Searched in this order: `experiments/pretrained_models` under the current directory, torchvision's file in the
    cache of torch.hub, the file of `irnsigma fetch-weights`, torchvision's server (which fills that cache). Of the
    state dict, in torchvision's layout and on the CPU, only `features.*` can be relied upon.

    Raises:
        ValueError: Unknown name.
        WeightsError: The file is damaged, or there is none and it cannot be downloaded.
    """
    if name not in NETWORKS:
        raise ValueError(f'no ImageNet weights are known for {name!r}: expected one of {", ".join(NETWORKS)}')
    return load_weights(find_weights(name) or _download(name), name)


def check_weights(name: str) -> None:
    """Raise the WeightsError of :func:`imagenet_weights`, if any, without a download."""
    path = find_weights(name) or _download(name, check_only=True)
    if path.exists():
        load_weights(path, name)


def find_weights(name: str) -> Path | None:
    """The file that :func:`imagenet_weights` would read, if there is one, good or damaged."""
    paths = (BASICSR_FOLDER / NETWORKS[name].file, torchvision_path(name), features_path(name))
    return next(filter(Path.exists, paths), None)


def torchvision_path(name: str) -> Path:
    """Where torchvision looks for the complete file of a network, whether or not it is there."""
    import torch

    return Path(torch.hub.get_dir(), 'checkpoints', NETWORKS[name].file)


def features_path(name: str) -> Path:
    """Where `irnsigma fetch-weights` puts the convolutions of a network, whether or not they are there."""
    return torchvision_path(name).parents[1] / 'irnsigma' / f'{name}_features.pth'


def load_weights(path: Path, name: str) -> dict[str, Tensor]:
    """Read one file; raises WeightsError if it is damaged, or does not have this network's convolutions."""
    import torch

    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
        if not all(state[key].isfinite().all() for key in state if key.startswith('features.')):  # most are others
            raise ValueError('it has values that are infinite or no numbers')
    except Exception as error:  # a damaged file can raise nearly anything
        raise WeightsError(f'{path} is damaged ({_reason(error)}): delete it, then {remedy(name)}') from None
    for position in NETWORKS[name].convolutions:
        key = f'features.{position}.weight'
        if not isinstance(state, dict) or key not in state:
            fault = f'{path} does not hold the weights of {name} ({key} is missing)'
            raise WeightsError(f'{fault}: delete it, then {remedy(name)}')
    return state


def remedy(name: str) -> str:
    """What to do about a file that is missing or damaged, to follow the name of its place."""
    if name in FETCHABLE:
        return f'put a good copy there, or run `irnsigma fetch-weights --net {name}`'
    alternative = ', or use `vgg_type: vgg16` with conv5_3 in place of vgg19 with conv5_4' if name == 'vgg19' else ''
    return f'get {SERVER}{NETWORKS[name].file}, the only source, and put it into {BASICSR_FOLDER}{alternative}'


def _download(name: str, check_only: bool = False) -> Path:
    """Get a file from torchvision's server; complete and with the right checksum, or not at all."""
    import torch

    path = torchvision_path(name)
    url = SERVER + path.name
    try:
        urllib.request.urlopen(urllib.request.Request(url, method='HEAD'), timeout=SERVER_TIMEOUT).close()
        if check_only:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        logging.getLogger('basicsr').info(f'Downloading {url} to {path}')
        with _socket_timeout(SERVER_TIMEOUT):  # torch sets none
            torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rsplit('-', 1)[1])
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        fault = f'ImageNet weights {path.name} are neither in {path.parent} nor in {BASICSR_FOLDER}'
        raise WeightsError(f'{fault}, and could not be downloaded ({_reason(error)}): {remedy(name)}') from None
    return path


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: BaseException) -> str:
    """First sentence of an error: the rest of torch's messages is advice to programmers."""
    return (str(error) or type(error).__name__).splitlines()[0].split('. ')[0]
