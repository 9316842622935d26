"""The two halves of a rescaling network as OpenVINO computes them, and the folder that keeps them compiled."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irnsigma_plugin import __version__
from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.archs.rescaling_net import RescalingNet
from irnsigma_plugin.checkpoints.weights import model_hash
from irnsigma_plugin.checks import one_line
from irnsigma_plugin.files import atomic_write, make_folder, remove_leftovers
from irnsigma_plugin.formats.onnx import TOLERANCE, Downscale, Half, UpscaleAtSigma, exportable, largest_error

HINTS = {'fp32': 'f32', 'bf16': 'bf16'}  # OpenVINO's names of its precisions
DIGEST_BYTES = 32  # of SHA-256, at the start of a kept file
UNUSED_DAYS = 90  # after which a kept file is removed, when another one is made

_logger = logging.getLogger(__package__)
_lock = threading.Lock()  # tracing is the process's, and the names of temporary files are, too


class EngineError(RuntimeError):
    """OpenVINO is not installed, or cannot compute a network."""


class CompiledNet:
    """A network's `downscale`, without the latent, and `restore`, by OpenVINO on the CPU, in as many threads as torch.

    Each half is traced once and compared with torch as ONNX models are. What is compiled of an `InvRescaleNet` is kept
    in :func:`cache_folder`: in files with a checksum, written atomically, named by all that they depend on. What a
    network of an extension depends on beside its weights is not known, so it is compiled anew in each process.

    Args:
        net: Network; later changes of its weights have no effect.
        precision: `fp32` or `bf16`, of everything between the images.

    Raises:
        EngineError: OpenVINO is missing, has no such precision, fails, or deviates by more than `TOLERANCE` in float32.
    """

    def __init__(self, net: RescalingNet, precision: str) -> None:
        openvino = _import_openvino()
        if precision not in HINTS:
            raise EngineError(f'OpenVINO computes in {" or ".join(HINTS)}, not in {precision}; use the engine torch.')
        with _explained(type(net).__name__):
            self._core = core = openvino.Core()
            processor = [core.get_property('CPU', key) for key in ('FULL_DEVICE_NAME', 'OPTIMIZATION_CAPABILITIES')]
            versions = __version__, torch.__version__, openvino.__version__
        self._settings = {
            'INFERENCE_PRECISION_HINT': HINTS[precision],
            'INFERENCE_NUM_THREADS': torch.get_num_threads(),
            'ENABLE_CPU_PINNING': False,  # processes side by side would all be pinned to the same cores
        }
        net = exportable(net)
        self._halves: tuple[Half, ...] = (Downscale(net).eval(), UpscaleAtSigma(net).eval())
        self._compiled: dict[Half, Any] = {}
        key = (model_hash(net.state_dict()), getattr(net, 'clamp', None), precision, *versions, *processor)
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
        self._path = cache_folder() / name if type(net) is InvRescaleNet else None
        missing = [half for half in self._halves if not (self._path and self._file(half).is_file())]
        if missing:  # now, when there is still another way
            kept = f', once: it is kept in {self._path.parent}' if self._path else ''
            _logger.warning('OpenVINO compiles %s, which takes seconds%s.', type(net).__name__, kept)
            with _lock:
                self._compiled.update((half, self._make(half)) for half in missing)

    def downscale(self, hr: Tensor) -> tuple[Tensor]:
        """hr (N, 3, H, W) -> lr."""
        return (self._infer(self._halves[0], hr),)

    def restore(self, lr: Tensor, epsilon: Tensor, sigma: Tensor | float) -> Tensor:
        """As of :meth:`RescalingNet.restore`; sigma is a number or (N, 1, h, w)."""
        sigma = sigma if isinstance(sigma, Tensor) else torch.full_like(lr[:, :1], sigma)
        return self._infer(self._halves[1], lr, epsilon, sigma)

    def _infer(self, half: Half, *inputs: Tensor) -> Tensor:
        if half not in self._compiled:
            with _lock:
                self._compiled[half] = self._compiled.get(half) or self._load(half) or self._make(half)
        return torch.from_numpy(_run(self._compiled[half], inputs))

    def _file(self, half: Half) -> Path:
        return Path(f'{self._path}.{half.output}')

    def _load(self, half: Half) -> Any:
        """What is kept of a half; None where it is missing, damaged, or refused by OpenVINO."""
        try:
            content = self._file(half).read_bytes()
            if hashlib.sha256(content[DIGEST_BYTES:]).digest() != content[:DIGEST_BYTES]:
                return None
            with contextlib.suppress(OSError):  # of a file of somebody else's
                os.utime(self._file(half))
            return self._core.import_model(content[DIGEST_BYTES:], 'CPU', self._settings)
        except Exception:  # OpenVINO raises almost anything
            return None

    def _make(self, half: Half) -> Any:
        what = f'{half.file_name.partition(".")[0]} of {type(half.net).__name__}'
        openvino = _import_openvino()
        inputs = half.example(2, 5 * half.net.scale, 7 * half.net.scale)
        with _explained(what), torch.no_grad(), torch.autocast('cpu', enabled=False), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # that sizes are traced, which is wanted
            shapes = [openvino.PartialShape([-1, each.shape[1], -1, -1]) for each in inputs.values()]
            model = openvino.convert_model(half, example_input=tuple(inputs.values()), input=shapes)
            settings = {**self._settings, 'INFERENCE_PRECISION_HINT': HINTS['fp32']}
            compiled = self._core.compile_model(model, 'CPU', settings)
            error = largest_error(half, lambda **inputs: _run(compiled, inputs.values()))
        if not error <= TOLERANCE:
            deviation = f'{what} by OpenVINO deviates from torch by {error:.2g}, more than {TOLERANCE:.2g}'
            raise EngineError(f'{deviation}; use the engine torch, or another version of openvino.')
        with _explained(what):
            if settings != self._settings:
                compiled = self._core.compile_model(model, 'CPU', self._settings)
            content = compiled.export_model().getvalue() if self._path else b''
        if self._path:
            try:
                make_folder(self._path.parent)
                _tidy(self._path.parent)
                atomic_write(self._file(half), hashlib.sha256(content).digest() + content)
            except OSError as failure:
                _logger.warning('%s', failure)
        return compiled


def cache_folder() -> Path:
    """`irnsigma_plugin/openvino` in the user's folder of caches, `$XDG_CACHE_HOME` or `~/.cache`."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache', 'irnsigma_plugin', 'openvino')


