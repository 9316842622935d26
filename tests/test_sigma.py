import pytest
import torch

from irnsigma_plugin.sigma import SigmaSampler, check_sigma


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ('arguments', 'points'),
    [
        ({}, [0.0, 0.5, 1.0]),
        ({'strategy': 'points'}, [0.0, 0.5, 1.0]),
        ({'values': [0, 1]}, [0.0, 1.0]),
        ({'values': [0.3]}, [0.3]),
    ],
)
def test_points_are_equally_likely(arguments, points):
    values, counts = SigmaSampler(**arguments)(3000).unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor(points))
    # Four standard deviations of a binomial distribution are less than 0.04.
    torch.testing.assert_close(counts / 3000, torch.full((len(points),), 1 / len(points)), rtol=0, atol=0.04)


def test_uniform_covers_the_interval():
    sigma = SigmaSampler('uniform')(3000)
    assert sigma.min() >= 0
    assert sigma.max() <= 1
    torch.testing.assert_close(torch.histc(sigma, 5, 0, 1) / 3000, torch.full((5,), 0.2), rtol=0, atol=0.04)


def test_fixed():
    assert torch.equal(SigmaSampler('fixed', values=[0.7])(3), torch.full((3,), 0.7))


@pytest.mark.parametrize('strategy', ['points', 'uniform'])
def test_per_sample_or_per_batch(strategy):
    batches = {per: [SigmaSampler(strategy, per=per)(8) for _ in range(10)] for per in ('sample', 'batch')}
    assert all(batch.shape == (8,) for each in batches.values() for batch in each)
    assert all(len(batch.unique()) > 1 for batch in batches['sample'])
    assert all(len(batch.unique()) == 1 for batch in batches['batch'])
    assert len(torch.cat(batches['batch']).unique()) > 1


def test_draws_follow_the_global_seed():
    sampler = SigmaSampler('uniform')
    first = sampler(4)
    assert not torch.equal(sampler(4), first)
    torch.manual_seed(0)
    assert torch.equal(sampler(4), first)


def test_lands_on_the_device():
    assert SigmaSampler()(2, 'meta').device.type == 'meta'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'strategy': 'gauss'}, "strategy must be one of .*points.*uniform.*fixed.*'gauss'"),
        ({'per': 'image'}, "per must be one of .*sample.*batch.*'image'"),
        ({'strategy': 'points', 'values': []}, "'points' takes one or more"),
        ({'strategy': 'fixed'}, "'fixed' exactly one.*got.*for 'fixed'"),
        ({'strategy': 'fixed', 'values': [0, 1]}, r"'fixed' exactly one.*\[0, 1\]"),
        ({'strategy': 'fixed', 'values': 0.5}, '0.5'),
        ({'strategy': 'uniform', 'values': [0, 1]}, "'uniform' none"),
        ({'values': [0, 1.5]}, '0 .*to 1 .*1.5'),
        ({'values': ['a']}, "'a'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=f'sigma.*{message}'):
        SigmaSampler(**arguments)


@pytest.mark.parametrize('sigma', [-0.01, 1.01, float('nan'), '0.5', None, True, [0.5]])
def test_check_sigma_refuses(sigma):
    with pytest.raises(ValueError, match='sigma must be a number from 0 .* to 1'):
        check_sigma(sigma)


@pytest.mark.parametrize('sigma', [0, 1, 0.5])
def test_check_sigma_returns_a_float(sigma):
    assert check_sigma(sigma) == sigma
    assert isinstance(check_sigma(sigma), float)
