"""`irnsigma demo` without a page; see test_demo_page.py for that."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from irnsigma_plugin.cli import main
from irnsigma_plugin.images.picture import Picture, write_picture


@pytest.mark.parametrize('reason', ['no gradio', 'its own import fails'])
def test_without_the_extra_it_is_one_line_with_the_remedy(capsys, monkeypatch, tmp_path, reason):
    monkeypatch.delitem(sys.modules, 'irnsigma_plugin.demo.page', raising=False)
    if reason == 'no gradio':
        monkeypatch.setitem(sys.modules, 'gradio', None)
    else:
        (tmp_path / 'gradio.py').write_text('import no_such_module')
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, 'gradio', raising=False)
    assert main(['demo']) == 1
    error = capsys.readouterr().err
    assert error.startswith('irnsigma: error: the page needs gradio 6 (')
    assert error.endswith('): pip install "irnsigma_plugin[demo]"\n')
    assert error.count('\n') == 1


def test_nothing_but_the_page_imports_gradio(run_cli):
    code = (
        'import sys; from irnsigma_plugin import cli, Rescaler; import irnsigma_plugin.demo.studio;'
        ' cli.main(["demo", "--help"]); print("gradio" in sys.modules)'
    )
    output = run_cli('-c', code).stdout
    assert 'default: 127.0.0.1' in output
    assert output.endswith('False\n')


def test_a_picture_that_is_no_longer_kept_is_told(tmp_path):
    """Gradio drops a state, and a file, a time after it was last set: whoever works with them sets them anew."""
    gr = pytest.importorskip('gradio', minversion='6', reason='needs gradio: pip install "irnsigma_plugin[demo]"')
    from irnsigma_plugin.demo.page import build_page
    from irnsigma_plugin.demo.studio import Photograph, Small

    file, picture = tmp_path / 'a.png', Picture(np.zeros((8, 8, 3), np.uint8))
    write_picture(picture, file)
    opened = Photograph(file, 9, picture)
    studio = SimpleNamespace(
        models={'net': SimpleNamespace(scale=1)},
        shrink=lambda *_: Small(opened, picture, file, 'net'),
        restore=lambda *_: picture,
        measure=lambda *_: {},
        write=lambda *_: file,
    )
    answers = {each.name: each for each in build_page(studio, []).fns.values()}
    values = {each: each.value for each in answers['restore'].inputs}
    photograph, small = (each for each in values if isinstance(each, gr.State))
    (sizes,) = (each for each in values if isinstance(each, gr.Markdown))
    (canvas,) = (each for each in values if isinstance(each, gr.ImageEditor))
    values[canvas] = {'layers': []}
    assert list(answers['restore'].fn(values)) == []  # of a page that has just been opened
    assert answers['compare'].fn(None, None, None, None, 'original') is None
    for _ in range(2):
        os.utime(file, (0, 0))
        values[photograph] = opened
        values.update(next(iter(answers['restore'].fn(values))))
        assert (values[photograph], values[small].path) == (opened, file)
        assert file.stat().st_mtime > 0
    assert '8 × 8 pixels' in values[sizes]
    gone = 'there is no picture, or none any more after an hour; open one.'
    values[photograph] = None
    with pytest.raises(gr.Error, match=gone):
        list(answers['restore'].fn(values))
    with pytest.raises(gr.Error, match=gone):
        answers['compare'].fn(None, values[sizes], None, None, 'original')
    with pytest.raises(gr.Error, match=gone):
        answers['draw_curve'].fn(None, 0)
