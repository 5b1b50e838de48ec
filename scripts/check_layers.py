#!/usr/bin/env python3
"""Fails when a source includes against the direction of the libraries, or grows past the limit.

    tools/miq -> executor -> { evaluator -> { model, dataset }, format -> quantizer } -> core
"""
import re
import sys
from pathlib import Path

MAY_INCLUDE = {
    "gpu": set(),
    "core": set(),
    "quantizer": {"core"},
    "format": {"quantizer", "core"},
    "model": {"core"},
    "dataset": {"core"},
    "evaluator": {"model", "dataset", "core"},
    "executor": {"evaluator", "model", "dataset", "format", "quantizer", "core"},
}
MAX_LINES = 420
INCLUDE = re.compile(r'#include\s+[<"]miq/(\w+)/')


def main():
    root = Path(__file__).resolve().parent.parent
    problems = []
    for base in ("include/miq", "src"):
        for path in sorted((root / base).rglob("*")):
            if path.suffix not in {".h", ".cpp", ".cu"} or path.parent == root / base:
                continue
            library = path.relative_to(root / base).parts[0]
            lines = path.read_text(encoding="utf-8").splitlines()
            if len(lines) > MAX_LINES:
                problems.append(f"{path.relative_to(root)}: {len(lines)} lines, more than {MAX_LINES}: split it")
            for number, line in enumerate(lines, 1):
                match = INCLUDE.match(line)
                if match and match[1] != library and match[1] not in MAY_INCLUDE[library]:
                    problems.append(f"{path.relative_to(root)}:{number}: {library} may not include {match[1]}")
                if "torch/torch.h" in line:
                    problems.append(f"{path.relative_to(root)}:{number}: include ATen/ATen.h, not torch/torch.h")
    print("\n".join(problems) or "layers: in order")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
