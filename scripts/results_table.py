#!/usr/bin/env python3
"""Runs as a Markdown table, from their results.json: bits, size, time, perplexity and tasks.

    scripts/results_table.py RUN...
"""
import json
import sys
from pathlib import Path


def shown(value, digits=4):
    return "-" if value is None else f"{value:.{digits}f}"


def columns(results):
    """Name -> text of one run."""
    quantization = results.get("quantization")
    found = {}
    if quantization:
        found = {"bits/weight": shown(quantization["bits_per_weight"], 2), "MiB": shown(quantization["bytes"] / 2**20, 2), "seconds": shown(quantization["seconds"], 1)}
    for score in results["perplexity"]:
        name = Path(score["corpus"]).stem
        if score["baseline"] is not None:
            found[f"{name} before"] = shown(score["baseline"])
        found[name] = shown(score["value"])
    for task in results["tasks"]:
        metric, figures = next(iter(task["metrics"].items()))
        name = f"{task['task']} {metric}, {task['shots']} shots"
        if figures.get("baseline") is not None:
            found[f"{name}, before"] = shown(figures["baseline"])
        found[name] = shown(figures["value"])
    return found


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    runs = {}
    for folder in sys.argv[1:]:
        try:
            runs[Path(folder).name] = columns(json.loads((Path(folder) / "results.json").read_text()))
        except (OSError, ValueError, KeyError) as problem:
            sys.exit(f"{folder}: no results of a miq run: {problem}")
    names = list(dict.fromkeys(name for run in runs.values() for name in run))
    rows = [["run", *names]] + [[run, *(found.get(name, "-") for name in names)] for run, found in runs.items()]
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        print("| " + " | ".join(text.ljust(width) for text, width in zip(row, widths)) + " |")


if __name__ == "__main__":
    main()
