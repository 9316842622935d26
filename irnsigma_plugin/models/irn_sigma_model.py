"""Training and validation of adjustable rescaling networks in BasicSR."""

from __future__ import annotations

from collections import OrderedDict

import torch
from basicsr.losses.basic_loss import PerceptualLoss
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from irnsigma_plugin.archs.rescaling_net import RescaleResult, RescalingNet
from irnsigma_plugin.checkpoint import NETWORK_ENTRY, atomic_saves, check_clamp, check_fits, read_checkpoint, saves_with
from irnsigma_plugin.losses.adversarial import per_sample_gan_loss
from irnsigma_plugin.models.step_guard import StepGuard
from irnsigma_plugin.options import OptionError, read_train_options, read_val_options
from irnsigma_plugin.validation.validator import Validator


@MODEL_REGISTRY.register()
class IRNSigmaModel(SRGANModel):
    """IRN_sigma, IRN+ and IRN: which one is a matter of the option file.

    `network_g` may be any network that keeps the contract of
    :class:`~irnsigma_plugin.archs.rescaling_net.RescalingNet`. With `network_d` the training is adversarial;
    without it (and without `perceptual_opt`) it is plain IRN.

    The way of a batch: hr -> `net_g(hr, sigma)` -> `MixtureLoss` -> step of G -> step of D.

    Args:
        opt: BasicSR's options; the plugin's keys are described in
            :class:`~irnsigma_plugin.options.TrainOptions` and :class:`~irnsigma_plugin.options.ValOptions`.

    Raises:
        OptionError: A key or value in `train` or `val` is wrong.
        CheckpointError: A pretrained network cannot be read or is of another kind.
    """

    def __init__(self, opt: dict) -> None:
        self.validator = Validator(opt, read_val_options(opt))
        if opt['is_train']:
            self.train_options = read_train_options(opt)
        super().__init__(opt)

    # ------------------------------------------------------------------------------------------- set-up

    def init_training_settings(self) -> None:
        """See BasicSR; a discriminator is built where there is a `network_d`."""
        train_opt = self.opt['train']
        if (train_opt.get('perceptual_opt') or {}).get('type') == PerceptualLoss.__name__:
            raise OptionError('train.perceptual_opt.type: PerceptualLoss averages over the batch, but sigma weights '
                              'every sample. Use type: PerSamplePerceptualLoss.')
        # The loss takes the place of BasicSR's pixel loss, so that BasicSR builds it as `self.cri_pix`.
        train_opt['pixel_opt'] = train_opt['mixture_opt']
        self.net_d = None
        self.net_d_iters, self.net_d_init_iters = 1, 0
        if self.opt.get('network_d'):
            super().init_training_settings()
        else:
            SRModel.init_training_settings(self)
        self.sigma_sampler = self.train_options.sigma_sampler()
        self.step_guard = StepGuard(self.train_options.max_skipped_steps)

    def setup_optimizers(self) -> None:
        """See BasicSR."""
        if self.net_d is not None:
            super().setup_optimizers()
        else:
            SRModel.setup_optimizers(self)

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """As BasicSR's, which always names a GPU to DistributedDataParallel, but on a CPU as well."""
        if not any(parameter.requires_grad for parameter in net.parameters()):
            return net.to(self.device)  # DistributedDataParallel refuses what has nothing to train
        if self.opt['dist'] and self.device.type == 'cpu':
            if torch.distributed.get_backend() == 'nccl':
                raise OptionError('num_gpu is 0, but --launcher uses the GPUs of this machine: set num_gpu: auto, or '
                                  'hide them by CUDA_VISIBLE_DEVICES= (empty) before the command.')
            return DistributedDataParallel(
                net, find_unused_parameters=self.opt.get('find_unused_parameters', False))
        return super().model_to_device(net)

    def load_network(self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = 'params',
                     ) -> None:
        """As BasicSR's, but bare state dicts load for EMA, too, and a foreign checkpoint is one clear error."""
        net = self.get_bare_model(net)
        checkpoint = read_checkpoint(load_path, param_key)
        state_dict = checkpoint.state_dict
        get_root_logger().info(f'Loading {type(net).__name__} from {load_path}.')
        self._print_different_keys_loading(net, state_dict, strict)
        if strict:
            check_fits(net, state_dict, load_path)
            check_clamp(checkpoint, self.opt['network_g'])
        net.load_state_dict(state_dict, strict=strict)

    # ----------------------------------------------------------------------------------------- training

    def optimize_parameters(self, current_iter: int) -> None:
        """One step of G, after `net_d_init_iters` and every `net_d_iters` iterations, and one of D."""
        train_g = current_iter > self.net_d_init_iters and current_iter % self.net_d_iters == 0
        log = OrderedDict()
        sigma = self.sigma_sampler(len(self.gt), self.device)
        with torch.set_grad_enabled(train_g):
            result = self.net_g(self.gt, sigma)
        if train_g:
            self._optimize_generator(result, sigma, log)
        if self.net_d is not None:
            self._optimize_discriminator(result.hr.detach(), sigma, log)
        self.log_dict = self.reduce_loss_dict(log)
        self.log_dict['skipped_steps'] = self.step_guard.skipped
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def _optimize_generator(self, result: RescaleResult, sigma: Tensor, log: OrderedDict) -> None:
        adversarial = perceptual = None
        if self.net_d is not None:
            # The bare network: only D's own step is to be synchronised between processes.
            net_d = self.get_bare_model(self.net_d).requires_grad_(False)
            adversarial = per_sample_gan_loss(self.cri_gan, net_d(result.hr), True, is_disc=False)
        if self.cri_perceptual is not None:
            perceptual = self.cri_perceptual(result.hr, self.gt)
        loss, terms = self.cri_pix(result, self.gt, self.lq, sigma, adversarial, perceptual)
        self.optimizer_g.zero_grad()
        loss.backward()
        self.step_guard.step(self.optimizer_g, self._parameters(self.net_g), 'generator',
                             self.train_options.grad_clip)
        log['l_g_total'] = loss.detach()
        log.update((f'l_{name}', term.detach()) for name, term in terms._asdict().items())

    def _optimize_discriminator(self, restored: Tensor, sigma: Tensor, log: OrderedDict) -> None:
        self.net_d.requires_grad_(True)
        self.optimizer_d.zero_grad()
        # Real and restored images in batches of their own, so that batch normalisation does not mix them.
        loss_real = self.cri_gan(self.net_d(self.gt), True, is_disc=True)
        loss_real.backward()
        loss_fake = per_sample_gan_loss(self.cri_gan, self.net_d(restored), False, is_disc=True)
        if self.train_options.fake_weighting == 'sigma':
            loss_fake = loss_fake * sigma
        loss_fake = loss_fake.mean()
        loss_fake.backward()
        self.step_guard.step(self.optimizer_d, self._parameters(self.net_d), 'discriminator')
        log['l_d_real'] = loss_real.detach()
        log['l_d_fake'] = loss_fake.detach()

    @staticmethod
    def _parameters(net: nn.Module) -> list[nn.Parameter]:
        return [parameter for parameter in net.parameters() if parameter.requires_grad]

    def save(self, epoch: int, current_iter: int) -> None:
        """As BasicSR's; every file is written completely or not at all, the training state last."""
        with atomic_saves():
            if self.net_d is not None:
                super().save(epoch, current_iter)
            else:
                SRModel.save(self, epoch, current_iter)

    def save_network(self, net: nn.Module | list[nn.Module], net_label: str, current_iter: int,
                     param_key: str | list[str] = 'params') -> None:
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

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img) -> None:
        """Measure the network, the EMA weights where there are some, at every sigma of `val.sigmas`."""
        net: RescalingNet = getattr(self, 'net_g_ema', None) or self.get_bare_model(self.net_g)
        was_training = net.training
        net.eval()
        try:
            self.validator.run(net, dataloader, self.device, current_iter, tb_logger, save_img)
        finally:
            net.train(was_training)
