#!/usr/bin/env bash
# The runs of docs/ablations.md: RoI layers and mask losses on nuclei with three seeds each, Faster and Fast R-CNN on
# blood cells. What is there already is not done again, so it can be stopped and called once more.
#
#   benchmarks/ablations.sh DATA OUTPUT          DATA holds nuclei/ (COCO json, PNG) and bccd/ (VOC); CPU hours
#
# SEEDS="0 1 2", STEPS=330 (nuclei) and BCCD_STEPS=510 may be set.
set -euo pipefail
data=$1 output=$2
mkdir -p "$output"

# run NAME CONFIG SET [KEY=VALUE ...]: trains OUTPUT/NAME and evaluates it on SET
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
# 256 px, as the pictures are: half the time of the recipe's 384, and nuclei of 13 px, at which a cell of the map counts.
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
for row in faster fast; do
  if [ ! -f "$output/$row.voc.log" ]; then
    set="$bccd/val$([ $row = fast ] && echo _ss).json"
    mrcnn evaluate --model-dir "$output/$row" --data "$set" --metric voc2007 > "$output/$row.voc.log" 2>&1
  fi
done
