import pytest

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.archs.irn_shapes import inv_rescale_net_shapes


@pytest.mark.parametrize(
    'arguments',
    [
        {'scale': 2, 'block_num': [2], 'growth_channels': 5},
        {'scale': 3, 'block_num': [1], 'growth_channels': 4},
        {'scale': 4, 'block_num': [2, 1], 'growth_channels': 4},
        {'scale': 4},
        {'scale': 8, 'block_num': [1, 2, 1], 'growth_channels': 3},
    ],
)
def test_names_and_shapes_are_those_of_the_network(arguments):
    expected = {key: tuple(value.shape) for key, value in InvRescaleNet(**arguments).state_dict().items()}
    shapes = inv_rescale_net_shapes(**arguments)
    assert shapes == expected
    assert list(shapes) == list(expected)
