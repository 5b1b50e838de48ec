#!/usr/bin/env python3
"""The table of docs/results.md: perplexity, bits and seconds of every method and combination.

    bench/results.py --model CHECKPOINT --ids IDS.safetensors --data-dir DIR [--windows 5] [--only REGEX] [--out docs/results.md]

Weights at 4, 3 and 2 bits in asymmetric groups of 64 (methods with a grid of their own keep it), and 8-bit
weights with 8-bit inputs. Perplexity: WikiText-2 test, independent windows of 2048 tokens. Peers' figures
come from bench/peers/figures.json, which bench/peers/ makes. A combination is compared with its better part."""
import argparse
import json
import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GROUPED = ["rtn", "hqq", "gptq", "awq", "awq+gptq", "awq+hqq", "quarot+gptq", "quip+gptq"]
OWN_GRID = ["spqr", "quip"]
EIGHT = ["rtn", "smoothquant", "smoothquant+gptq", "zeroquant", "fp8"]


def variants():
    for bits in (4, 3, 2):
        for preset in GROUPED:
            yield preset, f"W{bits}", [f"recipe.preset={preset}", f"recipe.grid.bits={bits}", "recipe.grid.group_size=64"]
        for preset in OWN_GRID:
            yield preset, f"W{bits}", [f"recipe.preset={preset}", f"recipe.grid.bits={bits}"]
    for preset in EIGHT:
        settings = [f"recipe.preset={preset}"]
        if preset == "rtn":
            settings += ["recipe.grid.bits=8", "recipe.grid.granularity=channel", "recipe.grid.symmetric=true", "recipe.activation.bits=8"]
        yield preset, "W8A8", settings


def run(args, settings):
    command = [args.miq, "run", "--model", args.model, "--data-dir", args.data_dir, "--json", "-q"]
    for setting in [f"calibration.ids={args.ids}", "model.dtype=float32", "evaluation.baseline=false",
                    f"evaluation.perplexity=[{{corpus: wikitext2, split: test, windows: {args.windows}}}]", *settings]:
        command += ["--set", setting]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    results = json.loads(done.stdout)
    quantization = results["quantization"]
    return {"perplexity": results["perplexity"][0]["value"], "bits": quantization["bits_per_weight"], "seconds": quantization["seconds"],
            "cpu_seconds": quantization["cpu_seconds"], "peak": quantization["peak_rss_bytes"], "events": len(results["events"])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--ids", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--only", default=".*", help="a regular expression over 'method W3'")
    parser.add_argument("--miq", default=ROOT / "build/release/miq")
    parser.add_argument("--out", type=Path, help="a file whose part between the marks is replaced")
    args = parser.parse_args()
    peers = json.loads((ROOT / "bench/peers/figures.json").read_text())
    found, lines = {}, ["| | method | bits a weight | perplexity | best peer | to its better part | quantizing s | CPU s | MiB |", "|---|---|---|---|---|---|---|---|---|"]
    for preset, width, settings in variants():
        if not re.search(args.only, f"{preset} {width}"):
            continue
        result = found[preset, width] = run(args, settings)
        peer = peers.get(f"{preset} {width}")
        parts = [found[part, width]["perplexity"] for part in preset.split("+") if (part, width) in found] if "+" in preset else []
        lines.append(f"| {width} | {preset} | {result['bits']:.2f} | {result['perplexity']:.2f} | "
                     + (f"{peer['perplexity']:.2f} {peer['name']}" if peer else "") + " | " + (f"{result['perplexity'] / min(parts):.3f}" if parts else "")
                     + f" | {result['seconds']:.1f} | {result['cpu_seconds']:.1f} | {result['peak'] >> 20} |")
        print(lines[-1], flush=True)
    if args.out:
        begin, end = "<!-- table -->\n", "<!-- end of table -->"
        text = args.out.read_text()
        head, tail = text.split(begin)[0], text.split(end)[1]
        args.out.write_text(head + begin + "\n".join(lines) + "\n" + end + tail)


if __name__ == "__main__":
    main()
