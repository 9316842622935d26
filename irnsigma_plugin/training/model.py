"""Training and validation of adjustable rescaling networks in BasicSR."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.archs.discriminator_arch import UNetDiscriminatorSN
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from irnsigma_plugin.archs.dense_block import compile_blocks
from irnsigma_plugin.archs.rescaling_net import RescalingNet
from irnsigma_plugin.checkpoints.training_states import SaveError, network_keys, save_atomically, weights_to_save
from irnsigma_plugin.checkpoints.weights import NETWORK_ENTRY, check_arguments, check_fits, read_checkpoint
from irnsigma_plugin.memory import oom_hint
from irnsigma_plugin.options.rules import OptionError, refuse
from irnsigma_plugin.options.train_val import read_keep_last, read_train_options, read_val_options, recompute_faults
from irnsigma_plugin.rescaling.precision import native_precision
from irnsigma_plugin.training.distributed import on_all_ranks
from irnsigma_plugin.training.progress import Progress, changed_settings
from irnsigma_plugin.training.step import Adversary, TrainingStep
from irnsigma_plugin.training.validator import Validator


class IRNSigmaModel(SRGANModel):
    """IRN_sigma, IRN+ and IRN: which one is a matter of the option file.

    `network_g` may be any :class:`~irnsigma_plugin.archs.rescaling_net.RescalingNet`. With `network_d` the training is
    adversarial; without it (and without `perceptual_opt`) it is plain IRN. For the plugin's keys in `opt` see
    :mod:`~irnsigma_plugin.options.train_val`.

    Raises:
        OptionError: A key or value in `train` or `val` is wrong.
        CheckpointError: A pretrained network cannot be read or is of another kind.
    """

    def __init__(self, opt: dict) -> None:
        self.validator = Validator(opt, read_val_options(opt))
        if opt['is_train']:
            self.train_options = read_train_options(opt)
        super().__init__(opt)

    def init_training_settings(self) -> None:
        """Build, in BasicSR's order, what a training has beside `net_g`; a discriminator where `network_d` is."""
        train, options = self.opt['train'], self.train_options
        if options.checkpoint_blocks:
            net_g = self.get_bare_model(self.net_g)
            refuse(recompute_faults(net_g))
            net_g.checkpoint_blocks = True
        self.ema_decay = train.get('ema_decay') or 0
        if self.ema_decay > 0:
            get_root_logger().info(f'Use Exponential Moving Average with decay: {self.ema_decay}')
            self.net_g_ema = build_network(self.opt['network_g']).to(self.device, memory_format=self.memory_format)
            if not self._load_pretrained(self.net_g_ema, 'g', 'params_ema'):
                self.model_ema(0)
            self.net_g_ema.eval()
        self.net_d: Any = None
        if self.opt.get('network_d'):
            self.net_d = self.model_to_device(build_network(self.opt['network_d']))
            self.print_network(self.net_d)
            self._load_pretrained(self.net_d, 'd', self.opt['path'].get('param_key_d', 'params'))
            self.net_d.train()
        self.net_g.train()
        blocks = (train.get(key) for key in ('mixture_opt', 'perceptual_opt', 'gan_opt'))
        losses: list[Any] = [build_loss(block).to(self.device) if block else None for block in blocks]
        self.mixture_loss, self.cri_perceptual, self.cri_gan = losses
        if self.cri_perceptual is not None:
            self.cri_perceptual.to(memory_format=self.memory_format)
        self.net_d_iters, self.net_d_init_iters = train.get('net_d_iters') or 1, train.get('net_d_init_iters') or 0
        self.setup_optimizers()
        self.setup_schedulers()
        self.sigma_sampler = options.sigma_sampler()
        self.step = self.build_step()
        if options.cuda_graph and type(self.step) is not TrainingStep:
            raise OptionError(f'train.cuda_graph cannot record a {type(self.step).__name__}: leave the key out.')
        self.progress = Progress(self.opt, self.device, read_keep_last(self.opt))

    def _load_pretrained(self, net: nn.Module, label: str, param_key: str) -> bool:
        path = self.opt['path']
        if path.get(f'pretrain_network_{label}') is None:
            return False
        self.load_network(net, path[f'pretrain_network_{label}'], path.get(f'strict_load_{label}', True), param_key)
        return True

    def setup_optimizers(self) -> None:
        """See BasicSR."""
        (SRModel if self.net_d is None else SRGANModel).setup_optimizers(self)

    def build_step(self) -> TrainingStep:
        """The training step on what was built; one that is derived from it may be returned instead."""
        options, adversary = self.train_options, None
        if self.net_d is not None:
            is_unet = isinstance(self.get_bare_model(self.net_d), UNetDiscriminatorSN)
            layout = torch.channels_last if is_unet and options.channels_last else torch.contiguous_format
            adversary = Adversary(self.net_d, self.optimizer_d, self.cri_gan, options.fake_weighting, layout)
        names = 'accumulate', 'grad_clip', 'max_skipped_steps', 'cuda_graph'
        settings = {'amp': self._amp(), **{name: getattr(options, name) for name in names}}
        return TrainingStep(self.net_g, self.optimizer_g, self.mixture_loss, self.cri_perceptual, adversary, **settings)

    def _amp(self) -> str:
        """`train.amp`; instead of `auto` what it is here, the same in all processes."""
        if self.train_options.amp != 'auto':
            return self.train_options.amp
        is_fit = self.get_bare_model(self.net_g).half_precision
        is_half = torch.tensor(int(is_fit and native_precision(self.device) == 'bf16'), device=self.device)
        if self.opt['dist']:
            torch.distributed.broadcast(is_half, 0)
        amp = 'bf16' if is_half else 'off'
        get_root_logger().info(f'train.amp: auto is {amp} here.')
        return amp

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """As BasicSR's, which always names a GPU to DistributedDataParallel, but on a CPU as well.

        The generator is laid out and compiled as `train` says, in place: the keys of its state dict stay. A U-Net
        discriminator is laid out, too; the others flatten by `view`, which takes one layout only.
        """
        if self.is_train and isinstance(net, (RescalingNet, UNetDiscriminatorSN)):
            net.to(memory_format=self.memory_format)
        if self.is_train and isinstance(net, RescalingNet) and self.train_options.compile:
            if self.train_options.compile == 'blocks':
                compile_blocks(net)
            else:
                net.compile()
        if not any(parameter.requires_grad for parameter in net.parameters()):
            return net.to(self.device)  # DistributedDataParallel refuses what has nothing to train
        if self.opt['dist'] and self.device.type == 'cpu':
            if torch.distributed.get_backend() == 'nccl':
                remedy = 'set num_gpu: auto, or hide them by CUDA_VISIBLE_DEVICES= (empty) before the command.'
                raise OptionError(f'num_gpu is 0, but --launcher uses the GPUs of this machine: {remedy}')
            return DistributedDataParallel(net, find_unused_parameters=self.opt.get('find_unused_parameters', False))
        return super().model_to_device(net)

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of training images and of the weights of G, VGG and a U-Net discriminator."""
        return torch.channels_last if self.train_options.channels_last else torch.preserve_format

    def load_network(self, net: nn.Module, load_path: str, strict: bool = True, param_key: Any = 'params') -> None:
        """As BasicSR's, but bare state dicts load for EMA, too, and a foreign checkpoint is one clear error."""
        net, strict = self.get_bare_model(net), strict is not False  # None: a key that is left empty
        checkpoint = read_checkpoint(load_path, param_key)
        get_root_logger().info(f'Loading {type(net).__name__} from {load_path}.')
        self._print_different_keys_loading(net, checkpoint.state_dict, strict)
        if strict:
            check_fits(net, checkpoint.state_dict, load_path)
            check_arguments(checkpoint, self.opt['network_g'])
        net.load_state_dict(checkpoint.state_dict, strict=strict)

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """As BasicSR's, which calls it at the start of an iteration; a stop that was asked for happens there."""
        self.progress.stop_if_asked(current_iter, self.save)
        self._schedule(current_iter, -1 if warmup_iter is None else warmup_iter)

    def _schedule(self, iteration: int, warmup_iter: int) -> None:
        if 1 < iteration <= warmup_iter:  # for schedules that multiply the rate of before, not that of the warm-up
            self._set_lr([each.get_last_lr() for each in self.schedulers])
        super().update_learning_rate(iteration, warmup_iter)

    def feed_data(self, data: dict) -> None:
        """As BasicSR's, without waiting for the GPU where the data set's `pin_memory` is true."""
        self.progress.take(data)
        images = data['gt'], data['lq']
        for each in images:
            if each.is_cuda:  # by prefetch_mode: cuda, whose stream is to leave them alone until this one is done
                each.record_stream(torch.cuda.current_stream())
        to = {'device': self.device, 'non_blocking': True, 'memory_format': self.memory_format}
        self.gt, self.lq = (each.to(**to) for each in images)

    @oom_hint('training', 'lower batch_size_per_gpu or gt_size of datasets.train')
    def optimize_parameters(self, current_iter: int) -> None:
        """One step of G, after `net_d_init_iters` and every `net_d_iters` iterations, and one of D."""
        train_g = current_iter > self.net_d_init_iters and current_iter % self.net_d_iters == 0
        sigma = self.sigma_sampler(len(self.gt), self.device)
        if self.opt['dist'] and self.train_options.sigma.get('per') == 'batch':
            sigma = sigma.contiguous()
            torch.distributed.broadcast(sigma, 0)  # one for all processes, which differ in seed
        self.log_dict = self.step(self.gt, self.lq, sigma, train_g)
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def model_ema(self, decay: float = 0.999) -> None:
        """As BasicSR's, in a few kernels instead of two for each parameter; what does not change stays exact."""
        averages, values = (list(net.parameters()) for net in (self.net_g_ema, self.get_bare_model(self.net_g)))
        get_ema_multi_avg_fn(decay)(averages, values, None)
        for average, value in zip(self.net_g_ema.buffers(), self.get_bare_model(self.net_g).buffers()):
            average.copy_(value)  # such as running means, which are averages as they are

    def get_current_log(self) -> dict[str, float]:
        """See BasicSR, which asks every process at the log interval: the only time to wait for a GPU."""
        self.step.guard.check()
        return {**self.reduce_loss_dict(self.log_dict), 'skipped_steps': self.step.guard.skipped}

    def save(self, epoch: int, current_iter: int) -> None:
        """As BasicSR's; every file is written completely, the state last, or a SaveError is raised in all processes."""
        parent = SRModel if self.net_d is None else SRGANModel
        self.progress.collect_random_states()
        on_all_ranks('Saving', lambda: parent.save(self, epoch, current_iter), SaveError)
        if current_iter == -1:  # the end of the training
            self.progress.finish(int(self.opt['train']['total_iter']), self.save)

    @master_only
    def save_network(self, net: Any, net_label: str, current_iter: int, param_key: Any = 'params') -> None:
        """As BasicSR's; beside the weights of `net_g` stands its option block, so that the file is enough to use it."""
        nets = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        content: dict[str, Any] = {key: weights_to_save(self.get_bare_model(each)) for key, each in zip(keys, nets)}
        if net_label == 'net_g':
            content[NETWORK_ENTRY] = dict(self.opt['network_g'])
        name = f'{net_label}_{"latest" if current_iter == -1 else current_iter}.pth'
        save_atomically(content, Path(self.opt['path']['models'], name))

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """As BasicSR's, with everything else that the next iterations depend on."""
        if current_iter == -1:
            return
        state: dict[str, Any] = {'epoch': epoch, 'iter': current_iter, 'model_type': self.opt['model_type']}
        for name in ('optimizers', 'schedulers'):
            state[name] = [each.state_dict() for each in getattr(self, name)]
        state.update(self.step.state_dict(), best=self.validator.best, networks=network_keys(self.opt))
        self.progress.save(state)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """As BasicSR's, with what :meth:`save_training_state` adds. States that BasicSR saved have less.

        Optimisers and schedulers have the settings of the option file. A learning rate or schedule that differs from
        the state's counts as if it had been so from the start.
        """
        changes = {
            **changed_settings(resume_state, self.optimizers, self.schedulers),
            **self._resume_amp(resume_state.get('amp', self.step.amp)),
        }
        if changes:
            told = ', '.join(f'{name} {values}' for name, values in changes.items())
            get_root_logger().warning(f'Other settings than in the training state, which count from here on: {told}.')
        ignored = self.opt['path'].get('ignore_resume_networks') or ()
        networks = dict(enumerate(('network_g', 'network_d')))  # a derived model may have more optimisers
        anew = [networks.get(index) in ignored for index in range(len(self.optimizers))]
        is_rescheduled = any(anew) or any(name.endswith('.lr') or '.scheduler.' in name for name in changes)
        schedulers = self._schedulers_at(resume_state['iter']) if is_rescheduled else resume_state['schedulers']
        kept = {'params'} if is_rescheduled else {'params', 'lr'}
        for optimizer, saved in zip(self.optimizers, resume_state['optimizers']):
            for group, saved_group in zip(optimizer.param_groups, saved['param_groups']):
                saved_group.update({key: group[key] for key in group.keys() - kept})
        optimizers = [
            optimizer.state_dict() if is_new else resume_state['optimizers'][index]
            for index, (optimizer, is_new) in enumerate(zip(self.optimizers, anew))
        ]
        self._check_parameters(optimizers)
        super().resume_training({**resume_state, 'optimizers': optimizers, 'schedulers': schedulers})
        for optimizer in self.optimizers:
            _lay_out_moments(optimizer)
        self.validator.best = resume_state.get('best', {})
        self.step.load_state_dict(resume_state)
        self.progress.resume(resume_state)

    def _resume_amp(self, saved: str) -> dict[str, str]:
        """Go on in the precision of the state where the file leaves the choice; else what has changed, if anything."""
        if saved == self.step.amp:
            return {}
        if self.train_options.amp != 'auto' or saved == 'fp16':
            return {'train.amp': f'{self.step.amp} (was {saved})'}
        get_root_logger().info(f'train.amp: auto goes on in {saved}, as the training state was made.')
        self.step.amp = saved
        return {}

    def _schedulers_at(self, iteration: int) -> list[dict[str, Any]]:
        """States of the schedulers after so many iterations of the option file's schedule."""
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of torch: no steps are taken
            for each in range(1, iteration + 1):
                self._schedule(each, self.opt['train'].get('warmup_iter') or -1)
        return [scheduler.state_dict() for scheduler in self.schedulers]

    def _check_parameters(self, saved: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self.optimizers, saved):
            both = optimizer.param_groups, state['param_groups']
            now, before = (sum(len(group['params']) for group in groups) for groups in both)
            if now != before:
                path = self.opt['path']
                raise OptionError(
                    f'{path["resume_state"]} is of a network of {before} tensors, not of {now}, as after '
                    'network_g.sigma_input was added: its optimiser cannot go on. Start a training of another `name` '
                    f'with path.pretrain_network_g: {path["pretrain_network_g"]}'
                )

    def _validated_net(self) -> RescalingNet:
        return getattr(self, 'net_g_ema', None) or self.get_bare_model(self.net_g)

    def dist_validation(self, dataloader, current_iter, tb_logger, save_img) -> None:
        """Validate with all ranks; BasicSR has rank 0 do the work of all."""
        torch.distributed.barrier()  # rank 0 has made the folders
        for buffer in self._validated_net().buffers():  # such as running means: of rank 0, which saves them
            torch.distributed.broadcast(buffer, 0)
        self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img) -> None:
        """Measure the network, the EMA weights where there are some, at every sigma of `val.sigmas`."""
        if self.is_train and current_iter >= int(self.opt['train']['total_iter']):
            # BasicSR counts on after the last iteration, and validates once more what it may just have validated.
            current_iter = int(self.opt['train']['total_iter'])
            if self.progress.is_validated(dataloader):
                return
        net = self._validated_net()
        was_training = net.training
        net.eval()
        try:
            # Metrics may draw random numbers, as the first weights of a network; the training draws its own.
            own_rng = torch.random.fork_rng([self.device] if self.device.type == 'cuda' else [])
            with own_rng:
                self.validator.run(net, dataloader, self.device, current_iter, tb_logger, save_img)
        finally:
            net.train(was_training)
        if self.is_train:
            self.progress.validated(dataloader, current_iter, best=self.validator.best)


def _lay_out_moments(optimizer: torch.optim.Optimizer) -> None:
    """Give moments the layout of their parameters in memory (`train.channels_last`), by which fused optimisers go."""
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            is_alike = torch.is_tensor(moment) and moment.shape == parameter.shape
            if is_alike and moment.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)
