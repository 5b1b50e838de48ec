#!/usr/bin/env python3
"""Do the numbers of `miq eval` agree with lm-evaluation-harness's HF backend? Every task whose data are on disk, in one call.

    python bench/peers/harness_numbers.py --model SMOLLM2 --data-dir DATA --shots 0,5 --limit 3 --harness-python PYTHON

Runs `miq eval` once over all tasks with its requests in the records, then hands the very same texts to
lm_eval.models.huggingface.HFLM: loglikelihood (choice, context_choice), generate_until (generate), loglikelihood_rolling
(perplexity, mode rolling); letter_logits, which the harness lacks, are read off the same transformers model. A line for each
task and shot count: documents, largest difference, documents whose prediction or text differs. The exit status is 1 if a
difference is above --tolerance (of whole texts: a millionth of their log-likelihood, if that is more) or a prediction differs
whose best two answers are not as near as that. Splits that are not on disk are replaced as golden/prompts were made: shots
from the evaluated split (ANLI: from round 3), `test` by `validation`. Needs torch, transformers, PyYAML and lm_eval 0.4.13.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

ROOT = harness.ROOT


def load_task(path):
    """A task file with what it includes, as a mapping."""
    import yaml
    task = yaml.safe_load(path.read_text())
    if "include" in task:
        name = task.pop("include")
        base = load_task(path.parent / (name if name.endswith(".yaml") else name + ".yaml"))
        for key in ("data", "fewshot", "generation"):
            if isinstance(task.get(key), dict):
                task[key] = {**base.get(key, {}), **task[key]}
        task = {**base, **task}
    return task


def is_there(data_dir, name, split):
    return any((data_dir / name / f"{split}{kind}").exists() for kind in (".jsonl", ".txt"))


def entry_of(name, task, args):
    """What evaluation.tasks says of the task, or None where its data are not on disk."""
    data, fewshot, entry = task["data"], task.get("fewshot", {}), {"task": name}
    if args.limit:
        entry["limit"] = args.limit
    if "{{" in data["set"]:
        folder = args.data_dir / data["set"].split("{{")[0]
        subjects = sorted(d.name for d in folder.glob("*") if is_there(folder, d.name, data["eval"])) if folder.is_dir() else []
        if not subjects:
            return None
        entry["subjects"] = ",".join(subjects[:args.subjects])
        return entry
    split = data["eval"]
    if not is_there(args.data_dir, data["set"], split):
        if not is_there(args.data_dir, data["set"], "validation"):
            return None
        split = entry["split"] = "validation"
    pool = fewshot.get("set", data["set"])
    if "split" in fewshot and not is_there(args.data_dir, pool, fewshot["split"]):
        entry["fewshot_split"] = split
        if name.startswith("anli_r"):
            entry.update(fewshot_set="anli_r3", fewshot_split="train_r3")
    return entry


def plan(args):
    """(evaluation.tasks, the task files' content for each)."""
    folder = ROOT / "configs/tasks"
    names = args.tasks.split(",") if args.tasks else sorted(p.stem for p in folder.glob("*.yaml"))
    entries, tasks = [], []
    for name in names:
        path = Path(name) if name.endswith(".yaml") else folder / f"{name}.yaml"
        task = load_task(path)
        if "tasks" in task or task.get("chat") or (task["shape"] == "perplexity" and task.get("mode", "rolling") != "rolling"):
            continue
        entry = entry_of(name, task, args)
        if entry is None:
            continue
        fewshot = task.get("fewshot", {})
        for shots in args.shots:
            if fewshot.get("fixed"):
                counts = sorted(fewshot["fixed"])
                shots = counts[0] if shots == 0 else counts[-1]
            elif shots > 0 and (fewshot.get("count") == 0 or task["shape"] == "perplexity"):
                continue
            entries.append({**entry, "shots": shots})
            tasks.append(task)
    return entries, tasks


def run_miq(args, entries, folder):
    command = [args.miq, "eval", "--model", args.model, "--data-dir", str(args.data_dir), "--output", str(folder), "-q",
               "--set", "model.dtype=float32", "--set", "evaluation.requests=true", "--set", "evaluation.tasks=" + json.dumps(entries)]
    for setting in args.set:
        command += ["--set", setting]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"# miq: {time.perf_counter() - start:.1f} s, {len(entries)} tasks", flush=True)
    told = json.loads((folder / "results.json").read_text())["tasks"]
    return [[json.loads(line) for line in (folder / task["records"]).read_text().splitlines()] for task in told]


