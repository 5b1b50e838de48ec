#!/usr/bin/env python3
"""miq beside the peers on one GPTQ job: CPU seconds, wall time, peak memory, perplexity.

    bench/peers/compare.py --model CHECKPOINT --ids IDS.safetensors [--bits 4] [--sym] [--group 64]
                           [--runs 3] [--peers llmcompressor,gptqmodel] [--venv .venv-peers] [--text TEXT.txt]

The script sets the peers up in a virtual environment of their own (`--setup` alone does only that),
alternates the runs so that a machine that drifts drifts for all, and prints ratios to the fastest
peer, and miq's distance to the limit: its time over one forward pass and the Hessians' products at the
matrix rate measured in the same run. IDS holds `ids` [samples, seqlen] int64. TEXT, when given, is
tokenised with the checkpoint's own tokenizer and scored in windows of 2048 by miq for every result.
"""
import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = {"llmcompressor": ["llmcompressor==0.14.0.1", "transformers==5.17.0"], "gptqmodel": ["gptqmodel==7.6.0"]}


def setup(venv, peers):
    python = venv / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin/pip", "install", "-q", "torch==2.13.0"], check=True)
    for peer in peers:
        if subprocess.run([python, "-c", f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{peer}') is None)"]).returncode:
            subprocess.run([venv / "bin/pip", "install", "-q", *PACKAGES[peer]], check=True)
    return python


def environment():
    threads = str(len(os.sched_getaffinity(0)))
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": threads, "GPTQMODEL_CPU_WORKERS": threads, "HF_HUB_OFFLINE": "1"}


def measure(command):
    """Runs a command; its wall and CPU seconds and peak resident bytes."""
    start = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {command}\n{output[-4000:]}")
    return {"wall": time.monotonic() - start, "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * 1024, "output": output}


def miq_command(args, output):
    return [args.miq, "quantize", "--model", args.model, "--output", output, "-q", "--set", "recipe.preset=gptq",
            "--set", f"calibration.ids={args.ids}", "--set", f"recipe.grid.bits={args.bits}", "--set", f"recipe.grid.group_size={args.group}",
            "--set", f"recipe.grid.symmetric={str(args.sym).lower()}", "--set", "export.format=dequantized"]


def peer_command(args, python, peer, output):
    return [python, Path(__file__).with_name(f"run_{peer}.py"), args.model, args.ids, output, args.bits, args.group, int(args.sym)]


def perplexity(args, model):
    result = subprocess.run([args.miq, "eval", "--model", model, "--json", "-q", "--set", "model.dtype=float32",
                             "--set", f"evaluation.perplexity=[{{corpus: {args.text}, windows: 5}}]"], capture_output=True, text=True, env=environment())
    return json.loads(result.stdout)["perplexity"][0]["value"] if result.returncode == 0 else float("nan")


def limit_seconds(args, python):
    """One forward pass and the Hessians of the linears at the measured bfloat16 (or float32) rate."""
    code = """
import json, sys, time, torch
from safetensors import safe_open
config = json.load(open(sys.argv[1] + "/config.json"))
with safe_open(sys.argv[2], "pt") as f: tokens = f.get_tensor("ids").numel()
h, i, l = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
kv = h * config.get("num_key_value_heads", config["num_attention_heads"]) // config["num_attention_heads"]
flops = 2 * tokens * l * (2 * h * h + 2 * h * kv + 3 * h * i) + tokens * l * (3 * h * h + i * i)
flags = open("/proc/cpuinfo").read()
dtype = torch.bfloat16 if "avx512_bf16" in flags or "amx_bf16" in flags else torch.float32
a, b = torch.randn(4096, h).to(dtype), torch.randn(i, h).to(dtype)
rate = 0
for _ in range(20):
    start = time.perf_counter(); torch.nn.functional.linear(a, b); rate = max(rate, 2 * 4096 * h * i / (time.perf_counter() - start))
print(flops / rate)
"""
    return float(subprocess.run([python, "-c", code, args.model, args.ids], capture_output=True, text=True, check=True, env=environment()).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--ids", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--sym", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", default="llmcompressor")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-peers")
    parser.add_argument("--miq", type=Path, default=ROOT / "build/release/miq")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--setup", action="store_true", help="only set the peers up")
    args = parser.parse_args()
    peers = [peer for peer in args.peers.split(",") if peer]
    python = setup(args.venv, peers)
    if args.setup:
        return
    if not args.model or not args.ids:
        parser.error("--model and --ids are needed")
    work = Path(tempfile.mkdtemp(prefix="miq-peers-"))
    runs, scores = {name: [] for name in ["miq", *peers]}, {}
    try:
        for number in range(args.runs):
            for name in runs:
                output = work / f"{name}-{number}"
                runs[name].append(measure(miq_command(args, output) if name == "miq" else peer_command(args, python, name, output)))
                print(f"run {number + 1} {name}: wall {runs[name][-1]['wall']:.1f} s, CPU {runs[name][-1]['cpu']:.1f} s", flush=True)
                if args.text and name not in scores:
                    scores[name] = perplexity(args, output / "model" if name == "miq" else output)
                shutil.rmtree(output, ignore_errors=True)
        limit = limit_seconds(args, python)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    median = {name: {key: statistics.median(run[key] for run in values) for key in ("wall", "cpu", "peak")} for name, values in runs.items()}
    fastest = min((m["cpu"] for name, m in median.items() if name != "miq"), default=float("nan"))
    print(f"\n{'':16}{'wall s':>9}{'CPU s':>9}{'peak MiB':>10}{'CPU / fastest peer':>20}{'perplexity':>12}")
    for name, m in median.items():
        print(f"{name:16}{m['wall']:>9.1f}{m['cpu']:>9.1f}{m['peak'] / 2**20:>10.0f}{m['cpu'] / fastest:>20.3f}{scores.get(name, float('nan')):>12.3f}")
    print(f"\nlimit (forward + Hessians at the measured rate): {limit:.1f} s; miq's wall time is {median['miq']['wall'] / limit:.1f} times that")


if __name__ == "__main__":
    main()
