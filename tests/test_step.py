"""A step of G and D: against values computed by hand, and its faster and smaller ways against the plain one."""

from __future__ import annotations

import ast
import functools
import math
from pathlib import Path

import pytest
import torch
from helpers.experiment import set_option
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.archs.rescaling_net import RescaleResult
from irnsigma_plugin.losses.mixture_loss import MixtureLoss
from irnsigma_plugin.options.rules import OptionError
from irnsigma_plugin.training import step as step_module
from irnsigma_plugin.training.step import (
    SCALER_HALVINGS,
    Adversary,
    TrainingStep,
    explained_compile_errors,
    full_precision,
    split_batch,
)
from irnsigma_plugin.training.step_guard import StepGuard

# --------------------------------------------------------------------- two numbers for G, one for D, by hand


class Gains(nn.Module):
    """Images of one pixel h: lr = c·h, restored = g·h."""

    def __init__(self):
        super().__init__()
        self.g = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
        self.c = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, hr, sigma):
        return RescaleResult(self.c * hr, self.c * hr, torch.zeros_like(hr), self.g * hr)


class Critic(nn.Module):
    """Its output is d·h."""

    def __init__(self):
        super().__init__()
        self.d = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))

    def forward(self, images):
        return self.d * images


def wgan(prediction, target_is_real, is_disc):
    return -prediction.mean() if target_is_real else prediction.mean()


def squares(restored, hr):
    return (restored - hr).square().flatten(1).sum(1)


def pixels(*values):
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


HR, LR_REF, SIGMA = pixels(100, 200), pixels(40, 120), torch.tensor([0.25, 1.0], dtype=torch.float64)
LAMBDAS = (0.01, 1.0, 0.5, 0.001)


def by_hand(fake_weighting='sigma', adversarial=True, **settings):
    """A step of plain gradient descent, learning rate 1."""
    net_g, net_d = Gains(), Critic()
    adversary = Adversary(net_d, torch.optim.SGD(net_d.parameters(), lr=1.0), wgan, fake_weighting)
    distribution = 'adversarial' if adversarial else 'latent'
    return TrainingStep(
        net_g,
        torch.optim.SGD(net_g.parameters(), lr=1.0),
        MixtureLoss(*LAMBDAS, distribution=distribution),
        squares,
        adversary if adversarial else None,
        **settings,
    )


def values(step):
    return [parameter.item() for net in (step.net_g, step.adversary.net) for parameter in net.parameters()]


# dL/dg = λ1 mean((1-σ) h) - λ3 mean(σ d h) + λ4 mean(2 σ (g-1) h²) = 0.375 - 11.25 + 85
# dL/dc = 2 λ2 mean((c h - lr) h)
GRADIENT_G = [74.125, -3000.0]


@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize(('fake_weighting', 'weight'), [('sigma', 112.5), ('all', 150.0)])  # mean(σ h), mean(h)
def test_both_steps_are_those_of_the_equations(fake_weighting, weight, accumulate):
    step = by_hand(fake_weighting, accumulate=accumulate)
    log = step(HR, LR_REF, SIGMA)
    g, c, d = values(step)
    assert [3 - g, 0.5 - c] == pytest.approx(GRADIENT_G, rel=1e-8)
    assert 0.2 - d == pytest.approx(3 * weight - 150)  # -mean(h) + mean(w g h), of what g = 3 restored
    assert {name: value.item() for name, value in log.items()} == pytest.approx(
        {
            'l_g_total': 0.75 + 250 - 33.75 + 85,
            'l_reconstruction': 0.75,  # 0.01 · (0.75 · 200 + 0) / 2
            'l_guidance': 250,  # (10² + 20²) / 2
            'l_distribution': -33.75,  # -0.5 · 0.2 · 3 · 112.5
            'l_perceptual': 85,  # 0.001 · (0.25 · 200² + 400²) / 2
            'l_d_real': -30,  # -0.2 · 150
            'l_d_fake': 0.6 * weight,
        },
        rel=1e-8,
    )


