"""Grey images stay grey: a network works on three channels and would tint them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # of red, green, blue, ITU-R BT.601
PIXELS_AT_ONCE = 1 << 22  # a comparison of the whole would need as much memory as the image


def is_grey(image: np.ndarray | Tensor) -> bool:
    """Whether all channels of an image are equal.

    Args:
        image: (H, W) or (H, W, 3) array, or (3, H, W) tensor.
    """
    if image.ndim == 2:
        return True
    channels = image if isinstance(image, Tensor) else image.transpose(2, 0, 1)
    _, height, width = channels.shape
    rows = max(1, PIXELS_AT_ONCE // width)
    parts = (channels[:, top:top + rows] for top in range(0, height, rows))
    return all(bool((part[:1] == part[1:]).all()) for part in parts)


def luma(images: Tensor) -> Tensor:
    """`0.299 R + 0.587 G + 0.114 B` in every channel: what a network makes of a grey image, grey again.

    It goes between the network and the rounding, after downscaling and after upscaling alike.

    Args:
        images: (N, 3, H, W), RGB.

    Returns:
        (N, 3, H, W), all channels equal.
    """
    weights = torch.tensor(LUMA_WEIGHTS, dtype=images.dtype, device=images.device).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True).expand_as(images)
