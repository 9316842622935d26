import math

import pytest

from irnsigma_plugin.checks import number, whole_number


@pytest.mark.parametrize('value', [1, 7])
def test_whole_number_accepts(value):
    assert whole_number('size', value) == value


@pytest.mark.parametrize('value', [0, -1, 1.0, '1', None, True, [1]])
def test_whole_number_refuses(value):
    with pytest.raises(ValueError, match=r'size must be a whole number, 1 or more, but got '):
        whole_number('size', value)


@pytest.mark.parametrize(('value', 'bounds'), [(0, {}), (0, {'smallest': 0}), (1, {'largest': 1}), (0.1, {'above': 0})])
def test_number_accepts(value, bounds):
    assert number('rate', value, **bounds) == value
    assert isinstance(number('rate', value, **bounds), float)


@pytest.mark.parametrize(
    ('value', 'bounds', 'message'),
    [
        (0, {'above': 0}, 'rate must be a number, more than 0, but got 0'),
        (-1, {'smallest': 0, 'largest': 1}, 'rate must be a number, 0 or more, 1 or less, but got -1'),
        (2, {'smallest': 0, 'largest': 1}, 'but got 2'),
        (math.nan, {}, 'but got nan'),
        (math.inf, {}, 'but got inf'),
        (True, {}, 'but got True'),
        ('1e-4', {}, r"but got '1e-4' \(text: write !!float"),
    ],
)
def test_number_refuses(value, bounds, message):
    with pytest.raises(ValueError, match=message):
        number('rate', value, **bounds)
