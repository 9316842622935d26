import numpy as np
import pytest

from irnsigma_plugin.archs.grid import magnify, relative, windows


def test_windows_by_hand():
    # Width 10 in cells of at most 4: three, from 0, 3 and 6; height 4: one.
    found = [(window.core[1], window.area[1]) for window in windows(4, 10, 4, 2)]
    assert found == [(slice(0, 3), slice(0, 5)), (slice(3, 6), slice(1, 8)), (slice(6, 10), slice(4, 10))]
    assert all(window.core[0] == window.area[0] == slice(0, 4) for window in windows(4, 10, 4, 2))


@pytest.mark.parametrize('size', [(1, 1), (1, 1000), (7, 64), (65, 129), (300, 3)])
@pytest.mark.parametrize('overlap', [0, 5, 100])
def test_cores_cover_an_image_once_and_lie_in_their_windows(size, overlap):
    covered = np.zeros(size, int)
    for window in windows(*size, 64, overlap):
        covered[window.core] += 1
        part = np.zeros(size, int)
        part[window.area] = 1
        assert (part[window.core] == 1).all()
        for area, core, side in zip(window.area, window.core, size):
            assert core.stop - core.start <= 64
            assert area.start == max(core.start - overlap, 0)
            assert area.stop == min(core.stop + overlap, side)
    assert (covered == 1).all()


def test_regions_by_hand():
    assert magnify((slice(1, 3), slice(2, 4)), 4, (10, 16)) == (slice(4, 10), slice(8, 16))
    assert relative((slice(5, 7), slice(2, 4)), (slice(3, 9), slice(2, 8))) == (slice(2, 4), slice(0, 2))
