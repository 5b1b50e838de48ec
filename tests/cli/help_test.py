#!/usr/bin/env python3
"""Help, completions and miq doctor from outside. Every example that a help text shows is run, on the embedded model and small data.

    help_test.py PATH_TO_MIQ [unittest arguments]
"""
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from cli_test import MIQ, ROOT, TINY, Case, miq


def commands(path=()):
    """Every command with its help."""
    text = miq(*path, "--help", check=0).stdout
    yield path, text
    for name in re.findall(r"^  ([a-z]+)(?:  +.*)?$", text.split("Examples:")[0].split("Subcommands:")[-1] if path else text, re.M):
        if not text.startswith("Usage") or name != "miq":
            yield from commands((*path, name)) if len(path) < 2 and is_command((*path, name)) else ()


def is_command(path):
    return miq(*path, "--help").returncode == 0


def examples(text):
    return [line.strip() for line in text.split("Examples:\n")[1].splitlines() if line.strip()] if "Examples:\n" in text else []


class Help(Case):
    def test_sections(self):
        text = miq("--help", check=0).stdout
        places = [text.index(section) for section in ("Quantize and judge", "Checkpoints", "Run a model", "Look up and set up")]
        self.assertEqual(places, sorted(places))
        self.assertLess(places[0], text.index("\n  quantize "))
        self.assertNotIn("Subcommands:", text)  # none without a section

    def test_every_command_has_examples(self):
        seen = {path for path, text in commands() if self.assertTrue(examples(text), path) is None}
        for path in [(), ("run",), ("plan",), ("doctor",), ("list", "tasks"), ("config", "show"), ("completion", "zsh")]:
            self.assertIn(path, seen)
        self.assertGreaterEqual(len(seen), 25)


