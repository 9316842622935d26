"""Names and shapes of the weights in a checkpoint, without torch and without reading the weights."""

from __future__ import annotations

import codecs
import collections
import io
import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

_LEGACY_HEADER = 3  # pickles before the content in files of torch before 1.6: magic number, version, machine


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, or is of another network."""


class _Opaque:
    """Stands for whatever of torch has no shape: storages, data types."""

    def __init__(self, *_: Any) -> None:
        pass


class _Tensor(_Opaque):
    """Stands for a tensor."""

    def __init__(self, storage: Any, offset: int, shape: Shape, *_: Any) -> None:
        self.shape = tuple(shape)


def _parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


_KNOWN = {
    'collections.OrderedDict': collections.OrderedDict,
    'collections.Counter': collections.Counter,
    '__builtin__.set': set,
    '_codecs.encode': codecs.encode,  # bytes
    'torch._utils._rebuild_tensor_v2': _Tensor,
    'torch._utils._rebuild_parameter': _parameter,
}


class _ShapeUnpickler(pickle.Unpickler):
    """Knows containers, and tensors by their shapes; runs nothing else that a pickle asks for."""

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get(f'{module}.{name}')
        if known is None and module.partition('.')[0] == 'torch':
            known = _Opaque
        if known is not None:
            return known
        raise CheckpointError(f'it asks for {module}.{name}, which is no part of weights and could run code')

    def persistent_load(self, pid: Any) -> None:
        """The numbers of a tensor, which are not read."""


def read_shapes(path: str | os.PathLike, param_key: str | None = 'params') -> dict[str, Shape]:
    """Read what :func:`irnsigma_plugin.checkpoints.reading.read_state_dict` would load, but only names and shapes.

    Args:
        path: File written by `torch.save`, or a `.safetensors` file.
        param_key: Entry of a BasicSR checkpoint; see `read_state_dict`.

    Raises:
        CheckpointError: The file is missing, damaged, holds no weights, or asks for code to be run.
    """
    try:
        with open(path, 'rb') as file:
            content = _read(file, os.fspath(path))
    except FileNotFoundError:
        raise CheckpointError(f'There is no checkpoint at {path}.') from None
    except CheckpointError as error:
        raise CheckpointError(f'{path} is refused: {error}. Do not load it; get it from a source that you trust.') \
            from None
    except Exception as error:  # damaged files raise almost anything
        raise CheckpointError(f'{path} is no readable PyTorch checkpoint: damaged, incomplete, or of another kind. '
                              'Fetch or save it again.') from error
    entries = content if isinstance(content, Mapping) else {}
    tensors = next((entries[key] for key in (param_key, 'params') if isinstance(entries.get(key), Mapping)), entries)
    if not tensors or not all(isinstance(key, str) and isinstance(value, _Tensor) for key, value in tensors.items()):
        raise CheckpointError(f'{path} holds no network weights: expected a state dict, or one under '
                              f"'{param_key or 'params'}'.")
    return {key.removeprefix('module.'): value.shape for key, value in tensors.items()}


def _read(file: io.BufferedReader, path: str) -> Any:
    if path.lower().endswith('.safetensors'):
        header = json.loads(file.read(int.from_bytes(file.read(8), 'little')))
        return {key: _Tensor(None, 0, entry['shape']) for key, entry in header.items() if key != '__metadata__'}
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith('/data.pkl'))
            return _ShapeUnpickler(io.BytesIO(archive.read(name))).load()
    file.seek(0)
    for _ in range(_LEGACY_HEADER):
        _ShapeUnpickler(file).load()
    return _ShapeUnpickler(file).load()


def differences(own: Shapes, found: Shapes) -> str:
    """What keeps weights from fitting a network: the first key of each kind of fault; empty where they fit.

    Args:
        own: Names and shapes of the network.
        found: Those of the checkpoint.
    """
    faults = []
    missing = [key for key in own if key not in found]
    unknown = [key for key in found if key not in own]
    if missing:
        faults.append(f'{len(missing)} keys are missing (first: {missing[0]})')
    if unknown:
        faults.append(f'{len(unknown)} keys are unknown (first: {unknown[0]})')
    for key in own:
        if key in found and tuple(own[key]) != tuple(found[key]):
            faults.append(f'{key} has shape {tuple(found[key])} instead of {tuple(own[key])}')
            break
    return '; '.join(faults)


def not_of(network: str, path: str | os.PathLike, faults: str) -> str:
    """Say that a checkpoint is of another network, and how :func:`differences` shows it."""
    return (f'The checkpoint {path} is not of this {network}: {faults}. '
            'Make the network block of the option file that of the checkpoint.')
