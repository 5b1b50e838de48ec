#!/usr/bin/env bash
# Several methods with one grid, and a table of them at the end. A + joins two: awq+gptq.
#
#   METHODS="rtn gptq awq+gptq" OUT=runs/methods scripts/sweep_methods.sh --config configs/gptq-w4.yaml --model MODEL --data-dir DATA
#
# All arguments are those of `miq run`. A run that is there already is not done again.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
miq=${MIQ:-$root/build/release/miq}
out=${OUT:-runs/methods}

runs=()
for method in ${METHODS:-rtn hqq gptq awq awq+gptq quip+gptq}; do
  run=$out/$method
  runs+=("$run")
  [[ -f $run/results.json ]] || "$miq" run "$@" -q --output "$run" --set recipe.preset="$method" >/dev/null
done
"$root/scripts/results_table.py" "${runs[@]}"
