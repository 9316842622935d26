"""Measures a rescaling network on a data set, at several sigmas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.dist_util import get_dist_info
from tqdm import tqdm

from irnsigma_plugin.archs.bicubic import bicubic_upscale
from irnsigma_plugin.archs.rescaling_net import RescalingNet
from irnsigma_plugin.evaluation import report
from irnsigma_plugin.evaluation.measures import ImageScore, MetricOptions, Scores, measure
from irnsigma_plugin.evaluation.pictures import caption, decode_png, draw_comparison, rescaling_panels
from irnsigma_plugin.files import atomic_write
from irnsigma_plugin.options.train_val import ValOptions
from irnsigma_plugin.rescaling.rescaler import Rescaler
from irnsigma_plugin.training.distributed import on_all_ranks, shard, unshard


class RescaledImage(NamedTuple):
    """One image after downscaling and upscaling; all images are uint8 HWC BGR.

    Attributes:
        name: File name without folder and extension.
        lr: Low-resolution image.
        restored: Restored image for each sigma.
    """

    name: str
    lr: np.ndarray
    restored: dict[float, np.ndarray]


class Share(NamedTuple):
    """What one rank made of its share of a data set.

    Attributes:
        scores: For each image its scores, one per sigma; empty where nothing is measured.
        comparison: PNG of the data set's first image, before and after; from rank 0.
    """

    scores: list[list[ImageScore]]
    comparison: bytes | None


class Validator:
    """Restores every image at every sigma, measures, and reports.

    Each image is downscaled once and upscaled once per sigma, from the low-resolution image as an 8-bit
    file would hold it. All metrics are computed on 8-bit images. A data set without originals (BasicSR's
    `SingleImageDataset`) is upscaled only.

    Args:
        opt: The whole option file.
        options: The plugin's keys in `val`.

    Attributes:
        best: For each data set and flat metric name, the best value so far and its iteration; on rank 0.
    """

    def __init__(self, opt: Mapping[str, Any], options: ValOptions) -> None:
        self.opt = opt
        self.options = options
        self.metrics: MetricOptions = (opt.get('val') or {}).get('metrics') or {}
        self.best: dict[str, dict[str, tuple[float, int]]] = {}
        self._tested: list[Scores] = []

    def run(
        self, net: RescalingNet, dataloader, device: torch.device, current_iter: int | str, tb_logger, save_img: bool
    ) -> None:
        """Validate on one data set; several ranks share its images, and rank 0 reports.

        Args:
            net: Network in evaluation mode.
            dataloader: BasicSR's, of single images: `lq`, `lq_path`, and `gt` where there is an original.
            device: Where the network is.
            current_iter: Iteration, in training; the test's name otherwise.
            tb_logger: TensorBoard's writer, or none.
            save_img: Whether to save the low-resolution and restored images.

        Raises:
            RuntimeError: One of several ranks failed.
        """
        dataset = dataloader.dataset.opt['name']
        shares = on_all_ranks(
            f'The validation of {dataset}', lambda: self._run_share(net, dataloader, device, current_iter, save_img)
        )
        images = unshard([share.scores for share in shares])
        scores = Scores(dataset, self.options.sigmas, [score for image in images for score in image])

        def conclude() -> None:
            if get_dist_info()[0] == 0:
                self._conclude(scores, shares[0].comparison, len(dataloader), current_iter, tb_logger, save_img)

        on_all_ranks(f'The report on {dataset}', conclude)

    def _run_share(
        self, net: RescalingNet, dataloader, device: torch.device, current_iter: int | str, save_img: bool
    ) -> Share:
        dataset = dataloader.dataset.opt['name']
        rank, _ = get_dist_info()
        scores, comparison = [], None
        for data in tqdm(
            shard(dataloader), desc=dataset, unit='image', disable=rank != 0 or not self.opt['val'].get('pbar', True)
        ):
            image = self.rescale(net, data, device)
            if save_img:
                self._save(image, dataset, current_iter)
            if 'gt' in data and self.metrics:
                original = tensor2img(data['gt'])
                scores.append(self._score(image, original, lr_ref=tensor2img(data['lq'])))
                if rank == 0:
                    comparison = comparison or self._compare(image, original, scores[0])
        return Share(scores, comparison)

    def _conclude(
        self,
        scores: Scores,
        comparison: bytes | None,
        image_count: int,
        current_iter: int | str,
        tb_logger,
        save_img: bool,
    ) -> None:
        """Report, or say why there is nothing to report."""
        if scores.images:
            self._report(scores, comparison, current_iter, tb_logger)
        elif save_img:
            get_root_logger().info(
                f'Restored {image_count} images of {scores.dataset} at sigma '
                f'{list(self.options.sigmas)} into {self.opt["path"]["visualization"]}.'
            )
        else:
            get_root_logger().warning(
                f'Nothing came of {scores.dataset}: there is nothing to measure (no '
                'originals, or no val.metrics), and val.save_img is false.'
            )

    def rescale(self, net: RescalingNet, data: Mapping[str, Any], device: torch.device) -> RescaledImage:
        """Downscale one image (or take it as downscaled, where there is no original) and restore it.

        Args:
            net: Network in evaluation mode.
            data: A batch of one image.
            device: Where the network is.
        """
        name = Path(data['lq_path'][0]).stem
        rescaler = Rescaler(net, device)
        if 'gt' in data:
            lr, size = rescaler.downscale(data['gt']), tuple(data['gt'].shape[-2:])
        else:
            lr, size = data['lq'], None
        restored = {
            sigma: tensor2img(rescaler.upscale(lr, sigma, self.options.seed, name, size))
            for sigma in self.options.sigmas
        }
        return RescaledImage(name, tensor2img(lr), restored)

    def _save(self, image: RescaledImage, dataset: str, current_iter: int | str) -> None:
        """Save where BasicSR would, under BasicSR's name with `_lr` or `_sigma...` added."""
        folder = Path(self.opt['path']['visualization'])
        if self.opt['is_train']:
            stem = folder / image.name / f'{image.name}_{current_iter}'
        else:
            stem = folder / dataset / f'{image.name}_{self.opt["val"].get("suffix") or self.opt["name"]}'
        imwrite(image.lr, f'{stem}_lr.png')
        for sigma, restored in image.restored.items():
            imwrite(restored, f'{stem}_sigma{sigma:g}.png')

    def _score(self, image: RescaledImage, original: np.ndarray, lr_ref: np.ndarray) -> list[ImageScore]:
        try:
            (lr,) = measure(self.options.lr_metrics, [image.lr], lr_ref)
            hr = measure(self.metrics, list(image.restored.values()), original)
        except ValueError as error:
            raise ValueError(f'{image.name}: {error}') from error
        return [ImageScore(image.name, sigma, values, lr) for sigma, values in zip(image.restored, hr)]

    def _compare(self, image: RescaledImage, original: np.ndarray, scores: list[ImageScore]) -> bytes:
        """Draw original, low-resolution, bicubically enlarged and restored image side by side."""
        axes = report.perception_distortion_axes(self.metrics) or list(self.metrics)[:1]
        bicubic = bicubic_upscale(image.lr, self.opt['scale'])[: original.shape[0], : original.shape[1]]
        captions = {score.sigma: caption(score.hr, axes) for score in scores}
        return draw_comparison(rescaling_panels(original, image.lr, bicubic, image.restored, captions))

    def _report(self, scores: Scores, comparison: bytes, current_iter: int | str, tb_logger) -> None:
        """Write tables and pictures below the experiment's or the results' folder, log, and feed TensorBoard."""
        paths = self.opt['path']
        if self.opt['is_train']:
            self._update_best(scores, current_iter)
            folder = Path(paths['experiments_root'], 'validation', scores.dataset, str(current_iter))
        else:
            self._tested.append(scores)
            folder = Path(paths['results_root'], scores.dataset)
        folder.mkdir(parents=True, exist_ok=True)
        report.write_csv(scores, folder / 'metrics.csv')
        report.write_tables([scores], self.metrics, folder / 'table.md')
        if self._tested:
            report.write_tables(self._tested, self.metrics, Path(paths['results_root'], 'table.md'))
        pictures = {'comparison': comparison}
        axes = report.perception_distortion_axes(self.metrics)
        if axes:
            pictures['curve'] = report.draw_curve(scores, axes)
        for name, png in pictures.items():
            atomic_write(folder / f'{name}.png', png)
        if tb_logger:
            for name, mean in scores.flat_means().items():
                tb_logger.add_scalar(f'metrics/{scores.dataset}/{name}', mean, current_iter)
            tb_logger.add_text(f'table/{scores.dataset}', report.markdown_table(scores, self.metrics), current_iter)
            for name, png in pictures.items():
                tb_logger.add_image(f'{name}/{scores.dataset}', decode_png(png), current_iter, dataformats='HWC')
        get_root_logger().info(f'{self._log_message(scores)}\tTables and pictures: {folder}')

    def _update_best(self, scores: Scores, current_iter: int) -> None:
        best = self.best.setdefault(scores.dataset, {})
        for name, mean in scores.flat_means().items():
            group, metric = name.split('/', 1)
            description = (self.options.lr_metrics if group == 'lr' else self.metrics)[metric]
            sign = -1 if description.get('better') == 'lower' else 1
            if name not in best or not sign * mean < sign * best[name][0]:
                best[name] = (mean, current_iter)

    def _log_message(self, scores: Scores) -> str:
        groups: dict[str, list[str]] = {}
        for name, mean in scores.flat_means().items():
            group, metric = name.split('/', 1)
            entry = f'{metric} {mean:.4f}'
            if scores.dataset in self.best:
                value, iteration = self.best[scores.dataset][name]
                entry += f' (best {value:.4f} @ {iteration} iter)'
            groups.setdefault(group.replace('_', ' '), []).append(entry)
        lines = [f'\t # {group}: {", ".join(entries)}\n' for group, entries in groups.items()]
        return f'Validation {scores.dataset}, {scores.image_count} images\n{"".join(lines)}'
