#!/usr/bin/env python3
"""Do the figures of `miq eval` agree with lm-evaluation-harness's own pipeline? Its tasks, its prompts, its metrics, miq's answers.

    python bench/peers/harness_pipeline.py --model tests/fixtures/tiny-llama --data-dir DATA --limit 40 --harness-python PYTHON

Runs `miq eval` over the tasks, then lm_eval.simple_evaluate over the harness's task of the same name, with the data from the
same files. The harness's model is one that looks up what miq answered to the very same text: a prompt that differs by a
character is counted as unknown, and what is compared are the figures and their standard errors. (Whether the answers
themselves are the harness's: harness_numbers.py.) The exit status is 1 if anything differs. Needs lm_eval 0.4.13 with
rouge_score and sacrebleu.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import harness

SAME = ["wnli", "hellaswag", "swag", "piqa", "mutual", "mutual_plus", "pubmedqa", "openbookqa", "sciq", "arc_easy", "arc_challenge", "mc_taco", "mnli",
        "mnli_mismatch", "rte", "qnli", "sst2", "anli_r3", "winogrande", "wsc273", "crows_pairs_english", "gsm8k", "wikitext", "truthfulqa_mc1",
        "truthfulqa_mc2", "truthfulqa_gen", "qa4mre_2013", "race", "mathqa", "anli_r1", "anli_r2"]
RENAMED = {"ceval/law": "ceval-valid_law", "ceval/accountant": "ceval-valid_accountant", "cmmlu/anatomy": "cmmlu_anatomy", "mmlu/anatomy": "mmlu_anatomy",
           "mmlu/virology": "mmlu_virology", "blimp/wh_island": "blimp_wh_island", "blimp/passive_1": "blimp_passive_1", "cnn_dailymail": "cnn_dailymail_abisee"}

# The harness's names of figures that have others here.
FIGURES = {"truthfulqa_mc2": {"mc2": "acc"}}
# Its mutual task takes argmax over (log-likelihood, greedy) pairs laid out in one row, so that r@1 says where the first 0 stands.
ITS_DEFECTS = {"mutual": ["r@1", "r@2"], "mutual_plus": ["r@1", "r@2"]}


def staged_entry(name, args):
    """What evaluation.tasks says, with splits that are on disk."""
    entry = {"task": name, "shots": args.shots, "limit": args.limit}
    if name == "race":
        entry.update(split="validation", fewshot_split="validation")
    if name == "mathqa":
        entry.update(fewshot_split="test")
    if name in ("anli_r1", "anli_r2"):
        entry.update(fewshot_split="train_r3", fewshot_set="anli_r3")
    return entry


def data_files(name, task, args, folder):
    """The harness's splits as local files, or None where its evaluated one is missing."""
    set_name = {"mnli_mismatch": "glue_mnli_mismatched", "race": "race_high", "truthfulqa_mc1": "truthfulqa_mc", "truthfulqa_mc2": "truthfulqa_mc",
                "wikitext": "wikitext2_document_level"}.get(name, name)
    if not (args.data_dir / set_name).is_dir():
        set_name = "glue_" + set_name
    root = args.data_dir / set_name
    files = {}
    for role in ("training_split", "validation_split", "test_split", "fewshot_split"):
        split = task.get(role)
        if split and (root / f"{split}.jsonl").exists():
            files[split] = root / f"{split}.jsonl"
    if name == "mnli_mismatch":
        files["train"] = args.data_dir / "glue_mnli/train.jsonl"
    if name == "race":  # its 'problems' are a Python literal there
        rows = [json.loads(line) for line in (root / "validation.jsonl").read_text().splitlines()]
        files = {"test": folder / "race.jsonl"}
        files["test"].write_text("".join(json.dumps({**row, "problems": repr(row["problems"])}) + "\n" for row in rows))
    if name in ("anli_r1", "anli_r2"):
        files[task["training_split"]] = args.data_dir / "anli_r3/train_r3.jsonl"
    wanted = task.get("test_split") or task.get("validation_split")
    return files if wanted in files else None


