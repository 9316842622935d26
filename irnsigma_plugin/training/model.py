"""Training and validation of adjustable rescaling networks in BasicSR."""

from __future__ import annotations

import signal
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils import get_root_logger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from irnsigma_plugin.archs.rescaling_net import RescaleResult, RescalingNet
from irnsigma_plugin.checkpoints.training_states import prune
from irnsigma_plugin.checkpoints.weights import (
    NETWORK_ENTRY,
    SaveError,
    atomic_saves,
    check_arguments,
    check_fits,
    read_checkpoint,
    saves_with,
)
from irnsigma_plugin.losses.adversarial import per_sample_gan_loss
from irnsigma_plugin.memory import explained_lack_of_memory
from irnsigma_plugin.options.rules import OptionError
from irnsigma_plugin.options.train_val import read_keep_last, read_train_options, read_val_options
from irnsigma_plugin.training.distributed import on_all_ranks
from irnsigma_plugin.training.progress import StopRequest, random_state, set_random_state
from irnsigma_plugin.training.step import (
    AMP_DTYPES,
    SCALER_HALVINGS,
    MicroBatch,
    explained_compile_errors,
    full_precision,
    gradient_sync,
    split_batch,
)
from irnsigma_plugin.training.step_guard import StepGuard, finite_statistics
from irnsigma_plugin.training.validator import Validator


