"""Networks computed by OpenVINO: the same images as torch's, reproducible, and compiled once."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import logging
import os
import re
import shutil
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.invertibility import random_image, randomise

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.archs.rescaling_net import RescalingNet
from irnsigma_plugin.formats import openvino as engine
from irnsigma_plugin.formats.openvino import CompiledNet, EngineError
from irnsigma_plugin.rescaling import rescaler as rescaler_module
from irnsigma_plugin.rescaling.precision import ENGINES, native_engine
from irnsigma_plugin.rescaling.rescaler import Rescaler

CPU = torch.device('cpu')


def skip_without_openvino():
    """Without an import, which would tell a server."""
    if importlib.util.find_spec('openvino') is None:
        pytest.skip('needs OpenVINO: pip install "irnsigma_plugin[openvino]"')


@pytest.fixture
def installed():
    skip_without_openvino()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where this test keeps what is compiled; it begins empty."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.delenv('IRNSIGMA_ENGINE', raising=False)
    return tmp_path / 'irnsigma_plugin' / 'openvino'


@pytest.fixture(scope='module')
def net():
    return randomise(InvRescaleNet(4, [1, 1], 4, sigma_input=True), std=0.05)


@pytest.fixture(scope='module')
def made(net, tmp_path_factory):
    """The folder in which what OpenVINO makes of `net` in float32 is kept, and what it makes of the image."""
    skip_without_openvino()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        CompiledNet(net, 'fp32')
        return engine.cache_folder()


@pytest.fixture
def filled(made, folder):
    """A folder of this test's own, with the same."""
    shutil.copytree(made, folder)
    return folder


@pytest.fixture
def image():
    return (random_image(3, 70, 53).permute(1, 2, 0) * 255).round().byte().numpy()


@pytest.mark.parametrize(
    ('scale', 'block_num', 'sigma_input', 'subnet'),
    [(4, [1, 1], True, 'dense'), (3, [1], False, 'dense'), (2, [2], True, 'residual')],
)
def test_images_are_those_of_torch(installed, image, scale, block_num, sigma_input, subnet):
    net = randomise(InvRescaleNet(scale, block_num, 4, 0.7, sigma_input, subnet), std=0.05)
    torch_s, openvino_s = (Rescaler(net, precision='fp32', engine=name) for name in ('torch', 'openvino'))
    assert (torch_s.engine, openvino_s.engine) == ('torch', 'openvino')
    lr = torch_s.downscale(image)
    assert np.abs(lr.astype(int) - openvino_s.downscale(image)).max() <= 1
    ramp = np.linspace(0, 1, image[..., 0].size, dtype=np.float32).reshape(image.shape[:2])
    size = image.shape[:2]
    cases = (*itertools.product((0, 0.3, 1, ramp), (lr,), (size,)), (1, lr[..., 0], size), (1, lr[:1, :1], None))
    for sigma, small, size in cases:
        one, other = (each.upscale(small, sigma, 3, 'a', size, dtype=np.uint16) for each in (torch_s, openvino_s))
        assert np.abs(one.astype(int) - other).max() <= engine.TOLERANCE * 65535 + 1
    assert np.abs(one.astype(int) - openvino_s.upscale(small, 1, 4, 'a', dtype=np.uint16)).max() > 500  # another seed


def test_the_bytes_do_not_depend_on_batch_order_threads_or_what_is_kept(installed, image, monkeypatch, folder):
    monkeypatch.setattr(rescaler_module, 'CELL', 32)  # several windows, of several shapes
    net = randomise(InvRescaleNet(2, [1], 4), std=0.05)
    batch = torch.from_numpy(np.stack([image, image[::-1]]) / np.float32(255)).permute(0, 3, 1, 2).contiguous()
    made = Rescaler(net, precision='bf16', engine='openvino')
    lr = made.downscale(batch)
    hr = made.upscale(lr, 0.7, name=['a', 'b'])
    kept = Rescaler(net, precision='bf16', engine='openvino')
    for rescaler, index in ((made, 1), (made, 0), (kept, 1), (kept, 0)):
        assert torch.equal(rescaler.upscale(lr[index], 0.7, name='ab'[index]), hr[index])
        assert torch.equal(rescaler.downscale(batch[index]), lr[index])
    with ThreadPoolExecutor(4) as pool:
        indices = [0, 1] * 4
        results = pool.map(lambda index: kept.upscale(lr[index], 0.7, name='ab'[index]), indices)
        assert all(torch.equal(result, hr[index]) for result, index in zip(results, indices))
    assert len(list(folder.iterdir())) == 2


