#!/usr/bin/env bash
# Sets up, builds, and runs the main job on the embedded tiny model: RTN and GPTQ at 8, 4, 3 and 2
# bits, one table at the end. Seconds when repeated.
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/build.sh release
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

runs=build/quickstart
for preset in rtn gptq; do
  for bits in 8 4 3 2; do
    build/release/miq run --config configs/tiny.yaml -q --overwrite --output "$runs/$preset-$bits" \
      --set recipe.preset=$preset --set recipe.grid.bits=$bits >/dev/null
  done
done
python3 - "$runs" <<'PYTHON'
import json, sys
from pathlib import Path

print(f"{'method':8}{'bits':>5}{'bits/weight':>13}{'size':>10}{'perplexity':>12}{'change':>10}")
for preset in ("rtn", "gptq"):
    for bits in (8, 4, 3, 2):
        results = json.loads((Path(sys.argv[1]) / f"{preset}-{bits}" / "results.json").read_text())
        quantization, score = results["quantization"], results["perplexity"][0]
        if (preset, bits) == ("rtn", 8):
            print(f"{'float':8}{16:>5}{16:>13.2f}{results['model']['bytes'] / 2**20:>6.2f} MiB{score['baseline']:>12.4f}{'':>10}")
        print(f"{preset:8}{bits:>5}{quantization['bits_per_weight']:>13.2f}{quantization['bytes'] / 2**20:>6.2f} MiB"
              f"{score['value']:>12.4f}{100 * (score['value'] / score['baseline'] - 1):>+9.2f}%")
PYTHON
