"""The precision of convolutions: what is chosen, what is computed in it, and that results stay reproducible."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.invertibility import random_image, randomise

from irnsigma_plugin.archs import dense_block
from irnsigma_plugin.archs.bicubic import BicubicRescaleNet
from irnsigma_plugin.archs.irn_arch import CouplingBlock, HaarDownsampling, InvRescaleNet
from irnsigma_plugin.archs.rescaling_net import RescalingNet
from irnsigma_plugin.rescaling import precision as precision_module
from irnsigma_plugin.rescaling import rescaler as rescaler_module
from irnsigma_plugin.rescaling.precision import PRECISIONS, native_precision
from irnsigma_plugin.rescaling.rescaler import Rescaler

CPU = torch.device('cpu')
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
HALF = ('bf16', 'fp16')


@pytest.fixture(scope='module')
def net():
    return randomise(InvRescaleNet(4, [1, 1], 4), std=0.02)


@pytest.fixture
def image():
    return (random_image(3, 70, 53).permute(1, 2, 0) * 255).round().byte().numpy()


@pytest.fixture
def fresh():
    """Nothing found yet in this process, and nothing left of what is found in a test."""
    native_precision.cache_clear()
    yield
    native_precision.cache_clear()


@pytest.mark.parametrize('precision', DTYPES)
def test_dense_blocks_alone_are_computed_in_it(net, image, precision, monkeypatch):
    seen, others, dense = set(), set(), dense_block.dense

    def spied(x, weights, biases):
        seen.update(tensor.dtype for tensor in (x, *weights, *biases))
        return dense(x, weights, biases)

    monkeypatch.setattr(dense_block, 'dense', spied)
    for kind in (HaarDownsampling, CouplingBlock):
        for name in ('forward', 'inverse'):
            original = getattr(kind, name)

            def noted(self, x, of=original):
                result = of(self, x)
                others.update((x.dtype, result.dtype))
                return result

            monkeypatch.setattr(kind, name, noted)
    rescaler = Rescaler(net, precision=precision)
    with torch.autocast('cpu', torch.bfloat16):  # a caller's own changes nothing
        rescaler.upscale(rescaler.downscale(image), 0.5)
    assert seen == {DTYPES[precision]}
    assert others == {torch.float32}
    assert not torch.is_autocast_enabled('cpu')


@pytest.mark.parametrize('precision', HALF)
@pytest.mark.parametrize(('scale', 'block_num'), [(3, [1]), (4, [1, 1])])
def test_images_are_close_and_any_restores_any(image, precision, scale, block_num):
    net = randomise(InvRescaleNet(scale, block_num, 4), std=0.02)
    full, half = Rescaler(net, precision='fp32'), Rescaler(net, precision=precision)
    expected, lr = full.downscale(image), half.downscale(image)
    assert full.model_hash == half.model_hash
    assert np.abs(expected.astype(int) - lr).max() <= 1
    first, second = (each.upscale(lr, 0.3, size=image.shape[:2], dtype=np.uint16) for each in (full, half))
    assert 0 < np.abs(first.astype(int) - second).max() < 65535 / 50


@pytest.mark.parametrize('precision', HALF)
def test_the_bytes_do_not_depend_on_batch_order_or_windows(net, image, precision, monkeypatch):
    monkeypatch.setattr(rescaler_module, 'CELL', 32)
    rescaler = Rescaler(net, precision=precision)
    batch = torch.from_numpy(np.stack([image, image[::-1]]) / np.float32(255)).permute(0, 3, 1, 2).contiguous()
    lr = rescaler.downscale(batch)
    hr = rescaler.upscale(lr, 0.7, name=['a', 'b'])
    for index in (1, 0):
        assert torch.equal(rescaler.downscale(batch[index]), lr[index])
        assert torch.equal(rescaler.upscale(lr[index], 0.7, name='ab'[index]), hr[index])
    assert (rescaler.downscale(image) == (lr[0] * 255).round().permute(1, 2, 0).numpy()).all()


def test_what_a_network_gives_in_half_precision_is_rounded_as_float32():
    class HalfNet(BicubicRescaleNet):
        def upscale(self, lr, latent):
            return torch.full_like(super().upscale(lr, latent), 0.7).bfloat16()  # 0.69921875

    colour = np.random.default_rng(0).integers(0, 256, (5, 5), np.uint8)  # grey, so that a sum is formed
    restored = Rescaler(HalfNet(4), precision='bf16').upscale(colour, dtype=np.uint16)
    assert np.abs(restored.astype(int) - round(0.69921875 * 65535)).max() <= 1


def test_auto_is_for_networks_that_are_fit_for_it(net, monkeypatch):
    monkeypatch.setattr(rescaler_module, 'native_precision', lambda device: 'bf16')
    assert Rescaler(net).precision == Rescaler(net, precision='auto').precision == 'bf16'
    assert Rescaler(net, precision='fp32').precision == 'fp32'
    assert not RescalingNet.half_precision
    assert Rescaler(BicubicRescaleNet(4)).precision == 'fp32'
    assert Rescaler(BicubicRescaleNet(4), precision='bf16').precision == 'bf16'


def test_an_unknown_precision_is_refused(net):
    with pytest.raises(ValueError, match=r"precision must be one of \['auto', 'fp32', 'bf16', 'fp16'\], but is 'half'"):
        Rescaler(net, precision='half')
    assert set(PRECISIONS) == {'auto', *DTYPES}


@pytest.mark.parametrize(('capability', 'expected'), [((7, 5), 'fp32'), ((8, 0), 'bf16'), ((9, 0), 'bf16')])
def test_gpus(fresh, monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    assert native_precision(torch.device('cuda', 0)) == expected


@pytest.mark.parametrize(
    ('capability', 'bf16', 'expected'),
    [('AVX512', 0.5, 'bf16'), ('AVX512', 0.9, 'fp32'), ('AVX512', 1.8, 'fp32'), ('AVX2', 0.5, 'fp32')],
)
def test_processors_are_measured_once(fresh, monkeypatch, capability, bf16, expected):
    """A clock that goes on by 1 for a block in float32 and by `bf16` for one in bf16."""
    clock, calls, forward = [0.0], [], dense_block.DenseBlock.forward

    def timed(self, x):
        half = torch.is_autocast_enabled('cpu')
        calls.append(half)
        clock[0] += bf16 if half else 1
        return forward(self, x)

    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: capability)
    monkeypatch.setattr(dense_block.DenseBlock, 'forward', timed)
    monkeypatch.setattr(precision_module.time, 'process_time', lambda: clock[0])
    state = torch.get_rng_state()
    assert native_precision(CPU) == native_precision(CPU) == expected
    assert torch.equal(torch.get_rng_state(), state)
    assert calls == ([False, True] * (1 + precision_module.CALIBRATIONS) if capability == 'AVX512' else [])