class Examples(Case):
    """In a folder with configs/, a model that a job quantized, and data of small corpora and tasks."""

    def setUp(self):
        super().setUp()
        work = self.folder / "work"
        (work / "configs").mkdir(parents=True)
        for path in (ROOT / "configs").glob("*.yaml"):
            (work / "configs" / path.name).write_text(path.read_text())
        (work / "tests/fixtures").mkdir(parents=True)
        (work / "tests/fixtures/tiny-llama").symlink_to(TINY)
        text = (TINY / "calibration.txt").read_text() + (TINY / "heldout.txt").read_text()
        for split in ("train", "validation", "test"):
            self.write(f"data/wikitext2/{split}.jsonl", [{"text": text}])
            self.write(f"data/piqa/{split}.jsonl", [{"goal": f"count {i}", "sol1": "one", "sol2": "two", "label": i % 2} for i in range(9)])
            self.write(f"data/arc_easy/{split}.jsonl", [{"question": f"{i} plus one?", "choices": {"text": ["two", "three"], "label": ["A", "B"]}, "answerKey": "A"} for i in range(9)])
        self.write("mi.yaml", [])
        (self.folder / "mi.yaml").write_text("quant_config: {algo: rtn, kwargs: {w_qtype: per_channel, wbit: 4}}\n")
        self.work = work
        self.environment = {**os.environ, "HOME": str(self.folder / "home"), "OMP_WAIT_POLICY": "PASSIVE"}
        self.shell("miq quantize --model MODEL --set recipe.preset=rtn --set export.format=miq --output runs/rtn")  # as an example has it

    def write(self, name, rows):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def line(self, example):
        names = {"MODEL": TINY, "DATA": self.folder / "data", "FILE": self.folder / "mi.yaml"}
        for name, path in names.items():
            example = re.sub(rf"(?<![\w-]){name}(?![\w-])", str(path), example)
        return re.sub(r"^miq", shlex.quote(str(MIQ)), example)

    def shell(self, example):
        line = self.line(example)
        for target in re.findall(r"> (\S+)$", line):
            Path(self.environment["HOME"], target.removeprefix("~/")).parent.mkdir(parents=True, exist_ok=True)
        result = subprocess.run(["bash", "-c", line], cwd=self.work, env=self.environment, capture_output=True, text=True, timeout=300)
        self.assertEqual(result.returncode, 0, f"{example}\n{result.stdout}\n{result.stderr}")
        return result

    def serve(self, example):
        process = subprocess.Popen(["bash", "-c", "exec " + self.line(example).replace("8000", "0")], cwd=self.work, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            self.assertIn("listening on", process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)

    def test_examples_run(self):
        done = set()
        for path, text in commands():
            for example in examples(text):
                self.assertEqual(shlex.split(example)[0], "miq", example)
                if example in done:
                    continue
                done.add(example)
                with self.subTest(example):
                    self.serve(example) if path == ("serve",) else self.shell(example)
        self.assertGreater(len(done), 40)


class Completion(Case):
    def complete(self, line, cwd=ROOT):
        """What bash offers behind the line."""
        script = self.folder / "miq.bash"
        script.write_text(miq("completion", "bash", check=0).stdout)
        program = ('source "$1"; COMP_LINE="$2"; COMP_POINT=${#COMP_LINE}; compopt() { :; }; COMPREPLY=(); _miq; printf "%s\\n" "${COMPREPLY[@]}"')
        result = subprocess.run(["bash", "-eu", "-c", program, "bash", script, line], cwd=cwd, capture_output=True, text=True)
        self.assertEqual((result.returncode, result.stderr), (0, ""), line)
        return result.stdout.split()

    def test_bash(self):
        offered = self.complete("miq ")
        for command in ("run", "quantize", "eval", "plan", "doctor", "completion"):
            self.assertIn(command, offered)
        self.assertEqual(self.complete("miq quan"), ["quantize"])
        self.assertIn("tasks", self.complete("miq list "))
        self.assertEqual(self.complete("miq list alg"), ["algorithms"])
        self.assertIn("--dry-run", self.complete("miq run --d"))
        self.assertNotIn("--dry-run", self.complete("miq plan --d"))
        self.assertIn("--expect", self.complete("miq eval --model x --"))
        self.assertEqual(self.complete("miq export --from x --format com"), ["compressed-tensors"])
        self.assertEqual(self.complete("miq export --dtype x"), [])
        self.assertEqual(self.complete("miq export --dtype b"), ["bfloat16"])
        self.assertEqual(self.complete("miq run --device=cu"), ["cuda"])
        self.assertIn("llama", self.complete("miq inspect x --architecture "))
        self.assertIn("hellaswag", self.complete("miq eval --tasks hell"))
        self.assertEqual(self.complete("miq eval --tasks piqa,gsm"), ["piqa,gsm8k"])
        self.assertIn("configs/tiny.yaml", self.complete("miq run --config configs/ti"))
        self.assertIn("configs/tiny.yaml", self.complete("miq config convert configs/t"))
        self.assertIn("tests/fixtures", self.complete("miq run --output tests/fix"))
        self.assertIn("bits=", [word.split(".")[-1] for word in self.complete("miq run --set recipe.grid.b")])
        # Readline replaces what stands behind '=' alone.
        self.assertEqual(self.complete("miq run --set recipe.preset=gp"), ["gptq"])
        self.assertEqual(self.complete("miq completion "), ["bash", "zsh", "fish"])

    def test_every_option_is_offered(self):
        for path, text in commands():
            offered = set(self.complete("miq " + " ".join(path) + " -"))
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text.split("Examples:")[0].split("Options:")[-1]):
                if re.search(rf"^  (?:-\w,)?(?:PATH,)?{option}|,{option}\b", text, re.M):
                    self.assertIn(option, offered, path)

    def test_other_shells_can_read_theirs(self):
        for shell, flags in (("zsh", ["-n"]), ("fish", ["--no-execute"])):
            with self.subTest(shell):
                script = self.folder / f"miq.{shell}"
                script.write_text(miq("completion", shell, check=0).stdout)
                self.assertIn("hellaswag", script.read_text())
                if not shutil.which(shell):
                    self.skipTest(f"{shell} is not installed")
                result = subprocess.run([shell, *flags, script], capture_output=True, text=True)
                self.assertEqual((result.returncode, result.stderr), (0, ""))

    def fish(self, line):
        script = self.folder / "miq.fish"
        script.write_text(miq("completion", "fish", check=0).stdout)
        result = subprocess.run(["fish", "--no-config", "-c", f"source {script}; complete -C {shlex.quote(line)}"], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "HOME": str(self.folder)})
        self.assertEqual(result.stderr, "", line)
        return [word.split("\t")[0] for word in result.stdout.splitlines()]

    @unittest.skipIf(shutil.which("fish") is None, "fish is not installed")
    def test_fish(self):
        self.assertIn("quantize", self.fish("miq q"))
        self.assertIn("algorithms", self.fish("miq list "))
        self.assertNotIn("run", self.fish("miq list "))
        self.assertIn("--dry-run", self.fish("miq run --d"))
        self.assertIn("compressed-tensors", self.fish("miq export --format com"))
        self.assertIn("configs/tiny.yaml", self.fish("miq run --config configs/ti"))
        self.assertIn("piqa,hellaswag", self.fish("miq eval --tasks piqa,hellas"))

    @unittest.skipIf(shutil.which("zsh") is None, "zsh is not installed")
    def test_zsh(self):
        """The script is loaded by the completion system and its functions are there."""
        (self.folder / "_miq").write_text(miq("completion", "zsh", check=0).stdout)
        program = f"fpath=({self.folder} $fpath); autoload -Uz compinit; compinit -u -d {self.folder}/dump; print ${{_comps[miq]}}; autoload +X _miq; source {self.folder}/_miq; print ${{+functions[_miq_list_tasks]}}"
        result = subprocess.run(["zsh", "-f", "-c", program], capture_output=True, text=True)
        self.assertEqual((result.returncode, result.stdout.split(), result.stderr), (0, ["_miq", "1"], ""))


