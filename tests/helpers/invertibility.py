"""What the tests of all invertible modules share."""

import copy

import torch
from benchmarks.textbook import randomise  # noqa: F401  for the tests, which import it from here

from irnsigma_plugin.archs.rescaling_net import RescalingNet, reflection_pad

# Largest error of a round trip, relative to values around 1.
ROUND_TRIP = {torch.float32: 1e-5, torch.float64: 1e-10}


class PixelShuffleNet(RescalingNet):
    """The smallest network that keeps the contract: the first pixel of each block is the small image."""

    scale = 2

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def downscale(self, hr):
        bands = torch.nn.functional.pixel_unshuffle(reflection_pad(hr, 2), 2).unflatten(1, (3, 4))
        return self.gain * bands[:, :, 0], bands[:, :, 1:].flatten(1, 2)

    def upscale(self, lr, latent):
        bands = torch.cat((lr.unsqueeze(2), latent.unflatten(1, (3, 3))), 2)
        return torch.nn.functional.pixel_shuffle(bands.flatten(1, 2), 2)


def random_image(*shape, dtype=torch.float32, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def state_of(module):
    """Everything that hangs on a module and its children: attributes, parameters, buffers."""
    return {
        (name, key): copy.deepcopy(value)
        for name, child in module.named_modules()
        for key, value in child.__dict__.items()
        if key != '_modules'
    }


def assert_same_state(before, after):
    assert before.keys() == after.keys()
    for (name, key), value in before.items():
        if key in ('_parameters', '_buffers'):
            torch.testing.assert_close(after[name, key], value, rtol=0, atol=0)
        else:
            assert after[name, key] == value, f'{name}.{key} has changed'


def check_inverse(module, x, y_shape):
    """`inverse` undoes the module and the other way round, and nothing is stored in between."""
    before = state_of(module)
    with torch.no_grad():
        y = module(x)
        assert y.shape == y_shape
        tolerance = {'rtol': 0, 'atol': ROUND_TRIP[x.dtype]}
        torch.testing.assert_close(module.inverse(y), x, **tolerance)
        other = random_image(*y_shape, dtype=x.dtype, seed=1)
        torch.testing.assert_close(module(module.inverse(other)), other, **tolerance)
    assert_same_state(before, state_of(module))
