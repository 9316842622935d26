"""Notebooks: their cells run in one namespace, without Jupyter.

Fills in the outputs that are stored in docs/tour.ipynb, from the root of the checkout:

    PYTHONPATH=tests python -m helpers.notebook docs/tour.ipynb
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt


def read_notebook(path: Path) -> dict[str, Any]:
    """The notebook as JSON."""
    return json.loads(path.read_text(encoding='utf-8'))


def run_cells(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Run the code of cells and put what is printed and drawn into their `outputs`; the names that they define.

    An error is the cell's own. Figures are JPEG, a tenth of the size of PNG with photographs in them.
    """
    matplotlib.use('agg')
    names: dict[str, Any] = {'__name__': '__main__'}
    for count, cell in enumerate((cell for cell in cells if cell['cell_type'] == 'code'), 1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(''.join(cell['source']), cell['id'], 'exec'), names)
        lines = printed.getvalue().splitlines(True)
        outputs: list[dict[str, Any]] = [{'output_type': 'stream', 'name': 'stdout', 'text': lines}] if lines else []
        for number in plt.get_fignums():
            figure, picture = plt.figure(number), io.BytesIO()
            figure.savefig(picture, format='jpeg', dpi=75, pil_kwargs={'quality': 85})
            data = {'image/jpeg': base64.b64encode(picture.getvalue()).decode(), 'text/plain': [repr(figure)]}
            outputs.append({'output_type': 'display_data', 'data': data, 'metadata': {}})
            plt.close(figure)
        cell.update(execution_count=count, outputs=outputs)
    return names


if __name__ == '__main__':
    file = Path(sys.argv[1])
    notebook = read_notebook(file)
    run_cells(notebook['cells'])
    file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
