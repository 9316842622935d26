"""The discriminator of IRN+ and IRN_sigma."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from basicsr.archs.discriminator_arch import VGGStyleDiscriminator

from irnsigma_plugin.checks import is_whole, raise_faults, whole

SMALLEST_PATCH, LARGEST_PATCH = 128, 159  # five halvings, each rounding down, end at 4 x 4 pixels


class IRNDiscriminator(VGGStyleDiscriminator):
    """BasicSR's VGGStyleDiscriminator for all patches that its five stride-2 layers shrink to 4x4, not for 128 alone.

    Args:
        num_in_ch: Channels of the image.
        num_feat: Channels of the first layer.
        input_size: Side of the square patches, 128 to 159.

    Shape:
        (N, num_in_ch, input_size, input_size) -> (N, 1) logits.

    Raises:
        ValueError: `input_size` is out of range.
    """

    def __init__(self, num_in_ch: int = 3, num_feat: int = 64, input_size: int = 144) -> None:
        raise_faults('IRNDiscriminator', IRNDiscriminator.check(num_in_ch, num_feat, input_size))
        super().__init__(num_in_ch, num_feat, input_size=SMALLEST_PATCH)
        self.input_size = input_size

    @staticmethod
    def check(num_in_ch: Any, num_feat: Any, input_size: Any) -> Iterator[str]:
        """What is wrong with the arguments, see :mod:`irnsigma_plugin.checks`."""
        yield from whole()('num_in_ch', num_in_ch)
        yield from whole()('num_feat', num_feat)
        if not is_whole(input_size, SMALLEST_PATCH) or input_size > LARGEST_PATCH:
            yield (
                f'input_size must be {SMALLEST_PATCH} to {LARGEST_PATCH} (gt_size of the training set), but got '
                f'{input_size!r}. For 256 use VGGStyleDiscriminator, for others UNetDiscriminatorSN.'
            )
