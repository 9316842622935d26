"""Recorded steps, with a recorder that needs no GPU: it computes again, into the tensors of the first time."""

from __future__ import annotations

import contextlib

import pytest
import torch
from helpers.experiment import differences, set_option
from torch import nn

from irnsigma_plugin.options.rules import OptionError
from irnsigma_plugin.training.model import IRNSigmaModel
from irnsigma_plugin.training.replay import WARM_UPS, Replay, record_cuda_graph
from irnsigma_plugin.training.step import MicroBatch, TrainingStep


def tensors(outputs):
    (restored, losses), gradients = outputs
    return [restored, *losses.values(), *(gradient for gradient in gradients if gradient is not None)]


class Recorder:
    """Warms up as a GPU does, then overwrites one set of tensors at every replay."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, work):
        self.recorded += 1
        for _ in range(WARM_UPS):
            work()
        outputs = work()
        for each in tensors(outputs):
            each.fill_(torch.nan)  # a recording computes nothing

        def replay():
            self.replayed += 1
            for own, new in zip(tensors(outputs), tensors(work())):
                own.copy_(new)

        return outputs, replay


def trained(model, sizes=(32, 32, 48, 32)):
    """Weights and buffers after a few steps, their losses, read in the end, and the next random number."""
    torch.manual_seed(1)
    batches = [torch.rand(2, 3, size, size) for size in sizes]
    logs = []
    for index, hr in enumerate(batches, 1):
        model.feed_data({'gt': hr, 'lq': nn.functional.avg_pool2d(hr, 4)})
        model.optimize_parameters(index)
        logs.append(model.log_dict)
    return [dict(net.state_dict()) for net in model.step.nets()], logs, torch.rand(1)


@pytest.mark.parametrize('adversarial', [True, False])
def test_replayed_steps_are_the_plain_ones(make_model, adversarial):
    """In every bit: the warm-up leaves no trace in random numbers and spectral norms. One batch is of another shape."""
    change = set_option('train', 'net_d_init_iters', 0)
    expected = trained(make_model(adversarial, change))
    model, recorder = make_model(adversarial, change), Recorder()
    model.step.gradients = Replay(model.step.generator_gradients, model.step.nets(), recorder)
    assert differences(trained(model), expected) == []
    assert (recorder.recorded, recorder.replayed) == (1, 3)


def test_a_parameter_without_gradient_stays_without():
    net = nn.ParameterList([nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))])

    def compute(batch):
        loss = (net[0] * batch.hr).sum()
        loss.backward()
        return batch.hr, {'loss': loss.detach()}

    replay = Replay(compute, [net], Recorder())
    for value in (2.0, 3.0):
        batch = MicroBatch(torch.full((1, 1, 1, 1), value), torch.zeros(1), torch.zeros(1), 1.0, True)
        _, losses = replay(batch)
        assert (net[0].grad, net[1].grad, losses['loss']) == (value, None, value)


@pytest.fixture
def cuda(monkeypatch):
    """What is asked of torch.cuda, which does nothing."""
    asked = []

    class Stream:
        def wait_stream(self, stream):
            pass

    @contextlib.contextmanager
    def graph(graph, capture_error_mode):
        asked.append(capture_error_mode)
        yield

    class Graph:
        def replay(self):
            asked.append('replay')

    for name, value in {
        'Stream': Stream,
        'current_stream': Stream,
        'stream': contextlib.nullcontext,
        'CUDAGraph': Graph,
        'graph': graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return asked


def test_a_graph_is_recorded_after_the_warm_up(cuda):
    calls = []
    outputs, replay = record_cuda_graph(lambda: calls.append(list(cuda)) or len(calls))
    assert calls == [[]] * WARM_UPS + [['thread_local']]
    assert outputs == WARM_UPS + 1
    replay()
    assert cuda == ['thread_local', 'replay']


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (RuntimeError('operation not permitted'), r'Set train\.cuda_graph: false.*operation not permitted'),
        (torch.OutOfMemoryError('too little'), '^too little$'),
    ],
)
def test_what_cannot_be_recorded_is_explained(cuda, error, message):
    def work():
        if cuda:
            raise error

    with pytest.raises(type(error), match=message):
        record_cuda_graph(work)


def test_on_a_gpu_the_step_replays():
    net = nn.Linear(1, 1, device='meta')  # a GPU's parameters would do as well
    optimizer = torch.optim.SGD(net.parameters())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, 'device', property(lambda tensor: torch.device('cuda')))
        step = TrainingStep(net, optimizer, None, cuda_graph=True)
        plain = TrainingStep(net, optimizer, None)
    assert isinstance(step.gradients, Replay)
    assert step.gradients.record is record_cuda_graph
    assert plain.gradients == plain.generator_gradients


def test_without_gpu_the_step_is_the_plain_one(make_model, basicsr_log):
    expected = trained(make_model(), (32, 32))
    assert 'cuda_graph' not in basicsr_log.text
    model = make_model(change=set_option('train', 'cuda_graph', True))
    assert basicsr_log.text.count('train.cuda_graph is for GPUs') == 1
    assert differences(trained(model, (32, 32)), expected) == []


def test_steps_of_extensions_are_not_recorded(make_model, monkeypatch):
    class OwnStep(TrainingStep):
        pass

    def build_step(self):
        return OwnStep(self.net_g, self.optimizer_g, self.mixture_loss)

    monkeypatch.setattr(IRNSigmaModel, 'build_step', build_step)
    make_model()
    with pytest.raises(OptionError, match=r'train\.cuda_graph cannot record a OwnStep: leave the key out'):
        make_model(change=set_option('train', 'cuda_graph', True))