def test_what_is_compiled_is_kept_once(net, image, filled, caplog):
    Rescaler(net, precision='fp32', engine='openvino').downscale(image)
    assert not caplog.messages
    assert len(list(filled.iterdir())) == 2
    other = randomise(InvRescaleNet(4, [1, 1], 4, 0.5, sigma_input=True), std=0.05)
    other.load_state_dict(net.state_dict(), strict=False)  # the same but for the clamp
    CompiledNet(other, 'fp32')
    assert caplog.messages == [f'OpenVINO compiles InvRescaleNet, which takes seconds, once: it is kept in {filled}.']
    assert len(list(filled.iterdir())) == 4


@pytest.mark.parametrize('damage', ['cut', 'changed', 'no model'])
def test_a_damaged_file_is_made_anew(net, image, filled, damage):
    (file,) = filled.glob('*.lr')
    good = file.read_bytes()
    noise = b'no model at all' * 9
    bad = {
        'cut': good[: len(good) // 2],
        'changed': good[:5000] + bytes([good[5000] ^ 1]) + good[5001:],
        'no model': hashlib.sha256(noise).digest() + noise,
    }
    expected = Rescaler(net, precision='fp32', engine='openvino').downscale(image)
    file.write_bytes(bad[damage])
    assert (Rescaler(net, precision='fp32', engine='openvino').downscale(image) == expected).all()
    assert hashlib.sha256(file.read_bytes()[32:]).digest() == file.read_bytes()[:32]


def test_what_killed_processes_and_old_versions_left_is_removed(net, filled):
    for name in ('.99999999.0123456789abcdef.lr', 'old.lr', 'new.lr'):
        (filled / name).write_bytes(b'')
    os.utime(filled / 'old.lr', (time.time() - 91 * 86400,) * 2)
    (missing,) = filled.glob('????*.hr')
    missing.unlink()
    with ThreadPoolExecutor(2) as pool:  # both make it
        list(pool.map(lambda _: CompiledNet(net, 'fp32'), range(2)))
    assert {path.name for path in filled.iterdir()} == {missing.name, f'{missing.stem}.lr', 'new.lr'}


def test_a_folder_that_others_tidy_or_own(net, image, filled, monkeypatch, caplog):
    def refuse(path, *_, **__):
        raise PermissionError(13, 'Permission denied', str(path))

    expected = Rescaler(net, precision='fp32', engine='openvino').downscale(image)
    (lr,), (hr,) = filled.glob('????*.lr'), filled.glob('????*.hr')
    hr.unlink()
    (filled / 'gone').symlink_to('nowhere')
    (filled / 'old.lr').write_bytes(b'')
    os.utime(filled / 'old.lr', (0, 0))
    monkeypatch.setattr(os, 'utime', refuse)
    monkeypatch.setattr(Path, 'unlink', refuse)
    before = lr.stat().st_mtime_ns
    rescaler = Rescaler(net, precision='fp32', engine='openvino')
    assert hr.exists()
    assert (rescaler.downscale(image) == expected).all()
    assert lr.stat().st_mtime_ns == before


def test_where_nothing_can_be_kept_a_line_says_so(installed, net, folder, caplog):
    folder.parent.mkdir()
    folder.write_text('a file')
    hr = torch.rand(1, 3, 17, 12)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):  # a caller's own changes nothing
        lr = CompiledNet(net, 'fp32').downscale(hr)[0]
    assert f'{folder}: cannot be written' in caplog.text
    with torch.no_grad():
        torch.testing.assert_close(lr, net.downscale(hr)[0], rtol=0, atol=1e-5)


class Odd(RescalingNet):
    """Of an extension; it does something else with small images, which a traced graph does not."""

    scale = 2

    def downscale(self, hr):
        lr = hr[..., ::2, ::2]
        return lr * (1 if lr.shape[-1] > 6 else 0.1), lr.new_zeros(self.latent_shape(lr.shape))

    def upscale(self, lr, latent):
        return torch.nn.functional.interpolate(lr, scale_factor=2)


class Even(Odd):
    """One that a graph can follow, with a sigma of its own."""

    def downscale(self, hr):
        lr = hr[..., ::2, ::2] * 1.0
        return lr, lr.new_zeros(self.latent_shape(lr.shape))

    def restore(self, lr, epsilon, sigma):
        return self.upscale(lr + torch.as_tensor(sigma) * epsilon[:, :3], None)


def test_a_network_that_cannot_be_exported(installed, image, monkeypatch, caplog):
    with pytest.raises(EngineError, match=r'downscale of Odd.*deviates from torch by .*; use the engine torch'):
        Rescaler(Odd(), precision='fp32', engine='openvino')
    monkeypatch.setattr(rescaler_module, 'native_engine', lambda device, precision: 'openvino')
    caplog.clear()
    rescaler = Rescaler(Odd(), precision='fp32', engine='auto')
    assert rescaler.engine == 'torch'
    assert caplog.messages[-1].startswith('downscale of Odd by OpenVINO deviates from torch by ')
    assert (rescaler.downscale(image) == Rescaler(Odd()).downscale(image)).all()


