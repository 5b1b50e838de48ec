#!/usr/bin/env bash
# Sets up where needed and builds a preset (default: release).
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup.sh
preset=${1:-release}
[[ -f build/$preset/build.ninja ]] || cmake --preset "$preset" >/dev/null
cmake --build --preset "$preset" -- --quiet
