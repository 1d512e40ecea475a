#!/usr/bin/env bash
# Runs the experiments of docs/ablations.md:
#
#   - on nuclei: RoI layers and mask losses, with three seeds each
#   - on blood cells: Faster R-CNN, trained jointly and in four steps; Fast R-CNN; the recall of proposals
#
# The script skips finished runs, so that it can be stopped and called again. It takes CPU hours.
#
#   benchmarks/ablations.sh DATA OUTPUT
#
# DATA has the directories nuclei/ (COCO json, PNG) and bccd/ (VOC). Environment variables and their defaults:
# SEEDS="0 1 2", STEPS=330 (nuclei), BCCD_STEPS=510.
set -euo pipefail
data=$1 output=$2
mkdir -p "$output"

# run NAME CONFIG SET [KEY=VALUE ...]: train a model in OUTPUT/NAME and evaluate it on SET.
run() {
  local directory="$output/$1"
  if [ -f "$directory/metrics.json" ]; then return; fi
  mrcnn train "$2" --model-dir "$directory" "${@:4}" >> "$output/$1.log" 2>&1
  mrcnn evaluate --model-dir "$directory" --data "$3" >> "$output/$1.log" 2>&1
}

if [ ! -f "$output/nuclei/val.json" ]; then
  for part in train val; do
    mrcnn convert coco --annotations "$data/nuclei/annotations/instances_$part.json" --images "$data/nuclei/images" \
      --output "$output/nuclei" --name $part
  done
fi
# 256 px is the size of the image files: it takes half the time of the recipe's 384 px, and keeps nuclei at 13 px, where
# the rounding to feature map cells matters.
nuclei=(data.train="$output/nuclei/train.json" solver.steps="${STEPS:-330}" 'data.short_sides=[256]' data.long_side=256
        data.test_short_side=256 data.test_long_side=256 'data.canvases=[[256,256]]')
for seed in ${SEEDS:-0 1 2}; do
  run "roialign-$seed" nuclei_r18_fpn "$output/nuclei/val.json" "${nuclei[@]}" train.seed="$seed"
  run "roipool-$seed" nuclei_r18_fpn "$output/nuclei/val.json" "${nuclei[@]}" train.seed="$seed" \
    model.roi.layer=pool model.roi.aggregate=max model.roi.sampling_ratio=1
  run "softmax-$seed" nuclei_r18_fpn "$output/nuclei/val.json" "${nuclei[@]}" train.seed="$seed" \
    model.mask_head.classifier=softmax
done

bccd="$output/bccd"
if [ ! -f "$bccd/val_ss.json" ]; then
  mkdir -p "$bccd"
  printf 'RBC\nWBC\nPlatelets\n' > "$bccd/classes.txt"
  for part in train val; do
    mrcnn convert voc --root "$data/bccd" --classes "$bccd/classes.txt" --split $part --output "$bccd" --name $part
    mrcnn convert proposals "$bccd/$part.json" --output "$bccd" --name ${part}_ss
  done
fi
run faster bccd_faster_r18_fpn "$bccd/val.json" data.train="$bccd/train.json" ${BCCD_STEPS:+solver.steps=$BCCD_STEPS}
run fast bccd_fast_r18_fpn "$bccd/val_ss.json" data.train="$bccd/train_ss.json" ${BCCD_STEPS:+solver.steps=$BCCD_STEPS}
if [ ! -d "$output/alternating/faster_rcnn" ]; then
  mrcnn train-alternating bccd_faster_r18_fpn --model-dir "$output/alternating" data.train="$bccd/train.json" \
    ${BCCD_STEPS:+solver.steps=$BCCD_STEPS} >> "$output/alternating.log" 2>&1
fi
if [ ! -f "$bccd/val_rpn.json" ]; then      # RPN* of table 6: the model of step 2 has its own backbone
  mrcnn propose --model-dir "$output/alternating/step1_rpn" --data "$bccd/val.json" --output "$bccd/val_rpn.npz"
  mrcnn convert proposals "$bccd/val.json" --proposals "$bccd/val_rpn.npz" --output "$bccd" --name val_rpn
fi

# measure NAME METRIC SET: evaluate the model OUTPUT/NAME on SET.
measure() {
  local log="$output/${1//\//_}.$2.log"
  if [ -f "$log" ]; then return; fi
  mrcnn evaluate --model-dir "$output/$1" --data "$3" --metric "$2" > "$log.part" 2>&1
  mv "$log.part" "$log"
}
measure faster voc2007 "$bccd/val.json"
measure fast voc2007 "$bccd/val_ss.json"
measure alternating/step2_fast_rcnn voc2007 "$bccd/val_rpn.json"
measure alternating/faster_rcnn voc2007 "$bccd/val.json"
for model in faster alternating/step1_rpn alternating/step3_rpn; do measure "$model" recall "$bccd/val.json"; done
mrcnn recall "$bccd/val_ss.json" > "$output/selective_search.recall.log"
