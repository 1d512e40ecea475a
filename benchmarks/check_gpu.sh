#!/usr/bin/env bash
# Checks on a machine with GPUs what this project's tests check on CPUs; two GPUs or more. Prints a table and exits with 1
# if a check fails. Takes about twenty minutes.  bash benchmarks/check_gpu.sh
# Nobody has run it on several GPUs yet: please report the table.
set -u
cd "$(dirname "$0")/.."
logs=$(mktemp -d)
failed=0

# check NAME COMMAND...: runs a command and prints a row with its last line
check() {
  local name=$1 begun=$SECONDS verdict=ok
  shift
  "$@" > "$logs/$name.log" 2>&1 || { verdict=FAILED; failed=1; }
  grep -q FAILED "$logs/$name.log" && { verdict=FAILED; failed=1; }
  printf '| %s | %s | %s s | %s |\n' "$name" "$verdict" $((SECONDS - begun)) "$(tail -n 1 "$logs/$name.log" | tr '|' '/')"
}

mkdir "$logs/data"
python -c "import pathlib, sys; from tests.training.tiny import write_data; write_data(pathlib.Path(sys.argv[1]))" "$logs/data"
small=(nuclei_r18_fpn "data.train=$logs/data/train.json" 'data.short_sides=[64]' data.long_side=64
       'data.canvases=[[64,64]]' data.batch_size=4 solver.scale_with_batch=false solver.steps=20 solver.warmup_steps=5
       'solver.milestones=[]' train.evaluate_every=0 model.backbone.weights=none)

echo '| check | verdict | time | last line |'
echo '|---|---|---|---|'
check devices python -c "import tensorflow as tf; gpus = tf.config.list_physical_devices('GPU'); print(len(gpus), 'GPUs'); assert len(gpus) > 1"
check equal-replicas python -m benchmarks.check_equality --gpu --ways '1 replica' '2 replicas'
check equal-replicas-xla python -m benchmarks.check_equality --gpu --ways '1 replica, XLA' '2 replicas, XLA'
check deterministic python -m benchmarks.check_equality --gpu --deterministic --ways '1 replica' '1 replica, again'
check precisions python -m benchmarks.check_precision --gpu --xla
check one-device python -m mrcnn_tf.cli.main train "${small[@]}" --model-dir "$logs/one" train.strategy=one_device
check mirrored python -m mrcnn_tf.cli.main train "${small[@]}" --model-dir "$logs/mirrored" train.strategy=mirrored
check two-processes python -m mrcnn_tf.cli.main launch --processes 2 -- train "${small[@]}" --model-dir "$logs/workers"
echo "logs: $logs"
exit "$failed"
