#!/usr/bin/env bash
# All that needs a GPU, in one go: its tests, the search benchmark, CUDA latencies. Figures go to
# benchmarks/results/ (or to the folder given), with the machine and the date in them.
#
#     bash benchmarks/on_gpu.sh [RESULTS]
set -uo pipefail
cd "$(dirname "$0")/.."
results=${1:-benchmarks/results}
python=${PYTHON:-python}
mkdir -p "$results"
failed=0

"$python" -m pytest tests/test_on_cuda.py tests/runtime/test_cuda.py -rs || failed=1

"$python" benchmarks/step_times.py --device cuda --out "$results/step-times-cuda.json" || failed=1

# 50 trials x 5 folds x 10 epochs over 1,008 pictures of 224 pixels, as a user would search and with
# every trial trained to its end.
for pruner in racing none; do
  "$python" benchmarks/search_speed.py --device cuda --no-pretrained --pruner "$pruner" \
    --out "$results/search-speed-cuda-$pruner.json" || failed=1
done

work=$(mktemp -d)
"$python" -m cli search --trials 5 --device cuda --workspace "$work/runs" --no-promote || failed=1
"$python" -m cli promote demo --workspace "$work/runs" || failed=1
"$python" -m cli report demo --workspace "$work/runs" || failed=1
cp "$work"/runs/demo/report/report.json "$results/demo-cuda-report.json" || failed=1
"$python" -m cli latency "$work"/runs/demo/models/*/model.onnx --device cpu,cuda --batch 1,8,32 \
  --timed model,end-to-end,device --cuda-graph --against torch,torch-compile \
  --workspace "$work/runs" --out "$results/latency-cuda.json" || failed=1
rm -rf "$work"
exit $failed
