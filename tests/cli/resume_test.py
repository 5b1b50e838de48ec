#!/usr/bin/env python3
"""Runs that are killed go on: at every state that a run directory goes through, and at random moments, what comes out at last is to the byte what an undisturbed
run leaves, but for times, memory and the log. And what does not go on: another job, other inputs, damaged files, a folder that is taken.

    resume_test.py PATH_TO_MIQ [unittest arguments]
"""
import json
import os
import random
import shutil
import signal
import subprocess
import time
import unittest

from cli_test import MIQ, ROOT, TINY, Case, miq
from runs import JOB, content, state, write_task


class RunCase(Case):
    def setUp(self):
        super().setUp()
        self.task = write_task(self.folder, "sums", seed=1)
        self.config = self.folder / "job.yaml"
        self.config.write_text(JOB + f"  tasks: [{self.task}]\n")

    def arguments(self, output, *settings, command="run"):
        return [command, "--config", self.config, "--output", self.folder / output, "-q", *(part for setting in settings for part in ("--set", setting))]

    def job(self, output, *settings, check=0, more=(), command="run"):
        return miq(*self.arguments(output, *settings, command=command), *more, check=check)

    def start(self, output, *settings, command="run"):
        return subprocess.Popen([MIQ, *map(str, self.arguments(output, *settings, command=command))], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill_when(self, reached, output, *settings, command="run"):
        """Kills the job when reached() is true. Returns whether it was killed, not done before."""
        process = self.start(output, *settings, command=command)
        while process.poll() is None and not reached():
            time.sleep(0.001)
        killed = process.poll() is None
        process.send_signal(signal.SIGKILL)
        status = process.wait()
        self.assertIn(status, (0, -signal.SIGKILL))
        return killed and status == -signal.SIGKILL

    def interrupted(self, output, *settings, at="resume/blocks/block-1.safetensors"):
        self.assertTrue(self.kill_when((self.folder / output / at).exists, output, *settings))
        self.assertFalse((self.folder / output / "results.json").exists())

    def expect_same(self, output, reference):
        self.assertEqual(content(self.folder / output), content(self.folder / reference))
        self.assertEqual([str(path) for path in (self.folder / output).rglob("*") if path.name == "resume" or "partial" in path.name], [])


class Resume(RunCase):
    STATES = ["manifest.json", "resume/baseline/perplexity-0.safetensors", "resume/baseline/perplexity-0.json", "resume/baseline/tasks/sums.json",
              "resume/blocks", "resume/blocks/block-0.safetensors", "resume/blocks/block-1.safetensors", "resume/blocks/block-2.safetensors", "resume/blocks/block-3.safetensors",
              "model", "resume/scores/perplexity-0.json", "resume/scores/tasks/sums.json", "tasks/sums.jsonl", "results.json"]

    def check_every_state(self, *settings, states=STATES):
        self.job("whole", *settings)
        survivors = {}
        killed = 0
        for name in states:
            killed += self.kill_when((self.folder / "killed" / name).exists, "killed", *settings)
            for file in (self.folder / "killed/resume").glob("*/*.json*"):  # what is finished stays as it is: the next process goes on behind it
                survivors.setdefault(file, file.stat().st_ino)
                self.assertEqual(file.stat().st_ino, survivors[file], file)
            for file in (self.folder / "killed/resume/blocks").glob("block-*.safetensors"):
                survivors.setdefault(file, file.stat().st_ino)
                self.assertEqual(file.stat().st_ino, survivors[file], file)
        self.assertGreaterEqual(killed, 4)
        self.assertTrue({"block-0.safetensors", "block-1.safetensors"} <= {file.name for file in survivors})
        self.job("killed", *settings)
        self.expect_same("killed", "whole")

    def test_gptq(self):
        self.check_every_state("export.format=dequantized")

    def test_what_a_killed_process_was_writing_is_removed(self):
        self.job("whole", "export.format=dequantized")
        before = sorted((self.folder / "whole").rglob("*"))
        for name in ("results.json.partial-4194305", "tasks/sums.jsonl.partial-4194305"):
            (self.folder / "whole" / name).write_text("half")
        (self.folder / "whole/model.former-4194305").mkdir()
        self.job("whole", "export.format=dequantized")
        self.assertEqual(sorted((self.folder / "whole").rglob("*")), before)

    FEW = ["resume/baseline/perplexity-0.json", "resume/blocks/block-0.safetensors", "resume/blocks/block-1.safetensors", "resume/blocks/block-2.safetensors",
           "model", "resume/scores/perplexity-0.json"]

    def test_combinations(self):
        for settings in [
            ("recipe.preset=[awq,gptq]", "pipeline.propagate=float", "export.format=compressed-tensors"),
            ("recipe.preset=[awq,gptq]", "pipeline.order=stage", "pipeline.propagate=float", "export.format=miq"),
            ("recipe.preset=smoothquant", "recipe.grid.symmetric=true", "recipe.grid.bits=8", "pipeline.order=block", "export.format=miq"),
            ("recipe.preset=quip", "export.format=miq"),
            ("recipe.preset=[quarot,gptq]", "export.format=dequantized"),
            ("recipe.preset=spqr", "export.format=miq"),
            ("recipe.allocate={bits: 4, choices: '3,4,8'}", "export.format=miq"),
            ("recipe.grid.symmetric=true", "recipe.grid.bits=4", "export.format=gptq"),
            ("recipe.grid={bits: 4, group_size: 32, symmetric: true}", "export={format: gguf, variant: q4_0}"),
        ]:
            with self.subTest(settings):
                for folder in ("whole", "killed"):
                    shutil.rmtree(self.folder / folder, ignore_errors=True)
                allocates = any("allocate" in setting for setting in settings)
                self.check_every_state(*settings, states=["resume/allocation.json"] * allocates + self.FEW)

    def test_random_moments(self):
        draw = random.Random(20)
        begin = time.monotonic()
        self.job("whole", "export.format=dequantized")
        length = time.monotonic() - begin
        for _ in range(8):
            end = time.monotonic() + draw.uniform(0.1, length)
            self.kill_when(lambda: time.monotonic() > end, "killed", "export.format=dequantized")
        self.job("killed", "export.format=dequantized")
        self.expect_same("killed", "whole")

    def test_sweeps(self):
        for pipeline in ("{propagate: float}", "{propagate: quantized}"):
            with self.subTest(pipeline):
                settings = ("pipeline=" + pipeline, "sweep={recipe.preset: [gptq, awq], recipe.grid.bits: [4, 2]}", "export.format=miq")
                for folder in ("whole", "killed"):
                    shutil.rmtree(self.folder / folder, ignore_errors=True)
                begin = time.monotonic()
                self.job("whole", *settings, command="sweep")
                length = time.monotonic() - begin
                draw = random.Random(3)
                for _ in range(6):
                    end = time.monotonic() + draw.uniform(0.3, length)
                    self.kill_when(lambda: time.monotonic() > end, "killed", *settings, command="sweep")
                self.kill_when((self.folder / "killed/preset=gptq,bits=2/results.json").exists, "killed", *settings, command="sweep")
                self.job("killed", *settings, command="sweep")
                self.expect_same("killed", "whole")

    def test_a_quantization_alone(self):
        self.job("whole", "export.format=miq", command="quantize")
        self.assertTrue(self.kill_when((self.folder / "killed/resume/blocks/block-2.safetensors").exists, "killed", "export.format=miq", command="quantize"))
        self.job("killed", "export.format=miq", command="quantize")
        self.expect_same("killed", "whole")

    def test_the_clock_does_not_matter(self):
        self.job("whole")
        self.interrupted("killed")
        for k, path in enumerate(sorted((self.folder / "killed").rglob("*"))):
            os.utime(path, (k % 2 * 4e9, k % 2 * 4e9))  # of 1970 or of 2096
        self.job("killed")
        self.expect_same("killed", "whole")

    def test_the_model_may_have_moved(self):
        self.copy_model()
        self.job("whole")
        self.interrupted("killed")
        moved = self.job("killed", f"model.path={self.folder}/model")
        self.assertNotIn("error", moved.stderr)
        files = content(self.folder / "killed", leave={"seconds", "cpu_seconds", "peak_rss_bytes", "peak_anonymous_bytes", "seconds_by_phase", "output", "path"})
        self.assertEqual(files, content(self.folder / "whole", leave={"seconds", "cpu_seconds", "peak_rss_bytes", "peak_anonymous_bytes", "seconds_by_phase", "output", "path"}))


class Refusals(RunCase):
    def test_another_job(self):
        """Refused with what differs, and nothing changed; --overwrite begins anew."""
        model = self.copy_model()
        text = self.folder / "text.txt"
        heldout = self.folder / "heldout.txt"
        shutil.copy(TINY / "calibration.txt", text)
        shutil.copy(TINY / "heldout.txt", heldout)
        self.config.write_text(self.config.read_text().replace(f"path: {TINY}", f"path: {model}").replace(f"{TINY}/calibration.txt", str(text)).replace(f"{TINY}/heldout.txt", str(heldout)))
        self.interrupted("interrupted")
        self.job("complete")

        def changed(path, change):
            whole = path.read_bytes()
            path.write_bytes(change(whole))
            return lambda: path.write_bytes(whole)

        flip = lambda data: data[:-1] + bytes([data[-1] ^ 1])
        cases = [
            (lambda: None, ["recipe.grid.bits=4"], "config.recipe.grid.bits: 3 -> 4"),
            (lambda: None, ["recipe.preset=rtn"], "config.recipe.preset: gptq -> rtn"),
            (lambda: None, ["evaluation.perplexity.0.windows=5"], "config.evaluation.perplexity.0.windows: 6 -> 5"),
            (lambda: None, ["export.format=miq"], "config.export.format: none -> miq"),
            (lambda: changed(model / "model.safetensors", flip), [], "model.model.safetensors.sha256"),
            (lambda: changed(text, lambda data: data.replace(b"e", b"a", 9)), [], "data.calibration"),
            (lambda: changed(heldout, lambda data: data.replace(b"e", b"a", 9)), [], "data.perplexity.0"),
            (lambda: changed(self.task, lambda data: data.replace(b'"{{text}}"', b'"Sum: {{text}}"')), [], "data.tasks.sums"),
            (lambda: changed(self.folder / "sums/test.jsonl", lambda data: data.replace(b"two", b"four", 1)), [], "data.tasks.sums"),
        ]
        for folder in ("interrupted", "complete"):
            before = state(self.folder / folder)
            for change, settings, difference in cases:
                with self.subTest(folder=folder, difference=difference):
                    restore = change()
                    try:
                        self.expect_error(self.job(folder, *settings, check=2), 2, "the folder holds another run: ", difference, "--overwrite")
                        self.expect_error(self.job(folder, *settings, check=2, more=["--dry-run"]), 2, difference)
                    finally:
                        if restore:
                            restore()
                    self.assertEqual(state(self.folder / folder), before)
            with self.subTest(folder=folder, command="quantize"):
                self.expect_error(self.job(folder, check=2, command="quantize"), 2, "command: run -> quantize")
                self.assertEqual(state(self.folder / folder), before)
        self.job("interrupted")  # as if nothing had been
        self.expect_same("interrupted", "complete")
        self.job("fresh", "recipe.grid.bits=4")
        for folder in ("interrupted", "complete"):
            self.job(folder, "recipe.grid.bits=4", more=["--overwrite"])
            self.expect_same(folder, "fresh")

    def test_overwriting_an_interrupted_run_keeps_nothing_of_it(self):
        self.interrupted("run")
        block = (self.folder / "run/resume/blocks/block-0.safetensors").stat().st_ino
        process = self.start("run", "recipe.grid.bits=4")
        self.assertEqual(process.wait(), 2)
        self.job("run", "recipe.grid.bits=4", more=["--overwrite"])
        self.job("fresh", "recipe.grid.bits=4")
        self.expect_same("run", "fresh")
        self.assertTrue(block)

    def test_a_complete_run_is_told_again(self):
        first = self.job("run", more=["--json"])
        before = state(self.folder / "run")
        again = self.job("run", more=["--json"])
        self.assertEqual(first.stdout, again.stdout)
        self.assertEqual(again.stdout.strip(), (self.folder / "run/results.json").read_text().strip())
        self.assertEqual(state(self.folder / "run"), before)

    def test_a_folder_that_is_taken(self):
        process = self.start("run")
        try:
            while not (self.folder / "run/resume/blocks/block-0.safetensors").exists() and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(signal.SIGSTOP)
            self.assertIsNone(process.poll())
            before = state(self.folder / "run")
            for more in ([], ["--overwrite"]):
                self.expect_error(self.job("run", check=2, more=more), 2, "another process works in this folder", "choose another output")
            self.assertEqual(state(self.folder / "run"), before)
        finally:
            process.send_signal(signal.SIGCONT)
            self.assertEqual(process.wait(timeout=120), 0)
        self.job("whole")
        self.expect_same("run", "whole")

    def test_damaged_files(self):
        self.interrupted("run", at="resume/scores/perplexity-0.json")
        short = lambda data: data[: len(data) // 2]
        for file, damage in [
            ("resume/blocks/block-1.safetensors", short),
            ("resume/blocks/block-0.safetensors", lambda data: b""),
            ("resume/blocks/block-2.safetensors", lambda data: data[:8] + b"x" * 200 + data[208:]),
            ("resume/blocks/block-1.safetensors", lambda data: data.replace(b'"linears"', b'"linearz"')),
            ("resume/blocks/block-3.safetensors", lambda data: data.replace(b'"layers', b'"layerz') if b'"layers' in data else data.replace(b"q_proj.codes", b"q_proj.codez")),
            ("resume/baseline/perplexity-0.json", short),
            ("resume/baseline/perplexity-0.json", lambda data: b"{}"),
            ("resume/baseline/perplexity-0.json", lambda data: data.replace(b'"windows": 6', b'"windows": "six"')),
            ("resume/baseline/perplexity-0.safetensors", short),
            ("resume/baseline/tasks/sums.jsonl", short),
            ("resume/baseline/tasks/sums.jsonl", lambda data: data[: data.rindex(b"\n", 0, -1) + 1]),
            ("resume/baseline/tasks/sums.json", lambda data: b"[]"),
            ("resume/scores/perplexity-0.json", lambda data: b"\xff"),
            ("manifest.json", short),
            ("manifest.json", lambda data: b"[]"),
        ]:
            path = self.folder / "run" / file
            whole = path.read_bytes()
            with self.subTest(file=file, bytes=damage(whole)[:40]):
                self.assertNotEqual(damage(whole), whole)
                path.write_bytes(damage(whole))
                self.expect_error(self.job("run", check=4), 4, path.name.split(".")[0])
                self.assertFalse((self.folder / "run/results.json").exists())
            path.write_bytes(whole)
        self.job("run")
        self.job("whole")
        self.expect_same("run", "whole")
        (self.folder / "run/results.json").write_text("{")
        self.expect_error(self.job("run", check=4), 4, "results.json")

    def test_a_damaged_allocation(self):
        setting = "recipe.allocate={bits: 4, choices: '3,4,8'}"
        self.interrupted("run", setting)
        path = self.folder / "run/resume/allocation.json"
        whole = path.read_bytes()
        for damaged in (b"{", b"[1]", b'{"none": 4}', whole.replace(b": 4", b": 99", 1).replace(b": 3", b": 99", 1)):
            with self.subTest(damaged[:20]):
                path.write_bytes(damaged)
                self.expect_error(self.job("run", setting, check=4), 4, "allocation.json")
        path.write_bytes(whole)
        self.job("run", setting)

    def test_a_folder_that_cannot_be_written(self):
        (self.folder / "file").write_text("")
        self.expect_error(self.job("file", check=4), 4, "file")
        self.expect_error(self.job("file/run", check=4), 4, "file/run")
        self.assertEqual((self.folder / "file").read_text(), "")
        if os.geteuid() != 0:
            (self.folder / "closed").mkdir(mode=0o500)
            self.expect_error(self.job("closed/run", check=4), 4, "check the permissions")
        (self.folder / "run").mkdir()
        (self.folder / "run/manifest.json").mkdir()
        self.expect_error(self.job("run", check=4), 4, "manifest.json")

    def test_a_variant_is_not_another_process_business(self):
        settings = ("sweep={recipe.grid.bits: [4, 3]}",)
        process = self.start("sweep", *settings, command="sweep")
        try:
            while not (self.folder / "sweep/bits=4/resume/blocks").exists() and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(signal.SIGSTOP)
            self.assertIsNone(process.poll())
            self.expect_error(self.job("sweep", *settings, command="sweep", check=2), 2, "another process works in this folder")
            self.expect_error(self.job("sweep/bits=3", check=2), 2, "another process works in this folder", "bits=3")
        finally:
            process.send_signal(signal.SIGCONT)
            self.assertEqual(process.wait(timeout=120), 0)
        self.job("sweep/bits=3")  # complete, and that of the sweep is the run's own
        self.expect_error(self.job("sweep/bits=4", check=2), 2, "config.recipe.grid.bits: 4 -> 3")


if __name__ == "__main__":
    unittest.main()
