#!/usr/bin/env bash
# Installs what miq builds with: Debian/Ubuntu packages, and LibTorch from the `torch` wheel in .venv.
# Does nothing that is done already, and needs no network then.
#   Torch_DIR            use your own LibTorch (CPU, CUDA or ROCm build) instead of the wheel
#   MIQ_TORCH_INDEX_URL  where pip takes torch from, for example PyTorch's index of CPU-only wheels
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(g++ cmake ninja-build ccache pkg-config python3 python3-venv libyaml-cpp-dev libcli11-dev nlohmann-json3-dev
          libspdlog-dev libsentencepiece-dev libgtest-dev libgmock-dev libpcre2-dev libutf8proc-dev libbenchmark-dev libssl-dev libcpp-httplib-dev)
torch_version=2.13.0

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
# A compiler, CMake and Python that are not Debian's are as good.
have() { command -v "$1" >/dev/null; }
wanted=()
for package in "${missing[@]}"; do
  case "$package" in
    g++) have g++ || wanted+=("$package") ;;
    cmake) have cmake || wanted+=("$package") ;;
    python3) have python3 || wanted+=("$package") ;;
    python3-venv) python3 -c 'import venv, ensurepip' 2>/dev/null || wanted+=("$package") ;;
    *) wanted+=("$package") ;;
  esac
done
if ((${#wanted[@]})); then
  echo "setup: installing ${wanted[*]}"
  have apt-get || { echo "setup: this is no Debian or Ubuntu; install these yourself: ${wanted[*]}" >&2; exit 1; }
  as_root=()
  [[ $(id -u) == 0 ]] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null
fi

if [[ -z ${Torch_DIR:-} ]] && ! .venv/bin/python -c 'import torch' 2>/dev/null; then
  echo "setup: installing torch $torch_version into .venv"
  [[ -x .venv/bin/python ]] || python3 -m venv .venv
  .venv/bin/pip install --quiet ${MIQ_TORCH_INDEX_URL:+--index-url "$MIQ_TORCH_INDEX_URL"} "torch==$torch_version" numpy
fi
