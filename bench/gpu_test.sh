#!/usr/bin/env bash
# bench/gpu.sh without a card: what --dry-run tells, what it refuses, and its table, made of a tiny model's figures on the CPU.
#   gpu_test.sh GPU_BENCH
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bench=$1
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
fail() { echo "gpu_test: $*" >&2; exit 1; }

"$here/gpu.sh" --dry-run --sizes 7b >"$out/dry"
for line in 'check correctness' 'gpu_bench --device cuda --size 7b' 'ctest --test-dir build/gpu' 'evidence.json'; do
  grep -q -- "$line" "$out/dry" || fail "--dry-run does not tell of '$line'"
done
"$here/gpu.sh" --help | grep -q -- '--pack' || fail "--help does not tell of --pack"
status=0
"$here/gpu.sh" --nonsense 2>/dev/null || status=$?
[[ $status == 2 ]] || fail "an unknown option ends with $status"

"$bench" --size tiny --device cpu --samples 4 --tokens 64 --context 16 --new-tokens 4 --out "$out/bench.json"
cat >"$out/tests.xml" <<'XML'
<testsuite name="t"><testcase name="gpu_kernels.gpu" status="run" time="1.5"/><testcase name="model.gpu" status="notrun" time="0"/></testsuite>
XML
python3 "$here/gpu_report.py" --out "$out" --card "a card" --torch CUDA --seconds 1 2 3 >"$out/table"
for line in 'gpu_kernels.gpu *run *1.5' 'tiny *gptq' 'tiny *awq' 'tiny *rtn' 'tiny *W4' 'tiny *bfloat16' 'GPTQ of a 7B, seconds *<= 90 *not measured *NO'; do
  grep -qE -- "$line" "$out/table" || { cat "$out/table"; fail "the table lacks '$line'"; }
done
python3 -c 'import json, sys; e = json.load(open(sys.argv[1])); assert len(e["bench"]["models"][0]["quantization"]) == 3 and len(e["tests"]) == 2' "$out/evidence.json"
"$bench" --size nonsense --device cpu 2>"$out/error" && fail "a wrong size is taken"
grep -q "unknown size 'nonsense'" "$out/error" || fail "a wrong size is not named"
