"""Network weights in files, and the network that they belong to."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Callable, NamedTuple, Optional

import torch
from safetensors import safe_open
from torch import Tensor, nn

from irnsigma_plugin.archs.irn_arch import CLAMP_KEY, LEVELS, InvRescaleNet, stored_clamp
from irnsigma_plugin.archs.rescaling_net import RescalingNet
from irnsigma_plugin.checkpoints import builtin
from irnsigma_plugin.checks import number

Shapes = Mapping[str, tuple[int, ...]]
StateDict = Mapping[str, Tensor]
FindClass = Callable[[str], Optional[type]]

#: Entry of a checkpoint that holds the option file's block of the network, beside its weights.
NETWORK_ENTRY = 'network_g'


def hidden_arguments(cls: type[InvRescaleNet]) -> dict[str, Any]:
    """Arguments that the weights do not show, such as the clamp, and their defaults."""
    arguments = inspect.signature(cls).parameters.items()
    shown = 'scale', 'block_num', 'growth_channels', 'sigma_input', 'subnet'
    return {name: each.default for name, each in arguments if name not in shown}


HIDDEN_ARGUMENTS = hidden_arguments(InvRescaleNet)
DEFAULT_CLAMP: float = HIDDEN_ARGUMENTS['clamp']
_SIGMA_WEIGHTS = re.compile(r'\.(F|GH?|H)\.sigma[1-5]$')


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, or is of another network."""


class Checkpoint(NamedTuple):
    """What a file holds of a network."""

    state_dict: dict[str, Tensor]  # without the `module.` prefix of wrapped networks
    param_key: str | None = None  # entry that they come from, `params_ema` or `params`; none of a bare state dict
    network: Mapping[str, Any] = {}  # the option file's block, as far as it was saved with the weights
    path: str = 'the checkpoint'  # for messages

    def saved_hidden_arguments(self) -> dict[str, Any]:
        """Those of :data:`HIDDEN_ARGUMENTS` that were saved; the clamp among the weights counts before the block's."""
        found = {name: self.network[name] for name in HIDDEN_ARGUMENTS if name in self.network}
        if (entry := self.state_dict.get(CLAMP_KEY)) is not None:
            found['clamp'] = _clamp(stored_clamp(entry), f'{self.path}: {CLAMP_KEY} among its weights')
        return found


def _clamp(text: str, origin: str) -> float:
    with contextlib.suppress(ValueError):
        return number('clamp', float(text), above=0)
    raise CheckpointError(f'{origin} must be a number, more than 0, but is {text!r}.')


def read_checkpoint(path: str | os.PathLike, param_key: str | None = 'params_ema', device: str = 'cpu') -> Checkpoint:
    """Read a network's weights from a BasicSR checkpoint, a bare state dict, or a safetensors file.

    Args:
        path: File written by `torch.save`, or one named `.safetensors`; or a built-in model's name. It is loaded
            weights-only: nothing in it can run code.
        param_key: Entry of a BasicSR checkpoint; `params` is read where it is missing, or none is named. A bare state
            dict, as the original IRN saves, has no entries and is read as a whole, whatever the key.
        device: `cpu`, or `meta` for names and shapes alone.

    Raises:
        CheckpointError: The file is missing, damaged, holds no finite weights, or asks for code to be run.
    """
    path = builtin.locate(path)
    if is_safetensors(path):
        content, network = _read_safetensors(path, device)
    else:
        with _explained_read_errors(path, 'PyTorch checkpoint'):
            loaded = torch.load(path, map_location=device, weights_only=True)
        content = loaded if isinstance(loaded, Mapping) else {}
        network = content.get(NETWORK_ENTRY)
    entry = next((key for key in (param_key, 'params') if isinstance(content.get(key), Mapping)), None)
    weights = content if entry is None else content[entry]
    if {'optimizers', 'iter'} <= content.keys():
        raise CheckpointError(f'{path} is a training state, without weights: take models/net_g_{content["iter"]}.pth.')
    if not weights or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()):
        found = ', '.join(map(repr, content)) or 'nothing of the kind'
        raise CheckpointError(
            f"{path} holds no network weights: expected a state dict, or one under '{param_key or 'params'}', but it "
            f'has {found}.'
        )
    # Networks are trained channels-last and saved so; other formats and libraries expect the usual layout.
    state_dict = {key.removeprefix('module.'): value.contiguous() for key, value in weights.items()}
    if CLAMP_KEY in state_dict and device == 'meta':  # which keeps no values
        state_dict[CLAMP_KEY] = read_checkpoint(path, param_key).state_dict[CLAMP_KEY]
    _check_finite(state_dict, path)
    return Checkpoint(state_dict, entry, network if isinstance(network, Mapping) else {}, os.fspath(path))


