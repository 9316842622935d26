#!/usr/bin/env python
"""Time and memory of the network and of its training, beside the network's textbook form, in one run.

Every time is the median of runs that take turns, so that a machine that changes its speed changes all of them; that of
`quality` is the mean of one run per photograph.

    inference  both directions of images, in each of --precisions
    networks   both directions of an image with networks of other settings, --networks, beside each other
    quality    what each of --precisions makes of photographs with a trained network
    lossy      what is restored from small images that are JPEG files
    training   a training step of the network alone, and with recomputed blocks
    step       the whole training step of an option file, with the discriminator and VGG: where its time goes
    loader     samples per second of one worker process, and how many workers the measured step needs
    sizes      how time and memory of downscaling grow with the image
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
from pathlib import Path

import torch
import yaml
from benchmarks import loader, lossy, network, networks, quality, sizes, step, table
from benchmarks.measure import measure_machine
from benchmarks.textbook import randomise, textbook

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.files import atomic_write, make_folder
from irnsigma_plugin.images.names import find_images
from irnsigma_plugin.options.file import read_option_file
from irnsigma_plugin.options.rules import value_at
from irnsigma_plugin.options.train_val import AMP_MODES
from irnsigma_plugin.rescaling.precision import PRECISIONS, native_precision
from irnsigma_plugin.rescaling.rescaler import reproducible_convolutions

EPILOG = f"""\
Leave the machine alone meanwhile. Network and textbook form share weights and images.

MiB is what one call takes at its highest beyond what was in use when it began. What is there before does not count:
Python and its libraries, the weights, the image, in a training step also the last gradients and the optimiser's state.
The result and all in between count. On a CPU the kernel tells it (the highest resident memory of the process during
the call, free memory given back before), on a GPU torch's allocator, in what it has handed out, without its reserve.

`step` needs no data set: images are noise and weights random, VGG's too where its file is not on this machine. Its
parts are those of IRNSigmaModel.optimize_parameters, timed where they are, on a GPU by events among its work.
EMA is switched on ({step.EMA_DECAY}), train.compile off. --amp and --channels-last change the plugin's column only.

`loader` makes LMDBs of {loader.PHOTOGRAPHS} photographs at most, as `irnsigma prepare` does, in a folder for the
while.

`sizes` takes {sizes.RUNS_IF_LARGE} runs at most from {sizes.LARGE} pixels a side, as a call can take a minute and more.
`exponent` is e of time ~ pixels^e from the size before: 1 is linear.

