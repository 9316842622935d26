"""The model: the terms that reach each network, the alternation, checkpoints and foreign networks."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from basicsr.models.base_model import BaseModel
from basicsr.models.srgan_model import SRGANModel
from helpers.experiment import differences, set_option

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.checkpoints.training_states import newest_whole_state
from irnsigma_plugin.checkpoints.weights import CheckpointError, build_network, read_checkpoint
from irnsigma_plugin.options.rules import OptionError
from irnsigma_plugin.training import model as model_module
from irnsigma_plugin.training.model import IRNSigmaModel
from irnsigma_plugin.training.progress import random_state
from irnsigma_plugin.training.step import Adversary


def fixed_sigma(value: float):
    return set_option('train', 'sigma', {'strategy': 'fixed', 'values': [value]})


def gradient_of_generator(model: IRNSigmaModel) -> list[torch.Tensor]:
    torch.manual_seed(1)
    model.optimizer_g.step = lambda: None
    model.optimize_parameters(1)
    return [parameter.grad.clone() for parameter in model.net_g.parameters() if parameter.requires_grad]


@pytest.mark.parametrize(
    ('sigma', 'without_effect'), [(0, ['lambda_distribution', 'lambda_perceptual']), (1, ['lambda_reconstruction'])]
)
def test_generator_gets_no_gradient_from_terms_of_weight_zero(make_model, sigma, without_effect):
    def change(lambdas):
        def apply(options):
            fixed_sigma(sigma)(options)
            options['train'].update(grad_clip=None)
            options['train']['mixture_opt'].update(lambdas)

        return apply

    plain = gradient_of_generator(make_model(change=change({})))
    for name in without_effect:
        scaled = gradient_of_generator(make_model(change=change({name: 1e6})))
        torch.testing.assert_close(scaled, plain, rtol=0, atol=0)
    others = {'lambda_reconstruction', 'lambda_distribution', 'lambda_perceptual'} - set(without_effect)
    for name in others:
        scaled = gradient_of_generator(make_model(change=change({name: 1e6})))
        assert max((a - b).abs().max() for a, b in zip(scaled, plain)) > 1


def test_logged_terms_are_those_of_the_equation_and_add_up(make_model):
    model = make_model(change=fixed_sigma(0.25))
    model.optimize_parameters(1)
    log = model.get_current_log()
    terms = [log[f'l_{name}'] for name in ('reconstruction', 'guidance', 'distribution', 'perceptual')]
    assert all(term > 0 for term in terms)
    assert log['l_g_total'] == pytest.approx(sum(terms), rel=1e-5)


@pytest.mark.parametrize(('weighting', 'sees_fakes'), [('sigma', False), ('all', True)])
def test_discriminator_weights_fakes(make_model, weighting, sees_fakes):
    def change(options):
        fixed_sigma(0)(options)
        options['train']['fake_weighting'] = weighting

    model = make_model(change=change)
    model.optimize_parameters(1)
    assert (model.get_current_log()['l_d_fake'] > 0) == sees_fakes


def test_discriminator_learns_alone_first(make_model):
    model = make_model(change=set_option('train', 'net_d_init_iters', 1))

    def weights(net):
        return torch.cat([parameter.detach().flatten().clone() for parameter in net.parameters()])

    before_g, before_d = weights(model.net_g), weights(model.net_d)
    model.optimize_parameters(1)
    torch.testing.assert_close(weights(model.net_g), before_g, rtol=0, atol=0)
    assert not torch.equal(weights(model.net_d), before_d)
    assert 'l_g_total' not in model.get_current_log()
    model.optimize_parameters(2)
    assert not torch.equal(weights(model.net_g), before_g)


def test_one_forward_pass_per_step(make_model):
    model = make_model()
    calls = []
    model.net_g.register_forward_hook(lambda *_: calls.append(1))
    model.optimize_parameters(1)
    assert len(calls) == 1


def test_non_finite_step_changes_nothing_and_too_many_stop_the_training(make_model):
    model = make_model(adversarial=False, change=set_option('train', 'max_skipped_steps', 3))
    before = {key: value.clone() for key, value in model.net_g.state_dict().items()}
    model.gt[0, 0, 0, 0] = math.nan
    for step in (1, 2):
        model.optimize_parameters(step)
        assert model.get_current_log()['skipped_steps'] == step
    with pytest.raises(FloatingPointError, match='3 steps in a row of the generator'):
        model.optimize_parameters(3)
    torch.testing.assert_close(dict(model.net_g.state_dict()), before, rtol=0, atol=0)


def test_non_finite_images_leave_the_discriminators_statistics_finite(make_model):
    model = make_model(change=fixed_sigma(1))
    net_d = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.Conv2d(2, 1, 1))
    model.step.adversary = Adversary(net_d, torch.optim.Adam(net_d.parameters()), model.cri_gan)
    statistics = net_d[1]
    model.optimize_parameters(1)
    good = statistics.running_mean.clone()
    assert good.abs().min() > 0
    model.gt[0, 0, 0, 0] = math.nan
    model.optimize_parameters(2)
    assert model.get_current_log()['skipped_steps'] == 2
    torch.testing.assert_close(statistics.running_mean, good, rtol=0, atol=0)
    assert statistics.running_var.isfinite().all()


def test_losses_are_read_when_they_are_asked_for_only(make_model, monkeypatch):
    model = make_model()
    asked = []
    reduce_loss_dict = model.reduce_loss_dict
    monkeypatch.setattr(model, 'reduce_loss_dict', lambda log: asked.append(1) or reduce_loss_dict(log))
    model.optimize_parameters(1)
    assert not asked
    assert all(isinstance(value, float) for name, value in model.get_current_log().items() if name.startswith('l_'))
    assert asked == [1]


def test_ema_follows_the_weights_and_is_saved(make_model):
    model = make_model(change=set_option('train', 'ema_decay', 0.5))
    model.model_ema(0)
    start = next(p for p in model.net_g_ema.parameters() if p.requires_grad).clone()
    model.optimize_parameters(1)
    now = next(p for p in model.net_g.parameters() if p.requires_grad)
    average = next(p for p in model.net_g_ema.parameters() if p.requires_grad)
    torch.testing.assert_close(average, (start + now) / 2)
    model.save(0, 1)
    saved = torch.load(Path(model.opt['path']['models'], 'net_g_1.pth'))
    assert set(saved) == {'params', 'params_ema', 'network_g'}


def test_running_statistics_are_those_of_the_network(make_model):
    model = make_model(change=set_option('train', 'ema_decay', 0.9))
    for net, value in ((model.net_g, 3.0), (model.net_g_ema, 1.0)):
        net.register_buffer('running_mean', torch.full((2,), value))
    model.optimize_parameters(1)
    assert (model.net_g_ema.running_mean == 3).all()


@pytest.mark.parametrize('channels_last', [False, True])
def test_ema_is_basicsrs_up_to_rounding(make_model, channels_last):
    def change(options):
        options['train'].update(ema_decay=0.999, channels_last=channels_last)

    model = make_model(change=change)
    averages, values = ([*net.parameters()] for net in (model.net_g_ema, model.net_g))
    layouts = [[each.stride() for each in parameters] for parameters in (averages, values)]
    assert layouts[0] == layouts[1]  # which one kernel for all of them asks for
    for decay, tolerance in ((0, 0), (0.999, 1e-6), (0.25, 1e-6), (1, 0)):
        with torch.no_grad():
            for value in values:
                value.add_(torch.randn(value.shape), alpha=0.1)
        before = deepcopy(dict(model.net_g_ema.named_parameters()))
        BaseModel.model_ema(model, decay)
        expected = deepcopy(dict(model.net_g_ema.named_parameters()))
        for average, value in zip(averages, before.values()):
            average.data.copy_(value)
        model.model_ema(decay)
        torch.testing.assert_close(dict(model.net_g_ema.named_parameters()), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize('adversarial', [True, False])
def test_saved_files(make_model, adversarial):
    model = make_model(adversarial)
    model.save(0, 7)
    root = Path(model.opt['path']['experiments_root'])
    files = {str(path.relative_to(root)) for path in root.rglob('*') if path.is_file()}
    assert files == {'models/net_g_7.pth', 'training_states/7.state', *(['models/net_d_7.pth'] if adversarial else [])}


def test_bare_state_dict_loads_also_with_ema(make_model, tmp_path):
    bare = tmp_path / 'IRN_x4.pth'
    torch.save(make_model().net_g.state_dict(), bare)

    def change(options):
        options['train']['ema_decay'] = 0.9
        options['path'] = {'pretrain_network_g': str(bare), 'param_key_g': None}

    model = make_model(change=change)
    torch.testing.assert_close(dict(model.net_g_ema.state_dict()), torch.load(bare))


def test_checkpoint_of_another_network_is_refused(make_model, tmp_path):
    model = make_model()
    torch.save({'params': model.net_d.state_dict()}, tmp_path / 'net_d.pth')
    with pytest.raises(CheckpointError, match=r'net_d\.pth is not of this InvRescaleNet'):
        model.load_network(model.net_g, str(tmp_path / 'net_d.pth'))


def test_a_saved_network_is_enough_to_build_it_and_loads_into_plain_basicsr(make_model):
    model = make_model(change=set_option('network_g', 'clamp', 0.5))
    model.save(0, 7)
    folder = Path(model.opt['path']['models'])
    assert read_checkpoint(folder / 'net_d_7.pth').network == {}
    checkpoint = read_checkpoint(folder / 'net_g_7.pth')
    assert checkpoint.network == {
        'type': 'InvRescaleNet',
        'scale': 4,
        'block_num': [1, 1],
        'growth_channels': 4,
        'clamp': 0.5,
    }
    with torch.no_grad():
        torch.testing.assert_close(build_network(checkpoint).downscale(model.gt), model.net_g.downscale(model.gt))
    fresh = InvRescaleNet(block_num=[1, 1], growth_channels=4, clamp=0.5)
    BaseModel.load_network(model, fresh, str(folder / 'net_g_7.pth'))
    torch.testing.assert_close(dict(fresh.state_dict()), checkpoint.state_dict)


def test_networks_are_saved_as_basicsr_saves_them(make_model, monkeypatch):
    model = make_model(change=set_option('train', 'ema_decay', 0.5))
    original = torch.save
    model.save(0, 7)
    model.save(-1, -1)
    assert torch.save is original
    folder = Path(model.opt['path']['models'])
    assert {path.name for path in folder.iterdir()} == {f'net_{net}_{i}.pth' for net in 'dg' for i in (7, 'latest')}
    ours = {path.name: torch.load(path, weights_only=False) for path in folder.iterdir()}
    for name in ('save_network', 'save_training_state'):
        monkeypatch.setattr(IRNSigmaModel, name, getattr(BaseModel, name))
    SRGANModel.save(model, 0, 7)
    for name in ('net_g_7.pth', 'net_d_7.pth'):
        theirs = torch.load(folder / name, weights_only=False)
        assert ours[name].keys() - theirs.keys() == ({'network_g'} if 'net_g' in name else set())
        for key, state_dict in theirs.items():
            assert ours[name][key]._metadata == state_dict._metadata
            assert differences(ours[name][key], state_dict) == []


@pytest.mark.parametrize(
    ('native', 'half_precision', 'amp'), [('bf16', True, 'bf16'), ('fp32', True, 'off'), ('bf16', False, 'off')]
)
def test_amp_auto_is_what_the_device_is_faster_in_where_the_network_is_fit(
    make_model, monkeypatch, basicsr_log, native, half_precision, amp
):
    monkeypatch.setattr(model_module, 'native_precision', lambda device: native)
    monkeypatch.setattr(InvRescaleNet, 'half_precision', half_precision)
    model = make_model(change=set_option('train', 'amp', 'auto'))
    assert (model.step.amp, model.step.autocast()._enabled) == (amp, amp == 'bf16')
    assert f'train.amp: auto is {amp} here.' in basicsr_log.text


@pytest.mark.parametrize('amp', ['auto', 'bf16', 'off', None])
def test_a_resumed_training_does_not_change_its_precision_unasked(make_model, monkeypatch, basicsr_log, amp):
    monkeypatch.setattr(model_module, 'native_precision', lambda device: 'fp32')
    model = make_model(change=set_option('train', 'amp', amp))
    model.resume_training({**old_state(model), 'amp': 'bf16'})
    assert model.step.amp == {'auto': 'bf16', None: 'off'}.get(amp, amp)
    assert ('auto goes on in bf16, as the training' in basicsr_log.text) == (amp == 'auto')
    assert ('here on: train.amp off (was bf16).' in basicsr_log.text) == (amp in ('off', None))


def old_state(model):
    """A training state as it was saved before the step and the progress were objects of their own."""
    return {
        'epoch': 1,
        'iter': 6,
        'seen': 9,
        'optimizers': [optimizer.state_dict() for optimizer in model.optimizers],
        'schedulers': [scheduler.state_dict() for scheduler in model.schedulers],
        'random': [random_state()],
        'step_guard': {'skipped': 3, 'in_a_row': {'generator': 2, 'discriminator': 0}},
        'scaler': {},
        'best': {'held_out': {'sigma_0/psnr_y': (20.0, 4)}},
        'model_type': 'IRNSigmaModel',
        'networks': ['network_g', 'network_d'],
    }


def test_a_state_has_the_entries_that_it_always_had(make_model):
    model = make_model()
    old = old_state(model)
    model.feed_data({'gt': model.gt, 'lq': model.lq, 'epoch': torch.tensor([1]), 'seen': torch.tensor([9])})
    model.save(0, 6)
    state = torch.load(Path(model.opt['path']['training_states'], '6.state'), weights_only=True)
    assert state.pop('amp') == 'off'  # new
    assert state.keys() == old.keys()
    assert {key: type(value) for key, value in state.items()} == {key: type(value) for key, value in old.items()}
    assert state['step_guard'].keys() == old['step_guard'].keys()
    assert state['random'][0].keys() == old['random'][0].keys()
    assert (state['epoch'], state['seen'], state['networks']) == (1, 9, old['networks'])


def test_a_state_with_the_old_entries_resumes(make_model):
    model = make_model(change=set_option('train', 'max_skipped_steps', 3))
    old = old_state(model)
    expected = torch.rand(3)
    model.resume_training(old)
    assert torch.equal(torch.rand(3), expected)
    assert model.validator.best == old['best']
    assert model.step.guard.skipped == 3
    model.gt[0, 0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match='3 steps in a row of the generator'):
        model.optimize_parameters(7)


def test_a_state_of_basicsr_resumes(make_model, basicsr_log):
    model = make_model()
    model.resume_training({key: old_state(model)[key] for key in ('epoch', 'iter', 'optimizers', 'schedulers')})
    assert (model.step.guard.skipped, model.validator.best) == (0, {})
    assert 'of 0 processes, not of 1' in basicsr_log.text


def test_a_network_that_is_left_empty_counts_as_absent(make_model):
    model = make_model(adversarial=False, change=set_option('network_d', None))
    model.save(0, 3)
    path, state = newest_whole_state(model.opt, model.opt['path']['training_states'])
    assert (Path(path).name, state['networks']) == ('3.state', ['network_g'])


@pytest.mark.parametrize('before', [True, False])
def test_the_layout_in_memory_may_change_where_a_training_goes_on(make_model, before):
    """Fused optimisers go through memory, whatever the strides of their moments are."""

    def changes(channels_last):
        def change(options):
            options['train'].update(channels_last=channels_last)
            for name in ('optim_g', 'optim_d'):
                options['train'][name]['fused'] = True

        return change

    model = make_model(change=changes(before))
    model.optimize_parameters(1)
    model.save(0, 1)
    state = torch.load(Path(model.opt['path']['training_states'], '1.state'), weights_only=True)
    gradients = [torch.randn(parameter.shape) for parameter in model.net_d.parameters()]
    steps = []
    for channels_last in (before, not before):
        model = make_model(change=changes(channels_last))
        model.resume_training(deepcopy(state))
        begin = [parameter.detach().clone() for parameter in model.net_d.parameters()]
        for parameter, gradient in zip(model.net_d.parameters(), gradients):
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        model.optimizers[1].step()
        steps.append([now.detach() - then for now, then in zip(model.net_d.parameters(), begin)])
    torch.testing.assert_close(steps[1], steps[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('with_d', [True, False])
def test_an_ignored_network_starts_anew_with_its_optimiser(make_model, with_d):
    scheduler = {'type': 'MultiStepLR', 'milestones': [2], 'gamma': 0.5}

    def change(options):
        options['train'].update(scheduler=scheduler, warmup_iter=2)

    model = make_model(change=change)
    for iteration in (1, 2, 3):
        model.update_learning_rate(iteration, 2)
        model.optimize_parameters(iteration)
    model.save(0, 3)
    state = torch.load(Path(model.opt['path']['training_states'], '3.state'), weights_only=True)
    if not with_d:
        for entry in ('optimizers', 'schedulers'):
            del state[entry][1]
    rates = model.get_current_learning_rate()
    model = make_model(change=change)
    model.opt['path']['ignore_resume_networks'] = ['network_d']
    model.resume_training(state)
    assert [bool(each.state) for each in model.optimizers] == [True, False]
    assert model.get_current_learning_rate() == rates
    assert [each.param_groups[0]['lr'] for each in model.optimizers] == [5e-4, 5e-5]
    assert [each.last_epoch for each in model.schedulers] == [2, 2]


def test_a_derived_model_with_an_optimiser_more_resumes(make_model):
    def one_more(model):
        parameter = torch.nn.Parameter(torch.ones(3))
        model.optimizers.append(torch.optim.Adam([parameter]))
        return parameter

    model = make_model()
    one_more(model).grad = torch.ones(3)
    model.optimizers[2].step()
    state = old_state(model)
    model = make_model()
    one_more(model)
    model.resume_training(state)
    (moments,) = model.optimizers[2].state.values()
    assert moments['step'] == 1


def test_weights_of_sigma_that_a_state_lacks_are_named(make_model):
    state = old_state(make_model())
    model = make_model(change=set_option('network_g', 'sigma_input', True))
    model.opt['path'].update(resume_state='6.state', pretrain_network_g='net_g_6.pth')
    with pytest.raises(OptionError, match=r'^6\.state is of a .*sigma_input.*path\.pretrain_network_g: net_g_6\.pth$'):
        model.resume_training(state)


def test_a_warm_up_reaches_the_whole_rate(make_model):
    scheduler = {'type': 'MultiStepLR', 'milestones': [3, 6], 'gamma': 0.5}
    model = make_model(change=set_option('train', 'scheduler', scheduler))
    rates = []
    for iteration in range(1, 9):
        model.update_learning_rate(iteration, 4)
        rates.append(model.get_current_learning_rate()[0] / 1e-3)
    # A milestone counts steps, of which the first iteration has none; BasicSR's warm-up rises to the whole rate.
    assert rates == pytest.approx([0.25, 0.5, 0.75, 0.5, 0.5, 0.5, 0.25, 0.25])


@pytest.mark.parametrize(('strict', 'is_refused'), [(True, True), (None, True), (False, False)])
def test_a_key_that_is_left_empty_counts_as_absent(make_model, tmp_path, strict, is_refused):
    """`strict_load_g: ~` is read alike by the check and by the model; `warmup_iter: ~` is computed with by BasicSR."""
    path = str(tmp_path / 'net_g.pth')
    torch.save({'params': {'operations.1.F.conv1.bias': torch.full((4,), 0.5)}}, path)

    def change(options):
        options['path'] = {'pretrain_network_g': path, 'strict_load_g': strict}
        options['train']['warmup_iter'] = None

    if is_refused:
        with pytest.raises(OptionError, match='is not of this InvRescaleNet'):
            make_model(change=change)
    model = make_model()
    if is_refused:
        with pytest.raises(CheckpointError, match='is not of this InvRescaleNet'):
            model.load_network(model.net_g, path, strict)
    else:
        model = make_model(change=change)
        model.load_network(model.net_g, path, strict)
        assert (model.net_g.operations[1].F.conv1.bias == 0.5).all()
    model.update_learning_rate(1, warmup_iter=None)


def test_another_clamp_than_the_saved_one_is_refused(make_model):
    model = make_model()
    model.save(0, 7)
    path = str(Path(model.opt['path']['models'], 'net_g_7.pth'))
    model.opt['network_g']['clamp'] = 2.0
    with pytest.raises(CheckpointError, match=r'net_g_7\.pth was trained with clamp: 1\.0'):
        model.load_network(model.net_g, path)
    model.load_network(model.net_g, path, strict=False)


def test_a_state_from_before_the_clamp_was_among_the_weights_resumes(make_model):
    model = make_model(change=set_option('network_g', 'clamp', 2.0))
    model.save(0, 7)
    path = Path(model.opt['path']['models'], 'net_g_7.pth')
    saved = torch.load(path)
    assert bytes(saved['params'].pop('log_scale_clamp').tolist()) == b'2.0'
    saved['params']['operations.1.F.conv1.bias'].fill_(0.25)
    torch.save(saved, path)
    model.load_network(model.net_g, str(path))
    assert (model.net_g.operations[1].F.conv1.bias == 0.25).all()
    model.opt['network_g']['clamp'] = 1.0
    with pytest.raises(CheckpointError, match=r'net_g_7\.pth was trained with clamp: 2\.0'):
        model.load_network(model.net_g, str(path))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (set_option('train', 'grad_clp', 1), r'train\.grad_clp\. Did you mean grad_clip'),
        (set_option('val', 'sigmas', [0, 1.5]), r'val\.sigmas.*1\.5'),
        (set_option('train', 'perceptual_opt', 'type', 'PerceptualLoss'), 'PerSamplePerceptualLoss'),
        (set_option('datasets', 'train', 'gt_size', 30), r'gt_size must be a multiple of the scale'),
    ],
)
def test_wrong_options_are_refused_at_construction(make_model, change, message):
    with pytest.raises(OptionError, match=message):
        make_model(change=change)


def test_the_constructor_checks_for_itself():
    train = {'mixture_opt': {'type': 'MixtureLoss', 'distribution': 'latent'}, 'grad_clip': 0, 'sigmas': [0]}
    with pytest.raises(OptionError, match=r'has 2 faults:\n  train\.grad_clip .*\n  Unknown key train\.sigmas'):
        IRNSigmaModel({'is_train': True, 'train': train})