def _check_finite(state_dict: StateDict, path: str | os.PathLike) -> None:
    for key, value in state_dict.items():
        if not (value.is_meta or value.float().isfinite().all()):  # as float32, which networks have
            remedy = 'as after a training that diverged: use an earlier checkpoint, or get the file again.'
            raise CheckpointError(f'{path}: {key} has values that are infinite or no numbers, {remedy}')


def is_safetensors(path: str | os.PathLike) -> bool:
    """Whether a file is a safetensors file, by its name."""
    return os.fspath(path).lower().endswith('.safetensors')


def _read_safetensors(path: str | os.PathLike, device: str) -> tuple[Mapping, Any]:
    """Tensors of a safetensors file, and the network block in its metadata, in JSON, or the clamp alone."""
    with _explained_read_errors(path, 'safetensors file'), safe_open(os.fspath(path), framework='pt') as file:
        metadata = file.metadata() or {}
        network = json.loads(metadata.get(NETWORK_ENTRY, '{}'))
        content = {key: file.get_tensor(key).to(device) for key in file.keys()}  # noqa: SIM118  it is no mapping
    if 'clamp' not in metadata:
        return content, network
    clamp = _clamp(metadata['clamp'], f'{path}: clamp in its metadata')
    return content, {**(network if isinstance(network, Mapping) else {}), 'clamp': clamp}


@contextlib.contextmanager
def _explained_read_errors(path: str | os.PathLike, kind: str) -> Iterator[None]:
    """Raise a CheckpointError that says why a file, expected to be of this kind, cannot be read."""
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for its writer
        raise CheckpointError(f'{path} is no file; name a checkpoint.')
    try:
        yield
    except FileNotFoundError:
        hint = '' if os.path.splitext(path)[1] else f' Built-in models: {", ".join(builtin.names())}.'
        raise CheckpointError(f'There is no checkpoint at {path}.{hint}') from None
    except Exception as error:  # damaged files raise almost anything
        if isinstance(error, OSError) and error.strerror is not None:
            raise CheckpointError(f'{path} cannot be read ({error.strerror}); check the rights.') from error
        # The cause stays out of the message: torch advises to load the file in a way that runs code in it.
        asked = re.search(r'GLOBAL (?!torch|collections)(\w[\w.]*\.\w+)', str(error))
        if asked is not None:
            raise CheckpointError(
                f'{path} is refused: it asks for {asked[1]}, which is no part of weights and could run code. Do not '
                'load it; get it from a source that you trust. If a network was saved whole, by torch.save(net), who '
                'made it can save its weights instead: torch.save(net.state_dict(), ...).'
            ) from None
        raise CheckpointError(
            f'{path} is no readable {kind}: damaged, incomplete, or of another kind. Fetch or save it again.'
        ) from error


