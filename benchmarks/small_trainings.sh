#!/usr/bin/env bash
# Trains on three small data sets, from a folder to a report: docs/measured.md, "From a folder to a report". Images,
# batches and heads are small, so that one CPU core takes about six minutes for each.
#
#   benchmarks/small_trainings.sh DATA
#
# DATA has the directories nuclei/ (COCO json), bccd/ (VOC) and coco_permissive/ (COCO json). Writes data/, runs/,
# NAME.html and the curves NAME.svg to the current directory.
set -euo pipefail
data=$1
small=(data.short_sides=[224] data.long_side=320 data.test_short_side=224 data.test_long_side=320
       'data.canvases=[[224,320],[320,224]]')

# run NAME KEY=VALUE ...
run() {
  mrcnn train "$data/$1" data.batch_size=2 solver.reference_batch=2 model.roi.batch_per_image=64 "${@:2}"
  mrcnn evaluate --model-dir "runs/$1" --report "$1.html"
  python "$(dirname "$0")/validation_curve.py" "runs/$1" "$1.svg"
}

run nuclei data.short_sides=[256] data.long_side=256 data.test_short_side=256 data.test_long_side=256 \
  'data.canvases=[[256,256]]' data.mask_size=28 data.flip_vertical=0.5 'model.anchors.sizes=[[8],[16],[32],[64],[128]]' \
  model.mask_head.convolutions=2 model.detections.max_detections=128 solver.steps=270 solver.warmup_steps=50 \
  solver.warmup_factor=0.02 train.evaluate_every=45 train.evaluate_images=20
run bccd "${small[@]}" solver.steps=240 solver.warmup_steps=40 solver.warmup_factor=0.025 train.evaluate_every=40 \
  train.evaluate_images=24
run coco_permissive "${small[@]}" model.mask_head.convolutions=2 solver.steps=60 solver.warmup_steps=20 \
  solver.warmup_factor=0.05 train.evaluate_every=20 train.evaluate_images=16
