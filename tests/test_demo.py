"""`irnsigma demo` without a page; see test_demo_page.py for that."""

from __future__ import annotations

import sys

import pytest

from irnsigma_plugin.cli import main


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
