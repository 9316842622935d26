"""The two halves of a rescaling network as ONNX models."""

from __future__ import annotations

import copy
import importlib.util
import logging
import math
import os
from collections.abc import Sequence
from typing import Callable

import numpy as np
import torch
from torch import Tensor, nn

from irnsigma_plugin.archs.irn_arch import IMAGE_CHANNELS, LearnableDownsampling
from irnsigma_plugin.archs.rescaling_net import RescalingNet, quantize
from irnsigma_plugin.checkpoints.weights import model_hash
from irnsigma_plugin.checks import whole_number
from irnsigma_plugin.files import atomic_write, make_folder
from irnsigma_plugin.sigma import check_sigma

DEFAULT_OPSET = 18  # the oldest set of operators that torch's exporter has of its own
TOLERANCE = 0.1 / 255  # largest deviation from torch: a tenth of a step of an 8-bit image
PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')
# Below 2^30, so that the square of a sum of two residues is one of int64.
PRIME = 2**30 - 35
ROUNDS = (0x243F6A88, 0x13198A2E, 0x03707344)  # of the digits of pi


class OnnxError(RuntimeError):
    """The network cannot be exported."""


def export_onnx(
    net: RescalingNet,
    folder: str | os.PathLike,
    directions: Sequence[str] = ('down', 'up'),
    opset: int = DEFAULT_OPSET,
    sigma: float | None = None,
) -> dict[str, float]:
    """Write `downscale.onnx` (hr -> lr) and `upscale.onnx` (lr, latent -> hr), for images of any size.

    They compute what :meth:`RescalingNet.downscale` and :meth:`RescalingNet.upscale` do: images are float RGB
    (N, 3, H, W), nominally in [0, 1], and the results are neither rounded nor clamped. The latent of shape
    (N, 3·scale² - 3, h, w) is sigma times noise of N(0, 1), or zero. For a network with `sigma_input` it is replaced by
    that noise, `epsilon`, and `sigma`, (N, 1, h, w). Scale and model hash stand in the metadata of the
    files. Every model is run by onnxruntime and compared with torch before any file is written. The network is on the
    CPU; the folder is made where it is missing.

    With a sigma, `upscale_sigma<sigma>.onnx` (lr -> hr, clamped to [0, 1]) is written in place of `upscale.onnx`. It is
    :func:`restore_alone`.

    Returns:
        By path of each file its largest deviation from torch.

    Raises:
        OnnxError: A package is missing, the exporter fails, or a model deviates by more than `TOLERANCE`.
        ValueError: The opset is no whole number from 18, or sigma no number in [0, 1].
        WriteError: The folder or a file cannot be written.
    """
    whole_number('opset', opset, smallest=DEFAULT_OPSET)
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise OnnxError(f'exporting needs {" and ".join(missing)}: pip install {" ".join(missing)}')
    net = exportable(net)
    up: Half = (UpscaleAtSigma if getattr(net, 'sigma_input', False) else Upscale)(net)
    if sigma is not None:
        up = UpscaleAlone(net, check_sigma(sigma))
    models, errors = {}, {}
    for direction in directions:
        half = {'down': Downscale(net), 'up': up}[direction].eval()  # the exporter warns of anything else
        path = os.path.join(folder, half.file_name)
        models[path] = _export(half, opset)
        errors[path] = _error_of_model(half, models[path])
        if not errors[path] <= TOLERANCE:
            raise OnnxError(
                f'{half.file_name} deviates from torch by {errors[path]:.2g}, more than {TOLERANCE:.2g}: '
                'nothing was written. Try another opset, or another version of onnxruntime.'
            )
    make_folder(folder)
    for path, model in models.items():
        atomic_write(path, model)
    return errors


def restore_alone(net: RescalingNet, lr: Tensor, sigma: float) -> Tensor:
    """Restore lr images (N, 3, h, w) for programs that give an image and get one: no name, no seed.

    The noise follows from the 8-bit levels of each image; where one differs, as in the next tile, it is another. ONNX
    has all operators. F(x, key) repeats `x <- (x + key + constant)^5 mod PRIME`, a permutation; the key of an image is
    the sum of F(place, level) over its samples; the uniform numbers of the Box-Muller transform are
    `(a + b)^2 mod PRIME`, of keyed numbers of the cell and of the channel.
    """
    shape = net.latent_shape(lr.shape)
    if sigma == 0:
        return net.restore(lr, lr.new_zeros(shape), sigma)
    levels = (lr.float().clamp(0, 1) * 255).round().long()
    places, cells, channels = (
        torch.arange(math.prod(each), device=lr.device).reshape(each)
        for each in (lr.shape[1:], shape[-2:], (*shape[1:-2], 1, 1))
    )
    key = (_scramble(places, levels).flatten(1).sum(1) % PRIME).reshape(-1, *[1] * (len(shape) - 1))
    uniform = []
    for _ in range(2):
        cells, channels = _scramble(cells, key), _scramble(channels, key + 1)
        uniform.append((cells + channels) * (cells + channels) % PRIME)
    radius = (-2 * ((uniform[0] + 1) / PRIME).log()).sqrt()
    return net.restore(lr, (radius * (uniform[1] * (2 * math.pi / PRIME)).cos()).to(lr), sigma)


def _scramble(value: Tensor, key: Tensor) -> Tensor:
    for constant in ROUNDS:
        value = (value + key + constant) % PRIME
        square = value * value % PRIME
        value = square * square % PRIME * value % PRIME
    return value


