"""Validation and test of a rescaling network within BasicSR's loop: several sigmas, several ranks, logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import get_dist_info
from tqdm import tqdm

from irnsigma_plugin.archs.rescaling_net import RescalingNet
from irnsigma_plugin.checkpoints.weights import model_hash
from irnsigma_plugin.evaluation import report
from irnsigma_plugin.evaluation.measures import ImageScore, MetricOptions, Scores, lower_is_better, score_image
from irnsigma_plugin.evaluation.pictures import decode_png, draw_example
from irnsigma_plugin.evaluation.restore import RescaledImage, Restorer, to_bgr
from irnsigma_plugin.files import atomic_write
from irnsigma_plugin.memory import oom_hint
from irnsigma_plugin.options.train_val import ValOptions
from irnsigma_plugin.rescaling.rescaler import Rescaler
from irnsigma_plugin.training.distributed import on_all_ranks, shard, unshard


class Validator:
    """Restores every image at every sigma, measures, and reports.

    Each image is downscaled once, rounded as in a file, and upscaled once per sigma; metrics are on 8-bit images.
    A data set without originals (BasicSR's `SingleImageDataset`) is upscaled only.
    """

    def __init__(self, opt: Mapping[str, Any], options: ValOptions) -> None:
        self.opt, self.options = opt, options
        self.metrics: MetricOptions = (opt.get('val') or {}).get('metrics') or {}
        # On rank 0, of each data set and flat metric name: the best value so far, and its iteration.
        self.best: dict[str, dict[str, tuple[float, int]]] = {}
        self._tested: list[Scores] = []

    def run(self, net: RescalingNet, dataloader, device, current_iter: int | str, tb_logger, save_img: bool) -> None:
        """Validate on one data set; several ranks share its images, and rank 0 reports.

        The network is on `device`, in evaluation mode. BasicSR's loader has single images: `lq`, `lq_path`, and `gt`
        where there is an original. In a test `current_iter` is its name.

        Raises:
            RuntimeError: One of several ranks failed.
            MemoryError: This process by itself lacks memory.
        """
        dataset = dataloader.dataset.opt['name']
        rank, _ = get_dist_info()
        remedy = 'validate on smaller images, or without LPIPS and DISTS, which see each in one piece'

        @oom_hint('validation', remedy, self.opt['is_train'])  # on each rank, whose error the others pass on as it is
        def work() -> tuple[list[list[ImageScore] | None], bytes | None, list[str]]:
            """Scores of each image of this rank's shard, from rank 0 a picture of the first one, what is left out."""
            scores: list[list[ImageScore] | None] = []
            comparison, left_out = None, []
            hidden = rank != 0 or self.opt['val'].get('pbar') is False
            for data in tqdm(shard(dataloader), desc=dataset, unit='image', disable=hidden):
                try:
                    image = self.rescale(net, data, device)
                except FloatingPointError as error:
                    left_out.append(f'{dataset}: {data["lq_path"][0]} is left out: {error}')
                    scores.append(None)  # in its place in the order
                    continue
                if save_img:
                    self._save(image, dataset, current_iter)
                if 'gt' in data and self.metrics:
                    original, lr_ref = to_bgr(data['gt']), to_bgr(data['lq'])
                    scored = score_image(image, original, lr_ref, self.metrics, self.options.lr_metrics)
                    scores.append(scored)
                    if rank == 0 and comparison is None:
                        comparison = draw_example(original, image, scored, self.metrics, self.opt['scale'])
            return scores, comparison, left_out

        shards = on_all_ranks(f'The validation of {dataset}', work)
        images = unshard([scores for scores, *_ in shards])
        left_out = [fault for *_, faults in shards for fault in faults]
        scores = Scores(dataset, self.options.sigmas, [score for image in images for score in image])

        def conclude() -> None:
            if rank != 0:
                return
            for fault in left_out:  # the loggers of other ranks pass on errors alone
                get_root_logger().warning(fault)
            restored = len(dataloader) - len(left_out)
            if scores.images:
                scores.model = model_hash(net.state_dict())
                self._report(scores, shards[0][1], current_iter, tb_logger)
            elif left_out and not restored:
                get_root_logger().warning(f'All images of {dataset} were left out.')
            elif save_img:
                what, where = f'{restored} images of {dataset}', self.opt['path']['visualization']
                get_root_logger().info(f'Restored {what} at sigma {list(self.options.sigmas)} into {where}.')
            else:
                reason = 'there is nothing to measure (no originals, or no val.metrics), and val.save_img is false.'
                get_root_logger().warning(f'Nothing came of {dataset}: {reason}')

        on_all_ranks(f'The report on {dataset}', conclude)

    def rescale(self, net: RescalingNet, data: Mapping[str, Any], device: torch.device) -> RescaledImage:
        """Restore the one image of a batch, downscaled first where it is an original; `net` is in evaluation mode."""
        rescaler = Rescaler(net, device, self.options.precision)
        restorer = Restorer(rescaler, self.options.sigmas, self.options.seed)
        name = Path(data['lq_path'][0]).stem
        if 'gt' not in data:
            return restorer.restore(data['lq'], name, None)
        return restorer.restore(rescaler.downscale(data['gt']), name, tuple(data['gt'].shape[-2:]))

    def _save(self, image: RescaledImage, dataset: str, current_iter: int | str) -> None:
        """Save where BasicSR would, under BasicSR's name with `_lr` or `_sigma...` added."""
        folder, end = image.name, current_iter
        if not self.opt['is_train']:
            folder, end = dataset, self.opt['val'].get('suffix') or self.opt['name']
        stem = Path(self.opt['path']['visualization'], folder, f'{image.name}_{end}')
        stem.parent.mkdir(parents=True, exist_ok=True)
        # Not by BasicSR's imwrite, which names no file that cannot be written.
        for what, pixels in (('lr', image.lr), *((f'sigma{sigma:g}', each) for sigma, each in image.restored.items())):
            atomic_write(f'{stem}_{what}.png', cv2.imencode('.png', pixels)[1].tobytes())

    def _report(self, scores: Scores, comparison: bytes | None, current_iter: int | str, tb_logger) -> None:
        """Write tables and pictures below the experiment's or the results' folder, log, and feed TensorBoard."""
        paths = self.opt['path']
        if self.opt['is_train']:
            self._update_best(scores, int(current_iter))
            folder = Path(paths['experiments_root'], 'validation', scores.dataset, str(current_iter))
        else:
            folder = Path(paths['results_root'], scores.dataset)
        folder.mkdir(parents=True, exist_ok=True)
        pictures = report.write_report(folder, scores, self.metrics, comparison)
        if not self.opt['is_train']:
            self._tested.append(scores)
            report.write_tables(self._tested, self.metrics, Path(paths['results_root'], 'table.md'))
        if tb_logger:
            for name, mean in scores.flat_means().items():
                tb_logger.add_scalar(f'metrics/{scores.dataset}/{name}', mean, current_iter)
            tb_logger.add_text(f'table/{scores.dataset}', report.markdown_table(scores, self.metrics), current_iter)
            for name, png in pictures.items():
                tb_logger.add_image(f'{name}/{scores.dataset}', decode_png(png), current_iter, dataformats='HWC')
        if missing := scores.missing():
            get_root_logger().warning(f'{scores.dataset}: {missing}.')
        get_root_logger().info(f'{self._log_message(scores)}\tTables and pictures: {folder}')

    def _update_best(self, scores: Scores, current_iter: int) -> None:
        best = self.best.setdefault(scores.dataset, {})
        for name, mean in scores.flat_means().items():
            group, metric = name.split('/', 1)
            sign = -1 if lower_is_better((self.options.lr_metrics if group == 'lr' else self.metrics)[metric]) else 1
            if name not in best or (mean == mean and not sign * mean < sign * best[name][0]):
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
