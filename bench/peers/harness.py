#!/usr/bin/env python3
"""miq eval beside lm-evaluation-harness's HF backend: the same requests, the same model, in one run.

    python bench/peers/harness.py --model SMOLLM2 --data-dir DATA --task ceval --limit 4 --shots 5 --dtype float32

Runs `miq eval` (whole process) with the requests in its records, then hands the very same contexts and continuations to
lm_eval.models.huggingface.HFLM, and tells documents per second of wall and of CPU time, their ratio, and how far the
log-likelihoods and predictions of both are apart. The harness is timed without its import, its loading and its building of
prompts; miq with all of that, and once more by what its own records say the task took. Needs a Python with torch,
transformers and lm_eval 0.4.13 (`--harness-python` runs this script again under it); `--repeat` alternates both.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def parse_under_harness(parser, script):
    """The arguments. With --harness-python, `script` begins again under that interpreter."""
    parser.add_argument("--harness-python", help="an interpreter that has lm_eval")
    args = parser.parse_args()
    if args.harness_python:
        own = list(sys.argv[1:])
        at = next(i for i, a in enumerate(own) if a.startswith("--harness-python"))
        del own[at:at + (1 if "=" in own[at] else 2)]
        os.execv(args.harness_python, [args.harness_python, script, *own])
    return args


def cpu_seconds(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def run_miq(args, folder):
    command = [args.miq, "eval", "--model", args.model, "--data-dir", args.data_dir, "--output", str(folder), "-q",
               "--tasks", args.task, "--shots", str(args.shots), "--set", f"model.dtype={args.dtype}",
               "--set", "evaluation.requests=true"]
    if args.limit:
        command += ["--limit", str(args.limit)]
    for setting in args.set:
        command += ["--set", setting]
    before, start = cpu_seconds(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, cpu = time.perf_counter() - start, cpu_seconds(resource.RUSAGE_CHILDREN) - before
    task = json.loads((folder / "results.json").read_text())["tasks"][0]
    records = [json.loads(line) for line in (folder / task["records"]).read_text().splitlines()]
    return {"wall": wall, "cpu": cpu, "task_seconds": task["seconds"], "records": records}


def load_harness(args):
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    torch.set_num_threads(args.threads)
    # From the file itself: transformers 5's AutoTokenizer leaves a step of some tokenizers out.
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(Path(args.model) / "tokenizer.json"))
    config = json.loads((Path(args.model) / "tokenizer_config.json").read_text())
    for token in ("bos_token", "eos_token", "pad_token", "unk_token"):
        if isinstance(config.get(token), str):
            setattr(tokenizer, token, config[token])
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    model.eval()
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=args.batch_size)


def run_harness(lm, records):
    from lm_eval.api.instance import Instance
    instances = [Instance("loglikelihood", {}, (r["context"], r["continuation"]), i)
                 for record in records for i, r in enumerate(record["requests"])]
    before, start = cpu_seconds(resource.RUSAGE_SELF), time.perf_counter()
    answers = lm.loglikelihood(instances, disable_tqdm=True)
    wall, cpu = time.perf_counter() - start, cpu_seconds(resource.RUSAGE_SELF) - before
    values, own = [], iter(answers)
    for record in records:
        values.append([next(own)[0] for _ in record["requests"]])
    return {"wall": wall, "cpu": cpu, "loglikelihoods": values}


def best(values):
    return max(range(len(values)), key=lambda i: values[i])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--limit", type=int, default=0, help="documents of each subject")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--batch-size", type=int, default=1, help="the harness's")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="more settings for miq")
    parser.add_argument("--miq", default=str(ROOT / "build/release/miq"))
    args = parse_under_harness(parser, __file__)
    lm = load_harness(args)
    rows = []
    for _ in range(args.repeat):
        with tempfile.TemporaryDirectory() as folder:
            miq = run_miq(args, Path(folder))
        harness = run_harness(lm, miq["records"])
        documents = len(miq["records"])
        far, other = 0.0, 0
        for record, theirs in zip(miq["records"], harness["loglikelihoods"]):
            far = max(far, max(abs(a - b) for a, b in zip(record["loglikelihoods"], theirs)))
            other += best(record["loglikelihoods"]) != best(theirs)
        rows.append({"task": args.task, "shots": args.shots, "dtype": args.dtype, "documents": documents,
                     "miq_wall": miq["wall"], "miq_task_wall": miq["task_seconds"], "miq_cpu": miq["cpu"],
                     "harness_wall": harness["wall"], "harness_cpu": harness["cpu"],
                     "ratio_wall": harness["wall"] / miq["wall"], "ratio_task_wall": harness["wall"] / miq["task_seconds"],
                     "ratio_cpu": harness["cpu"] / miq["cpu"], "largest_difference": far, "other_predictions": other})
        print(json.dumps({key: round(v, 5) if isinstance(v, float) else v for key, v in rows[-1].items()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