def _tidy(folder: Path) -> None:
    """Remove what killed processes left, and what nobody has used for long, as of other versions."""
    remove_leftovers([str(folder)])
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):  # another process was faster, or it is somebody else's
            if entry.is_file() and time.time() - entry.stat().st_mtime > UNUSED_DAYS * 86400:
                Path(entry.path).unlink()


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Name `what` in place of the block's errors: OpenVINO and the tracer raise almost anything."""
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        yield
    except Exception as fault:
        root.setLevel(level)  # a failing conversion leaves OpenVINO's, which hides warnings
        root.filters, root.handlers = filters, handlers
        raise EngineError(f'OpenVINO cannot compute {what} ({one_line(fault)}); use the engine torch.') from fault


def _run(compiled: Any, inputs: Any) -> np.ndarray:
    """The result of a model, by a request of its own: they are not to be shared by threads."""
    (result,) = compiled.create_infer_request().infer([each.contiguous().numpy() for each in inputs]).values()
    return result


def _import_openvino() -> ModuleType:
    """OpenVINO without its telemetry, which would tell a server of every import."""
    sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]  # so it uses a stub
    try:
        import openvino
    except ImportError as error:
        remedy = 'pip install "irnsigma_plugin[openvino]"'
        raise EngineError(f'the engine openvino is not installed ({error}): {remedy}') from error
    finally:
        if sys.modules['openvino_telemetry'] is None:
            del sys.modules['openvino_telemetry']
    return openvino
