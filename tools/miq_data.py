#!/usr/bin/env python3
"""Gets the data of evaluation tasks from the Hugging Face hub into the plain layout that miq reads: DIR/SET/SPLIT.jsonl.

    tools/miq_data.py hellaswag arc_easy --data-dir DIR
    tools/miq_data.py standard --data-dir DIR        # a suite of configs/tasks
    tools/miq_data.py all --data-dir DIR
    tools/miq_data.py --list

Needs `pip install datasets`. Files are whole when they have their names; those that are there are left alone (--force makes them anew).
"""
import argparse
import json
import os
import re
import sys
import tempfile
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from miq_data_sets import SETS, SUBJECT_LISTS, UNOBTAINABLE, DataSet, Source, boss_prompts  # noqa: E402

TASKS = Path(__file__).resolve().parent.parent / "configs" / "tasks"
LOAD_BOSS = "https://raw.githubusercontent.com/TsingmaoAI/MI-optimize/b147ba5/mi_optimize/datasets/load_boss.py"


class Problem(Exception):
    """What the user is told in one line."""


# --- names -----------------------------------------------------------------------------------------------------------

def task_text(name):
    path = TASKS / f"{name}.yaml"
    return path.read_text(encoding="utf-8") if path.exists() else None


def blimp_paradigms():
    listed = re.search(r"^subjects: \[(.*?)\]", task_text("blimp"), re.S | re.M)[1]
    return [name.strip() for name in listed.split(",")]


def all_sets():
    """Every set by its folder; BLiMP's are those that its task file lists."""
    from miq_data_sets import CLOZE_OF_BLIMP
    sets = dict(SETS)
    for name in blimp_paradigms():
        sets[f"blimp/{name}"] = DataSet((Source("nyu-mll/blimp", name, {"train": "train"}, CLOZE_OF_BLIMP),))
    return sets


def folders_of(name, sets, seen=()):
    """The folders that a task, a suite, `all` or a folder's own name stands for."""
    known = list(sets) + list(UNOBTAINABLE)
    if name == "all":
        return known
    text = task_text(name)
    if text is None or name in seen:
        found = [folder for folder in known if folder == name or folder.startswith(name + "/")]
        if not found:
            raise Problem(f"'{name}' is neither a task, a suite nor a set; see --list")
        return found
    found = []
    if suite := re.search(r"^tasks: \[(.*?)\]", text, re.S | re.M):
        for task in suite[1].split(","):
            found += folders_of(task.strip(), sets, seen + (name,))
        return list(dict.fromkeys(found))
    named = re.findall(r'\bset: "?([\w./]+?)(?:/\{\{SUBJECT\}\})?"?[,}]', text)
    for folder in named:
        found += folders_of(folder, sets, seen + (name,))
    if not re.search(r"^data:", text, re.M) and (base := re.search(r"^include: (\w+)", text, re.M)):
        found += folders_of(base[1], sets, seen + (name,))
    return list(dict.fromkeys(found))


# --- files -----------------------------------------------------------------------------------------------------------

