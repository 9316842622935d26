"""The rescaler; the parts that it is made of have tests of their own."""

from __future__ import annotations

import hashlib
import platform
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers.invertibility import PixelShuffleNet, random_image, randomise

from irnsigma_plugin.archs.bicubic import BicubicRescaleNet
from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.archs.rescaling_net import RescalingNet, quantize
from irnsigma_plugin.rescaling import rescaler as rescaler_module
from irnsigma_plugin.rescaling.latent import draw_epsilon
from irnsigma_plugin.rescaling.rescaler import Rescaler


@pytest.fixture
def net():
    return randomise(InvRescaleNet(4, [1, 1], 4))


@pytest.fixture
def small_cells(monkeypatch):
    """Grid cells of 32 x 32 hr pixels, so that small images have several."""
    monkeypatch.setattr(rescaler_module, 'CELL', 32)


def random_array(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def in_one_piece(net, hr, sigma, name=''):
    """What the network itself makes of an image."""
    with torch.no_grad():
        lr, latent = net.downscale(hr)
        lr = quantize(lr)
        restored = net.upscale(lr, sigma * draw_epsilon(latent.shape, 0, name))
    return lr, restored[..., : hr.shape[-2], : hr.shape[-1]].clamp(0, 1)


def as_tensor(image):
    return torch.from_numpy(image / np.float32(np.iinfo(image.dtype).max)).permute(2, 0, 1).contiguous()


def test_an_array_is_what_the_network_makes_of_it_rounded(net):
    image = random_array(45, 38, 3)
    lr, restored = in_one_piece(net, as_tensor(image)[None], 0.7, 'baby')
    rescaler = Rescaler(net)
    small = rescaler.downscale(image)
    assert small.dtype == np.uint8
    assert (small == (lr[0] * 255).round().permute(1, 2, 0).numpy()).all()
    for dtype, expected_dtype, largest in ((None, np.uint8, 255), (np.uint16, np.uint16, 65535)):
        large = rescaler.upscale(small, 0.7, name='baby', size=(45, 38), dtype=dtype)
        assert large.dtype == expected_dtype
        assert (large == (restored[0] * largest).round().permute(1, 2, 0).numpy()).all()


def test_tensors_give_the_same_as_arrays_and_batches_the_same_as_single_images(net):
    images = [random_array(21, 34, 3, dtype=dtype, seed=seed) for seed, dtype in enumerate((np.uint8, np.uint16))]
    rescaler = Rescaler(net)
    batch = torch.stack([as_tensor(image) for image in images])
    lr = rescaler.downscale(batch)
    hr = rescaler.upscale(lr, 0.5, 3, ['a', 'b'], (21, 34))
    assert lr.dtype == hr.dtype == torch.float32
    for index, (image, name) in enumerate(zip(images, 'ab')):
        small = rescaler.downscale(image)
        large = rescaler.upscale(small, 0.5, 3, name, (21, 34))
        assert torch.equal(lr[index], as_tensor(small))
        assert torch.equal(rescaler.downscale(batch[index]), lr[index])
        assert torch.equal(rescaler.upscale(lr[index], 0.5, 3, name, (21, 34)), hr[index])
        assert ((hr[index] * 255).round().permute(1, 2, 0).numpy() == large).all()


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
@pytest.mark.parametrize('size', [(1, 1), (1, 70), (70, 1), (33, 47)])
def test_sizes(small_cells, scale, size):
    block_num = {2: [1], 3: [1], 4: [1, 1], 8: [1, 1, 1]}[scale]
    rescaler = Rescaler(randomise(InvRescaleNet(scale, block_num, 2)))
    lr_size = (-(-size[0] // scale), -(-size[1] // scale))
    for channels in ((), (3,)):
        lr = rescaler.downscale(random_array(*size, *channels))
        assert lr.shape == (*lr_size, *channels)
        assert rescaler.upscale(lr, 1, size=size).shape == (*size, *channels)
        assert rescaler.upscale(lr, 1).shape == (scale * lr_size[0], scale * lr_size[1], *channels)


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
def test_windows_with_the_receptive_field_around_them_are_exact(small_cells, scale):
    net = randomise(InvRescaleNet(scale, {2: [2], 3: [1], 4: [1, 1], 8: [1, 1, 1]}[scale], 2))
    image, rescaler = random_image(3, 190, 75), Rescaler(net)
    lr, restored = in_one_piece(net, image[None], 0.2, 'baby')
    overlap = net.receptive_field()
    # Other sums within the windows may round a value halfway between two levels to the other one.
    levels = 255 * net.downscale(image[None])[0][0].detach()
    halfway = (levels - levels.floor() - 0.5).abs() < 1e-3
    difference = (rescaler.downscale(image, overlap=overlap) - lr[0]).abs()
    assert difference[~halfway].max() < 1e-5
    assert difference.max() < 1 / 255 + 1e-5
    large = rescaler.upscale(lr[0], 0.2, name='baby', size=(190, 75), overlap=overlap)
    assert (large - restored[0]).abs().max() < 1e-5
    with_seams = rescaler.upscale(lr[0], 0.2, name='baby', size=(190, 75), overlap=0)
    assert (with_seams - restored[0]).abs().max() > 1e-3, 'the cells are not what is computed'


def test_the_bytes_do_not_depend_on_what_else_runs(net, small_cells):
    image, rescaler = random_array(90, 70, 3), Rescaler(net)  # 3 x 3 cells
    expected_lr = rescaler.downscale(image)
    expected = rescaler.upscale(expected_lr, 0.8, name='a', size=(90, 70))
    with ThreadPoolExecutor(4) as pool:
        small = [pool.submit(rescaler.downscale, image) for _ in range(4)]
        large = [pool.submit(rescaler.upscale, expected_lr, 0.8, 0, 'a', (90, 70)) for _ in range(4)]
        pool.submit(rescaler.upscale, expected_lr[:9], 0.3, name='b')
    assert all((lr.result() == expected_lr).all() for lr in small)
    assert all((hr.result() == expected).all() for hr in large)


def test_the_network_sees_no_more_than_a_window(net, small_cells, monkeypatch):
    seen = []
    upscale = net.upscale
    monkeypatch.setattr(net, 'upscale', lambda lr, latent: seen.append((lr.shape, latent.shape)) or upscale(lr, latent))
    Rescaler(net).upscale(random_array(1, 304), 1, overlap=32)
    assert len(seen) == 304 * 4 / 32
    assert all(lr[2:] == latent[2:] and lr[3] <= (32 + 2 * 32) // 4 for lr, latent in seen)


def test_a_map_of_one_sigma_gives_the_result_of_that_number(net, small_cells):
    lr, rescaler, size = random_array(11, 20, 3), Rescaler(net), (41, 78)
    expected = rescaler.upscale(lr, 0.3, name='a', size=size, dtype=np.uint16)
    for sigma in (np.full(size, 0.3), torch.full(size, 0.3), np.full((11, 20), 0.3, np.float32)):
        assert (rescaler.upscale(lr, sigma, name='a', size=size, dtype=np.uint16) == expected).all()


def test_a_network_that_is_told_sigma(small_cells):
    net = randomise(InvRescaleNet(4, [1, 1], 4, sigma_input=True))
    lr, rescaler = random_array(20, 12, 3), Rescaler(net, 'cpu')
    for sigma in (0, 0.5):
        with torch.no_grad():
            expected = net.restore(as_tensor(lr)[None], draw_epsilon((1, 45, 20, 12), 3, 'a'), float(sigma))
        expected = (expected[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
        of_number, of_map = (rescaler.upscale(lr, s, 3, 'a') for s in (sigma, np.full((20, 12), sigma, np.float32)))
        np.testing.assert_array_equal(of_number, of_map)
        assert np.abs(of_number.astype(int) - expected).max() <= 1


def test_a_map_acts_where_it_is(net):
    # White on the left, black on the right: far from the border, each side is that of its number.
    lr, rescaler = random_array(8, 80, 3), Rescaler(net)
    sigma = np.zeros((32, 320), np.uint8)
    sigma[:, :160] = 255
    found = rescaler.upscale(lr, sigma)
    faithful, sharp = rescaler.upscale(lr, 0), rescaler.upscale(lr, 1)
    reach = net.receptive_field()
    assert (found[:, : 160 - reach] == sharp[:, : 160 - reach]).all()
    assert (found[:, 160 + reach :] == faithful[:, 160 + reach :]).all()
    assert (sharp[:, 160 + reach :] != faithful[:, 160 + reach :]).any()


def test_grey_stays_grey(net, small_cells):
    grey = random_array(50, 70)
    rescaler = Rescaler(net)
    lr = rescaler.downscale(grey)
    restored = rescaler.upscale(lr, 1, size=(50, 70))
    assert lr.shape == (13, 18)
    in_colour = np.repeat(grey[..., None], 3, 2)
    assert (rescaler.downscale(in_colour) == lr[..., None]).all()
    assert (rescaler.upscale(np.repeat(lr[..., None], 3, 2), 1, size=(50, 70)) == restored[..., None]).all()
    in_colour[-1, -1, 0] ^= 1  # one pixel decides over the whole image
    colour_lr = rescaler.downscale(in_colour)
    assert (colour_lr.min(2) != colour_lr.max(2)).mean() > 0.5


def test_bicubic(small_cells):
    net, image = BicubicRescaleNet(4), random_array(101, 90, 3)
    lr, restored = in_one_piece(net, as_tensor(image)[None], 0)
    rescaler = Rescaler(net)
    found = rescaler.downscale(as_tensor(image))
    assert (found - lr[0]).abs().max() < 1e-5
    assert (rescaler.upscale(lr[0], 1, size=(101, 90)) - restored[0]).abs().max() < 1e-5
    assert rescaler.upscale(rescaler.downscale(image), size=(101, 90)).shape == image.shape


class FlatLatentNet(PixelShuffleNet):
    """A latent that is a list of numbers, not one of pixels."""

    def downscale(self, hr):
        lr, latent = super().downscale(hr)
        return lr, latent.flatten(1)

    def upscale(self, lr, latent):
        return super().upscale(lr, latent.view(RescalingNet.latent_shape(self, lr.shape)))

    def latent_shape(self, lr_shape):
        return (lr_shape[0], 9 * lr_shape[2] * lr_shape[3])


@pytest.mark.parametrize('net', [PixelShuffleNet(), FlatLatentNet()], ids=['unknown reach', 'flat latent'])
def test_other_networks_take_an_image_in_one_piece(small_cells, net):
    image, rescaler = random_image(3, 75, 99), Rescaler(net)
    lr, restored = in_one_piece(net, image[None], 1, 'baby')
    assert torch.equal(rescaler.downscale(image), lr[0])
    assert torch.equal(rescaler.upscale(lr[0], 1, name='baby', size=(75, 99)), restored[0])


def test_other_networks_work_in_windows_where_the_overlap_is_given(small_cells):
    net, image = PixelShuffleNet(), random_image(3, 75, 99)
    lr, restored = in_one_piece(net, image[None], 1, 'baby')
    assert torch.equal(Rescaler(net).downscale(image, overlap=0), lr[0])
    assert torch.equal(Rescaler(net).upscale(lr[0], 1, name='baby', size=(75, 99), overlap=0), restored[0])
    with pytest.raises(ValueError, match='in one piece.*leave overlap out'):
        Rescaler(FlatLatentNet()).downscale(image, overlap=0)


@pytest.mark.parametrize(
    ('method', 'arguments', 'part'),
    [
        ('downscale', {'image': random_array(4, 4, 4)}, 'uint8 or uint16, but got uint8 (4, 4, 4)'),
        ('downscale', {'image': np.zeros((4, 4))}, 'got float64 (4, 4)'),
        ('downscale', {'image': np.zeros((0, 4), np.uint8)}, 'got uint8 (0, 4)'),
        ('downscale', {'image': 'baby.png'}, "got 'baby.png'"),
        ('downscale', {'image': torch.zeros(1, 4, 4)}, '(3, H, W) or (N, 3, H, W)'),
        ('downscale', {'image': torch.rand(3, 4, 4) * 255}, 'image must be from 0 (black) to 1 (white) everywhere'),
        ('downscale', {'image': torch.full((1, 3, 4, 4), 255.0)}, 'goes from 255 to 255: divide levels by 255, and'),
        ('downscale', {'image': torch.full((3, 4, 4), -0.01)}, 'goes from -0.01 to -0.01'),
        ('downscale', {'image': torch.full((3, 4, 4), 1.01).half()}, 'goes from 1.00977 to 1.00977'),
        ('downscale', {'image': torch.full((3, 4, 4), float('nan'))}, 'goes from nan to nan'),
        ('upscale', {'lr': torch.full((2, 3, 4, 4), 128.0)}, 'lr must be from 0 (black) to 1 (white) everywhere'),
        ('downscale', {'image': random_array(4, 4), 'overlap': -1}, 'overlap'),
        ('upscale', {'lr': random_array(4, 4), 'overlap': 0.5}, 'overlap'),
        ('upscale', {'lr': random_array(4, 4, dtype=np.uint16)}, 'of uint8, but got uint16'),
        ('upscale', {'lr': random_array(4, 5), 'size': (12, 20)}, '16x20 or up to 3 less, but got (12, 20)'),
        ('upscale', {'lr': random_array(4, 4), 'sigma': 2}, 'sigma'),
        ('upscale', {'lr': random_array(4, 4), 'sigma': np.ones((8, 8))}, '16x16'),
        ('upscale', {'lr': random_array(4, 4), 'seed': 0.5}, 'seed'),
        ('upscale', {'lr': random_array(4, 4), 'dtype': np.float32}, 'dtype'),
        ('upscale', {'lr': torch.zeros(3, 4, 4), 'dtype': np.uint8}, 'dtype'),
        ('upscale', {'lr': torch.zeros(2, 3, 4, 4), 'name': ['a']}, 'each of 2 images'),
        ('upscale', {'lr': random_array(4, 4), 'name': ['a']}, "name must be text for one image, but got ['a']"),
        ('downscale', {'image': torch.zeros(0, 3, 4, 4)}, 'image must hold one image or more'),
        ('upscale', {'lr': torch.zeros(0, 3, 4, 4)}, 'lr must hold one image or more'),
    ],
)
def test_what_is_refused(net, method, arguments, part):
    with pytest.raises(ValueError, match=r'.') as error:
        getattr(Rescaler(net), method)(**arguments)
    assert part in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('grey', [False, True], ids=['colour', 'grey'])
@pytest.mark.parametrize('as_tensor_too', [False, True], ids=['array', 'tensor'])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_result_that_is_no_image_is_refused(monkeypatch, net, value, as_tensor_too, grey):
    """One value among all, which clamping would make black or white."""

    def spoil(image):
        image[0, 1, -1, -1] = value
        return image

    image = random_array(8, 8) if grey and not as_tensor_too else random_array(8, 8, 3)
    image = as_tensor(image) if as_tensor_too else image
    downscale, upscale = net.downscale, net.upscale
    monkeypatch.setattr(net, 'downscale', lambda hr: (spoil(downscale(hr)[0]), None))
    monkeypatch.setattr(net, 'upscale', lambda lr, latent: spoil(upscale(lr, latent)))
    for rescale in (Rescaler(net).downscale, Rescaler(net).upscale):
        with pytest.raises(
            FloatingPointError, match='the network makes infinite values or no numbers of this image; use'
        ):
            rescale(image)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_rounding_leaves_outside_of_the_range_is_taken(net, dtype):
    """By ImageNet's normalization and back in the tensor's own type, 0 and 1 are missed by a rounding error."""
    image = torch.tensor([0, 1], dtype=dtype).repeat(3, 4, 2)
    image = (image - 0.485) / 0.229 * 0.229 + 0.485
    assert Rescaler(net).downscale(image).shape == (3, 1, 1)
    with pytest.raises(ValueError, match='black'):
        Rescaler(net).downscale(image + 0.01)


def test_model_hash_by_hand():
    net = PixelShuffleNet(gain=1.5)
    content = b'gain () torch.float32\n' + np.float32(1.5).tobytes()
    assert Rescaler(net).model_hash == hashlib.sha256(content).hexdigest()[:16]
    assert Rescaler(PixelShuffleNet(gain=1.25)).model_hash != Rescaler(net).model_hash


def test_nothing_is_left_to_the_gradient(net):
    assert not Rescaler(net).upscale(torch.rand(3, 4, 4), 1).requires_grad


def test_from_checkpoint(tmp_path, net):
    torch.save({'params': net.state_dict()}, tmp_path / 'net_g_latest.pth')
    rescaler = Rescaler.from_checkpoint(tmp_path / 'net_g_latest.pth', device='cpu')
    assert rescaler.model_hash == Rescaler(net).model_hash
    image = random_array(20, 24, 3)
    assert (rescaler.downscale(image) == Rescaler(net).downscale(image)).all()


def test_on_a_gpu_convolutions_are_exact_and_the_settings_come_back():
    cudnn = torch.backends.cudnn

    def settings():
        return cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32

    before = settings()
    with rescaler_module.reproducible_convolutions(torch.device('cuda')):
        assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
        assert (cudnn.conv.fp32_precision == 'ieee') if hasattr(cudnn, 'conv') else (cudnn.allow_tf32 is False)
    assert settings() == before


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='other allocators have other ways')
def test_memory_is_kept_from_one_dense_block_to_the_next(run_cli):
    """In a process of its own, in which nothing larger was ever freed; each page of 4 KiB that is new is a fault."""
    code = """
import resource, torch
from irnsigma_plugin import Rescaler
from irnsigma_plugin.archs.irn_arch import InvRescaleNet
rescaler = Rescaler(InvRescaleNet(4, [1, 1], 32, sigma_input=True), precision='fp32')
lr = torch.rand(3, 80, 120)
counts = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    rescaler.upscale(lr, 0.5)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(counts[2:]))  # others on the machine may cause some
"""
    faults = run_cli('-c', code, OMP_NUM_THREADS='1').stdout.split()[-1]  # beneath any warnings
    assert int(faults) < 1000  # 95,000 where memory is not kept
