import numpy as np

from irnsigma_plugin.evaluation.pictures import DPI, LARGEST_CUTOUT, Panel, decode_png, draw_comparison


def solid(colour, height, width):
    return np.full((height, width, 3), colour, np.uint8)


def test_panels_stand_side_by_side_in_their_colours():
    blue, green, red = (255, 0, 0), (0, 255, 0), (0, 0, 255)  # BGR
    picture = decode_png(
        draw_comparison(
            [Panel('a', solid(blue, 64, 96)), Panel('b', solid(green, 16, 24)), Panel('c\nd', solid(red, 64, 96))]
        )
    )
    height, width = picture.shape[:2]
    middle = picture[height // 2]
    for index, rgb in enumerate([(0, 0, 255), (0, 255, 0), (255, 0, 0)]):
        np.testing.assert_array_equal(middle[width * (2 * index + 1) // 6], rgb)


def test_large_images_show_their_middle():
    image = solid((0, 0, 0), 4 * LARGEST_CUTOUT, 4 * LARGEST_CUTOUT)
    middle = slice(2 * LARGEST_CUTOUT - LARGEST_CUTOUT // 2, 2 * LARGEST_CUTOUT + LARGEST_CUTOUT // 2)
    image[middle, middle] = (0, 0, 255)
    picture = decode_png(draw_comparison([Panel('', image)])).astype(int)
    red = (picture[..., 0] > 250) & (picture[..., 1:].sum(-1) < 5)
    black = picture.sum(-1) < 30
    assert red.sum() > (1.5 * DPI) ** 2
    assert black.sum() == 0
