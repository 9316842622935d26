"""Models that come with the package: a folder of `models/` each, with the weights and a model card."""

from __future__ import annotations

import os
from pathlib import Path

MODELS = Path(__file__).resolve().parents[1] / 'models'
FILE, CARD = 'net_g.safetensors', 'README.md'
DEFAULT = 'irnsigma_x4'


def names() -> list[str]:
    """Names of the built-in models."""
    return sorted(file.parent.name for file in MODELS.glob(f'*/{FILE}'))


def locate(model: str | os.PathLike) -> str | os.PathLike:
    """The file of a built-in model, by its name; anything else is a path, and returned as it is.

    A name counts before a file in the current directory, which `./name` is.
    """
    return MODELS / model / FILE if model in names() else model


def name_of(model_hash: str) -> str | None:
    """Name of the built-in model with this hash, which its file tells without being read to the end."""
    from safetensors import safe_open

    for name in names():
        with safe_open(os.fspath(locate(name)), framework='pt') as file:
            if file.metadata()['model_hash'] == model_hash:
                return name
    return None
