"""Small photographs, and their preparation as training data."""

from __future__ import annotations

from pathlib import Path

import lmdb
import numpy as np
from PIL import Image

from irnsigma_plugin.preparation.pairs import prepare
from irnsigma_plugin.preparation.store import Summary


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise of 8 bits."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, image: np.ndarray) -> None:
    """Write an image, and the folder that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def save_photographs(folder: Path) -> Path:
    """Write four images of 26x35 pixels."""
    for index in range(4):
        save(folder / f'{index}.png', random_image(26, 35, index))
    return folder


def lmdb_content(path: str | Path) -> dict[str, bytes]:
    """All that is in an LMDB."""
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        return {bytes(key).decode(): bytes(value) for key, value in transaction.cursor()}


def prepare_quietly(sources: list[Path], destination: Path, **settings: object) -> Summary:
    """Prepare small sub-images without progress bars."""
    return prepare(sources, destination, **{'progress': False, 'crop_size': 16, 'step': 8, 'min_size': 8, **settings})
