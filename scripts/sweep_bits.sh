#!/usr/bin/env bash
# One method at several widths, and a table of them at the end.
#
#   BITS="8 4 3 2" OUT=runs/bits scripts/sweep_bits.sh --config configs/gptq-w4.yaml --model MODEL --data-dir DATA
#
# All arguments are those of `miq run`. A run that is there already is not done again.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
miq=${MIQ:-$root/build/release/miq}
out=${OUT:-runs/bits}

runs=()
for bits in ${BITS:-8 4 3 2}; do
  run=$out/w$bits
  runs+=("$run")
  [[ -f $run/results.json ]] || "$miq" run "$@" -q --output "$run" --set recipe.grid.bits="$bits" >/dev/null
done
"$root/scripts/results_table.py" "${runs[@]}"
