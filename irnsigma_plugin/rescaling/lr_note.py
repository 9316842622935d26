"""What an lr file notes of its original, so that `upscale` can give back just that."""

from __future__ import annotations

import json
from typing import NamedTuple

import irnsigma_plugin
from irnsigma_plugin.checks import whole_number


class LrNote(NamedTuple):
    """Text of an lr file.

    Attributes:
        height, width: Of the original, in pixels.
        bits: Per sample of the original, 8 or 16.
        scale: Of the model that made the lr.
        model: Hash of its weights.
        version: Of this plugin.
    """

    height: int
    width: int
    bits: int
    scale: int
    model: str
    version: str = irnsigma_plugin.__version__

    def to_text(self) -> str:
        """The note as text, in ASCII."""
        return json.dumps(self._asdict())


def read_note(text: str) -> LrNote:
    """The inverse of :meth:`LrNote.to_text`; entries that it does not know are passed over.

    Raises:
        ValueError: The text is no such note.
    """
    entries = json.loads(text)
    if not isinstance(entries, dict):
        raise ValueError(f'a note must be an object, but got {text!r}.')
    note = LrNote(**{name: entries.get(name) for name in LrNote._fields})
    for name in ('height', 'width', 'scale'):
        whole_number(name, getattr(note, name))
    if note.bits not in (8, 16) or not isinstance(note.model, str):
        raise ValueError(f'bits must be 8 or 16 and model a hash, but got {note.bits!r} and {note.model!r}.')
    return note