def exportable(net: RescalingNet) -> RescalingNet:
    """A copy of a network, in evaluation mode, of layers that graphs have operators for."""
    net = copy.deepcopy(net).eval()
    for name, layer in list(net.named_modules()):
        if isinstance(layer, LearnableDownsampling):
            net.set_submodule(name, _FixedMatrix(layer))
    return net


class Half(nn.Module):
    """One direction of a network, as the exporter takes it."""

    file_name: str
    output: str

    def __init__(self, net: RescalingNet) -> None:
        super().__init__()
        self.net = net

    def example(self, n: int, height: int, width: int) -> dict[str, Tensor]:
        """Inputs by name, for hr of a size."""
        return {'hr': torch.rand((n, IMAGE_CHANNELS, height, width), generator=torch.Generator().manual_seed(0))}


class Downscale(Half):
    """hr -> lr. The border is completed in the graph, so that images of any size go in."""

    file_name, output = 'downscale.onnx', 'lr'

    def forward(self, hr: Tensor) -> Tensor:
        return self.net.downscale(hr)[0]


class Upscale(Half):
    """(lr, latent) -> hr."""

    file_name, output = 'upscale.onnx', 'hr'

    def forward(self, lr: Tensor, latent: Tensor) -> Tensor:
        return self.net.upscale(lr, latent)

    def example(self, n: int, height: int, width: int) -> dict[str, Tensor]:
        with torch.no_grad():
            lr, latent = self.net.downscale(**super().example(n, height, width))
        return {'lr': quantize(lr), 'latent': torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))}


class UpscaleAtSigma(Upscale):
    """(lr, epsilon, sigma) -> hr."""

    def forward(self, lr: Tensor, epsilon: Tensor, sigma: Tensor) -> Tensor:  # type: ignore[override]
        return self.net.restore(lr, epsilon, sigma)

    def example(self, n: int, height: int, width: int) -> dict[str, Tensor]:
        lr, epsilon = super().example(n, height, width).values()
        return {'lr': lr, 'epsilon': epsilon, 'sigma': lr[:, :1]}


class UpscaleAlone(Upscale):
    """lr -> hr, at a fixed sigma."""

    def __init__(self, net: RescalingNet, sigma: float) -> None:
        super().__init__(net)
        self.sigma = sigma
        self.file_name = f'upscale_sigma{sigma:g}.onnx'

    def forward(self, lr: Tensor) -> Tensor:  # type: ignore[override]
        return restore_alone(self.net, lr, self.sigma).clamp(0, 1)

    def example(self, n: int, height: int, width: int) -> dict[str, Tensor]:
        return {'lr': super().example(n, height, width)['lr']}


def _export(half: Half, opset: int) -> bytes:
    inputs = half.example(2, 5 * half.net.scale, 7 * half.net.scale)
    logger = logging.getLogger('onnxscript')
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of every Split that it leaves as it is
    try:
        program = torch.onnx.export(
            half,
            tuple(inputs.values()),
            dynamo=True,
            verbose=False,
            input_names=list(inputs),
            output_names=[half.output],
            opset_version=opset,
            dynamic_shapes=dict.fromkeys(inputs, dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)),
        )
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise OnnxError(f'torch {torch.__version__} cannot export {half.file_name}: {cause}') from error
    finally:
        logger.setLevel(level)
    assert program is not None  # it is one of `dynamo=True`
    written = program.model.opset_imports['']
    if written != opset:
        raise OnnxError(f'torch {torch.__version__} cannot export with opset {opset}; it offers {written}.')
    program.model.metadata_props.update(scale=str(half.net.scale), model_hash=model_hash(half.net.state_dict()))
    if isinstance(half, UpscaleAlone):
        program.model.metadata_props['sigma'] = str(half.sigma)
    return program.model_proto.SerializeToString()


def _error_of_model(half: Half, model: bytes) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])

    def run(**inputs: Tensor) -> np.ndarray:
        return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]

    return largest_error(half, run)


def largest_error(half: Half, run: Callable[..., np.ndarray]) -> float:
    """Largest deviation of what `run` makes of a half's inputs from the half itself; relative to results above 1.

    Several images are tried, with sides that are multiples of the scale and others.

    Raises:
        OnnxError: A result has another shape.
    """
    scale = half.net.scale
    worst = 0.0
    for size in ((1, 8 * scale, 6 * scale), (3, 4 * scale + 1, 3 * scale - 1), (1, 1, 1)):
        inputs = half.example(*size)
        with torch.no_grad():
            expected = half(**inputs)
        result = torch.from_numpy(run(**inputs))
        if result.shape != expected.shape:
            shapes = f'shape {tuple(result.shape)} instead of {tuple(expected.shape)}'
            raise OnnxError(f'{half.file_name} gives a result of {shapes} for an image of {size[1]}x{size[2]}.')
        worst = max(worst, ((result - expected).abs().max() / expected.abs().max().clamp(min=1)).item())
    return worst


class _FixedMatrix(LearnableDownsampling):
    """A trained mixing layer with its inverse matrix at hand: ONNX cannot invert one."""

    def __init__(self, layer: LearnableDownsampling) -> None:
        super().__init__(layer.factor)
        self.conv_weights = layer.conv_weights
        self.fixed_inverse = layer.inverse_matrix().detach()

    def inverse_matrix(self) -> Tensor:
        return self.fixed_inverse
