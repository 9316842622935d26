from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from basicsr.utils import tensor2img
from helpers.experiment import write_photographs
from helpers.invertibility import randomise

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.evaluation.restore import Restorer, to_bgr
from irnsigma_plugin.rescaling.rescaler import Rescaler


@pytest.mark.parametrize('shape', [(3, 20, 31), (1, 3, 20, 31)])
def test_tensors_become_the_bytes_of_basicsr(shape):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    halves = torch.arange(2 * 255).view(1, 1, -1).expand(3, 2, -1) / 510  # half levels, whose rounding is a convention
    for each in (image, halves):
        np.testing.assert_array_equal(to_bgr(each), tensor2img(each))


def test_arrays_change_their_channels_only():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(to_bgr(image), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


@pytest.mark.parametrize('map_size', [(43, 63), (42, 62), (22, 32), (21, 31)])
def test_a_file_is_restored_as_a_tensor_is(tmp_path, map_size):
    path = write_photographs(tmp_path, 1, height=43, width=63) / 'photo0.png'
    restorer = Restorer(Rescaler(randomise(InvRescaleNet(2, [1], 4))), (0.0, 1.0), seed=3)
    original, image = restorer.rescale_file(path, np.full(map_size, 255, np.uint8))
    np.testing.assert_array_equal(original, cv2.imread(str(path))[:42, :62])
    hr = torch.from_numpy(original[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    same = restorer.restore(restorer.rescaler.downscale(hr), 'photo0', (42, 62))
    assert image.name == 'photo0'
    np.testing.assert_array_equal(same.lr, image.lr)
    for sigma in (0.0, 1.0):
        np.testing.assert_array_equal(same.restored[sigma], image.restored[sigma])
    np.testing.assert_array_equal(image.mapped, image.restored[1.0])
    assert [each.shape for each in image.results] == 3 * [original.shape]
