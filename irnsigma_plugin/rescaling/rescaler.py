"""Downscale and restore images with a trained network, from Python."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from irnsigma_plugin.archs.grid import Size, Window, magnify, relative, windows
from irnsigma_plugin.archs.rescaling_net import RescalingNet, quantize
from irnsigma_plugin.checkpoints import builtin
from irnsigma_plugin.checkpoints.weights import FindClass, build_network, model_hash, read_checkpoint
from irnsigma_plugin.checks import one_of, raise_faults, whole_number
from irnsigma_plugin.formats.openvino import CompiledNet, EngineError
from irnsigma_plugin.rescaling import pixels
from irnsigma_plugin.rescaling.latent import check_sigma_map, draw_epsilon, sigma_of_cells
from irnsigma_plugin.rescaling.precision import ENGINES, PRECISIONS, autocast, native_engine, native_precision

# Side of the grid's cells, in hr pixels, and what a window adds around one by default, in lr pixels. Both
# belong to the definition of the result: other values change the last bits of some pixels. A window takes 0.1 GiB on
# a CPU; cells half as large would save a quarter of that, for a quarter more time.
CELL = 1024
OVERLAP = 16

_logger = logging.getLogger(__package__)
# glibc returns memory to the system once twice the largest piece that was ever freed, up to 32 MiB, is unused (the
# dynamic M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of mallopt(3)): those of small images are less than what a dense block
# needs, which then has to get it anew. Freeing a piece of so many bytes, never written to, lets it keep 64 MiB.
_LARGE_PIECE = 2**25 - 2**16
_CUDNN_SETTINGS = threading.Lock()  # they are the process's; so one image at a time on a GPU


class Rescaler:
    """Downscales and restores images of any size with one network.

    An image is worked on in windows of one fixed grid: cells of at most 1024 x 1024 hr pixels, each seen with
    `overlap` hr pixels around it. Where a sum is rounded depends on the shape that the network is given, so it
    always gets one window, by itself: the same image, seed, sigma, overlap, precision and engine give the same bytes
    whatever the batch, the order or the number of workers (on one machine; another may differ by one level where a
    value lies at a rounding boundary). Only windows become floating point, so memory is bounded by one window.

    The overlap is 16 lr pixels by default, or the network's receptive field (480 hr pixels for the paper's x4 network)
    where that is less. With this or more, the result is that of the image in one piece up to the rounding of float32.
    The default is as good in practice: on a network of `block_num: [4, 4]` trained for 1,300 iterations (field 240) a
    value in [0, 1] differs by 3e-7 at most; with an overlap of 8 lr pixels by 2e-4, and with none by 0.16.

    Grey images, with all channels equal, stay grey; see :func:`~irnsigma_plugin.rescaling.pixels.luma`. Where the
    network makes infinite values or no numbers of an image, a FloatingPointError is raised.

    Args:
        net: Network; it is moved to `device` and set to evaluation mode.
        device: Where to compute.
        precision: Of the convolutions: `fp32`, `bf16`, `fp16`, or `auto`, which is bf16 where the device is faster in
            it (see :func:`~irnsigma_plugin.rescaling.precision.native_precision`) and the network is fit for it
            (`half_precision`), else fp32. Any restores what any other has downscaled; the last bits differ.
        engine: `torch`; `openvino`, on the CPU, which keeps the weights of now; or `auto`, the faster one of them (see
            :func:`~irnsigma_plugin.rescaling.precision.native_engine`), and torch where OpenVINO fails.

    Attributes:
        precision, engine: What became of `auto`, too.

    Raises:
        EngineError: OpenVINO was asked for and cannot compute the network, or not on this device.

    Example:
        >>> rescaler = Rescaler.builtin()  # or Rescaler.from_checkpoint('net_g_latest.pth')
        >>> lr = rescaler.downscale(image)
        >>> restored = rescaler.upscale(lr, sigma=0.5, name='baby', size=image.shape[:2])
    """

    def __init__(
        self, net: RescalingNet, device: torch.device | str = 'cpu', precision: str = 'auto', engine: str = 'torch'
    ) -> None:
        raise_faults('Rescaler', [*one_of(*PRECISIONS)('precision', precision), *one_of(*ENGINES)('engine', engine)])
        # With its index: threads have a current GPU of their own.
        self.device = torch.empty(0, device=device).device
        self.net = net.to(self.device).eval()
        torch.empty(_LARGE_PIECE, dtype=torch.uint8)
        self.scale = net.scale
        if precision == 'auto':
            precision = native_precision(self.device) if net.half_precision else 'fp32'
        self.precision = precision
        self.engine = native_engine(self.device, precision) if engine == 'auto' else engine
        self._computes: RescalingNet | CompiledNet = self.net
        if self.engine == 'openvino':
            try:
                if self.device.type != 'cpu':
                    raise EngineError(f'OpenVINO computes on the CPU, but the device is {self.device}: name cpu.')
                self._computes = CompiledNet(self.net, precision)
            except EngineError as error:
                if engine != 'auto':
                    raise
                _logger.warning('%s', error)
                self.engine = 'torch'

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike,
        device: torch.device | str = 'auto',
        find_class: FindClass | None = None,
        precision: str = 'auto',
        engine: str = 'torch',
    ) -> Rescaler:
        """Build the network of a checkpoint, on the GPU if there is one and OpenVINO is not asked for (`auto`).

        `find_class` is for networks other than InvRescaleNet, such as `{'MyNet': MyNet}.get`; see `build_network`.

        Raises:
            CheckpointError: The file is missing, damaged, or of another network.
        """
        if device == 'auto':
            device = 'cuda' if torch.cuda.is_available() and engine != 'openvino' else 'cpu'
        return cls(build_network(read_checkpoint(path), find_class=find_class), device, precision, engine)

    @classmethod
    def builtin(cls, name: str = builtin.DEFAULT, device: torch.device | str = 'auto') -> Rescaler:
        """One of the models that come with the package, which `irnsigma info` lists; a ValueError for any other."""
        if name not in builtin.names():
            raise ValueError(f'there is no built-in model {name!r}, only {", ".join(builtin.names())}.')
        return cls.from_checkpoint(name, device)

    @functools.cached_property
    def model_hash(self) -> str:
        """See :func:`~irnsigma_plugin.checkpoints.weights.model_hash`."""
        return model_hash(self.net.state_dict())

    @torch.no_grad()
    def downscale(self, image: pixels.Image, overlap: int | None = None) -> pixels.Image:
        """Downscale an image of any size, H x W, to h = ceil(H / scale) times w = ceil(W / scale).

        Args:
            image: Array (H, W) or (H, W, 3), RGB, of uint8 or uint16; or tensor (3, H, W) or (N, 3, H, W), float
                in [0, 1].
            overlap: See :meth:`upscale`.

        Returns:
            uint8 array (h, w) or (h, w, 3); or float32 tensor (3, h, w) or (N, 3, h, w) on the device of `image`,
            multiples of 1/255.

        Raises:
            ValueError: An argument is of another form or out of range.
        """
        if isinstance(image, Tensor) and image.ndim == 4:
            pixels.check_count('image', image)
            return torch.stack([self.downscale(one, overlap) for one in image])
        pixels.check_image('image', image, (np.uint8, np.uint16))
        hr_size = pixels.height_width(image)
        lr_size = (-(-hr_size[0] // self.scale), -(-hr_size[1] // self.scale))
        lr = pixels.empty_like(image, lr_size, np.uint8)
        grey = pixels.is_grey(image)
        window: Window  # which mypy does not find out
        with reproducible_convolutions(self.device), autocast(self.precision, self.device):
            for window in self._windows(lr_size, overlap):
                area = magnify(window.area, self.scale, hr_size)
                large = pixels.read_region(image, area).to(self.device)
                small = pixels.check_result(self._computes.downscale(large)[0])
                small = quantize(pixels.luma(small) if grey else small)
                pixels.write_region(lr, window.core, small[(..., *relative(window.core, window.area))])
        return lr

    @torch.no_grad()
    def upscale(
        self,
        lr: pixels.Image,
        sigma: float | np.ndarray | Tensor = 0.0,
        seed: int = 0,
        name: str | Sequence[str] = '',
        size: tuple[int, int] | None = None,
        overlap: int | None = None,
        dtype: type | None = None,
    ) -> pixels.Image:
        """Restore an image from a downscaled one.

        Args:
            lr: uint8 array (h, w) or (h, w, 3), RGB; or tensor (3, h, w) or (N, 3, h, w), float in [0, 1].
            sigma: From 0 (faithful) to 1 (sharp): a number, or a map of the hr or the lr image's size, floating
                point or uint8 or uint16 (white = 1); an lr pixel's detail takes the mean over its hr pixels.
            seed: Seed of the restored detail.
            name: Name of the image, its file stem: every name has detail of its own. For a batch one name for
                each image; a single one counts for all.
            size: Height and width to cut the result to: the original's, where it was no multiple of the scale.
            overlap: What the network sees around each cell, in hr pixels, rounded up to whole lr pixels. See the class.
                A network whose receptive field is not known takes an image in one piece, unless it is given.
            dtype: np.uint8 (default) or np.uint16, of arrays.

        Returns:
            Array of `dtype`, (H, W) or (H, W, 3); or float32 tensor (3, H, W) or (N, 3, H, W) on the device of `lr`,
            in [0, 1]. (H, W) is `size`, or (scale·h, scale·w).

        Raises:
            ValueError: An argument is of another form or out of range.
        """
        if isinstance(lr, Tensor) and lr.ndim == 4:
            pixels.check_count('lr', lr)
            names = [name] * len(lr) if isinstance(name, str) else name
            if len(names) != len(lr):
                raise ValueError(f'name must have one name for each of {len(lr)} images, but has {len(names)}.')
            each = zip(lr, names)
            return torch.stack([self.upscale(one, sigma, seed, its, size, overlap, dtype) for one, its in each])
        if not isinstance(name, str):
            raise ValueError(f'name must be text for one image, but got {name!r}.')
        pixels.check_image('lr', lr, (np.uint8,))
        lr_size = pixels.height_width(lr)
        hr_size = self._hr_size(size, lr_size)
        if isinstance(seed, bool) or not isinstance(seed, Integral):
            raise ValueError(f'seed must be a whole number, but got {seed!r}.')
        sigma = check_sigma_map(sigma, hr_size, lr_size)
        if dtype is not None and (isinstance(lr, Tensor) or dtype not in (np.uint8, np.uint16)):
            raise ValueError(f'dtype must be np.uint8 or np.uint16, and left out for tensors, but got {dtype!r}.')
        hr = pixels.empty_like(lr, hr_size, dtype or np.uint8)
        latent_shape = self.net.latent_shape((1, 3, *lr_size))
        has_latent_per_pixel = self._has_latent_per_pixel(lr_size)
        grey = pixels.is_grey(lr)
        with reproducible_convolutions(self.device), autocast(self.precision, self.device):
            for window in self._windows(lr_size, overlap):
                epsilon = draw_epsilon(latent_shape, seed, name, window.area if has_latent_per_pixel else None)
                of_cells = sigma_of_cells(sigma, window.area, lr_size, self.scale)
                small = pixels.read_region(lr, window.area)
                restored = self._computes.restore(small.to(self.device), epsilon.to(self.device), of_cells)
                restored = pixels.check_result(restored)
                area, core = (magnify(region, self.scale, hr_size) for region in window)
                restored = restored[(..., *relative(core, area))]
                pixels.write_region(hr, core, pixels.luma(restored) if grey else restored)
        return hr

    def _hr_size(self, size: tuple[int, int] | None, lr_size: Size) -> Size:
        largest = (self.scale * lr_size[0], self.scale * lr_size[1])
        if size is None:
            return largest
        if len(size) != 2 or any(-(-side // self.scale) != lr_side for side, lr_side in zip(size, lr_size)):
            raise ValueError(
                f'size must be the height and width of an image that becomes {lr_size[0]}x{lr_size[1]} at scale '
                f'{self.scale}, {largest[0]}x{largest[1]} or up to {self.scale - 1} less, but got {size!r}.'
            )
        return whole_number('size', size[0]), whole_number('size', size[1])

    def _windows(self, lr_size: Size, overlap: int | None) -> Iterator[Window]:
        """The windows of an image, in lr pixels; the image itself for a network that needs it in one piece."""
        has_latent_per_pixel = self._has_latent_per_pixel(lr_size)
        if overlap is None:
            reach = self.net.receptive_field() if has_latent_per_pixel else None
            if reach is None:
                return windows(*lr_size, max(lr_size), 0)
            overlap = min(reach, OVERLAP * self.scale)
        elif not has_latent_per_pixel:
            raise ValueError(
                f'{type(self.net).__name__} takes images in one piece, because its latent is not one of lr pixels: '
                'leave overlap out.'
            )
        margin = -(-whole_number('overlap', overlap, smallest=0) // self.scale)
        return windows(*lr_size, max(CELL // self.scale, 1), margin)

    def _has_latent_per_pixel(self, lr_size: Size) -> bool:
        return tuple(self.net.latent_shape((1, 3, *lr_size))[2:]) == lr_size


@contextlib.contextmanager
def reproducible_convolutions(device: torch.device) -> Iterator[None]:
    """On a GPU, choose convolutions by their shape alone, not by trial, none that add in random order, and no TF32.

    TF32, torch's default, has 10 bits of a float32's 23. It costs the inverse a fifth of an 8-bit level.
    """
    if device.type != 'cuda':
        yield
        return
    cudnn = torch.backends.cudnn
    # Since torch 2.9 the older name cannot be read where somebody has set the newer one.
    full_precision = (cudnn.conv, 'fp32_precision', 'ieee') if hasattr(cudnn, 'conv') else (cudnn, 'allow_tf32', False)
    settings = ((cudnn, 'benchmark', False), (cudnn, 'deterministic', True), full_precision)
    with _CUDNN_SETTINGS:
        before = [getattr(owner, name) for owner, name, _ in settings]
        try:
            for owner, name, value in settings:
                setattr(owner, name, value)
            yield
        finally:
            for (owner, name, _), value in zip(settings, before):
                setattr(owner, name, value)
