#!/usr/bin/env bash
# Draws the pictures of README.md anew: the built-in model, on a photograph that comes with scikit-image.
set -euo pipefail

cd "$(dirname "$0")/.."
source scripts/setup_env.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python - "$work" << 'END'
import sys
from pathlib import Path

import cv2
import numpy as np
import skimage

work = Path(sys.argv[1])
photo = cv2.imread(str(Path(skimage.__file__).parent / 'data/chelsea.png'))
height, width = photo.shape[:2]
disc = cv2.circle(np.zeros((height, width), np.uint8), (width // 2, height // 2), 60, 255, -1)
cv2.imwrite(str(work / 'chelsea.png'), photo)
cv2.imwrite(str(work / 'mask.png'), cv2.GaussianBlur(disc, (0, 0), 6))
END
irnsigma compare "$work/chelsea.png" --sigmas 0 0.5 1 --output .github/comparison.png --overwrite
irnsigma compare "$work/chelsea.png" --sigmas 0 1 --sigma-map "$work/mask.png" --output .github/sigma_map.png --overwrite
