#!/usr/bin/env bash
# All that needs a GPU: its tests, the search benchmark, CUDA latencies. Figures go to
# benchmarks/results/ (or to the folder given), with the machine and the date in them.
#
#     bash benchmarks/on_gpu.sh [RESULTS] [PART ...]
#
# Parts, all of them by default, with minutes on an H200: search (4), latency (4), tests (2),
# steps (1), unpruned (4). Where a GPU is lent by the minute, give the ones that matter first.
set -uo pipefail
cd "$(dirname "$0")/.."
results=${1:-benchmarks/results}
shift || true
all="search latency tests steps unpruned"
parts=${*:-$all}
for part in $parts; do
  [[ " $all " == *" $part "* ]] || { echo "no part is called $part: $all" >&2 && exit 2; }
done
python=${PYTHON:-python}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$results"
failed=0

# 1,008 synthetic pictures, made once for both searches.
pictures() {
  [ -d "$work/pictures" ] || {
    "$python" -c '
import sys
from pathlib import Path
from bench.data.demo import make_demo
make_demo(Path(sys.argv[1]), pieces_per_class=42, clips_per_piece=4)
' "$work/unfinished" && mv "$work/unfinished" "$work/pictures"
  }
}

# Up to 50 trials x 5 folds x 10 epochs at 224 pixels, ResNet50 and Xception: PRUNER [OPTION ...].
search_speed() {
  local pruner=$1
  pictures && "$python" benchmarks/search_speed.py "$work/pictures" --device cuda --no-pretrained \
    --out "$results/search-speed-cuda-$pruner.json" --pruner "$@"
}

# A small search, its models in all precisions with the gate of each, and their latencies.
latency() {
  local runs=$work/runs
  "$python" -m cli search --trials 5 --device cuda --workspace "$runs" --no-promote &&
    "$python" -m cli promote demo --quick-latency --workspace "$runs" &&
    "$python" -m cli report demo --workspace "$runs" &&
    cp "$runs"/demo/report/report.json "$results/demo-cuda-report.json" &&
    "$python" -m cli latency "$runs"/demo/models/*-best/model*.onnx --device cuda --batch 1,8,32 \
      --timed model,end-to-end,device --against torch,torch-compile --quick \
      --workspace "$runs" --out "$results/latency-cuda.json"
}

for part in $parts; do
  case $part in
    search) search_speed racing ;;
    unpruned) search_speed none --time-limit 150s ;;
    latency) latency ;;
    tests) "$python" -m pytest tests/test_on_cuda.py tests/runtime/test_cuda.py -rs ;;
    steps) "$python" benchmarks/step_times.py --device cuda --out "$results/step-times-cuda.json" ;;
  esac || failed=1
done
exit $failed
