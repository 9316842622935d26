#!/usr/bin/env bash
# A first run, in a few minutes on a CPU: sets up the environment, trains a small IRN_sigma on photographs
# that come with scikit-image, and measures it on two photographs that it has not seen.
set -euo pipefail

cd "$(dirname "$0")/.."
source scripts/setup_env.sh

echo 'Fetching the AlexNet and VGG16 weights (for LPIPS and the perceptual loss), unless they are there'
irnsigma fetch-weights

data=datasets/quickstart
if [[ ! -d $data/val ]]; then
    photographs=$(python -c 'from pathlib import Path; import skimage; print(Path(skimage.__file__).parent / "data")')
    mkdir -p $data/train $data/val.partial
    cp "$photographs"/{astronaut,brick,grass,gravel,motorcycle_left,motorcycle_right}.png \
        "$photographs"/{hubble_deep_field,rocket}.jpg $data/train
    cp "$photographs"/{chelsea,coffee}.png $data/val.partial
    mv $data/val.partial $data/val
fi
python scripts/prepare_data.py $data/train $data --name train --scale 4 --crop-size 240 --step 120

python -m basicsr.train -opt options/train_IRNsigma_x4_quickstart.yml
python -m basicsr.test -opt options/test_IRNsigma_x4_quickstart.yml

results=results/test_IRNsigma_x4_quickstart
cat << END

Done. One checkpoint, five values of sigma, on photographs that were not in the training:

$(cat $results/table.md)
Look at
  $results/held_out_photographs/comparison.png   original, low-resolution and restored images
  $results/held_out_photographs/curve.png        the trade-off: fidelity against perception
  $results/visualization/held_out_photographs    the images themselves
  $results/held_out_photographs/metrics.csv      every image at every sigma
and, for the course of the training,
  tensorboard --logdir tb_logger
The training was long enough for the faithful end (sigma = 0) only; the sharp end (sigma = 1) comes last, after
hours. For good pictures train longer and larger: see "Training" in README.md.
END
