#!/usr/bin/env bash
# Several calibration sets and numbers of samples, and a table of them at the end.
#
#   DATASETS="wikitext2 c4" SAMPLES="32 128" OUT=runs/calibration scripts/sweep_calibration.sh --config configs/gptq-w4.yaml --model MODEL --data-dir DATA
#
# All arguments are those of `miq run`. A run that is there already is not done again.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
miq=${MIQ:-$root/build/release/miq}
out=${OUT:-runs/calibration}

runs=()
for dataset in ${DATASETS:-wikitext2 c4}; do
  for samples in ${SAMPLES:-16 64 128}; do
    name=$(basename "$dataset")
    run=$out/${name%.*}-$samples
    runs+=("$run")
    [[ -f $run/results.json ]] || "$miq" run "$@" -q --output "$run" --set calibration.dataset="$dataset" --set calibration.samples="$samples" >/dev/null
  done
done
"$root/scripts/results_table.py" "${runs[@]}"
