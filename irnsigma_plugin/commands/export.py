"""`irnsigma export`: a checkpoint in another format."""

from __future__ import annotations

import argparse
from pathlib import Path

from irnsigma_plugin.checkpoints import builtin
from irnsigma_plugin.commands.arguments import add_imports, network_finder, parse_gain, parse_sigma

DIRECTIONS = ('down', 'up')


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `export` to the command line."""
    parser = subparsers.add_parser(
        'export',
        help='write a checkpoint as ONNX models or as safetensors',
        description='Write a checkpoint in another format. Files of these names are replaced.\n\n'
        "onnx (needs: pip install onnx onnxscript onnxruntime): the network's halves, for images of any size:\n"
        '  downscale.onnx  hr (N, 3, H, W) -> lr (N, 3, h, w)\n'
        '  upscale.onnx    lr (N, 3, h, w), latent (N, 3*scale*scale - 3, h, w) -> hr\n'
        'Images are float RGB in [0, 1]. Round lr to 8 bit and clamp hr to [0, 1] yourself, and cut hr\n'
        'to the original size. latent is sigma times normal noise: zeros give the faithful image. Networks\n'
        'with sigma_input take epsilon, the noise itself, and sigma (N, 1, h, w) instead.\n'
        'For programs that give an image and take one, --sigma 0.5 writes, in place of the latter,\n'
        '  upscale_sigma0.5.onnx  lr -> hr, clamped, with noise that follows from the pixels of lr\n'
        'Each model is compared with torch before anything is written.\n\n'
        'safetensors: the weights, under the name of MODEL, with what rebuilding the network takes; every command\n'
        'reads the file in place of MODEL. It is read back before it gets its name.\n\n'
        'With --sigma-gain 2 sigma = 0.5 of what is written is about what sigma = 1 of MODEL is, and sigma = 1 goes\n'
        'beyond: sharper, at the cost of PSNR, up to where it gets worse in both. irnsigma evaluate tells.',
        epilog='examples:\n  irnsigma export net_g_latest.pth onnx\n'
        '  irnsigma export IRN_x4.pth onnx --direction up --opset 20\n'
        '  irnsigma export net_g_latest.pth onnx --sigma 0.5\n'
        '  irnsigma export net_g_latest.pth safetensors --format safetensors\n'
        '  irnsigma export net_g_latest.pth safetensors --format safetensors --sigma-gain 1.5',
    )
    add = parser.add_argument
    add('model', metavar='MODEL', help='checkpoint, or the name of a built-in model')
    add_imports(parser)
    add('folder', metavar='FOLDER', help='where the files go; made where it is missing')
    add('--format', choices=('onnx', 'safetensors'), default='onnx', help='default: onnx')
    add('--direction', nargs='+', choices=DIRECTIONS, help='of onnx (default: both)')
    add('--sigma', type=parse_sigma, help='of onnx: fixed in the upscaling model, which then takes lr alone')
    add('--opset', type=int, help='of onnx: set of operators (default: the oldest that torch exports)')
    gain_help = 'multiply the weights of sigma, so that its effect reaches further (networks with sigma_input)'
    add('--sigma-gain', type=parse_gain, metavar='G', help=gain_help)
    half_help = 'of safetensors: float16, half as large; another model, which does not restore what MODEL downscaled'
    add('--half', action='store_true', help=half_help)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from irnsigma_plugin.archs.irn_arch import InvRescaleNet
    from irnsigma_plugin.checkpoints.weights import build_network, read_checkpoint
    from irnsigma_plugin.files import make_folder

    if args.format == 'onnx' and args.half:
        raise ValueError('--half is for --format safetensors; leave it out.')
    if args.format != 'onnx' and (args.direction or args.opset is not None or args.sigma is not None):
        raise ValueError('--direction, --opset and --sigma are for --format onnx; leave them out.')
    if args.sigma is not None and args.direction == ['down']:
        raise ValueError('--sigma is for --direction up; leave one of them out.')
    make_folder(args.folder)  # before the work, not after it
    checkpoint = read_checkpoint(args.model)
    target = Path(args.folder, Path(args.model).stem + '.safetensors')
    if args.format == 'safetensors' and target.exists() and target.samefile(builtin.locate(args.model)):
        raise ValueError(f'{target} would replace the checkpoint that it is made of; choose another FOLDER.')
    net = build_network(checkpoint, find_class=network_finder(args))
    if args.sigma_gain is not None:
        if not (isinstance(net, InvRescaleNet) and net.sigma_input):
            raise ValueError(f'--sigma-gain is for networks with sigma_input; {args.model} has none. Leave it out.')
        net.amplify_sigma(args.sigma_gain)
    if args.format == 'safetensors':
        from irnsigma_plugin.formats.safetensors import export_safetensors

        print(f'{target}: model hash {export_safetensors(checkpoint, net, target, args.half)}')
        return
    from irnsigma_plugin.formats.onnx import DEFAULT_OPSET, export_onnx

    opset = DEFAULT_OPSET if args.opset is None else args.opset
    errors = export_onnx(net, args.folder, args.direction or DIRECTIONS, opset, args.sigma)
    for path, error in errors.items():
        print(f'{path}: largest deviation from torch {error:.1e}')