def write_whole(path, lines):
    """Writes under a temporary name and renames: no reader sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            for line in lines:
                file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def as_line(row):
    return json.dumps(row, ensure_ascii=False)


def files_of(folder, data_set, splits):
    """Path -> lines, of the rows by split."""
    files = {}
    for split, rows in splits.items():
        if data_set.lines:
            files[f"{folder}/{split}.txt"] = [row[data_set.lines].replace("\n", " ") for row in rows]
        elif data_set.by:
            for row in rows:
                files.setdefault(f"{folder}/{row[data_set.by]}/{split}.jsonl", []).append(as_line(row))
        else:
            files[f"{folder}/{split}.jsonl"] = [as_line(row) for row in rows]
    return files


# --- the hub ---------------------------------------------------------------------------------------------------------

def converted(source, rows, class_names):
    """The rows of one split, converted; `class_names`: field -> names of its classes."""
    kept = []
    for row in rows:
        if source.most and len(kept) == source.most:
            break
        row = dict(row)
        for name in source.names:
            if isinstance(row[name], int) and name in class_names:
                row[name] = class_names[name][row[name]]
        try:
            made = source.convert(row)
        except KeyError as missing:
            raise Problem(f"{source.repo} has no field {missing} any more: its rows have {', '.join(row)}") from None
        if made is not None:
            kept.append(made)
    return kept


def download(source, split):
    """One split from the hub: rows and the names of classes."""
    try:
        import datasets
    except ImportError:
        raise Problem("needs the Python package datasets: pip install datasets") from None
    arguments = {"split": split}
    if source.data_files:
        arguments["data_files"] = source.data_files
    try:
        loaded = datasets.load_dataset(source.repo, source.config, **arguments)
    except Exception as first:  # the hub's errors have no common base
        if "script" not in str(first).lower():
            raise Problem(f"{source.repo}: {first}") from None
        try:  # sets that were published with a script have a converted copy
            loaded = datasets.load_dataset(source.repo, source.config, revision="refs/convert/parquet", **arguments)
        except Exception as second:
            raise Problem(f"{source.repo}: {second}") from None
    class_names = {name: feature.names for name, feature in loaded.features.items() if hasattr(feature, "names")}
    return loaded, class_names


def is_there(folder, data_set, data_dir):
    ending = "txt" if data_set.lines else "jsonl"
    below = "*/" if data_set.by else ""
    return all(any((data_dir / folder).glob(f"{below}{split}.{ending}")) for split in data_set.splits())


def get_set(folder, data_set, data_dir, force, fetch=download):
    """Downloads one set and writes its files. Returns their paths."""
    if not force and is_there(folder, data_set, data_dir):
        return []
    splits = {}
    for source in data_set.sources:
        for split, name in source.splits.items():
            rows, class_names = fetch(source, split)
            splits.setdefault(name, []).extend(converted(source, rows, class_names))
    files = files_of(folder, data_set, data_set.arrange(splits))
    if not files or not all(files.values()):
        raise Problem("the hub gave no rows")
    for name, lines in files.items():
        write_whole(data_dir / name, lines)
    return list(files)


def beside(folders, data_dir, mi_optimize):
    """What several folders share: lists of subjects, BOSS's prompts."""
    written = []
    for name in sorted({folder.split("/")[0] for folder in folders}):
        if name in SUBJECT_LISTS:
            write_whole(data_dir / name / "subjects.jsonl", map(as_line, SUBJECT_LISTS[name]))
            written.append(f"{name}/subjects.jsonl")
        if name == "boss" and not (data_dir / "boss/prompts.jsonl").exists():
            try:
                if mi_optimize:
                    source = (Path(mi_optimize) / "mi_optimize/datasets/load_boss.py").read_text(encoding="utf-8")
                else:
                    with urllib.request.urlopen(LOAD_BOSS, timeout=60) as response:
                        source = response.read().decode("utf-8")
            except OSError as problem:
                raise Problem(f"boss/prompts.jsonl: {problem}; give a clone of MI-optimize with --mi-optimize") from None
            write_whole(data_dir / "boss/prompts.jsonl", map(as_line, boss_prompts(source)))
            written.append("boss/prompts.jsonl")
    return written


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="tasks, suites, sets, or all")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("MIQ_DATA"), help="where the sets are written; $MIQ_DATA")
    parser.add_argument("--force", action="store_true", help="also what is there already")
    parser.add_argument("--list", action="store_true", help="the sets, and what cannot be had")
    parser.add_argument("--mi-optimize", metavar="DIR", help="a clone of MI-optimize, for BOSS's prompts")
    arguments = parser.parse_args()
    sets = all_sets()
    if arguments.list:
        for folder, data_set in sets.items():
            print(f"{folder:45} {data_set.sources[0].repo} {data_set.sources[0].config or ''} {data_set.note}".rstrip())
        for folder, why in UNOBTAINABLE.items():
            print(f"{folder:45} not from the hub: {why}")
        return 0
    if not arguments.names:
        parser.error("name tasks, suites or sets, or all")
    if not arguments.data_dir:
        parser.error("say where to with --data-dir DIR")
    try:
        folders = list(dict.fromkeys(folder for name in arguments.names for folder in folders_of(name, sets)))
    except Problem as problem:
        parser.error(str(problem))
    failed = 0
    for folder in folders:
        try:
            if folder in UNOBTAINABLE:
                raise Problem("not from the hub: " + UNOBTAINABLE[folder])
            written = get_set(folder, sets[folder], Path(arguments.data_dir), arguments.force)
            print(f"{folder}: {', '.join(written) if written else 'there already'}", flush=True)
        except Problem as problem:
            failed += 1
            note = folder in sets and sets[folder].note
            print(f"miq_data: {folder}: {problem}" + (f" ({note})" if note else ""), file=sys.stderr)
    try:
        for name in beside(folders, Path(arguments.data_dir), arguments.mi_optimize):
            print(name)
    except Problem as problem:
        failed += 1
        print(f"miq_data: {problem}", file=sys.stderr)
    return 4 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
