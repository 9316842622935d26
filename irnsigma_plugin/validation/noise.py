"""The noise of the restored detail, reproducible for each image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def draw_epsilon(shape: Sequence[int], seed: int, image_name: str) -> Tensor:
    """Draw epsilon ~ N(0, 1) from a generator seeded by (seed, image name).

    So an image is restored alike whatever the order, the process or the number of sigmas.

    Args:
        shape: Shape of the latent.
        seed: The user's seed.
        image_name: Name of the image, without folder and extension.

    Returns:
        float32 tensor on the CPU.
    """
    digest = hashlib.sha256(f'{seed}/{image_name}'.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], 'little', signed=True))
    return torch.randn(tuple(shape), generator=generator)