def model_hash(state_dict: StateDict) -> str:
    """Name of a set of weights: 16 hexadecimal digits of SHA-256 over names, shapes, types and values.

    The order of the names, the device, the memory layout and the clamp, which was once not saved, make no difference.
    """
    digest = hashlib.sha256()
    for key in sorted(state_dict.keys() - {CLAMP_KEY}):
        value = state_dict[key].detach().cpu().contiguous()
        digest.update(f'{key} {tuple(value.shape)} {value.dtype}\n'.encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def shapes_of(state_dict: StateDict) -> Shapes:
    """Names and shapes of weights, without the clamp, which need not be there."""
    return {key: tuple(value.shape) for key, value in state_dict.items() if key != CLAMP_KEY}


def _is_told_sigma(state_dict: StateDict) -> bool:
    """Whether weights are those of a network with `sigma_input`."""
    return any(map(_SIGMA_WEIGHTS.search, state_dict))


def differences(own: Shapes, found: Shapes) -> str:
    """What keeps weights `found` from fitting a network's `own`: the first key of each kind of fault, or nothing."""
    faults = []
    for fault, has, other in (('missing', own, found), ('unknown', found, own)):
        keys = [key for key in has if key not in other]
        if keys:
            faults.append(f'{len(keys)} keys are {fault} (first: {keys[0]})')
    reshaped = (key for key in own if key in found and own[key] != found[key])
    faults += [f'{key} has shape {found[key]} instead of {own[key]}' for key in reshaped][:1]
    return '; '.join(faults)


def check_fits(net: nn.Module, state_dict: StateDict, path: str | os.PathLike) -> None:
    """Raise a CheckpointError where a state dict has not just the keys and shapes of a network; `meta` is enough."""
    own = shapes_of(net.state_dict())
    if not _is_told_sigma(state_dict):  # weights of sigma, of a network that is to learn of it, start at zero
        own = {key: shape for key, shape in own.items() if not _SIGMA_WEIGHTS.search(key)}
    faults = differences(own, shapes_of(state_dict))
    if faults:
        hint = isinstance(net, RescalingNet) and _discriminator_hint(path)
        remedy = hint or 'Make the network block of the option file that of the checkpoint.'
        raise CheckpointError(f'The checkpoint {path} is not of this {type(net).__name__}: {faults}. {remedy}')


def _discriminator_hint(path: str | os.PathLike) -> str:
    """What to do about a file that BasicSR named as that of a discriminator, but is taken for a generator's."""
    name = os.path.basename(path)
    return f'It is of a discriminator: take {name.replace("net_d", "net_g", 1)}.' if name.startswith('net_d') else ''


def check_arguments(checkpoint: Checkpoint, network: Mapping[str, Any]) -> None:
    """Raise a CheckpointError where :data:`HIDDEN_ARGUMENTS` are saved otherwise than in an option file's block.

    Those of other networks, which may have other defaults, are not known here.
    """
    found, own = checkpoint.saved_hidden_arguments(), InvRescaleNet.__name__
    if {checkpoint.network.get('type', own), network.get('type', own)} != {own}:
        return
    for name, default in HIDDEN_ARGUMENTS.items():
        saved, wanted = (block.get(name, default) for block in (found, network))
        if (checkpoint.network or name in found) and saved != wanted:
            raise CheckpointError(
                f'The checkpoint {checkpoint.path} was trained with {name}: {saved}, but network_g has '
                f'{name}: {wanted}. Set network_g.{name}: {saved} in the option file.'
            )


def discover_network(checkpoint: Checkpoint) -> dict[str, Any]:
    """The arguments of an :class:`InvRescaleNet` that the names and shapes of its weights show.

    Raises:
        CheckpointError: The weights are of another network, or not all there.
    """
    return _discover(checkpoint)[0]


def _discover(checkpoint: Checkpoint, clamp: float = DEFAULT_CLAMP) -> tuple[dict[str, Any], InvRescaleNet]:
    """The arguments, and the network on `meta`; `clamp` is that of weights that name none."""
    state_dict, origin = checkpoint.state_dict, f'{checkpoint.path} is not of InvRescaleNet, or incomplete'
    factors, block_num = _levels(state_dict)
    scale = next((scale for scale, expected in LEVELS.items() if list(expected) == factors), None)
    if scale is None:
        found = f'{len(state_dict)} keys: {", ".join(list(state_dict)[:4])}{", ..." * (len(state_dict) > 4)}'
        raise CheckpointError(
            f'{origin}: expected those of InvRescaleNet: operations.0.haar_weights (operations.0.conv_weights at scale '
            f'3), then operations.1.F.conv1.weight and so on; found {found}. {_discriminator_hint(checkpoint.path)}'
        )
    growth = state_dict.get('operations.1.F.conv1.bias', torch.empty(0)).numel()
    settings: dict[str, Any] = {'scale': scale, 'block_num': block_num, 'growth_channels': growth}
    if _is_told_sigma(state_dict):
        settings['sigma_input'] = True
    if any('.GH.' in key for key in state_dict):
        settings['subnet'] = 'residual'
    faults = 'every level needs a coupling block'
    if all(block_num):
        with torch.device('meta'):
            hidden = {'clamp': clamp, **checkpoint.saved_hidden_arguments()}
            net = InvRescaleNet(**{**settings, 'growth_channels': growth or 1}, **hidden)
        faults = differences(shapes_of(net.state_dict()), shapes_of(state_dict))
    if faults:
        found = ', '.join(f'{name} {value}' for name, value in settings.items())
        raise CheckpointError(f'{origin}. It looks like {found}, but {faults}.')
    return settings, net


def build_network(
    checkpoint: Checkpoint, clamp: float = DEFAULT_CLAMP, find_class: FindClass | None = None
) -> RescalingNet:
    """Build the network of a checkpoint, with its weights, in evaluation mode.

    Args:
        checkpoint: See :func:`read_checkpoint`.
        clamp: Bound of the log-scale where none was saved with the weights; by default that of the original IRN.
        find_class: Finds the class of another network, by its type; no class where there is none. Nothing else that a
            checkpoint says is looked up, and nothing is imported for it.

    Raises:
        CheckpointError: The weights are of another network, not all there, or not finite.
        ValueError: The clamp is no number above 0.
    """
    _check_finite(checkpoint.state_dict, checkpoint.path)
    network_type = checkpoint.network.get('type', InvRescaleNet.__name__)
    if network_type == InvRescaleNet.__name__:
        # To draw initial weights would take longer than to read those of the file.
        net: RescalingNet = _discover(checkpoint, clamp)[1]._apply(_unwritten)
    else:
        net = _extension(checkpoint, find_class and find_class(str(network_type)))
    net.load_state_dict(checkpoint.state_dict)
    return net.eval()


def _unwritten(tensor: Tensor) -> Tensor:
    """Memory for a tensor on `meta`; `Module.to_empty` would import sympy for it."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)


def _extension(checkpoint: Checkpoint, cls: type | None) -> RescalingNet:
    """The network of an extension, from the option file's block that was saved with the weights, without those."""
    arguments = dict(checkpoint.network)
    origin = f'{checkpoint.path} is of the network {arguments.pop("type")}'
    if not (isinstance(cls, type) and issubclass(cls, RescalingNet)):
        problem = 'is no RescalingNet' if cls else 'nobody has registered'
        raise CheckpointError(
            f'{origin}, which {problem}: install the package that has it, or name its file: --imports my_net.py'
        )
    try:
        net = cls(**arguments)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f'{origin}, which does not take the arguments saved with it: {error}') from error
    check_fits(net, checkpoint.state_dict, checkpoint.path)
    return net


def _levels(state_dict: StateDict) -> tuple[list[int], list[int]]:
    """Factor of each downsampling layer, and the number of coupling blocks after it."""
    matches = (re.match(r'operations\.(\d+)\.(haar_weights|conv_weights|F|GH?|H)\b', key) for key in state_dict)
    kinds = {int(match[1]): match[2] for match in matches if match}
    factors, block_num = [], []
    # A missing layer counts as a block, so that it will be missed by name; no more layers than weights, though.
    for position in range(min(max(kinds, default=-1) + 1, len(state_dict))):
        factor = {'haar_weights': 2, 'conv_weights': 3}.get(kinds.get(position, ''))
        if factor is not None:
            factors.append(factor)
            block_num.append(0)
        elif block_num:
            block_num[-1] += 1
    return factors, block_num
