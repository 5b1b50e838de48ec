#!/usr/bin/env bash
# Compiles the fused kernels with the compilers of both vendors for the cards they are meant for, and says so loudly where one is not
# there or does not know a card. With a LibTorch for CUDA, what calls the kernels is compiled against it too.
#
#   scripts/check_gpu.sh [--torch DIR]    DIR: the folder torch of such a LibTorch (include/ below it)
#
# NVCC and HIPCC name the compilers; else PATH and /usr/local/cuda/bin are searched. Exit status: 0 all compiled, 77 nothing could be.
set -euo pipefail
cd "$(dirname "$0")/.."

torch=
if [[ ${1:-} == --torch && $# == 2 ]]; then torch=$2
elif [[ $# != 0 ]]; then echo "usage: scripts/check_gpu.sh [--torch DIR]" >&2; exit 2
fi
if [[ -n $torch && ! -f $torch/include/ATen/ATen.h ]]; then echo "check_gpu: no LibTorch in $torch: include/ATen/ATen.h is not there" >&2; exit 2; fi

find_compiler() {  # value of the variable, name, further folder
  if [[ -n $1 ]]; then command -v "$1" || { echo "check_gpu: $1 cannot be run" >&2; exit 2; }
  else command -v "$2" || { [[ -x $3/$2 ]] && echo "$3/$2"; } || true
  fi
}
nvcc=$(find_compiler "${NVCC:-}" nvcc /usr/local/cuda/bin)
hipcc=$(find_compiler "${HIPCC:-}" hipcc /opt/rocm/bin)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
: >"$out/jobs"

skip() { echo "SKIPPED: $*" >&2; }

# Jobs are lines "log|label|command", run two at a time.
if [[ -n $nvcc ]]; then
  for arch in sm_80 sm_90 sm_100; do
    if ! "$nvcc" --list-gpu-code | grep -qx "$arch"; then skip "$nvcc does not know $arch"; continue; fi
    for source in src/gpu/*.cu; do
      name=$(basename "$source" .cu)
      echo "$out/$name.$arch|$source for $arch|$nvcc -std=c++17 -arch=$arch --fmad=false --Werror all-warnings -Xptxas -v -c $source -o $out/$name.$arch.o" >>"$out/jobs"
    done
  done
else
  skip "no nvcc (NVCC, PATH, /usr/local/cuda/bin): the kernels are not compiled for CUDA"
fi
if [[ -n $hipcc ]]; then
  echo '#include <hip/hip_runtime.h>' >"$out/nothing.hip"
  for arch in gfx90a gfx942; do
    if ! "$hipcc" --offload-arch=$arch -x hip -c "$out/nothing.hip" -o "$out/nothing.o" >"$out/nothing" 2>&1; then
      skip "$hipcc cannot compile for $arch: $(grep -m 1 error "$out/nothing" || tail -n 1 "$out/nothing")"
      continue
    fi
    for source in src/gpu/*.cu; do
      name=$(basename "$source" .cu)
      echo "$out/$name.$arch|$source for $arch|$hipcc --offload-arch=$arch -std=c++17 -O3 -ffp-contract=off -Wall -Werror -x hip -c $source -o $out/$name.$arch.o" >>"$out/jobs"
    done
  done
else
  skip "no hipcc (HIPCC, PATH, /opt/rocm/bin): the kernels are not compiled for ROCm"
fi
if [[ -n $torch ]]; then
  for source in src/core/gpu_kernels.cpp src/core/device*.cpp src/quantizer/*device*.cpp src/quantizer/roundings/*device*.cpp src/model/device*.cpp; do
    name=$(basename "$source" .cpp)
    folder=$(cut -d / -f 1-2 <<<"$source")
    echo "$out/$name.torch|$source with $torch|${CXX:-g++} -std=c++20 -Wall -Werror -fsyntax-only -Iinclude -Isrc -I$folder -isystem $torch/include -isystem $torch/include/torch/csrc/api/include -include src/precompiled.h $source" >>"$out/jobs"
  done
else
  skip "no LibTorch for CUDA named (--torch): what calls the kernels is compiled with the build's alone"
fi
[[ -s $out/jobs ]] || exit 77

compile() {
  IFS='|' read -r log label command <<<"$1"
  if ! $command >"$log" 2>&1; then
    echo "FAILED: $label: $command" >&2
    cat "$log" >&2
    exit 1
  fi
  local kernels spilled
  kernels=$(grep -c "bytes spill stores" "$log" || true)
  spilled=$(grep "bytes spill stores" "$log" | grep -vc " 0 bytes spill stores" || true)
  if [[ $kernels == 0 ]]; then echo "$label: compiles"; else echo "$label: compiles, $kernels kernels, $spilled with spilled registers"; fi
}
export -f compile
xargs -d '\n' -P 2 -I {} bash -c 'compile "$1"' _ {} <"$out/jobs"