examples:
  python scripts/benchmark.py
  python scripts/benchmark.py --parts inference --precisions fp32 bf16 fp16 --sizes 480x320
  python scripts/benchmark.py --parts networks --networks '{{}}' '{{subnet: residual}}' --threads 1
  python scripts/benchmark.py --parts quality --precisions bf16 fp16 --model net_g.safetensors --images BSD100/HR
  python scripts/benchmark.py --parts lossy --model irnsigma_x4 --images Set14/HR
  python scripts/benchmark.py --parts step loader --images BSDS400
  python scripts/benchmark.py --parts step --device cuda --batch 16 --amp bf16 --channels-last --json gpu.json
  python scripts/benchmark.py --parts sizes --largest 1024 --plot sizes.png
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG
    )
    parser.add_argument('--device', default='cpu', help='cpu or cuda, or cuda:1 (default: cpu)')
    parser.add_argument('--threads', type=int, help="of the CPU (default: torch's)")
    parser.add_argument(
        '--parts',
        nargs='+',
        default=['inference', 'training'],
        choices=['inference', 'networks', 'training', 'step', 'loader', 'sizes', 'quality', 'lossy'],
        help='what to measure (default: inference training)',
    )
    parser.add_argument('--runs', type=int, default=7, help='medians are of so many (default: 7)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all figures')

    net = parser.add_argument_group('the network of `inference`, `training` and `sizes`')
    net.add_argument('--scale', type=int, default=4, help='2, 3, 4 or 8, for `loader`, too (default: 4)')
    net.add_argument('--blocks', type=int, nargs='+', metavar='N', help="of each level (default: the paper's)")
    net.add_argument('--growth', type=int, default=32, metavar='N', help='of the dense blocks (default: 32)')

    what = parser.add_argument_group('what is computed')
    what.add_argument(
        '--sizes',
        nargs='+',
        default=['480x320', '2040x1356'],
        metavar='WxH',
        help='images of the inference (default: 480x320 2040x1356)',
    )
    what.add_argument(
        '--networks',
        nargs='+',
        type=yaml.safe_load,
        metavar='ARGUMENTS',
        help="of `networks`, as in an option file's network_g: '{block_num: [4, 4], growth_channels: 16}'",
    )
    what.add_argument(
        '--precisions',
        nargs='+',
        choices=PRECISIONS[1:],
        help='of the convolutions in `inference` and `quality` (default: fp32, and bf16 where `auto` is that here)',
    )
    what.add_argument(
        '--openvino', action='store_true', help='`inference` and `quality` by OpenVINO, too (the extra openvino)'
    )
    what.add_argument('--model', metavar='FILE|NAME', help='checkpoint, or built-in model, of `quality` and `lossy`')
    what.add_argument('--every', type=int, default=1, metavar='N', help='every Nth image in both (default: 1)')
    what.add_argument('--batch', type=int, help='patches of a step (default: 4 in `training`, 2 in `step`)')
    what.add_argument(
        '--patch', type=int, help="their side (default: 144 in `training`, the option file's gt_size in `step`)"
    )
    what.add_argument(
        '--options',
        type=Path,
        default=step.OPTIONS,
        metavar='FILE',
        help=f'option file of `step` (default: options/{step.OPTIONS.name})',
    )
    what.add_argument('--amp', choices=AMP_MODES, help="train.amp of the plugin's column in `step`")
    what.add_argument('--channels-last', action='store_true', help='train.channels_last of the same')
    what.add_argument('--images', type=Path, metavar='FOLDER', help='photographs of these and `loader`')
    what.add_argument('--largest', type=int, default=4096, help='largest side of `sizes` (default: 4096)')
    what.add_argument('--plot', type=Path, metavar='FILE', help='draw `sizes` as a PNG file')
    what.add_argument(
        '--from', type=Path, dest='source', metavar='FILE', help='measure nothing: draw --plot from what --json wrote'
    )
    args = parser.parse_args(argv)
    if 'loader' in args.parts and args.images is None:
        parser.error('loader needs photographs: --images FOLDER')
    if 'networks' in args.parts and (args.networks is None or args.device != 'cpu'):
        parser.error('networks needs --networks, and runs on the CPU')
    for part in {'quality', 'lossy'} & set(args.parts):
        if args.images is None or args.model is None:
            parser.error(f'{part} needs a trained network and photographs: --model FILE --images FOLDER')
    if 'step' in args.parts and value_at(read_option_file(args.options), 'network_g.subnet') == 'residual':
        parser.error(f'step compares with textbook blocks, but the subnet of {args.options.name} is residual')
    if args.openvino and args.device != 'cpu':
        parser.error('--openvino runs on the CPU: leave --device out')
    if args.openvino and 'fp16' in (args.precisions or ()):
        parser.error('OpenVINO computes in fp32 or bf16: leave --openvino or fp16 out')
    if args.source and not args.plot:
        parser.error('--from needs a file to draw: --plot FILE')
    if args.plot and not args.source and 'sizes' not in args.parts:
        parser.error('--plot draws the part sizes: add --parts sizes, or --from FILE')
    return args


def main(argv: list[str] | None = None) -> None:
    """Measure, print tables, and write the figures where asked to."""
    args = parse_arguments(argv)
    if args.source:
        atomic_write(args.plot, sizes.draw_sizes(json.loads(args.source.read_text())['sizes']))
        return
    for path in filter(None, (args.json, args.plot)):
        make_folder(path.parent)  # before the work, not after it
    figures = measure(args)
    if args.json:
        atomic_write(args.json, (json.dumps(figures, indent=1) + '\n').encode())
    if args.plot:
        atomic_write(args.plot, sizes.draw_sizes(figures['sizes']))


