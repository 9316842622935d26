"""What an lr file notes of its original."""

import pytest

import irnsigma_plugin
from irnsigma_plugin.rescaling.pictures import LrNote, read_note

NOTE = LrNote(480, 321, 16, 4, 'feedfeedfeedfeed')


def test_a_note_is_plain_text_and_comes_back():
    text = NOTE.to_text()
    assert text == (
        '{"height": 480, "width": 321, "bits": 16, "scale": 4, "model": "feedfeedfeedfeed", '
        f'"version": "{irnsigma_plugin.__version__}"}}'
    )
    assert read_note(text) == NOTE
    assert read_note(text[:-1] + ', "more": 1}') == NOTE


@pytest.mark.parametrize(
    'text',
    [
        '',
        'null',
        '3',
        '[]',
        '{}',
        '{"height": 1',
        NOTE._replace(height=0).to_text(),
        NOTE._replace(width=1.5).to_text(),
        NOTE._replace(scale=None).to_text(),
        NOTE._replace(bits=1).to_text(),
        NOTE._replace(model=7).to_text(),
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match='.'):
        read_note(text)
