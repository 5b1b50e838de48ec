#!/usr/bin/env bash
# All evidence of a GPU in one call, in less than eight minutes, on a machine that has LibTorch (a wheel of torch for
# CUDA or ROCm), CMake, ninja, a C++ compiler and nvcc or hipcc, and need not reach anything else:
#
#   bench/gpu.sh --pack            where the other libraries are installed: puts them into build/gpu-libraries, to travel along
#   bench/gpu.sh                   builds with the kernels, runs the tests labelled gpu, then gpu_bench; a table and build/gpu-evidence/evidence.json
#   bench/gpu.sh --dry-run         what it would do, with what it finds on this machine
#
#   --out DIR         where results go (default build/gpu-evidence)
#   --sizes LIST      synthetic models (default 7b,13b)
#   --golden DIR      golden cases (default MIQ_GOLDEN_DIR, else ../shared/golden, else golden/ in the libraries' folder)
#   --parts LIST      of the golden cases, what --pack takes along (default algorithms,models,formats: 55 MB; the first two are 30)
#   --libraries DIR   what --pack made (default build/gpu-libraries, if it is there)
#   --no-build        build/gpu is there already
set -euo pipefail
cd "$(dirname "$0")/.."

mode=run out=build/gpu-evidence sizes=7b,13b libraries=build/gpu-libraries golden=${MIQ_GOLDEN_DIR:-} parts=algorithms,models,formats build=1
while (($#)); do
  case "$1" in
    --dry-run) mode=dry ;;
    --pack) mode=pack ;;
    --no-build) build=0 ;;
    --out) out=$2; shift ;;
    --sizes) sizes=$2; shift ;;
    --golden) golden=$2; shift ;;
    --parts) parts=$2; shift ;;
    --libraries) libraries=$2; shift ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) echo "gpu.sh: unknown option '$1' (see --help)" >&2; exit 2 ;;
  esac
  shift
done

fail() { echo "gpu.sh: $*" >&2; exit 3; }

# What the build needs beside LibTorch, as Debian packages it. Static libraries of OpenSSL are large and not used.
packages=(libyaml-cpp-dev libyaml-cpp0.7 libcli11-dev nlohmann-json3-dev libspdlog-dev libspdlog1.10 libfmt-dev libfmt9 libsentencepiece-dev libsentencepiece0
          libprotobuf-lite32 libgtest-dev libgmock-dev googletest libpcre2-dev libpcre2-8-0 libpcre2-posix3 libutf8proc-dev libutf8proc2 libssl-dev libssl3
          libcpp-httplib-dev libcpp-httplib0.11 libbrotli-dev libbrotli1 zlib1g zlib1g-dev pkgconf-bin pkgconf libpkgconf3)
pack() {
  rm -rf "$libraries.partial"
  mkdir -p "$libraries.partial"
  local package path
  for package in "${packages[@]}"; do
    dpkg-query -W "$package" >/dev/null 2>&1 || continue  # other releases number their libraries otherwise
    dpkg -L "$package" | grep -vE '/share/(doc|man|info|lintian)|/libssl\.a$|/libcrypto\.a$|/engines-3/|/ossl-modules/|/libpcre2-(16|32)|/usr/src/' || true
  done | sed 's#^/lib/#/usr/lib/#' | grep -vx /lib | sort -u | while read -r path; do
    if [[ -f $path || -L $path ]]; then echo "${path#/}"; fi
  done >"$libraries.partial/list"
  tar -C / --no-recursion -cf - -T "$libraries.partial/list" | tar -C "$libraries.partial" -xf -
  # A compiler looks there by itself under / only.
  cp -a "$libraries.partial/usr/include/$(gcc -print-multiarch)/." "$libraries.partial/usr/include/"
  if [[ -d ${golden:-../shared/golden} ]]; then
    local chosen
    IFS=, read -ra chosen <<<"$parts"
    tar -C "${golden:-../shared/golden}" -cJf "$libraries.partial/golden.tar.xz" "${chosen[@]}"
  fi
  rm -rf "$libraries"
  mv "$libraries.partial" "$libraries"
  echo "gpu.sh: $(du -sh "$libraries" | cut -f1) in $libraries: take it along with the source"
}
[[ $mode != pack ]] || { pack; exit 0; }

# What this machine has.
python=$(command -v python3 || true)
for candidate in .venv/bin/python ${VIRTUAL_ENV:+"$VIRTUAL_ENV/bin/python"} "$python"; do
  [[ -n $candidate ]] && "$candidate" -c 'import torch' 2>/dev/null && { torch_python=$candidate; break; }
done
torch_dir=${Torch_DIR:-}
torch_kind=unknown
if [[ -n ${torch_python:-} ]]; then
  [[ -n $torch_dir ]] || torch_dir=$("$torch_python" -c 'import torch.utils; print(torch.utils.cmake_prefix_path)')/Torch
  torch_kind=$("$torch_python" -c 'import torch; print("HIP" if torch.version.hip else "CUDA" if torch.version.cuda else "CPU")')
fi
nvcc=${NVCC:-$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || true)}
hipcc=${HIPCC:-$(command -v hipcc || true)}
gpu=CUDA
[[ $torch_kind != HIP ]] || gpu=HIP
[[ $gpu == HIP ]] && toolkit=$hipcc || toolkit=$nvcc
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d . || true)
architecture=${architecture:-90}
card=$( (nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || rocm-smi --showproductname) 2>/dev/null | head -1 || true)
[[ -d $libraries ]] && libraries=$(realpath "$libraries") || libraries=
if [[ -z $golden && -d ../shared/golden ]]; then golden=$(realpath ../shared/golden); fi
if [[ -z $golden && -f $libraries/golden.tar.xz ]]; then golden=$libraries/golden; fi

