#!/bin/sh
# Compiles the CUDA kernels for the architectures they are meant for; says so loudly where there is no nvcc.
set -eu
cd "$(dirname "$0")/.."
nvcc=$(command -v nvcc || true)
[ -n "$nvcc" ] || [ ! -x /usr/local/cuda/bin/nvcc ] || nvcc=/usr/local/cuda/bin/nvcc
if [ -z "$nvcc" ]; then
  echo "SKIPPED: no nvcc on PATH or in /usr/local/cuda/bin, the CUDA kernels are not checked" >&2
  exit 0
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for source in src/gpu/*.cu; do
  for arch in sm_80 sm_90; do
    "$nvcc" -std=c++17 -arch="$arch" --Werror all-warnings -Xptxas -v -c "$source" -o "$out/kernel.o" 2>"$out/log" || { cat "$out/log"; exit 1; }
    spills=$(grep -c "bytes spill stores" "$out/log" || true)
    bad=$(grep "bytes spill stores" "$out/log" | grep -vc " 0 bytes spill stores" || true)
    echo "$source compiles for $arch ($spills kernels, $bad with spilled registers)"
  done
done
