#!/usr/bin/env bash
# A first run, in a few minutes on a CPU: sets up the environment; downscales and restores two photographs with the
# built-in model; then fine-tunes that model to photographs that come with scikit-image, and measures it on the two, which
# it has not seen.
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

echo '1. Two photographs, made small and restored by the built-in model'
before=results/quickstart_builtin
irnsigma downscale $data/val $before/small --overwrite
for sigma in 0 0.5 1; do
    irnsigma upscale $before/small $before/restored_sigma$sigma --sigma $sigma --overwrite
done
irnsigma evaluate $data/val --output $before
cat << END
Look at
  $before/small              the small pictures, a sixteenth of the pixels, and
  $before/restored_sigma0, restored_sigma0.5 and restored_sigma1: what became of them
  $before/comparison.png     one of them side by side
  $before/curve.png          the trade-off: fidelity against perception

2. A training: the built-in model learns from eight more photographs, for a minute or two

END
irnsigma prepare $data/train $data --name train --scale 4 --crop-size 240 --step 120

python -m basicsr.train -opt options/train_IRNsigma_x4_quickstart.yml
python -m basicsr.test -opt options/test_IRNsigma_x4_quickstart.yml

results=results/test_IRNsigma_x4_quickstart
cat << END

The built-in model, and what became of it, on the two photographs, which were not in the training:

$(cat $before/table.md)

$(cat $results/table.md)

PSNR falls as sigma rises, and LPIPS with it, less and less towards sigma = 1. Forty iterations on eight
photographs of other things do not make these two better: they show how a training goes.
Look at
  $results/held_out_photographs/comparison.png   original, low-resolution and restored images
  $results/held_out_photographs/curve.png        the trade-off
  $results/visualization/held_out_photographs    the images themselves
  $results/held_out_photographs/metrics.csv      every image at every sigma
and, for the course of the training,
  tensorboard --logdir tb_logger
For photographs of your own see "With photographs of your own" in docs/recipe.md, for a network of your own "Training" in README.md.
END