def local_task(name, theirs, task, args, folder):
    """The harness's task with its data from local files."""
    files = data_files(name, task, args, folder)
    if files is None:
        return None
    made = {**task, "task": theirs, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": {k: str(v) for k, v in files.items()}}}
    for role in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if task.get(role) and task[role] not in files:
            made[role] = None
    return made


def make_lm(records):
    from lm_eval.api.model import LM

    class Known(LM):
        """Answers what miq was asked as miq did."""

        def __init__(self):
            super().__init__()
            self.pairs, self.texts, self.written, self.unknown = {}, {}, {}, []
            for record in records:
                for number, asked in enumerate(record.get("requests", [])):
                    if "loglikelihoods" not in record:
                        self.written[asked["context"]] = record.get("text", record["prediction"])
                    elif len(record["loglikelihoods"]) == 1 and not asked["context"]:
                        self.texts[asked["continuation"]] = record["loglikelihoods"][0]
                    else:
                        self.pairs[asked["context"], asked["continuation"]] = record["loglikelihoods"][number]

        def find(self, table, key, missing):
            if key not in table:
                self.unknown.append(key)
                return missing
            return table[key]

        def loglikelihood(self, requests):
            return [(self.find(self.pairs, request.args, 0.0), False) for request in requests]

        def loglikelihood_rolling(self, requests):
            return [self.find(self.texts, request.args[0], -1.0) for request in requests]

        def generate_until(self, requests):
            return [self.find(self.written, request.args[0], "") for request in requests]

    return Known()


def near(a, b):
    if a is None or b is None or isinstance(a, str) or isinstance(b, str):
        return True  # "N/A"
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


def compare(task, told, result):
    """(figures compared, those that differ)."""
    compared, other = [], []
    for name, value in told["metrics"].items():
        metric, _, extraction = name.partition(",")
        metric = FIGURES.get(task, {}).get(metric, metric)
        key = f"{metric},{extraction or 'none'}"
        if key not in result or metric in ITS_DEFECTS.get(task, []):
            continue
        compared.append(name)
        if not near(value["value"], result[key]):
            other.append(f"{name}: {value['value']} there {result[key]}")
        error = result.get(f"{metric}_stderr,{extraction or 'none'}")
        if metric in ("acc", "acc_norm", "exact_match") and not near(value["stderr"], error):
            other.append(f"{name}'s standard error: {value['stderr']} there {error}")
    return compared, other


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data-dir", required=True, type=lambda path: Path(path).resolve())
    parser.add_argument("--tasks", help="miq's names, separated by commas; default: all that the harness has too and whose data are there")
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--miq", default=str(harness.ROOT / "build/release/miq"))
    args = harness.parse_under_harness(parser, __file__)
    work = tempfile.TemporaryDirectory()
    folder = Path(work.name)
    os.environ.update(HF_DATASETS_CACHE=str(folder / "cache"), HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    import datasets
    import lm_eval
    from lm_eval.tasks import TaskManager
    datasets.disable_progress_bars()
    manager = TaskManager()
    names = args.tasks.split(",") if args.tasks else SAME + list(RENAMED)
    planned = []
    for name in names:
        theirs = RENAMED.get(name, name)
        task = manager._factory._load_full_config(manager.task_index[theirs])
        spec = local_task(name, theirs, task, args, folder)
        if spec is not None:
            planned.append((name, theirs, spec))
    subprocess.run([args.miq, "eval", "--model", args.model, "--data-dir", str(args.data_dir), "--output", str(folder / "run"), "-q", "--set", "model.dtype=float32",
                    "--set", "evaluation.requests=true", "--set", "evaluation.tasks=" + json.dumps([staged_entry(name, args) for name, _, _ in planned])],
                   check=True, stdout=subprocess.DEVNULL)
    bad = 0
    for (name, theirs, spec), told in zip(planned, json.loads((folder / "run/results.json").read_text())["tasks"]):
        records = [json.loads(line) for line in (folder / "run" / told["records"]).read_text().splitlines()]
        lm = make_lm(records)
        outcome = lm_eval.simple_evaluate(lm, tasks=[spec], num_fewshot=args.shots, limit=args.limit, task_manager=manager, bootstrap_iters=0, verbosity="ERROR")
        compared, other = compare(name, told, outcome["results"][theirs])
        good = bool(compared) and not other and not lm.unknown
        bad += not good
        print(json.dumps({"task": name, "shots": told["shots"], "documents": told["documents"], "figures": compared, "differ": other, "unknown": len(lm.unknown), "good": good}), flush=True)
        if lm.unknown:
            print("# unknown to miq: " + repr(lm.unknown[0])[:1500], flush=True)
    print(f"# {len(planned)} tasks, not as the harness: {bad}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