def test_the_gradient_of_g_is_clipped_and_that_of_d_is_not():
    step = by_hand(grad_clip=1.0)
    step(HR, LR_REF, SIGMA)
    g, c, d = values(step)
    norm = math.hypot(*GRADIENT_G)
    assert [3 - g, 0.5 - c] == pytest.approx([each / norm for each in GRADIENT_G], rel=1e-6)
    assert 0.2 - d == pytest.approx(187.5)


@pytest.mark.parametrize('accumulate', [2, 3, 9])
def test_parts_of_any_size_make_the_step_of_the_whole_batch(accumulate):
    whole, parts = by_hand(), by_hand(accumulate=accumulate)
    batch = pixels(100, 200, 50), pixels(40, 120, 10), torch.tensor([0.25, 1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(parts(*batch), whole(*batch))
    assert values(parts) == pytest.approx(values(whole), rel=1e-12)


def test_d_can_learn_alone():
    step = by_hand()
    log = step(HR, LR_REF, SIGMA, train_g=False)
    g, c, d = values(step)
    assert (g, c) == (3.0, 0.5)
    assert 0.2 - d == pytest.approx(187.5)
    assert set(log) == {'l_d_real', 'l_d_fake'}


def test_a_generator_without_adversary():
    step = by_hand(adversarial=False)
    log = step(HR, LR_REF, SIGMA)
    assert 3 - step.net_g.g.item() == pytest.approx(85.375)
    assert log['l_distribution'] == 0
    assert not any(name.startswith('l_d_') for name in log)


def test_a_step_is_skipped_by_each_network_whose_gradient_is_not_finite():
    step = by_hand()
    start = values(step)
    step(pixels(math.nan, 200), LR_REF, SIGMA)
    assert values(step) == start
    assert step.guard.skipped == 2
    step.adversary.gan_loss = lambda prediction, real, is_disc: (
        wgan(prediction, real, is_disc) * (math.inf if is_disc else 1)
    )
    step(HR, LR_REF, SIGMA)
    assert [3 - values(step)[0], values(step)[2]] == pytest.approx([GRADIENT_G[0], 0.2])
    assert step.guard.skipped == 3


def test_too_many_skipped_steps_end_the_training_also_after_resuming():
    step, resumed = by_hand(max_skipped_steps=2), by_hand(max_skipped_steps=2)
    step(pixels(math.nan, 200), LR_REF, SIGMA)
    resumed.load_state_dict(step.state_dict())
    with pytest.raises(FloatingPointError, match='2 steps in a row of the generator'):
        resumed(pixels(math.nan, 200), LR_REF, SIGMA)


def test_the_step_knows_nothing_of_basicsr_and_option_files():
    source = ast.parse(Path(step_module.__file__).read_text())
    modules = {node.module for node in ast.walk(source) if isinstance(node, ast.ImportFrom)}
    modules |= {name.name for node in ast.walk(source) if isinstance(node, ast.Import) for name in node.names}
    assert not [name for name in modules if name.startswith(('basicsr', 'irnsigma_plugin.options'))]


# ------------------------------------------------------------------------------------- faster and smaller ways


@pytest.fixture(autouse=True)
def same_noise(monkeypatch):
    """The same noise for every sample, whatever the layout and the number of samples."""

    def noise(tensor):
        sample = tensor[0].numel()
        return torch.linspace(-1, 1, sample).reshape(tensor.shape[1:]).expand(tensor.shape)

    monkeypatch.setattr(torch, 'randn_like', noise)


class SmallDiscriminator(nn.Sequential):
    """Without the memory of BasicSR's, whose normalisations change with every forward pass."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3, 2, 1))


def one_step(model):
    """Gradients that the step of G and the step of D use, and the log."""
    torch.manual_seed(2)
    hr = torch.rand(3, 3, 32, 32)
    model.feed_data({'gt': hr, 'lq': nn.functional.avg_pool2d(hr, 4)})
    for parameter in model.net_g.parameters():  # the layout changes the order in which values are drawn in place
        if parameter.requires_grad:
            parameter.data.copy_(torch.randn(parameter.shape) * 0.05)
    net_d = SmallDiscriminator()
    model.step.adversary = Adversary(net_d, torch.optim.Adam(net_d.parameters(), lr=1e-4), model.cri_gan)
    model.optimize_parameters(1)
    gradients = [
        parameter.grad.clone()
        for net in (model.net_g, net_d)
        for parameter in net.parameters()
        if parameter.requires_grad
    ]
    return gradients, model.get_current_log()


def difference(gradients, expected):
    """Largest difference, in parts of the largest gradient of the same parameter."""
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(gradients, expected))


@pytest.mark.parametrize(
    ('option', 'value', 'tolerance'),
    [
        ('accumulate', 2, 1e-5),  # parts of 2 and 1 samples
        ('accumulate', 3, 1e-5),
        ('channels_last', True, 1e-5),
        ('amp', 'bf16', 0.1),
        ('amp', 'fp16', 0.05),
    ],
)
def test_gradients_and_losses_are_those_of_the_plain_step(make_model, option, value, tolerance):
    expected, expected_log = one_step(make_model())
    model = make_model(change=set_option('train', option, value))
    if value == 'fp16':  # a scale without overflow, which training finds in its first steps
        model.step.scaler.load_state_dict({**model.step.scaler.state_dict(), 'scale': 64.0})
    gradients, log = one_step(model)
    assert log == pytest.approx(expected_log, rel=tolerance / 10)
    assert difference(gradients, expected) < tolerance


def test_compiled_generator_computes_the_same_and_keeps_its_keys(make_model, monkeypatch):
    """Traced and differentiated by torch.compile, but run by torch itself: the compiler would take a minute."""
    compiled = functools.partialmethod(nn.Module.compile, backend='aot_eager')
    monkeypatch.setattr(nn.Module, 'compile', compiled)
    expected, expected_log = one_step(make_model())
    model = make_model(change=set_option('train', 'compile', True))
    keys = list(InvRescaleNet(4, [1, 1], 4).state_dict())
    gradients, log = one_step(model)
    assert model.net_g._compiled_call_impl is not None
    assert log == pytest.approx(expected_log, rel=1e-5)
    assert difference(gradients, expected) < 1e-5
    assert list(model.net_g.state_dict()) == keys


@pytest.mark.parametrize(('option', 'value'), [('channels_last', True), ('compile', True), ('compile', 'blocks')])
def test_a_saved_generator_is_an_ordinary_one(make_model, option, value):
    model = make_model(change=set_option('train', option, value))
    model.save(0, 1)
    saved = torch.load(Path(model.opt['path']['models'], 'net_g_1.pth'))['params']
    net = InvRescaleNet(4, [1, 1], 4)
    net.load_state_dict(saved)
    torch.testing.assert_close(dict(net.state_dict()), dict(model.net_g.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize('what', [True, 'blocks'])
def test_a_failing_compiler_is_one_clear_error(make_model, monkeypatch, what):
    def no_compiler(*_):
        raise OSError('no compiler found')

    monkeypatch.setattr(nn.Module, 'compile', functools.partialmethod(nn.Module.compile, backend=no_compiler))
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend=no_compiler))
    model = make_model(change=set_option('train', 'compile', what))
    with pytest.raises(RuntimeError, match=r'train\.compile needs a C\+\+ compiler.*no compiler found'):
        model.optimize_parameters(1)


def test_a_discriminator_takes_the_layout_that_it_can(make_model):
    """A U-Net that of the weights; one that flattens by `view` cannot take channels-last images."""
    layouts = []

    def losses(channels_last):
        model = make_model(change=set_option('train', 'channels_last', channels_last))
        torch.manual_seed(0)
        for parameter in model.net_d.parameters():
            parameter.data.copy_(torch.randn(parameter.shape) * 0.05)
        model.net_d.register_forward_pre_hook(lambda _, images: layouts.append(images[0].stride(1) == 1))
        assert (model.net_d.conv1.weight_orig.stride(1) == 1) == channels_last
        torch.manual_seed(0)
        model.optimize_parameters(1)
        model.save(0, 1)
        return model.get_current_log(), torch.load(Path(model.opt['path']['models'], 'net_d_1.pth'))['params']

    log, weights = losses(True)
    plain_log, plain_weights = losses(False)
    assert layouts == [True] * 3 + [False] * 3
    assert log == pytest.approx(plain_log, rel=1e-5)
    torch.testing.assert_close(weights, plain_weights, rtol=1e-3, atol=1e-5)
    step = by_hand()
    step.judge(lambda images: images.view(-1), torch.rand(1, 3, 4, 4).contiguous(memory_format=torch.channels_last))


def test_other_errors_pass_the_explanation():
    with pytest.raises(RuntimeError, match='^out of memory$'), explained_compile_errors():
        raise RuntimeError('out of memory')


def test_fused_optimiser_takes_the_same_step(make_model):
    def weights_after_two_steps(fused):
        model = make_model(change=set_option('train', 'optim_g', {'type': 'Adam', 'lr': 1e-3, 'fused': fused}))
        assert all(bool(group['fused']) == fused for group in model.optimizer_g.param_groups)
        for step in (1, 2):
            torch.manual_seed(step)
            model.optimize_parameters(step)
        return dict(model.net_g.state_dict())

    torch.testing.assert_close(weights_after_two_steps(True), weights_after_two_steps(False), rtol=0, atol=1e-6)


class ValuesRead(TorchDispatchMode):
    """Lists the operations that hand a tensor's value to Python, which on a GPU waits for everything before it."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.found.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(('amp', 'fused'), [('off', True), ('fp16', True), ('off', False)])
def test_only_steps_that_are_not_fused_wait_for_values(make_model, monkeypatch, amp, fused):
    def change(options):
        options['train']['amp'] = amp
        for name in ('optim_g', 'optim_d'):
            options['train'][name]['fused'] = fused

    monkeypatch.setattr(StepGuard, 'check', lambda _: None)  # done at every step on a CPU only
    model = make_model(change=change)
    with ValuesRead() as values:
        model.optimize_parameters(1)
    assert bool(values.found) == (not fused)


def test_overflows_at_first_are_no_divergence_in_fp16(make_model):
    def change(options):
        options['train'].update(amp='fp16', max_skipped_steps=2)

    model = make_model(adversarial=False, change=change)
    model.gt, model.lq = model.gt[:1, :, :16, :16], model.lq[:1, :, :4, :4]  # fp16 takes a CPU long
    model.gt[0, 0, 0, 0] = math.nan
    for step in range(1, 2 + SCALER_HALVINGS):
        model.optimize_parameters(step)
    assert model.step.scaler.get_scale() == 0.5  # halved 17 times from 2**16
    with pytest.raises(FloatingPointError, match='18 steps in a row of the generator'):
        model.optimize_parameters(2 + SCALER_HALVINGS)


@pytest.mark.usefixtures('process_group')
def test_gradients_are_averaged_once_per_step(make_model):
    """Whatever the number of parts, processes exchange the gradients of each network once."""
    model = make_model(change=set_option('train', 'accumulate', 3))
    exchanged = []

    def count(what, bucket):
        exchanged.append(what)
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    for owner, name in ((model.step, 'net_g'), (model.step.adversary, 'net')):
        net = DistributedDataParallel(getattr(owner, name))
        net.register_comm_hook(name, count)
        setattr(owner, name, net)
    model.optimize_parameters(1)
    assert exchanged == ['net_g', 'net']


def test_parts_of_a_batch():
    hr = torch.arange(5.0)
    parts = split_batch(hr, -hr, hr / 5, 2)
    assert [part.hr.tolist() for part in parts] == [[0, 1, 2], [3, 4]]
    assert [part.lr_ref.tolist() for part in parts] == [[-0, -1, -2], [-3, -4]]
    assert [(part.share, part.is_last) for part in parts] == [(0.6, False), (0.4, True)]
    assert len(split_batch(hr, hr, hr, 9)) == 5


def test_full_precision_of_nested_predictions():
    short, double = torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.float64)
    result = full_precision([[short], double])
    assert (result[0][0].dtype, result[1].dtype) == (torch.float32, torch.float64)


def test_recomputed_blocks_are_the_networks_own_matter(make_model):
    change = set_option('train', 'checkpoint_blocks', True)
    assert make_model(change=change).net_g.checkpoint_blocks is True

    def without_blocks(options):
        change(options)
        options['network_g'] = {'type': 'BicubicRescaleNet', 'scale': 4}

    with pytest.raises(OptionError, match=r'train\.checkpoint_blocks: BicubicRescaleNet cannot recompute'):
        make_model(change=without_blocks)
