"""What a checkpoint holds, and whether it fits a network: without torch, and without reading the weights."""

from __future__ import annotations

import codecs
import collections
import contextlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from irnsigma_plugin.checks import number

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

#: Entry of a checkpoint that holds the option file's block of the network, beside its weights.
NETWORK_ENTRY = 'network_g'
#: Bound of the log-scale where nothing says otherwise: that of the paper and of the original IRN.
DEFAULT_CLAMP = 1.0

_LEGACY_HEADER = 3  # pickles before the content in files of torch before 1.6: magic number, version, machine


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, or is of another network."""


class _CodeError(Exception):
    """A pickle asks for more than weights."""


class Outline(NamedTuple):
    """What a file holds of a network, without its weights.

    Attributes:
        shapes: Name and shape of each weight.
        network: The option file's block of the network, as far as it was saved with the weights.
    """

    shapes: dict[str, Shape]
    network: Mapping[str, Any]


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
        raise _CodeError(f'it asks for {module}.{name}, which is no part of weights and could run code')

    def persistent_load(self, pid: Any) -> None:
        """The numbers of a tensor, which are not read."""


def read_outline(path: str | os.PathLike, param_key: str | None = 'params') -> Outline:
    """Read what :func:`irnsigma_plugin.checkpoints.reading.read_checkpoint` would load, without the weights' values.

    Args:
        path: File written by `torch.save`, or a `.safetensors` file.
        param_key: Entry of a BasicSR checkpoint; see `read_checkpoint`.

    Raises:
        CheckpointError: The file is missing, damaged, holds no weights, or asks for code to be run.
    """
    if is_safetensors(path):
        with explained_read_errors(path, 'safetensors file'), open(path, 'rb') as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), 'little')))
            content = {key: _Tensor(None, 0, entry['shape']) for key, entry in header.items() if key != '__metadata__'}
        network = safetensors_network(header.get('__metadata__'), path)
    else:
        with explained_read_errors(path, 'PyTorch checkpoint'), open(path, 'rb') as file:
            content = _unpickle(file)
        content = content if isinstance(content, Mapping) else {}
        network = network_block(content)
    weights = weights_entry(content, param_key, _Tensor, path)[1]
    return Outline({key.removeprefix('module.'): value.shape for key, value in weights.items()}, network)


def _unpickle(file: io.BufferedReader) -> Any:
    """The content of a file of `torch.save`, tensors without their numbers."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith('/data.pkl'))
            return _ShapeUnpickler(io.BytesIO(archive.read(name))).load()
    file.seek(0)
    for _ in range(_LEGACY_HEADER):
        _ShapeUnpickler(file).load()
    return _ShapeUnpickler(file).load()


@contextlib.contextmanager
def explained_read_errors(path: str | os.PathLike, kind: str) -> Iterator[None]:
    """Say why a checkpoint cannot be read.

    Args:
        path: The file.
        kind: What it is expected to be.

    Raises:
        CheckpointError: It cannot.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for its writer
        raise CheckpointError(f'{path} is no file; name a checkpoint.')
    damaged = f'{path} is no readable {kind}: damaged, incomplete, or of another kind. Fetch or save it again.'
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f'There is no checkpoint at {path}.') from None
    except _CodeError as error:
        raise CheckpointError(f'{path} is refused: {error}. Do not load it; get it from a source that you trust.') \
            from None
    except OSError as error:
        if error.strerror is None:
            raise CheckpointError(damaged) from error
        raise CheckpointError(f'{path} cannot be read ({error.strerror}); check the rights.') from error
    except Exception as error:  # damaged files raise almost anything
        # The cause stays out of the message: torch advises to load the file in a way that runs code in it.
        raise CheckpointError(damaged) from error


def is_safetensors(path: str | os.PathLike) -> bool:
    """Whether a file is a safetensors file, by its name."""
    return os.fspath(path).lower().endswith('.safetensors')


def weights_entry(content: Mapping, param_key: str | None, tensor: type, path: str | os.PathLike,
                  ) -> tuple[str | None, Mapping[str, Any]]:
    """The entry of a checkpoint that holds the weights, `param_key` or else `params`; none in a bare state dict.

    Args:
        content: The checkpoint.
        param_key: Entry of a BasicSR checkpoint; see `read_checkpoint`.
        tensor: Type of weights.
        path: The file, for messages.

    Returns:
        Name of the entry, or none, and the weights.

    Raises:
        CheckpointError: There are no weights.
    """
    entry = next((key for key in (param_key, 'params') if isinstance(content.get(key), Mapping)), None)
    weights = content if entry is None else content[entry]
    if not weights or not all(isinstance(key, str) and isinstance(value, tensor) for key, value in weights.items()):
        found = f'it has {", ".join(map(repr, content))}' if content else 'it has nothing of the kind'
        raise CheckpointError(f'{path} holds no network weights: expected a state dict, or one under '
                              f"'{param_key or 'params'}', but {found}.")
    return entry, weights


def network_block(content: Mapping) -> Mapping[str, Any]:
    """The option file's block of the network in a file of `torch.save`; empty where there is none."""
    network = content.get(NETWORK_ENTRY)
    return network if isinstance(network, Mapping) else {}


def safetensors_network(metadata: Mapping[str, str] | None, path: str | os.PathLike) -> dict[str, float]:
    """The same of a safetensors file: the clamp, if its metadata has one.

    Raises:
        CheckpointError: It is no positive number.
    """
    clamp = (metadata or {}).get('clamp')
    if clamp is None:
        return {}
    try:
        return {'clamp': number('clamp', float(clamp), above=0)}
    except ValueError:
        raise CheckpointError(f'{path}: clamp in its metadata must be a number, more than 0, but is {clamp!r}.') \
            from None


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


def shape_mismatch(network: str, own: Shapes, found: Shapes, path: str | os.PathLike) -> str:
    """Say how a checkpoint's weights do not fit a network of this type, and what to do; empty where they fit."""
    faults = differences(own, found)
    return faults and (f'The checkpoint {path} is not of this {network}: {faults}. '
                       'Make the network block of the option file that of the checkpoint.')


def clamp_mismatch(saved: Mapping[str, Any], wanted: Mapping[str, Any], path: str | os.PathLike) -> str:
    """Say that a checkpoint was saved with another clamp than an option file's; empty where it was not, or may not.

    Args:
        saved: Network block in the checkpoint; empty if it has none.
        wanted: That of the option file.
        path: The checkpoint.
    """
    clamps = [block.get('clamp', DEFAULT_CLAMP) for block in (saved, wanted)]
    if not saved or clamps[0] == clamps[1]:
        return ''
    return (f'The checkpoint {path} was trained with clamp: {clamps[0]}, but network_g has clamp: {clamps[1]}. '
            f'Set network_g.clamp: {clamps[0]} in the option file.')
