"""`irnsigma info`: what a checkpoint is, or which models are built in."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING

from irnsigma_plugin.checkpoints import builtin
from irnsigma_plugin.commands.arguments import add_imports, network_finder

if TYPE_CHECKING:
    from irnsigma_plugin.checkpoints.weights import FindClass


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `info` to the command line."""
    parser = subparsers.add_parser(
        'info',
        help='say what a checkpoint is, or which models are built in',
        description='Say what a checkpoint is: the kind of file, the network and its settings, and the name of its\n'
        'weights (model hash), which is the same whatever file holds them. Without MODEL the\n'
        'built-in models are listed.',
        epilog='examples:\n  irnsigma info\n  irnsigma info experiments/IRNsigma_x4/models/net_g_latest.pth\n'
        '  irnsigma info IRN_x4.pth\n  irnsigma info net_g.safetensors',
    )
    parser.add_argument('model', nargs='?', metavar='MODEL', help='checkpoint, or the name of a built-in model')
    add_imports(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    if args.model is None:
        for name in builtin.names():
            told = builtin.metadata(name)
            scale = json.loads(told['network_g'])['scale']
            known = f'scale {scale}, {_size(builtin.locate(name))}, model hash {told["model_hash"]}'
            print(f'{name}{" (the default)" if name == builtin.DEFAULT else ""}: {known}')
            print(f'  model card: {builtin.MODELS / name / builtin.CARD}')
        return
    rows = describe(args.model, network_finder(args))
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f'{name:{width}}  {value}')


def describe(path: str, find_class: FindClass | None = None) -> dict[str, str]:
    """What a checkpoint is, as names and values to read.

    Raises:
        CheckpointError: It cannot be read, or is of another network.
    """
    from irnsigma_plugin.archs.irn_arch import InvRescaleNet
    from irnsigma_plugin.checkpoints import weights

    checkpoint = weights.read_checkpoint(path)
    found = checkpoint.state_dict
    net = weights.build_network(checkpoint, find_class=find_class)
    if type(net) is InvRescaleNet:
        settings = weights.discover_network(checkpoint)
        clamp = checkpoint.saved_hidden_arguments().get('clamp')
        default = f'{weights.DEFAULT_CLAMP} (the default: the file does not name it)'
        settings['clamp'] = default if clamp is None else clamp
    else:
        settings = {'scale': net.scale, **checkpoint.network}
    kind = 'bare state dict' if checkpoint.param_key is None else 'BasicSR checkpoint'
    return {
        'file': checkpoint.path,
        'size': _size(checkpoint.path),
        'kind': 'safetensors' if weights.is_safetensors(checkpoint.path) else kind,
        'weights': checkpoint.param_key or 'the whole file',
        'network': type(net).__name__,
        **{name: str(value) for name, value in settings.items() if name != 'type'},
        'parameters': f'{sum(parameter.numel() for parameter in net.parameters()):,}',
        'dtype': ', '.join(sorted({str(found[key].dtype).split('.')[1] for key in weights.shapes_of(found)})),
        'model hash': weights.model_hash(net.state_dict()),  # as loaded, so that it is that of images made with it
    }


def _size(path: str | os.PathLike) -> str:
    size = os.path.getsize(path)
    return f'{size / 2**20:.1f} MiB ({size:,} bytes)'