def instances(kind, arguments):
    from lm_eval.api.instance import Instance
    return [Instance(kind, {}, a, i) for i, a in enumerate(arguments)]


def compare_choices(lm, task, records):
    arguments = [(r["context"], r["continuation"]) for record in records for r in record["requests"]]
    theirs = iter(lm.loglikelihood(instances("loglikelihood", arguments), disable_tqdm=True))
    far, other, near_ties = 0.0, 0, 0
    for record in records:
        ours, values = record["loglikelihoods"], [next(theirs)[0] for _ in record["requests"]]
        far = max(far, max(abs(a - b) for a, b in zip(ours, values)))
        if harness.best(ours) != harness.best(values):
            other += 1
            near_ties += abs(values[harness.best(ours)] - max(values)) < 2e-3
    return {"largest_difference": far, "allowed": None, "other_predictions": other - near_ties, "near_ties": near_ties}


def compare_letters(lm, task, records):
    import torch
    far, other = 0.0, 0
    letters = [lm.tok_encode(letter)[-1] for letter in task["choices"]]
    for record in records:
        ids = lm.tok_encode(record["requests"][0]["context"])[-lm.max_length:]
        with torch.no_grad():
            values = lm.model(torch.tensor([ids])).logits[0, -1, letters].tolist()
        far = max(far, max(abs(a - b) for a, b in zip(record["loglikelihoods"], values)))
        other += harness.best(record["loglikelihoods"]) != harness.best(values)
    return {"largest_difference": far, "allowed": None, "other_predictions": other}


def compare_texts(lm, task, records):
    limits = task.get("generation", {})
    until = limits.get("until", [task.get("fewshot", {}).get("delimiter", "\n\n")])
    kwargs = {"until": until, "max_gen_toks": limits.get("max_new_tokens", 256), "do_sample": False}
    theirs = lm.generate_until(instances("generate_until", [(r["requests"][0]["context"], dict(kwargs)) for r in records]), disable_tqdm=True)
    other = 0
    for record, text in zip(records, theirs):
        own = record.get("text", record["prediction"])
        if own != text:
            other += 1
            print(f"# document {record['doc']}: {own!r}\n#      harness: {text!r}", flush=True)
    return {"largest_difference": 0.0, "allowed": None, "other_predictions": other}


def compare_rolling(lm, task, records):
    theirs = lm.loglikelihood_rolling(instances("loglikelihood_rolling", [(r["requests"][0]["continuation"],) for r in records]), disable_tqdm=True)
    far = max(abs(r["loglikelihoods"][0] - value) for r, value in zip(records, theirs))
    return {"largest_difference": far, "allowed": 1e-6 * max(abs(value) for value in theirs), "other_predictions": 0}


COMPARE = {"choice": compare_choices, "context_choice": compare_choices, "letter_logits": compare_letters,
           "generate": compare_texts, "perplexity": compare_rolling}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--tasks", help="names or paths of task files, separated by commas; default: all whose data are there")
    parser.add_argument("--shots", default="0,5", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--limit", type=int, default=3, help="documents of each subject")
    parser.add_argument("--subjects", type=int, default=2, help="of tasks with subjects: the first so many")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--set", action="append", default=[], help="more settings for miq")
    parser.add_argument("--miq", default=str(ROOT / "build/release/miq"))
    args = harness.parse_under_harness(parser, __file__)
    args.dtype, args.batch_size = "float32", 1
    entries, tasks = plan(args)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run_miq(args, entries, Path(folder))
    lm = harness.load_harness(args)
    bad, documents, largest = 0, 0, 0.0
    for entry, task, records in zip(entries, tasks, outcomes):
        found = COMPARE[task["shape"]](lm, task, records)
        good = found["largest_difference"] <= max(args.tolerance, found.pop("allowed") or 0) and not found["other_predictions"]
        bad += not good
        documents += len(records)
        largest = max(largest, found["largest_difference"])
        found["largest_difference"] = round(found["largest_difference"], 7)
        row = {"task": entry["task"], "shots": entry["shots"], "shape": task["shape"], "documents": len(records), **found, "good": good}
        print(json.dumps(row), flush=True)
    print(f"# {len(entries)} tasks and shot counts, {documents} documents, largest difference {largest:.2e}, not as the harness: {bad}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
