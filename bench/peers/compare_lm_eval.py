#!/usr/bin/env python3
"""Compares what lm-evaluation-harness logged (--log_samples) of two backends, sample by sample.

    compare_lm_eval.py FOLDER_A FOLDER_B        (what --output_path named)

Prints for each task how many samples agree in every greedy flag and text, and the largest difference of a log-likelihood.
"""
import json
import sys
from pathlib import Path


def read(folder):
    tasks = {}
    for path in sorted(Path(folder).rglob("samples_*.jsonl")):
        name = path.stem.removeprefix("samples_").rsplit("_", 1)[0]
        tasks[name] = {sample["doc_id"]: sample["resps"] for sample in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    if not tasks:
        raise SystemExit(f"no samples_*.jsonl in {folder}: run lm_eval with --log_samples")
    return tasks


def leaves(value):
    if isinstance(value, list):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def number(value):
    try:
        return float(value)
    except ValueError:
        return None


def compare(a, b):
    same, largest, relative = True, 0.0, 0.0
    for x, y in zip(leaves(a), leaves(b), strict=True):
        x_number, y_number = (number(value) if not isinstance(value, bool) else None for value in (x, y))
        if x_number is not None and y_number is not None:
            largest = max(largest, abs(x_number - y_number))
            relative = max(relative, abs(x_number - y_number) / max(abs(x_number), 1))
        elif x != y:
            same = False
    return same, largest, relative


def main():
    a, b = (read(folder) for folder in sys.argv[1:3])
    if a.keys() != b.keys():
        raise SystemExit(f"different tasks: {sorted(a)} and {sorted(b)}")
    for task in sorted(a):
        if a[task].keys() != b[task].keys():
            raise SystemExit(f"{task}: different samples")
        results = [compare(a[task][doc], b[task][doc]) for doc in a[task]]
        print(f"{task}: {sum(same for same, _, _ in results)} of {len(results)} samples agree; log-likelihoods differ by {max(d for _, d, _ in results):.2g} at most, "
              f"relatively by {max(r for _, _, r in results):.2g}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main()
