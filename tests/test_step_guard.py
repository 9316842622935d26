import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from irnsigma_plugin.training.step_guard import StepGuard, finite_statistics


class Trainee:
    """Two weights 3 and 4 under momentum SGD, whose gradients are set by hand."""

    def __init__(self, fused=False):
        self.weights = [nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))]
        self.optimizer = torch.optim.SGD(self.weights, lr=1.0, momentum=0.9, fused=fused)

    def step(self, guard, gradients, what='generator', **arguments):
        for weight, gradient in zip(self.weights, gradients):
            weight.grad = torch.tensor([float(gradient)])
        guard.step(self.optimizer, what, **arguments)

    def values(self):
        return [weight.item() for weight in self.weights]

    def momentum(self):
        return [self.optimizer.state[weight]['momentum_buffer'].item() for weight in self.weights]


@pytest.mark.parametrize(
    ('max_norm', 'expected'),
    [
        (None, [0.0, 0.0]),
        (10, [0.0, 0.0]),  # the norm is 5
        (2.5, [1.5, 2.0]),  # half of the gradient
    ],
)
@pytest.mark.parametrize('fused', [False, True])
def test_clips_and_steps(fused, max_norm, expected):
    trainee, guard = Trainee(fused), StepGuard()
    trainee.step(guard, [3, 4], max_norm=max_norm)
    assert trainee.values() == pytest.approx(expected, abs=1e-5)
    assert guard.skipped == 0


@pytest.mark.parametrize('max_norm', [None, 10])
@pytest.mark.parametrize('fault', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('fused', [False, True])
def test_a_non_finite_gradient_changes_neither_weights_nor_optimiser(fused, fault, max_norm):
    trainee, guard = Trainee(fused), StepGuard()
    trainee.step(guard, [1, 1])
    values, momentum = trainee.values(), trainee.momentum()
    trainee.step(guard, [1, fault], max_norm=max_norm)
    assert (trainee.values(), trainee.momentum()) == (values, momentum)
    assert guard.skipped == 1
    trainee.step(guard, [1, 1])
    assert trainee.momentum() == pytest.approx([1.9, 1.9])


def test_stops_after_several_in_a_row():
    trainee, guard = Trainee(), StepGuard(max_skipped=3)
    for gradient in (math.nan, math.nan, 1, math.nan, math.nan):
        trainee.step(guard, [gradient, 1])
    with pytest.raises(FloatingPointError, match=r'3 steps in a row of the generator.*--auto_resume'):
        trainee.step(guard, [math.nan, 1])
    assert guard.skipped == 5


def test_the_steps_of_the_discriminator_do_not_hide_those_of_the_generator():
    generator, discriminator, guard = Trainee(), Trainee(), StepGuard(max_skipped=3)

    def train(iterations):
        for _ in range(iterations):
            generator.step(guard, [math.nan, 1])
            discriminator.step(guard, [1, 1], 'discriminator')

    train(2)
    with pytest.raises(FloatingPointError, match='3 steps in a row of the generator'):
        train(1)


def test_both_failing_now_and_then_is_no_divergence():
    """One bad batch spoils a step of either network; that is one in a row for each of them."""
    generator, discriminator, guard = Trainee(), Trainee(), StepGuard(max_skipped=2)
    for gradient in (math.nan, 1, math.nan, 1):
        generator.step(guard, [gradient, 1])
        discriminator.step(guard, [gradient, 1], 'discriminator')
    assert guard.skipped == 4


def test_parameters_without_gradient_do_not_count():
    trainee = Trainee()
    trainee.weights[0].grad = torch.tensor([1.0])
    StepGuard().step(trainee.optimizer, 'generator')
    assert trainee.values() == [2.0, 4.0]


def test_fused_adam_counts_only_steps_taken():
    """Its bias correction depends on the number of steps."""
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer, guard = torch.optim.Adam([weight], lr=0.1, fused=True), StepGuard()
    for gradient in (math.nan, 2.0, math.nan):
        weight.grad = torch.tensor([gradient])
        guard.step(optimizer, 'generator')
    assert weight.item() == pytest.approx(0.9)
    assert optimizer.state[weight]['step'].item() == 1


def test_an_optimiser_resumed_as_not_fused_is_guarded_all_the_same():
    saved, trainee = Trainee(), Trainee(fused=True)
    trainee.optimizer.load_state_dict(saved.optimizer.state_dict())
    trainee.step(StepGuard(), [1, math.nan])
    assert trainee.values() == [3.0, 4.0]


class LateGuard(StepGuard):
    """Reads its counts as on a GPU: when asked to."""

    def step(self, *arguments, **options):
        self.check, check = (lambda: None), self.check
        super().step(*arguments, **options)
        self.check = check


@pytest.mark.parametrize(
    ('gradients', 'stops'),
    [
        ([math.nan, math.nan, 1, math.nan], False),
        ([1, math.nan, math.nan, math.nan, 1], True),  # the good step afterwards does not hide them
    ],
)
def test_counts_that_are_read_late(gradients, stops, basicsr_log):
    trainee, guard = Trainee(fused=True), LateGuard(max_skipped=3)
    for gradient in gradients:
        trainee.step(guard, [gradient, 1])
    assert guard.skipped == 0
    with pytest.raises(FloatingPointError, match='3 steps in a row') if stops else nullcontext():
        guard.check()
    assert guard.skipped == 3
    assert 'Skipped 3 steps of the generator' in basicsr_log.text


def test_rows_go_on_from_one_check_to_the_next():
    trainee, guard = Trainee(fused=True), LateGuard(max_skipped=3)
    for gradient in (math.nan, math.nan):
        trainee.step(guard, [gradient, 1])
    guard.check()
    trainee.step(guard, [math.nan, 1])
    with pytest.raises(FloatingPointError, match='3 steps in a row'):
        guard.check()


@pytest.mark.parametrize('kind', [StepGuard, LateGuard])
def test_rows_go_on_after_resuming(kind):
    trainee, guard, resumed = Trainee(), kind(max_skipped=3), StepGuard(max_skipped=3)
    for gradient in (math.nan, 1, math.nan, math.nan):
        trainee.step(guard, [gradient, 1])
    resumed.load_state_dict(guard.state_dict())
    assert resumed.skipped == 3
    with pytest.raises(FloatingPointError, match='3 steps in a row'):
        trainee.step(resumed, [math.nan, 1])


def test_only_non_finite_statistics_are_taken_back():
    norm = nn.BatchNorm1d(2, momentum=0.5)
    with finite_statistics(norm):
        norm(torch.tensor([[2.0, math.inf], [4.0, 1.0]]))
    assert norm.running_mean.tolist() == [1.5, 0.0]
    assert norm.running_var.tolist() == [1.5, 1.0]
