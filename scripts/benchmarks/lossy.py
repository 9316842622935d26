"""What small images cost that lose detail in their files: the quality of what is restored from them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import torch

from irnsigma_plugin.evaluation.measures import hr_metrics, measure
from irnsigma_plugin.evaluation.restore import to_bgr
from irnsigma_plugin.images.picture import Picture, read_picture, read_rgb_image, write_picture
from irnsigma_plugin.rescaling.pictures import downscale_picture, note_quality, upscale_picture
from irnsigma_plugin.rescaling.rescaler import Rescaler

FILES = (('png', None), ('jpg', 95), ('jpg', 90), ('jpg', 75))
SIGMAS = (0.0, 1.0)
COLUMNS = (
    ('lr', 'format', '{}'),
    ('quality', 'quality', '{}'),
    ('kB per lr', 'kilobytes', '{:.1f}'),
    ('psnr_y ↑, σ = 0', 'psnr_y_0', '{:.2f}'),
    ('lpips ↓, σ = 0', 'lpips_0', '{:.4f}'),
    ('psnr_y ↑, σ = 1', 'psnr_y_1', '{:.2f}'),
    ('lpips ↓, σ = 1', 'lpips_1', '{:.4f}'),
)


def benchmark_lossy(device: torch.device, model: str, images: Sequence[Path]) -> Iterator[dict]:
    """A row of each format and quality: means over images, cut to a multiple of the scale as in `irnsigma evaluate`."""
    rescaler = Rescaler.from_checkpoint(model, device, precision='fp32')
    metrics = {name: metric for name, metric in hr_metrics(rescaler.scale).items() if name in ('psnr_y', 'lpips')}
    originals = {}
    for path in images:
        hr = read_rgb_image(path)
        height, width = (side - side % rescaler.scale for side in hr.shape[:2])
        originals[path] = hr[:height, :width]
    smalls = {path: downscale_picture(rescaler, Picture(hr)) for path, hr in originals.items()}
    for kind, quality in FILES:
        found = []
        for path, hr in originals.items():
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, f'lr.{kind}')
                if quality is None:
                    write_picture(smalls[path], file)
                else:
                    write_picture(note_quality(smalls[path], quality), file, quality)
                lr, size = read_picture(file), os.path.getsize(file)
            restored = [upscale_picture(rescaler, lr, path.stem, sigma).pixels for sigma in SIGMAS]
            measured, _ = measure(metrics, list(map(to_bgr, restored)), to_bgr(hr))
            scores = {f'{name}_{s:g}': value for s, values in zip(SIGMAS, measured) for name, value in values.items()}
            found.append({'kilobytes': size / 1000, **scores})
        yield {'format': kind, 'quality': quality, **{key: fmean(each[key] for each in found) for key in found[0]}}
