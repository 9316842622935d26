"""One step of the generator and one of the discriminator, whatever has made networks, losses and optimisers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from irnsigma_plugin.archs.rescaling_net import RescaleResult
from irnsigma_plugin.checks import one_line
from irnsigma_plugin.losses.adversarial import per_sample_gan_loss
from irnsigma_plugin.rescaling.precision import autocast
from irnsigma_plugin.training.replay import Replay
from irnsigma_plugin.training.step_guard import StepGuard, finite_statistics

_logger = logging.getLogger('basicsr')
SCALER_HALVINGS = 16  # GradScaler starts at 2**16 and halves after an overflow: so many are no sign of divergence


class MicroBatch(NamedTuple):
    """A part of an iteration's batch."""

    hr: Tensor  # (n, 3, H, W) original images in [0, 1]
    lr_ref: Tensor  # (n, 3, h, w) their bicubic reductions
    sigma: Tensor  # (n,) in [0, 1]
    share: float  # of the batch's samples: the weight of its mean losses
    is_last: bool


@dataclass
class Adversary:
    """A discriminator, and what trains it."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    gan_loss: Callable[..., Tensor]  # of BasicSR's kind: gan_loss(prediction, target_is_real, is_disc=...)
    fake_weighting: str = 'sigma'  # of a restored image in its loss: the image's sigma, or 1 (`all`)
    memory_format: torch.memory_format = torch.contiguous_format  # of its images; BasicSR's that flatten need this one


@dataclass(eq=False)
class TrainingStep:
    """One step of a rescaling network, and one of its adversary where it has one, on a batch.

    hr -> `net_g(hr, sigma)` -> `mixture_loss` -> step of G -> `gan_loss` of hr and of what was restored -> step of D

    `guard` skips a step with a non-finite gradient. Networks may be wrapped in DistributedDataParallel, which averages
    their gradients once in a step.
    """

    net_g: nn.Module  # a RescalingNet
    optimizer_g: torch.optim.Optimizer
    mixture_loss: Callable[..., tuple[Tensor, Any]]  # see MixtureLoss
    perceptual_loss: Callable[[Tensor, Tensor], Tensor] | None = None  # (restored, hr) -> (n,)
    adversary: Adversary | None = None
    amp: str = 'off'  # precision of the convolutions: off (float32), bf16, or fp16 with a scaled loss
    accumulate: int = 1  # parts that a batch is split into, one at a time in memory; a step is on all of them
    grad_clip: float | None = None  # bound of the generator's gradient norm
    max_skipped_steps: int = 10  # in a row of one network, that end the training; fp16 has SCALER_HALVINGS more
    cuda_graph: bool = False  # on a GPU: replay the generator's gradients; not with parts, fp16 or several processes

    def __post_init__(self) -> None:
        self.device = next(self.net_g.parameters()).device
        scaled = self.amp == 'fp16'  # the loss; otherwise the scaler does nothing
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=2.0**SCALER_HALVINGS, enabled=scaled)
        self.guard = StepGuard(self.max_skipped_steps + SCALER_HALVINGS * scaled)
        self.gradients: Callable[[MicroBatch], tuple[Tensor, dict[str, Tensor]]] = self.generator_gradients
        if self.cuda_graph and self.device.type == 'cuda':
            self.gradients = Replay(self.generator_gradients, self.nets())
        elif self.cuda_graph:
            _logger.info('train.cuda_graph is for GPUs: here every step is computed by itself.')

    def nets(self) -> list[nn.Module]:
        """The generator, and the discriminator where there is one."""
        return [self.net_g, *([self.adversary.net] if self.adversary else [])]

    def __call__(self, hr: Tensor, lr_ref: Tensor, sigma: Tensor, train_g: bool = True) -> dict[str, Tensor]:
        """Take both steps on a batch (see :class:`MicroBatch`), or that of D alone.

        The losses for the log are scalars on the device: reading them waits for a GPU. Errors as of :class:`StepGuard`.
        """
        log: dict[str, Tensor] = {}
        batches = split_batch(hr, lr_ref, sigma, self.accumulate)
        with finite_statistics(*self.nets()):
            restored = self.step_generator(batches, train_g, log)
            if self.adversary is not None:
                self.step_discriminator(self.adversary, batches, restored, log)
        self.scaler.update()
        return log

    def step_generator(self, batches: list[MicroBatch], train: bool, log: dict[str, Tensor]) -> list[Tensor]:
        """Restore the images of each part and, where G is to be trained, take a step."""
        restored = []
        if self.adversary is not None:
            self.adversary.net.requires_grad_(False)
        self.optimizer_g.zero_grad()
        for batch in batches:
            if train:
                images, losses = self.gradients(batch)
                _log(log, losses, batch)
            else:
                with torch.no_grad(), self.autocast(), explained_compile_errors():
                    images = self.net_g(batch.hr, batch.sigma).restored
            restored.append(images)
        if train:
            self._take_step(self.optimizer_g, 'generator', self.grad_clip)
        return restored

    def generator_gradients(self, batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the gradients of a part to the generator's; its restored images and losses, detached."""
        with gradient_sync(self.net_g, batch.is_last):
            with self.autocast(), explained_compile_errors():
                result = self.net_g(batch.hr, batch.sigma)
            losses = self.generator_losses(result, batch)
            self._backward(losses['l_g_total'], batch)
        return result.restored.detach(), {name: value.detach() for name, value in losses.items()}

    def generator_losses(self, result: RescaleResult, batch: MicroBatch) -> dict[str, Tensor]:
        """Loss of G on one part, `l_g_total`, and the terms in it."""
        adversarial = perceptual = None
        if self.adversary is not None:
            net_d = self.adversary.net
            if isinstance(net_d, DistributedDataParallel):
                net_d = net_d.module  # only D's own step is to be synchronised between processes
            prediction = self.judge(net_d, result.restored)
            adversarial = per_sample_gan_loss(self.adversary.gan_loss, prediction, True, is_disc=False)
        if self.perceptual_loss is not None:
            with self.autocast():
                perceptual = self.perceptual_loss(result.restored, batch.hr)
        loss, terms = self.mixture_loss(result, batch.hr, batch.lr_ref, batch.sigma, adversarial, perceptual)
        return {'l_g_total': loss, **{f'l_{name}': term for name, term in terms._asdict().items()}}

    def step_discriminator(
        self, adversary: Adversary, batches: list[MicroBatch], restored: list[Tensor], log: dict[str, Tensor]
    ) -> None:
        """Take a step of D, on the original and the restored images of each part."""
        net, gan_loss = adversary.net.requires_grad_(True), adversary.gan_loss
        adversary.optimizer.zero_grad()
        for batch, fakes in zip(batches, restored):
            # Real and restored images in batches of their own, so that batch normalisation does not mix them.
            with gradient_sync(net, False):
                real = gan_loss(self.judge(net, batch.hr), True, is_disc=True)
                self._backward(real, batch)
            with gradient_sync(net, batch.is_last):
                fakes_each = per_sample_gan_loss(gan_loss, self.judge(net, fakes), False, is_disc=True)
                fake = (fakes_each * batch.sigma if adversary.fake_weighting == 'sigma' else fakes_each).mean()
                self._backward(fake, batch)
            _log(log, {'l_d_real': real, 'l_d_fake': fake}, batch)
        self._take_step(adversary.optimizer, 'discriminator')

    def judge(self, net_d: nn.Module, images: Tensor) -> Tensor | list:
        """The discriminator's output in float32."""
        memory_format = self.adversary.memory_format if self.adversary else torch.contiguous_format
        with self.autocast():
            return full_precision(net_d(images.contiguous(memory_format=memory_format)))

    def autocast(self) -> torch.autocast:
        """The precision of `amp`."""
        return autocast(self.amp, self.device)

    def state_dict(self) -> dict[str, Any]:
        """The entries of a training state."""
        return {'step_guard': self.guard.state_dict(), 'scaler': self.scaler.state_dict(), 'amp': self.amp}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a training state, which may lack these entries."""
        if 'step_guard' in state:
            self.guard.load_state_dict(state['step_guard'])
        if state.get('scaler'):  # empty but for fp16
            self.scaler.load_state_dict(state['scaler'])

    def _backward(self, loss: Tensor, batch: MicroBatch) -> None:
        self.scaler.scale(batch.share * loss).backward()

    def _take_step(self, optimizer: torch.optim.Optimizer, what: str, max_norm: float | None = None) -> None:
        self.scaler.unscale_(optimizer)
        self.guard.step(optimizer, what, max_norm)


def _log(log: dict[str, Tensor], losses: Mapping[str, Tensor], batch: MicroBatch) -> None:
    for name, value in losses.items():
        log[name] = log.get(name, 0) + batch.share * value.detach()


def split_batch(hr: Tensor, lr_ref: Tensor, sigma: Tensor, count: int) -> list[MicroBatch]:
    """Split a batch into at most `count` parts, as equal as the number of samples allows."""
    parts = list(zip(hr.chunk(count), lr_ref.chunk(count), sigma.chunk(count)))
    return [MicroBatch(*part, len(part[0]) / len(hr), part is parts[-1]) for part in parts]


def gradient_sync(net: nn.Module, enabled: bool) -> AbstractContextManager[None]:
    """Let processes average the gradients of `net` or not; once, in the last backward pass of a step, is enough."""
    return net.no_sync() if isinstance(net, DistributedDataParallel) and not enabled else nullcontext()


def full_precision(prediction: Tensor | list) -> Tensor | list:
    """A discriminator's output (nested lists of tensors, too) in float32 at least, which autocast makes shorter."""
    if isinstance(prediction, Tensor):
        return prediction.to(torch.promote_types(prediction.dtype, torch.float32))
    return [full_precision(each) for each in prediction]


@contextmanager
def explained_compile_errors() -> Iterator[None]:
    """Raise a RuntimeError with the remedy where `torch.compile` fails, which it does at the first use of a network."""
    try:
        yield
    except RuntimeError as error:
        # By name, since importing these modules takes seconds.
        if not type(error).__module__.startswith(('torch._dynamo.', 'torch._inductor.')):
            raise
        raise RuntimeError(
            'torch cannot compile the generator on this machine (train.compile needs a C++ compiler, and Triton for a '
            f'GPU). Install what is missing, or set train.compile: false. The cause: {one_line(error)}'
        ) from error
