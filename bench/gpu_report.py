#!/usr/bin/env python3
"""The evidence of bench/gpu.sh as a table and as evidence.json: what ctest and gpu_bench left in --out."""
import argparse
import json
import xml.etree.ElementTree as xml
from pathlib import Path

LIMITS = {  # what is asked for: (of which figure, bound)
    "GPTQ of a 7B, seconds": ("<=", 90),
    "GPTQ of a 7B, times the least": ("<=", 2),
    "decoding W4 of a 7B, times bfloat16": (">=", 2.5),
    "decoding W4 of a 7B, share of the bandwidth": (">=", 0.7),
}


def table(rows):
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def read_tests(path):
    if not path.exists():
        return []
    return [{"name": case.get("name"), "status": case.get("status"), "seconds": float(case.get("time") or 0)} for case in xml.parse(path).getroot().iter("testcase")]


def decoded(model, weights):
    return next((entry for entry in model["decoding"] if entry["weights"] == weights), None)


def judge(bench):
    found = {}
    for model in bench.get("models", []):
        if model["size"] != "7b":
            continue
        for entry in model["quantization"]:
            if entry["method"] == "gptq":
                found["GPTQ of a 7B, seconds"] = entry["seconds"]
                found["GPTQ of a 7B, times the least"] = entry["seconds"] / entry["least_seconds"]
        packed, dense = decoded(model, "W4"), decoded(model, "bfloat16")
        if packed and dense:
            rate = packed["measured"][0]["decode_tokens_per_second"]
            found["decoding W4 of a 7B, times bfloat16"] = rate / dense["measured"][0]["decode_tokens_per_second"]
            found["decoding W4 of a 7B, share of the bandwidth"] = rate * packed["measured"][0]["decode_bytes"] / packed["bandwidth"]
    verdicts = []
    for what, (operator, bound) in LIMITS.items():
        value = found.get(what)
        met = value is not None and (value <= bound if operator == "<=" else value >= bound)
        verdicts.append({"what": what, "value": value, "bound": f"{operator} {bound}", "met": met})
    return verdicts


def show(evidence):
    bench = evidence["bench"]
    print(f"\n{evidence['card'] or 'no card was told of'}; LibTorch for {evidence['libtorch']}")
    print("seconds: build {build}, tests {tests}, benchmark {bench}\n".format(**evidence["seconds"]))
    print(table([["test", "status", "seconds"]] + [[test["name"], test["status"], f"{test['seconds']:.1f}"] for test in evidence["tests"]]))
    if not bench:
        print("\nno benchmark: see above")
        return
    print(f"\n{bench['device']}: reads {bench['bandwidth'] / 1e9:.0f} GB/s, multiplies bfloat16 at {bench['matrix_rate_bfloat16'] / 1e12:.0f} and float32 at {bench['matrix_rate_float32'] / 1e12:.1f} Top/s\n")
    rows = [["model", "method", "seconds", "least", "times", "device GiB", "phases"]]
    for model in bench["models"]:
        for entry in model["quantization"]:
            least = entry["least_seconds"]
            phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in entry["seconds_by_phase"].items() if seconds >= 0.05)
            rows.append([model["size"], entry["method"], f"{entry['seconds']:.1f}", f"{least:.1f}", f"{entry['seconds'] / least:.2f}" if least else "",
                         f"{entry['peak_device_bytes'] / 2**30:.1f}", phases])
    print(table(rows))
    rows = [["model", "weights", "prefill tok/s", "decode tok/s", "of bandwidth"]]
    for model in bench["models"]:
        for entry in model["decoding"]:
            measured = entry["measured"][0]
            rate = measured["decode_tokens_per_second"]
            rows.append([model["size"], entry["weights"], f"{measured['prefill_tokens_per_second']:.0f}", f"{rate:.1f}", f"{100 * rate * measured['decode_bytes'] / entry['bandwidth']:.0f} %"])
    print("\n" + table(rows))
    if bench.get("packed_products"):
        rows = [["packed product", "bits", "us", "of bandwidth"]]
        for entry in bench["packed_products"]:
            rows.append([f"{entry['rows']} x {entry['columns']}", str(entry["bits"]), f"{entry['microseconds']:.1f}", f"{100 * entry['of_bandwidth']:.0f} %"])
        print("\n" + table(rows))
    for what in bench.get("left_out", []):
        print(f"\nLEFT OUT, no time: {what}")
    if evidence["limits"]:
        rows = [["asked for", "bound", "measured", "met"]]
        for limit in evidence["limits"]:
            rows.append([limit["what"], limit["bound"], "not measured" if limit["value"] is None else f"{limit['value']:.2f}", "yes" if limit["met"] else "NO"])
        print("\n" + table(rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--card", default="")
    parser.add_argument("--torch", default="")
    parser.add_argument("--seconds", type=int, nargs=3, default=[0, 0, 0], metavar=("BUILD", "TESTS", "BENCH"))
    args = parser.parse_args()
    path = args.out / "bench.json"
    bench = json.loads(path.read_text()) if path.exists() else {}
    evidence = {"card": args.card, "libtorch": args.torch, "seconds": dict(zip(("build", "tests", "bench"), args.seconds)),
                "tests": read_tests(args.out / "tests.xml"), "bench": bench, "limits": judge(bench) if bench else []}
    (args.out / "evidence.json").write_text(json.dumps(evidence, indent=1) + "\n")
    show(evidence)


if __name__ == "__main__":
    main()
