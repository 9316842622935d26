"""The discriminator of IRN+ and IRN_sigma."""

from __future__ import annotations

from basicsr.archs.discriminator_arch import VGGStyleDiscriminator
from basicsr.utils.registry import ARCH_REGISTRY

# Five halvings, each rounding down, end at 4 x 4 pixels for these sides.
SMALLEST_SIZE, LARGEST_SIZE = 128, 159


@ARCH_REGISTRY.register()
class IRNDiscriminator(VGGStyleDiscriminator):
    """VGG-style discriminator of SRGAN for patches that five stride-2 layers shrink to 4x4.

    BasicSR's :class:`VGGStyleDiscriminator` with the size check widened from 128 to all sides that its
    layers handle, the 144 of IRN+ among them. Layers, keys and result are the same.

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
        if not isinstance(input_size, int) or not SMALLEST_SIZE <= input_size <= LARGEST_SIZE:
            raise ValueError(
                f'IRNDiscriminator: input_size must be {SMALLEST_SIZE} to {LARGEST_SIZE} (gt_size of the training '
                f'set), but got {input_size!r}. For 256 use VGGStyleDiscriminator, for others UNetDiscriminatorSN.')
        super().__init__(num_in_ch, num_feat, input_size=SMALLEST_SIZE)
        self.input_size = input_size
