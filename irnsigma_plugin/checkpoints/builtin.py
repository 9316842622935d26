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


def metadata(name: str) -> dict[str, str]:
    """What the file of a built-in model tells of it without being read to the end: `model_hash`, `network_g`, ..."""
    from safetensors import safe_open

    with safe_open(os.fspath(locate(name)), framework='np') as file:  # `pt` would import torch
        return file.metadata()


def name_of(model_hash: str) -> str | None:
    """Name of the built-in model with this hash."""
    return next((name for name in names() if metadata(name)['model_hash'] == model_hash), None)
