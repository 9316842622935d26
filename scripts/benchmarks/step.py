"""Where the time of a whole training step goes: `IRNSigmaModel.optimize_parameters` of an option file."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.measure import seconds
from benchmarks.textbook import randomise, use_textbook_blocks
from benchmarks.watch import Watch
from irnsigma_plugin.archs.rescaling_net import RescaleResult
from irnsigma_plugin.imagenet.weights import find_weights
from irnsigma_plugin.options.file import read_option_file
from irnsigma_plugin.training.model import IRNSigmaModel

OPTIONS = Path(__file__).resolve().parents[2] / 'options' / 'train_IRNsigma_x4.yml'
EMA_DECAY = 0.999
REST = 'the rest'

COLUMNS = (
    ('part', 'what', '{}'),
    ('textbook', 'textbook_seconds', '{:.3f}'),
    ('share', 'textbook_share', '{:.1%}'),
    ('plugin', 'seconds', '{:.3f}'),
    ('share', 'share', '{:.1%}'),
    ('faster', 'speedup', '{:.2f}'),
)


class Step(NamedTuple):
    """A step that was measured.

    Attributes:
        batch, patch: Images, and their side.
        vgg_weights: `imagenet`; `random` where the option file's weights are not on this machine; none without VGG.
        rows: Figures of the parts, then of the total.
    """

    batch: int
    patch: int
    vgg_weights: str | None
    rows: list[dict]

    @property
    def samples_per_second(self) -> float:
        """Images that the plugin's step takes in a second."""
        return self.batch / self.rows[-1]['seconds']


def benchmark_step(
    device: torch.device, options: Path, batch: int, patch: int | None, runs: int, plugin_train: Mapping[str, Any]
) -> Step:
    """Measure the step with textbook blocks and with the plugin's, in turn, on images of noise.

    Args:
        device: CPU or GPU.
        options: Option file of a training. Weights start at random, EMA is switched on (`EMA_DECAY`), `compile` off:
            what is watched is not compiled.
        batch: Images of a step.
        patch: Their side; by default the option file's.
        runs: Figures are medians of so many steps.
        plugin_train: Keys of `train` that the plugin's column has of its own.
    """
    models = {}
    for name, train in {'textbook': {}, 'plugin': plugin_train}.items():
        opt = step_options(options, device, patch, train)
        patch = opt['datasets']['train']['gt_size']
        perceptual = opt['train'].get('perceptual_opt')
        vgg_weights = perceptual and perceptual['weights']
        models[name] = _model(opt, name == 'textbook')
    hr, lr = (torch.rand(batch, 3, side, side) for side in (patch, patch // opt['scale']))
    watches = {name: watch_model(model) for name, model in models.items()}
    times: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for turn in range(runs + 1):
        for name, model in models.items():
            model.feed_data({'gt': hr, 'lq': lr})
            current_iter = (model.net_d_init_iters + 1 + turn) * model.net_d_iters
            total = seconds(device, lambda model=model, i=current_iter: model.optimize_parameters(i))
            parts = watches[name].read()
            rest = parts.pop(REST)
            if turn:  # the first one warms up
                times[name].append({**parts, REST: rest, 'total': total})
    taken = {
        name: {part: statistics.median(time[part] for time in each) for part in each[0]} for name, each in times.items()
    }
    rows = [_row(part, taken) for part in taken['plugin']]
    return Step(batch, patch, vgg_weights, rows)


def step_options(file: Path, device: torch.device, patch: int | None, train: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a training that starts at random weights, writes nothing, and whose parts can be watched."""
    opt = read_option_file(file)
    opt.update(is_train=True, dist=False, rank=0, world_size=1, num_gpu=int(device.type == 'cuda'), path={})
    opt['train'].update(ema_decay=EMA_DECAY, compile=False, cuda_graph=False, **train)
    patch = opt['datasets']['train']['gt_size'] = patch or opt['datasets']['train']['gt_size']
    if 'input_size' in (opt.get('network_d') or {}):
        opt['network_d']['input_size'] = patch
    perceptual = opt['train'].get('perceptual_opt')
    if perceptual:
        if find_weights(perceptual.get('vgg_type', 'vgg19')) is None:
            perceptual['weights'] = 'random'  # instead of a download
        perceptual.setdefault('weights', 'imagenet')
    return opt


def watch_model(model: IRNSigmaModel) -> Watch:
    """Have the parts of a model's step watched, where they are: its methods, networks and losses stay as they are."""
    watch = Watch(model.device)

    def by_network(of_g: str, of_d: str) -> str:
        learns = model.net_d is not None and next(model.net_d.parameters()).requires_grad  # not in G's step
        return of_d if learns else of_g

    def find_way_back(net_g: torch.nn.Module, inputs: tuple, result: RescaleResult) -> None:
        if result.restored.requires_grad:
            result.restored.register_hook(begin_way_back)

    def begin_way_back(gradient: Tensor) -> None:
        # All that lies behind G has had its turn: autograd goes back in the opposite order of the forward pass.
        watch.change('backward of G')

    watch.watch(model, 'optimize_parameters', REST)
    watch.watch(model.net_g, 'forward', 'forward of G')
    model.net_g.register_forward_hook(find_way_back)
    watch.watch(model.step, 'generator_losses', 'loss terms')
    watch.watch(model.step, '_backward', lambda: by_network('backward of losses, VGG, D', "D's step: backward"))
    watch.watch(model.step, '_take_step', lambda: by_network("optimiser's step of G", "D's step: optimiser"))
    if model.net_d is not None:
        watch.watch(model.step, 'step_discriminator', "D's step: forward, losses")
        watch.watch(model.net_d, 'forward', lambda: by_network('forward of D', "D's step: forward, losses"))
    if model.cri_perceptual is not None:
        watch.watch(
            model.cri_perceptual.vgg,
            'forward',
            lambda: f'forward of VGG, {"restored" if torch.is_grad_enabled() else "original"}',
        )
    watch.watch(model, 'model_ema', 'EMA')
    return watch


def _model(opt: dict[str, Any], is_textbook: bool) -> IRNSigmaModel:
    torch.manual_seed(0)
    model = IRNSigmaModel(opt)
    randomise(model.net_g, std=0.01)
    if is_textbook:
        for net in (model.net_g, model.net_g_ema):
            use_textbook_blocks(net)
    return model


def _row(part: str, taken: Mapping[str, Mapping[str, float]]) -> dict:
    """Figures of one part."""
    plugin, textbook = taken['plugin'], taken['textbook']
    return {
        'what': part,
        'seconds': plugin[part],
        'share': plugin[part] / plugin['total'],
        'textbook_seconds': textbook[part],
        'textbook_share': textbook[part] / textbook['total'],
        'speedup': textbook[part] / plugin[part],
    }
