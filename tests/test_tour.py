"""docs/tour.ipynb runs, shows what its text says, and stores what its code prints.

Its cells run in one namespace, in order. They have no magics and no widgets, so a kernel would do no more.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.experiment import has_alexnet
from helpers.notebook import read_notebook, run_cells

FILE = Path(__file__).resolve().parents[1] / 'docs/tour.ipynb'


@pytest.fixture(scope='module')
def stored() -> list[dict]:
    """The cells, without those that need weights which are not here."""
    pytest.importorskip('skimage')
    cells = read_notebook(FILE)['cells']
    return [cell for cell in cells if has_alexnet() or 'lpips' not in cell['metadata'].get('tags', [])]


@pytest.fixture(scope='module')
def run(stored) -> tuple[list[dict], dict]:
    cells = copy.deepcopy(stored)
    return cells, run_cells(cells)


def printed(cell: dict) -> str:
    return ''.join(line for output in cell.get('outputs', []) for line in output.get('text', []))


def test_what_it_shows(run):
    _, names = run
    photo, restored = names['photo'], names['restored']
    assert names['lr'].shape == (46, 60, 3)
    assert {image.shape for image in restored.values()} == {photo.shape}
    assert (names['again'] == restored[1]).all()
    assert (names['other'] != restored[1]).any()
    assert (names['result'] == restored[0.5]).all()
    error = {sigma: np.square(image.astype(float) - photo).mean() for sigma, image in restored.items()}
    assert sorted(error, key=error.get) == names['sigmas']
    left, right = np.split(names['mapped'] != restored[0], 2, axis=1)
    assert right.mean() > 3 * left.mean()


@pytest.mark.skipif(not has_alexnet(), reason='needs the weights of AlexNet')
def test_its_curve_goes_the_right_way(run):
    _, names = run
    for metric in ('psnr_y', 'lpips'):
        values = [figure[metric] for figure in names['figures']]
        assert values == sorted(values, reverse=True), metric


def test_stored_outputs_are_those_of_its_code(run, stored):
    """Figures to a hundredth: processors differ in the last bits."""
    assert FILE.stat().st_size < 300_000
    number = re.compile(r'(\d+\.?\d*)')
    for before, after in zip(stored, run[0]):
        assert [output['output_type'] for output in before.get('outputs', [])] == [
            output['output_type'] for output in after.get('outputs', [])
        ], before['id']
        old, new = (number.split(re.sub('"model": "[^"]*"', '', printed(cell))) for cell in (before, after))
        assert old[::2] == new[::2], before['id']
        assert [*map(float, old[1::2])] == pytest.approx([*map(float, new[1::2])], rel=0.01), before['id']