configure=(cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release "-DMIQ_GPU=$gpu" "-DTorch_DIR=$torch_dir" -DMIQ_BUILD_TESTS=ON)
if [[ $gpu == CUDA && -n $toolkit ]]; then
  root=$("$toolkit" --dryrun -c x.cu 2>&1 | sed -n 's/^#\$ TOP=//p' | head -1)
  root=$(realpath "${root:-$(dirname "$toolkit")/..}")
  export PATH="$root/bin:$PATH"  # where nvcc was a wrapper, Torch's package would look around that
  configure+=("-DCMAKE_CUDA_COMPILER=$root/bin/nvcc" "-DCUDA_TOOLKIT_ROOT_DIR=$root" "-DCUDAToolkit_ROOT=$root" "-DCMAKE_CUDA_ARCHITECTURES=$architecture")
  # Torch's package links nvrtc, which a small toolkit lacks and the wheel of torch brings along.
  if ! compgen -G "$root/lib*/libnvrtc.so" >/dev/null && [[ -n ${torch_python:-} ]]; then
    nvrtc=$("$torch_python" -c 'import glob, os, torch; print(*glob.glob(os.path.join(os.path.dirname(torch.__path__[0]), "nvidia", "*", "lib", "libnvrtc.so.*"))[:1])')
    [[ -z $nvrtc ]] || configure+=("-DCUDA_nvrtc_LIBRARY=$nvrtc")
  fi
fi
if [[ -n $libraries ]]; then
  multiarch=$(gcc -print-multiarch)
  configure+=("-DCMAKE_PREFIX_PATH=$libraries/usr" "-DCMAKE_BUILD_RPATH=$libraries/usr/lib/$multiarch" "-DCMAKE_EXE_LINKER_FLAGS=-Wl,-rpath-link,$libraries/usr/lib/$multiarch")
fi
targets=(test_gpu test_core test_quantizer test_model test_format test_evaluator test_executor gpu_bench miq)
build_command=(cmake --build build/gpu --target "${targets[@]}")
test_command=(ctest --test-dir build/gpu -L '^gpu$' --output-on-failure --no-tests=error --output-junit "$out/tests.xml")
bench_command=(build/gpu/bench/gpu_bench --device cuda --size "$sizes" --out "$out/bench.json")

if [[ $mode == dry ]]; then
  cat <<TEXT
On this machine:
  card       ${card:-none seen: the tests would be skipped, and gpu_bench would not start}
  LibTorch   ${torch_dir:-none: set Torch_DIR, or install a wheel of torch} ($torch_kind$([[ $torch_kind != CPU ]] || echo ": one for CUDA or ROCm is needed"))
  toolkit    ${toolkit:-none: nvcc or hipcc is needed}
  libraries  ${libraries:-those of the system (where they are missing: bench/gpu.sh --pack on a machine that has them)}
  golden     ${golden:-none: golden cases would be skipped}
It would
  1. configure and build:   ${configure[*]}
                            ${build_command[*]}
  2. check correctness:     ${test_command[*]}
     (kernels against their CPU twins; golden algorithms, models and formats on the card)
  3. measure:               ${bench_command[*]}
     (GPTQ, AWQ and RTN at 4 bits of synthetic models $sizes, 128 x 2048 tokens; prefill and decoding of packed W4 against bfloat16; the packed products)
  4. tell:                  a table, and $out/evidence.json with all figures
TEXT
  exit 0
fi

[[ -n ${torch_dir:-} ]] || fail "no LibTorch: set Torch_DIR, or install a wheel of torch for CUDA or ROCm"
[[ $torch_kind != CPU ]] || fail "this LibTorch ($torch_dir) is built for CPUs: set Torch_DIR to one for CUDA or ROCm"
[[ -n $toolkit ]] || fail "no ${gpu/CUDA/nvcc}: put the toolkit's compiler on PATH"
mkdir -p "$out"
started=$SECONDS
if [[ $golden == "$libraries/golden" && ! -d $golden ]]; then mkdir "$golden" && tar -C "$golden" -xJf "$libraries/golden.tar.xz"; fi
if [[ -n $libraries ]]; then
  export PKG_CONFIG_SYSROOT_DIR=$libraries PKG_CONFIG_LIBDIR=$libraries/usr/lib/$multiarch/pkgconfig:$libraries/usr/share/pkgconfig
  if ! command -v pkg-config >/dev/null; then
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$libraries/usr/lib/$multiarch" "$libraries/usr/bin/pkgconf" >"$out/pkg-config"
    chmod +x "$out/pkg-config"
    configure+=("-DPKG_CONFIG_EXECUTABLE=$(realpath "$out/pkg-config")")
  fi
fi
[[ -z $golden ]] || export MIQ_GOLDEN_DIR=$golden
[[ ! -d $golden/formats ]] || export MIQ_REQUIRE_GOLDEN=1
if ((build)); then
  "${configure[@]}" >"$out/build.log" 2>&1 || { tail -30 "$out/build.log" >&2; fail "configuring failed ($out/build.log)"; }
  "${build_command[@]}" >>"$out/build.log" 2>&1 || { grep -m5 -A5 -E 'error|FAILED' "$out/build.log" >&2; fail "the build failed ($out/build.log)"; }
fi
built=$SECONDS
tests=0
"${test_command[@]}" || tests=$?
tested=$SECONDS
bench=0
# Everything ends within eight minutes, but no less than half of that goes to the benchmark.
left=$((470 - (tested - started)))
"${bench_command[@]}" --seconds "$((left > 240 ? left : 240))" || bench=$?
python3 bench/gpu_report.py --out "$out" --card "$card" --torch "$torch_kind" --seconds "$((built - started))" "$((tested - built))" "$((SECONDS - tested))"
((tests == 0 && bench == 0))