class IRNSigmaModel(SRGANModel):
    """IRN_sigma, IRN+ and IRN: which one is a matter of the option file.

    `network_g` may be any network that keeps the contract of
    :class:`~irnsigma_plugin.archs.rescaling_net.RescalingNet`. With `network_d` the training is adversarial;
    without it (and without `perceptual_opt`) it is plain IRN.

    The way of a batch: hr -> `net_g(hr, sigma)` -> `MixtureLoss` -> step of G -> step of D. An iteration is one step
    of each, whatever the number of parts (`train.accumulate`) that its batch is split into.

    Args:
        opt: BasicSR's options; the plugin's keys are described in
            :class:`~irnsigma_plugin.options.train_val.TrainOptions` and
            :class:`~irnsigma_plugin.options.train_val.ValOptions`.

    Attributes:
        scaler: Scales the loss for `amp: fp16`, otherwise does nothing; belongs to the training state.

    Raises:
        OptionError: A key or value in `train` or `val` is wrong.
        CheckpointError: A pretrained network cannot be read or is of another kind.
    """

    def __init__(self, opt: dict) -> None:
        self.validator = Validator(opt, read_val_options(opt))
        if opt['is_train']:
            self.train_options = read_train_options(opt)
            self.keep_last = read_keep_last(opt)
            self.reached: dict[str, Any] = {}  # place in the data of the last batch
            self.validated: list[Any] = []  # data loaders since the last step
            self.saved_state: dict[str, Any] = {}  # as saved last
            self.random_states: list[dict[str, Any]] = []  # of all processes, to be saved
        super().__init__(opt)
        self.stop_request = StopRequest(self.device)

    # ------------------------------------------------------------------------------------------- set-up

    def init_training_settings(self) -> None:
        """See BasicSR; a discriminator is built where there is a `network_d`."""
        train_opt = self.opt['train']
        # The loss takes the place of BasicSR's pixel loss, so that BasicSR builds it as `self.cri_pix`.
        train_opt['pixel_opt'] = train_opt['mixture_opt']
        options = self.train_options
        if options.checkpoint_blocks:
            net_g = self.get_bare_model(self.net_g)
            if net_g.checkpoint_blocks is None:
                raise OptionError(
                    f'train.checkpoint_blocks: {type(net_g).__name__} cannot recompute its blocks. '
                    'Leave the key out, or save memory with train.accumulate.'
                )
            net_g.checkpoint_blocks = True
        self.net_d = None
        self.net_d_iters, self.net_d_init_iters = 1, 0
        if self.opt.get('network_d'):
            super().init_training_settings()
        else:
            SRModel.init_training_settings(self)
        if self.cri_perceptual is not None:
            self.cri_perceptual.to(memory_format=self.memory_format)
        self.sigma_sampler = options.sigma_sampler()
        scaled = options.amp == 'fp16'
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=2.0**SCALER_HALVINGS, enabled=scaled)
        self.step_guard = StepGuard(options.max_skipped_steps + SCALER_HALVINGS * scaled)

    def setup_optimizers(self) -> None:
        """See BasicSR."""
        if self.net_d is not None:
            super().setup_optimizers()
        else:
            SRModel.setup_optimizers(self)

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """As BasicSR's, which always names a GPU to DistributedDataParallel, but on a CPU as well.

        The generator is laid out and compiled as `train` says, in place: the keys of its state dict stay.
        """
        if self.is_train and isinstance(net, RescalingNet):
            net.to(memory_format=self.memory_format)
            if self.train_options.compile:
                net.compile()
        if not any(parameter.requires_grad for parameter in net.parameters()):
            return net.to(self.device)  # DistributedDataParallel refuses what has nothing to train
        if self.opt['dist'] and self.device.type == 'cpu':
            if torch.distributed.get_backend() == 'nccl':
                raise OptionError(
                    'num_gpu is 0, but --launcher uses the GPUs of this machine: set num_gpu: auto, or '
                    'hide them by CUDA_VISIBLE_DEVICES= (empty) before the command.'
                )
            return DistributedDataParallel(net, find_unused_parameters=self.opt.get('find_unused_parameters', False))
        return super().model_to_device(net)

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of training images and of the weights of G and VGG."""
        return torch.channels_last if self.train_options.channels_last else torch.preserve_format

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = 'params'
    ) -> None:
        """As BasicSR's, but bare state dicts load for EMA, too, and a foreign checkpoint is one clear error."""
        net = self.get_bare_model(net)
        checkpoint = read_checkpoint(load_path, param_key)
        state_dict = checkpoint.state_dict
        get_root_logger().info(f'Loading {type(net).__name__} from {load_path}.')
        self._print_different_keys_loading(net, state_dict, strict)
        if strict:
            check_fits(net, state_dict, load_path)
            check_arguments(checkpoint, self.opt['network_g'])
        net.load_state_dict(state_dict, strict=strict)

    # ----------------------------------------------------------------------------------------- training

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """As BasicSR's, which calls it at the start of an iteration; a stop that was asked for happens there."""
        self.stop_request.listen()
        number = self.stop_request.arrived(current_iter)
        if number:
            self._stop(number, current_iter - 1)
        super().update_learning_rate(current_iter, warmup_iter)

    def feed_data(self, data: dict) -> None:
        """As BasicSR's, without waiting for the GPU where the data set's `pin_memory` is true."""
        if 'seen' in data:
            self.reached = {key: data[key][-1] for key in ('epoch', 'seen')}
        for key in ('gt', 'lq'):
            if data[key].is_cuda:  # by prefetch_mode: cuda, whose stream is to leave them alone until this one is done
                data[key].record_stream(torch.cuda.current_stream())
        self.gt, self.lq = (
            data[key].to(self.device, non_blocking=True, memory_format=self.memory_format) for key in ('gt', 'lq')
        )

    @explained_lack_of_memory('training', 'lower batch_size_per_gpu or gt_size of datasets.train')
    def optimize_parameters(self, current_iter: int) -> None:
        """One step of G, after `net_d_init_iters` and every `net_d_iters` iterations, and one of D."""
        train_g = current_iter > self.net_d_init_iters and current_iter % self.net_d_iters == 0
        self.log_dict = OrderedDict()
        self.validated.clear()
        sigma = self._draw_sigma()
        batches = split_batch(self.gt, self.lq, sigma, self.train_options.accumulate)
        with finite_statistics(self.net_g, self.net_d):
            restored = self._optimize_generator(batches, train_g)
            if self.net_d is not None:
                self._optimize_discriminator(batches, restored)
        self.scaler.update()
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def _draw_sigma(self) -> Tensor:
        """sigma of each image; with `train.sigma.per: batch` one for those of all processes, which differ in seed."""
        sigma = self.sigma_sampler(len(self.gt), self.device)
        if self.opt['dist'] and self.train_options.sigma.get('per') == 'batch':
            sigma = sigma.contiguous()
            torch.distributed.broadcast(sigma, 0)
        return sigma

    def get_current_log(self) -> dict[str, float]:
        """See BasicSR, which asks every process at the log interval: the only time to wait for a GPU."""
        self.step_guard.check()
        return {**self.reduce_loss_dict(self.log_dict), 'skipped_steps': self.step_guard.skipped}

    def _optimize_generator(self, batches: list[MicroBatch], train_g: bool) -> list[Tensor]:
        """Restore the images of each part and, where G is to be trained, take a step."""
        restored = []
        self.optimizer_g.zero_grad()
        for batch in batches:
            with torch.set_grad_enabled(train_g), gradient_sync(self.net_g, batch.is_last):
                with self._autocast(), explained_compile_errors():
                    result = self.net_g(batch.hr, batch.sigma)
                if train_g:
                    self._backward_generator(result, batch)
            restored.append(result.hr.detach())
        if train_g:
            self._step(self.optimizer_g, self.net_g, 'generator', self.train_options.grad_clip)
        return restored

    def _backward_generator(self, result: RescaleResult, batch: MicroBatch) -> None:
        adversarial = perceptual = None
        if self.net_d is not None:
            # The bare network: only D's own step is to be synchronised between processes.
            net_d = self.get_bare_model(self.net_d).requires_grad_(False)
            adversarial = per_sample_gan_loss(self.cri_gan, self._judge(net_d, result.hr), True, is_disc=False)
        if self.cri_perceptual is not None:
            with self._autocast():
                perceptual = self.cri_perceptual(result.hr, batch.hr)
        loss, terms = self.cri_pix(result, batch.hr, batch.lr_ref, batch.sigma, adversarial, perceptual)
        self._backward(loss, batch)
        self._log('l_g_total', loss, batch)
        for name, term in terms._asdict().items():
            self._log(f'l_{name}', term, batch)

    def _optimize_discriminator(self, batches: list[MicroBatch], restored: list[Tensor]) -> None:
        self.net_d.requires_grad_(True)
        self.optimizer_d.zero_grad()
        for batch, fakes in zip(batches, restored):
            # Real and restored images in batches of their own, so that batch normalisation does not mix them.
            with gradient_sync(self.net_d, False):
                loss_real = self.cri_gan(self._judge(self.net_d, batch.hr), True, is_disc=True)
                self._backward(loss_real, batch)
            with gradient_sync(self.net_d, batch.is_last):
                loss_fake = per_sample_gan_loss(self.cri_gan, self._judge(self.net_d, fakes), False, is_disc=True)
                if self.train_options.fake_weighting == 'sigma':
                    loss_fake = loss_fake * batch.sigma
                loss_fake = loss_fake.mean()
                self._backward(loss_fake, batch)
            self._log('l_d_real', loss_real, batch)
            self._log('l_d_fake', loss_fake, batch)
        self._step(self.optimizer_d, self.net_d, 'discriminator')

    def _autocast(self) -> torch.autocast:
        dtype = AMP_DTYPES[self.train_options.amp]
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def _judge(self, net_d: nn.Module, images: Tensor) -> Tensor | list:
        """The discriminator's output in float32."""
        with self._autocast():
            # BasicSR's discriminators flatten by `view`, which other layouts do not allow.
            return full_precision(net_d(images.contiguous()))

    def _backward(self, loss: Tensor, batch: MicroBatch) -> None:
        self.scaler.scale(batch.share * loss).backward()

    def _step(self, optimizer: torch.optim.Optimizer, net: nn.Module, what: str, max_norm: float | None = None) -> None:
        self.scaler.unscale_(optimizer)
        self.step_guard.step(optimizer, self._parameters(net), what, max_norm)

    def _log(self, name: str, value: Tensor, batch: MicroBatch) -> None:
        self.log_dict[name] = self.log_dict.get(name, 0) + batch.share * value.detach()

    @staticmethod
    def _parameters(net: nn.Module) -> list[nn.Parameter]:
        return [parameter for parameter in net.parameters() if parameter.requires_grad]

    # ------------------------------------------------------------------------------ saving and resuming

    def save(self, epoch: int, current_iter: int) -> None:
        """As BasicSR's; every file is written completely or not at all, the training state last.

        Raises:
            SaveError: In all processes, if a file cannot be saved.
        """
        # Before anything can fail in one process alone.
        self.random_states = on_all_ranks('Saving random numbers', random_state)
        on_all_ranks('Saving', lambda: self._save_files(epoch, current_iter), SaveError)
        if self.keep_last and self.saved_state and self.opt['rank'] == 0:
            prune(self.opt, self.keep_last, self.saved_state['iter'])
        if current_iter == -1:  # the end of the training
            number = self.stop_request.arrived()
            self.stop_request.close()
            if number:
                raise SystemExit(128 + number)

    def _save_files(self, epoch: int, current_iter: int) -> None:
        with atomic_saves():
            if self.net_d is not None:
                super().save(epoch, current_iter)
            else:
                SRModel.save(self, epoch, current_iter)

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """As BasicSR's, with everything else that the next iterations depend on."""
        if current_iter == -1:
            return
        self.saved_state = {
            'epoch': epoch,
            'iter': current_iter,
            **{key: int(value) for key, value in self.reached.items()},
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            'random': self.random_states,
            'step_guard': self.step_guard.state_dict(),
            'scaler': self.scaler.state_dict(),
            'model_type': self.opt['model_type'],
            'networks': [key for key in self.opt if key.startswith('network_')],
        }
        self._write_state()

    def _write_state(self) -> None:
        if self.opt['rank'] == 0:
            self.saved_state['best'] = self.validator.best
            torch.save(self.saved_state, Path(self.opt['path']['training_states'], f'{self.saved_state["iter"]}.state'))

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """As BasicSR's, with what :meth:`save_training_state` adds. States that BasicSR saved have less."""
        super().resume_training(resume_state)
        self.validator.best = resume_state.get('best', {})
        if 'step_guard' in resume_state:
            self.step_guard.load_state_dict(resume_state['step_guard'])
        if resume_state.get('scaler'):  # empty but for fp16
            self.scaler.load_state_dict(resume_state['scaler'])
        random_states = resume_state.get('random', ())
        if len(random_states) == self.opt['world_size']:
            set_random_state(random_states[self.opt['rank']])
        else:
            get_root_logger().warning(
                f'The training state is of {len(random_states)} processes, not of '
                f'{self.opt["world_size"]}: random numbers start anew.'
            )

    def _stop(self, number: int, last_iter: int) -> None:
        """Save what was reached, unless that is done, and end the process."""
        if self.reached and self.saved_state.get('iter') != last_iter:
            self.save(int(self.reached['epoch']), last_iter)
        saved = f'Saved iteration {last_iter}, resume with --auto_resume.' if self.reached else 'Nothing new to save.'
        get_root_logger().info(f'Stopped by {signal.Signals(number).name}. {saved}')
        self.stop_request.close()
        raise SystemExit(128 + number)

    def save_network(
        self, net: nn.Module | list[nn.Module], net_label: str, current_iter: int, param_key: str | list[str] = 'params'
    ) -> None:
        """As BasicSR's; beside the weights of `net_g` stands its option block, so that the file is enough to use it."""
        entries = {NETWORK_ENTRY: dict(self.opt['network_g'])} if net_label == 'net_g' else {}
        with saves_with(entries):
            super().save_network(net, net_label, current_iter, param_key)

    # --------------------------------------------------------------------------------------- validation

    def dist_validation(self, dataloader, current_iter, tb_logger, save_img) -> None:
        """Validate with all ranks; BasicSR has rank 0 do the work of all."""
        torch.distributed.barrier()  # rank 0 has made the folders
        for buffer in self.get_bare_model(self.net_g).buffers():  # such as running means: of rank 0, which saves them
            torch.distributed.broadcast(buffer, 0)
        self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    @explained_lack_of_memory('validation', 'lower batch_size_per_gpu, or validate on smaller images')
    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img) -> None:
        """Measure the network, the EMA weights where there are some, at every sigma of `val.sigmas`."""
        if self.is_train and current_iter >= int(self.opt['train']['total_iter']):
            # BasicSR counts on after the last iteration, and validates once more what it may just have validated.
            current_iter = int(self.opt['train']['total_iter'])
            if dataloader in self.validated:
                return
        net: RescalingNet = getattr(self, 'net_g_ema', None) or self.get_bare_model(self.net_g)
        was_training = net.training
        net.eval()
        try:
            # Metrics may draw random numbers, as the first weights of a network; the training draws its own.
            with torch.random.fork_rng([self.device] if self.device.type == 'cuda' else []):
                self.validator.run(net, dataloader, self.device, current_iter, tb_logger, save_img)
        finally:
            net.train(was_training)
        if self.is_train:
            self.validated.append(dataloader)
            if self.saved_state.get('iter') == current_iter:  # saved just before, without these results
                on_all_ranks('Saving', atomic_saves()(self._write_state), SaveError)