class Doctor(Case):
    def test_tells_what_is_there(self):
        found = json.loads(miq("doctor", "--json", "--data-dir", self.folder, "--output", self.folder / "runs", "--model", TINY, check=0).stdout)
        self.assertTrue(found["ok"], found)
        areas = {check["area"] for check in found["checks"]}
        self.assertEqual(areas, {"libtorch", "cpu", "threads", "gpu", "memory", "disk", "data", "models", "model", "self-test"})
        self.assertEqual({check["status"] for check in found["checks"]} - {"ok", "note"}, set())
        tests = [check for check in found["checks"] if check["area"] == "self-test"]
        self.assertTrue(len(tests) == 4 and all(0 <= check["relative_error"] <= check["most"] for check in tests), tests)
        self.assertFalse((self.folder / "runs").exists())
        text = miq("doctor", "--data-dir", self.folder, check=0).stdout
        for part in ("libtorch   ok", "threads", "available", "files without a name work", "tools/miq_data.py", "ready for work"):
            self.assertIn(part, text)

    def test_data(self):
        (self.folder / "wikitext2").mkdir()
        (self.folder / "wikitext2/test.jsonl").write_text('{"text": "x"}\n')
        (self.folder / "arc_easy").mkdir()
        (self.folder / "arc_easy/test.jsonl").write_text("{}\n")
        checks = json.loads(miq("doctor", "--json", "--data-dir", self.folder, check=0).stdout)["checks"]
        data = {key: value for check in checks if check["area"] == "data" for key, value in check.items()}
        self.assertEqual((data["corpora"]["wikitext2"], data["corpora"]["c4"]), (["test"], []))
        self.assertTrue(data["tasks"]["arc_easy"].startswith("without"))
        self.assertTrue(data["tasks"]["mmlu"].startswith("missing"))

    def test_settings_that_hurt(self):
        environment = {**os.environ, "OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "1", "GOMP_CPU_AFFINITY": "0"}
        text = miq("doctor", "--data-dir", self.folder, check=0, env=environment).stdout
        for part in ("OMP_WAIT_POLICY=ACTIVE", "set OMP_WAIT_POLICY=PASSIVE", "1 thread on", "GOMP_CPU_AFFINITY=0: threads are bound"):
            self.assertIn(part, text)
        if os.cpu_count() > 1:
            self.assertIn("OMP_NUM_THREADS=1: fewer threads", text)

    def test_problems(self):
        broken = self.copy_model()
        (broken / "model.safetensors").write_bytes(b"")
        result = miq("doctor", "--model", broken, "--data-dir", self.folder)
        self.expect_error(result, 3, "model.safetensors")
        self.assertIn("problem", result.stdout)
        self.expect_error(miq("doctor", "--model", self.folder / "none"), 3, "none")
        (self.folder / "file").write_text("")
        result = miq("doctor", "--json", "--output", self.folder / "file/runs")
        self.assertFalse(json.loads(result.stdout)["ok"])
        self.assertEqual(result.returncode, 3)


if __name__ == "__main__":
    unittest.main()
