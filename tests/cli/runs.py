"""What the tests of sweeps and of interrupted runs have in common: a small job on the embedded model with a task of its own, and comparing run directories."""
import hashlib
import json
import random

from cli_test import TINY

TIMES = {"seconds", "cpu_seconds", "peak_rss_bytes", "peak_anonymous_bytes", "seconds_by_phase"}

TASK = """shape: choice
data: {{set: ./{name}, eval: test}}
prompt: "{{{{text}}}}"
choices: "{{{{options}}}}"
gold: "{{{{answer}}}}"
calibration: "{{{{text}}}} {{{{options|join(' ')}}}}"
metrics: [acc]
"""

JOB = f"""model: {{path: {TINY}, dtype: float32}}
calibration: {{dataset: {TINY}/calibration.txt, samples: 8, seqlen: 64, sampling: consecutive}}
recipe: {{preset: gptq, grid: {{bits: 3, group_size: 32}}}}
evaluation:
  perplexity: [{{corpus: {TINY}/heldout.txt, seqlen: 64, windows: 6}}]
"""


def write_task(folder, name, seed, documents=12):
    """A task of additions, NAME.yaml with NAME/test.jsonl: names differ, and so do the questions."""
    words = "zero one two three four five six seven eight nine".split()
    draw = random.Random(seed)
    rows = []
    for _ in range(documents):
        a, b = draw.randrange(5), draw.randrange(5)
        options = [words[a + b], words[(a + b + draw.randrange(1, 9)) % 10]]
        draw.shuffle(options)
        rows.append({"text": f"{words[a]} plus {words[b]} is", "options": options, "answer": options.index(words[a + b])})
    (folder / name).mkdir(parents=True)
    (folder / name / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / (name + ".yaml")
    path.write_text(TASK.format(name=name))
    return path


def without_times(value, leave=TIMES):
    if isinstance(value, dict):
        return {key: without_times(child, leave) for key, child in value.items() if key not in leave}
    return [without_times(child, leave) for child in value] if isinstance(value, list) else value


def content(folder, leave=TIMES | {"output"}):
    """Every file of a run directory by its name: results without times and paths, digests of the rest. The log tells times too."""
    files = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.is_dir():
            files[name] = "folder"
        elif file.name in ("results.json", "sweep.json"):
            files[name] = without_times(json.loads(file.read_text()), leave)
        elif file.name != "miq.log":
            files[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return files


def state(folder):
    """What must not change when a command is refused: names, sizes, times and bytes of all but the log."""
    return {str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes() if file.is_file() else None)
            for file in sorted(folder.rglob("*")) if file.name != "miq.log" and not file.is_dir()}
