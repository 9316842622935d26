"""Small files that stand for those of ImageNet weights."""

from __future__ import annotations

from pathlib import Path

import torch

from irnsigma_plugin.imagenet.weights import NETWORKS


def save_weights(folder: Path, name: str, value: float, **more: torch.Tensor) -> Path:
    """Save a file of torchvision's name with the keys of a network's convolutions, all of one value."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NETWORKS[name].file
    features = {f'features.{position}.weight': torch.tensor(value) for position in NETWORKS[name].convolutions}
    torch.save({**features, **more}, path)
    return path