def test_a_network_of_an_extension_is_not_kept(installed, image, folder):
    """The weights do not tell all that it depends on."""
    one, other = (Rescaler(Even(), precision='fp32', engine=name) for name in ('torch', 'openvino'))
    lr = one.downscale(image)
    assert np.abs(lr.astype(int) - other.downscale(image)).max() <= 1
    first, second = (each.upscale(lr, 0.5, dtype=np.uint16) for each in (one, other))
    assert np.abs(first.astype(int) - second).max() <= 1
    assert not folder.exists()


def test_failures_are_named(installed, net, monkeypatch):
    with pytest.raises(EngineError, match='computes in fp32 or bf16, not in fp16; use the engine torch'):
        Rescaler(net, precision='fp16', engine='openvino')
    with pytest.raises(EngineError, match='OpenVINO computes on the CPU, but the device is meta: name cpu'):
        Rescaler(InvRescaleNet(4, [1, 1], 4), 'meta', 'fp32', 'openvino')
    monkeypatch.setattr(engine, 'exportable', lambda net: net.half())
    root = logging.getLogger()
    before = root.level, root.filters[:], root.handlers[:]
    with pytest.raises(EngineError, match=r'OpenVINO cannot compute downscale of InvRescaleNet \(.+\); use'):
        Rescaler(InvRescaleNet(4, [1, 1], 4), precision='fp32', engine='openvino')
    assert before == (root.level, root.filters, root.handlers)  # or the warning of a fall-back would be lost


@pytest.mark.parametrize('fault', ['no core', 'no processor', 'no shapes', 'no export', 'no version'])
def test_an_odd_openvino_is_no_reason_to_fail(net, image, monkeypatch, caplog, fault):
    """As where its plug-in for the processor is missing, or it is of another age."""

    class Model:
        def export_model(self):
            raise RuntimeError('not supported')

    class Core:
        def __init__(self):
            if fault == 'no core':
                raise RuntimeError('cannot load plugins.xml')

        def get_property(self, device, key):
            if fault == 'no processor':
                raise RuntimeError('Device with "CPU" name is not registered')

        def compile_model(self, *_):
            return Model()

    odd = types.ModuleType('openvino')
    odd.Core, odd.convert_model = Core, lambda *_, **__: None
    if fault != 'no version':
        odd.__version__ = '2022.1'
    if fault != 'no shapes':
        odd.PartialShape = list
    monkeypatch.setitem(sys.modules, 'openvino', odd)
    monkeypatch.setattr(engine, 'largest_error', lambda *_: 0.0)
    monkeypatch.setattr(rescaler_module, 'native_engine', lambda device, precision: 'openvino')
    rescaler = Rescaler(net, precision='fp32', engine='auto')
    assert rescaler.engine == 'torch'
    assert re.match(r'OpenVINO cannot compute .*InvRescaleNet \(.+\); use the engine torch', caplog.messages[-1])
    with pytest.raises(EngineError, match=r'OpenVINO cannot compute'):
        Rescaler(net, precision='fp32', engine='openvino')


def test_without_the_package_it_is_named(net, monkeypatch):
    monkeypatch.setitem(sys.modules, 'openvino', None)
    with pytest.raises(EngineError, match=r'is not installed.*pip install "irnsigma_plugin\[openvino\]"'):
        Rescaler(net, engine='openvino')
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'AVX512')
    assert native_engine(CPU, 'fp32') == 'torch'


@pytest.mark.parametrize(
    ('device', 'precision', 'capability', 'expected'),
    [
        ('cpu', 'fp32', 'AVX512', 'openvino'),
        ('cpu', 'bf16', 'AVX512', 'torch'),
        ('cpu', 'fp32', 'AVX2', 'torch'),
        ('cuda', 'fp32', 'AVX512', 'torch'),
    ],
)
def test_auto_is_what_was_measured(installed, monkeypatch, device, precision, capability, expected):
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: capability)
    assert native_engine(torch.device(device), precision) == expected
    monkeypatch.setenv('IRNSIGMA_ENGINE', 'torch')
    assert native_engine(torch.device(device), precision) == 'torch'


def test_an_unknown_engine_is_refused(net):
    with pytest.raises(ValueError, match=r"engine must be one of \['auto', 'torch', 'openvino'\], but is 'onnx'"):
        Rescaler(net, engine='onnx')
    assert ENGINES == ('auto', 'torch', 'openvino')


def test_no_server_is_told(net, filled):
    """OpenVINO's package tells one that it was imported, unless its telemetry is not there."""
    CompiledNet(net, 'fp32')
    assert 'openvino_telemetry' not in sys.modules
    assert sys.modules['openvino.tools.ovc'].telemetry.__class__.__module__.endswith('telemetry_stub')
