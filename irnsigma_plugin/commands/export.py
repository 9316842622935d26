"""`irnsigma export`: a checkpoint as ONNX models."""

from __future__ import annotations

import argparse

from irnsigma_plugin.commands.arguments import add_imports, network_finder

DIRECTIONS = ('down', 'up')


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `export` to the command line."""
    parser = subparsers.add_parser(
        'export',
        help='write a checkpoint as ONNX models',
        description='Write the two halves of a checkpoint as ONNX models, for images of any size:\n'
        '  downscale.onnx  hr (N, 3, H, W) -> lr (N, 3, h, w)\n'
        '  upscale.onnx    lr (N, 3, h, w), latent (N, 3*scale*scale - 3, h, w) -> hr\n'
        'Images are float RGB in [0, 1]. Round lr to 8 bit and clamp hr to [0, 1] yourself, and cut hr\n'
        'to the original size. latent is sigma times normal noise: zeros give the faithful image.\n'
        'Each model is compared with torch before anything is written. Files of these names are replaced.\n'
        'Needs: pip install onnx onnxscript onnxruntime',
        epilog='examples:\n  irnsigma export net_g_latest.pth onnx\n'
        '  irnsigma export IRN_x4.pth onnx --direction up --opset 20',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('model', metavar='MODEL', help='checkpoint of this plugin or of the original IRN')
    add_imports(parser)
    parser.add_argument('folder', metavar='FOLDER', help='where the files go; made where it is missing')
    parser.add_argument('--direction', nargs='+', choices=DIRECTIONS, default=DIRECTIONS, help='default: both')
    parser.add_argument('--opset', type=int, default=18, help='set of ONNX operators, 18 or more (default: 18)')
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from irnsigma_plugin.checkpoints.weights import build_network, read_checkpoint
    from irnsigma_plugin.files import make_folder
    from irnsigma_plugin.formats.onnx import export_onnx

    make_folder(args.folder)  # before the work, not after it
    net = build_network(read_checkpoint(args.model), find_class=network_finder(args))
    errors = export_onnx(net, args.folder, args.direction, args.opset)
    for path, error in errors.items():
        print(f'{path}: largest deviation from torch {error:.1e}')
