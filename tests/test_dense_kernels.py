import pytest
import torch
from helpers.invertibility import random_image, randomise
from torch.nn import functional as F

from irnsigma_plugin.archs import dense_kernels
from irnsigma_plugin.archs.dense_block import DenseBlock, ResidualBlock


@pytest.mark.parametrize('vector_bytes', [None, 32, 64])
@pytest.mark.parametrize('outputs', [1, 3, 5, 6, 9])
@pytest.mark.parametrize('size', [(1, 1), (2, 1), (5, 8)])
def test_convolutions_of_few_outputs_equal_others(vector_bytes, outputs, size, monkeypatch):
    monkeypatch.setattr(dense_kernels, 'VECTOR_BYTES', vector_bytes)
    if vector_bytes:
        monkeypatch.setattr(dense_kernels, 'is_narrow', lambda *_: True)  # by columns, whether or not it pays
    x = random_image(2, 7, *size, dtype=torch.float64) - 0.5
    weight = random_image(outputs, 7, 3, 3, dtype=torch.float64, seed=1) - 0.5
    bias = random_image(1, 1, 1, outputs, dtype=torch.float64, seed=2).flatten()
    torch.testing.assert_close(dense_kernels.convolve(x, weight, bias), F.conv2d(x, weight, bias, padding=1))


@pytest.mark.parametrize('vector_bytes', [32, 64])
def test_the_outputs_of_an_image_are_computed_by_columns_in_single_precision_only(vector_bytes, monkeypatch):
    monkeypatch.setattr(dense_kernels, 'VECTOR_BYTES', vector_bytes)
    assert [n for n in (3, 9, 32, 45) if dense_kernels.is_narrow(n, torch.empty(1))] == [3, 9]
    assert not dense_kernels.is_narrow(3, torch.empty(1, dtype=torch.bfloat16))


@pytest.mark.parametrize('kind', [DenseBlock, ResidualBlock])
@pytest.mark.parametrize('size', [(1, 1), (3, 40), (16, 16), (17, 5), (33, 50)])
def test_windows_change_nothing(size, kind, monkeypatch):
    monkeypatch.setitem(dense_kernels.CELL, 'cpu', 7)  # many windows, narrower than the margins of two sides
    block = randomise(kind(3, 4, growth_channels=3), std=0.2).double()
    x = random_image(2, 3, *size, dtype=torch.float64) - 0.5
    whole = block(x)  # with a gradient, in one piece, as the tests of the blocks have it
    with torch.no_grad():
        torch.testing.assert_close(block(x), whole, rtol=1e-12, atol=1e-12)
