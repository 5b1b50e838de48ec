#!/usr/bin/env bash
# Builds the fuzz targets of tests/fuzz with Clang and runs each for SECONDS (default 60), from seeds made by script and
# what earlier runs found in build/fuzz/corpora. Fails on a finding, whose input then lies in build/fuzz/findings.
#   scripts/fuzz.sh [SECONDS] [TARGET...]    targets: safetensors torch_bin gguf tokenizer_json tokenizer_model task yaml
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
targets=("${@:2}")
((${#targets[@]})) || targets=(safetensors torch_bin gguf tokenizer_json tokenizer_model task yaml)

can_fuzz() {
  echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }' |
    clang++ -fsanitize=fuzzer,address,undefined -x c++ - -o /dev/null 2>/dev/null
}
install() {
  echo "fuzz: installing $1"
  command -v apt-get >/dev/null || { echo "fuzz: this is no Debian or Ubuntu; install Clang and its sanitizers" >&2; exit 1; }
  local as_root=()
  [[ $(id -u) == 0 ]] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null
}
command -v clang++ >/dev/null || install clang
can_fuzz || install "libclang-rt-$(clang++ -dumpversion | cut -d. -f1)-dev"  # its sanitizers are a package of their own
./scripts/setup.sh

build=build/fuzz
[[ -f $build/build.ninja ]] || cmake --preset fuzz >/dev/null
cmake --build "$build" --target "${targets[@]/#/fuzz_}" -- --quiet
python=.venv/bin/python
"$python" -c 'import torch' 2>/dev/null || python=python3
"$python" tests/fuzz/make_corpora.py "$build/seeds"

# LibTorch keeps what it allocates at its start; the stacks that ASan keeps for each allocation would fill the limit.
export ASAN_OPTIONS=detect_leaks=0:malloc_context_size=10:${ASAN_OPTIONS:-} UBSAN_OPTIONS=print_stacktrace=1:${UBSAN_OPTIONS:-} OMP_NUM_THREADS=1
mkdir -p "$build/findings"
failed=0
for target in "${targets[@]}"; do
  mkdir -p "$build/corpora/$target"
  log=$build/$target.log
  # Warnings of the readers go nowhere; libFuzzer keeps a way to the log for its own.
  if "$build/tests/fuzz/fuzz_$target" "$build/corpora/$target" "$build/seeds/$target" -dict="$build/seeds/$target.dict" \
      -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=20 -malloc_limit_mb=1024 -max_len=16384 -close_fd_mask=2 \
      -print_final_stats=1 -artifact_prefix="$build/findings/$target-" >"$log" 2>&1; then
    echo "fuzz: $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") executions in $seconds s, no findings"
  else
    failed=1
    echo "fuzz: $target: a finding; its log is $log:" >&2
    grep -v '^#' "$log" | tail -n 60 >&2
  fi
done
exit "$failed"