def measure(args: argparse.Namespace) -> dict:
    """Measure and print; the figures of each part by its name."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    if device.type == 'cuda':
        torch.cuda.set_device(device.index or 0)  # events are recorded there
        torch.backends.cudnn.benchmark = True  # as basicsr.train has it
    machine = measure_machine(device, args.runs)
    print(
        f'{device}, {torch.get_num_threads()} threads, torch {torch.__version__}: matrix product '
        f'{machine.product:.0f} GFLOP/s, 3x3 convolution of 128 channels {machine.convolution:.0f} GFLOP/s'
    )
    figures = {
        'device': str(device),
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
        'processor': platform.processor() or platform.machine(),
        'cores': os.cpu_count(),
        'gpu': torch.cuda.get_device_name(device) if device.type == 'cuda' else None,
        'matrix_product_gflops': machine.product,
        'convolution_gflops': machine.convolution,
    }
    net = randomise(InvRescaleNet(args.scale, args.blocks, args.growth), std=0.01)
    nets = {'plugin': net.to(device), 'textbook': textbook(net).to(device)}
    precisions = args.precisions or tuple(dict.fromkeys(('fp32', native_precision(device))))
    if 'inference' in args.parts:
        engine = network.openvino_engine(net, precisions) if args.openvino else {}
        rows = (
            row
            for size in args.sizes
            for row in network.benchmark_inference(
                machine, nets, tuple(map(int, size.split('x'))), args.runs, precisions, engine
            )
        )
        with reproducible_convolutions(device):  # as Rescaler computes
            figures['inference'] = table.show(network.COLUMNS, rows)
    if 'networks' in args.parts:
        size = tuple(map(int, args.sizes[0].split('x')))
        with reproducible_convolutions(device):
            figures['networks'] = table.show(
                networks.COLUMNS, networks.benchmark_networks(args.networks, size, args.runs)
            )
    if 'training' in args.parts:
        rows = network.benchmark_training(machine, nets, args.batch or 4, args.patch or 144, args.runs)
        figures['training'] = table.show(network.COLUMNS, rows)
    taken = None
    if 'step' in args.parts:
        own = {**({'amp': args.amp} if args.amp else {}), **({'channels_last': True} if args.channels_last else {})}
        taken = step.benchmark_step(device, args.options, args.batch or 2, args.patch, args.runs, own)
        print(
            f'\n{args.options.name}, {taken.batch}x{taken.patch}x{taken.patch}, weights of VGG: {taken.vgg_weights}'
            + (f', plugin with {", ".join(f"{key}: {value}" for key, value in own.items())}' if own else '')
        )
        figures['step'] = {
            **taken._asdict(),
            'options': args.options.name,
            'plugin_train': own,
            'rows': table.show(step.COLUMNS, taken.rows),
        }
    if 'loader' in args.parts:
        needed = taken and taken.samples_per_second
        figures['loader'] = table.show(
            loader.COLUMNS, loader.benchmark_loader(args.images, args.scale, args.runs, needed)
        )
    if {'quality', 'lossy'} & set(args.parts):
        images = [path for path, _ in find_images([str(args.images)])][:: args.every]
        print(f'\n{Path(args.model).name}, {len(images)} images of {args.images}')
    if 'lossy' in args.parts:
        figures['lossy'] = table.show(lossy.COLUMNS, lossy.benchmark_lossy(device, args.model, images))
    if 'quality' in args.parts:
        figures['quality'] = table.show(
            quality.COLUMNS, quality.benchmark_quality(device, args.model, images, precisions, args.openvino)
        )
    if 'sizes' in args.parts:
        with reproducible_convolutions(device):
            rows = sizes.benchmark_sizes(machine, nets['plugin'], args.largest, args.runs)
            figures['sizes'] = table.show(sizes.COLUMNS, rows)
    return figures


if __name__ == '__main__':
    logging.disable(logging.INFO)  # BasicSR's lines would stand between the tables
    main()
