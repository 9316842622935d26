"""The two halves of a rescaling network as ONNX models."""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from irnsigma_plugin.archs.irn_arch import IMAGE_CHANNELS, LearnableDownsampling
from irnsigma_plugin.archs.rescaling_net import RescalingNet, quantize
from irnsigma_plugin.checkpoints.weights import model_hash
from irnsigma_plugin.checks import whole_number
from irnsigma_plugin.files import atomic_write, make_folder

DEFAULT_OPSET = 18  # the oldest set of operators that torch's exporter has of its own
TOLERANCE = 0.1 / 255  # largest deviation from torch: a tenth of a step of an 8-bit image
PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')


class OnnxError(RuntimeError):
    """The network cannot be exported."""


def export_onnx(
    net: RescalingNet, folder: str | os.PathLike, directions: Sequence[str] = ('down', 'up'), opset: int = DEFAULT_OPSET
) -> dict[str, float]:
    """Write `downscale.onnx` (hr -> lr) and `upscale.onnx` (lr, latent -> hr), for images of any size.

    They compute what :meth:`RescalingNet.downscale` and :meth:`RescalingNet.upscale` do: images are float RGB
    (N, 3, H, W), nominally in [0, 1], and the results are neither rounded nor clamped. The latent of shape
    (N, 3·scale² - 3, h, w) is sigma times noise of N(0, 1), or zero. For a network with `sigma_input` it is replaced by
    that noise, `epsilon`, and `sigma`, (N, 1, h, w). Scale and model hash stand in the metadata of the
    files. Every model is run by onnxruntime and compared with torch before any file is written. The network is on the
    CPU; the folder is made where it is missing.

    Returns:
        By path of each file its largest deviation from torch.

    Raises:
        OnnxError: A package is missing, the exporter fails, or a model deviates by more than `TOLERANCE`.
        ValueError: The opset is no whole number from 18.
        WriteError: The folder or a file cannot be written.
    """
    whole_number('opset', opset, smallest=DEFAULT_OPSET)
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise OnnxError(f'exporting needs {" and ".join(missing)}: pip install {" ".join(missing)}')
    net = copy.deepcopy(net).eval()
    for name, layer in list(net.named_modules()):
        if isinstance(layer, LearnableDownsampling):
            net.set_submodule(name, _FixedMatrix(layer))
    models, errors = {}, {}
    for direction in directions:
        up = UpscaleAtSigma if getattr(net, 'sigma_input', False) else Upscale
        half = {'down': Downscale, 'up': up}[direction](net).eval()  # the exporter warns of anything else
        path = os.path.join(folder, half.file_name)
        models[path] = _export(half, opset)
        errors[path] = _largest_error(half, models[path])
        if not errors[path] <= TOLERANCE:
            raise OnnxError(
                f'{half.file_name} deviates from torch by {errors[path]:.2g}, more than {TOLERANCE:.2g}: '
                'nothing was written. Try another opset, or another version of onnxruntime.'
            )
    make_folder(folder)
    for path, model in models.items():
        atomic_write(path, model)
    return errors


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
    return program.model_proto.SerializeToString()


def _largest_error(half: Half, model: bytes) -> float:
    """Largest deviation of an ONNX model from the module that it was made of; relative to results above 1.

    Several images are tried, with sides that are multiples of the scale and others.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
    scale = half.net.scale
    worst = 0.0
    for size in ((1, 8 * scale, 6 * scale), (3, 4 * scale + 1, 3 * scale - 1), (1, 1, 1)):
        inputs = half.example(*size)
        with torch.no_grad():
            expected = half(**inputs)
        result = torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])
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
