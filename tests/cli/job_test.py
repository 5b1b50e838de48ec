#!/usr/bin/env python3
"""Quality gates and dry runs from outside, on the embedded model.

    job_test.py PATH_TO_MIQ [unittest arguments]
"""
import json
import os
import subprocess
import unittest

from cli_test import CONFIG, ROOT, TINY, Case, miq


class Gates(Case):
    def gated(self, command, *gates, check=0, more=()):
        flags = [part for gate in gates for part in ("--expect", gate)]
        return miq(command, "--config", CONFIG, "-q", *flags, *more, check=check)

    def test_a_gate_decides_the_exit_status(self):
        out = self.folder / "out"
        result = self.gated("run", "perplexity.heldout <= 1.03 x baseline", "perplexity.heldout.kl_divergence <= 1e-9", check=5, more=("--output", out))
        self.expect_error(result, 5, "1 of 2 quality gates missed: perplexity.heldout.kl_divergence is", "not <= 1e-9", str(out / "results.json"))
        for text in ("expected", "1.03 x baseline", "yes", "NO"):
            self.assertIn(text, result.stdout)
        judged = json.loads((out / "results.json").read_text())
        self.assertEqual([(gate["what"], gate["met"]) for gate in judged["expect"]], [("perplexity.heldout", True), ("perplexity.heldout.kl_divergence", False)])
        self.assertEqual(set(judged["expect"][0]), {"what", "bound", "value", "limit", "met"})
        self.assertEqual(judged["expect"][0]["value"], judged["perplexity"][0]["value"])
        self.assertAlmostEqual(judged["expect"][0]["limit"], 1.03 * judged["perplexity"][0]["baseline"])

    def test_every_command(self):
        self.gated("run", "perplexity.heldout <= 1.03 x baseline", "quantization.bits_per_weight < 4.5")
        self.gated("eval", "perplexity.heldout <= 25")
        self.expect_error(self.gated("eval", "perplexity.heldout <= 1", check=5), 5, "perplexity.heldout")
        self.gated("quantize", "quantization.bits_per_weight <= 4.5", "quantization.peak_rss_bytes <= 4GiB")
        self.expect_error(self.gated("quantize", "quantization.bits_per_weight <= 4", check=5), 5, "4.3125, not <= 4")

    def test_a_complete_run_is_judged_by_the_gates_of_today(self):
        out = self.folder / "out"
        self.gated("quantize", "quantization.bits_per_weight <= 4.5", more=("--output", out))
        before = json.loads((out / "results.json").read_text())
        self.expect_error(self.gated("quantize", "quantization.bits_per_weight <= 4", check=5, more=("--output", out)), 5, "not <= 4")
        after = json.loads((out / "results.json").read_text())
        self.assertEqual((after["expect"][0]["bound"], after["quantization"]), ("<= 4", before["quantization"]))  # nothing was done again
        self.gated("quantize", more=("--output", out))
        self.assertNotIn("expect", json.loads((out / "results.json").read_text()))

    def test_in_the_configuration(self):
        config = self.folder / "job.yaml"
        config.write_text(CONFIG.read_text() + "expect:\n  quantization.bits_per_weight: ['> 3', '<= 4']\n")
        result = miq("quantize", "--config", config, "--json", "-q")
        self.expect_error(result, 5, "not <= 4")
        self.assertEqual([gate["met"] for gate in json.loads(result.stdout)["expect"]], [True, False])
        config.write_text(CONFIG.read_text() + "expect:\n  perplexity.heldot: '<= 4'\n")
        out = self.folder / "out"
        self.expect_error(miq("run", "--config", config, "--output", out), 2, "did you mean perplexity.heldout", "job.yaml:11:22")
        self.assertFalse(out.exists())  # told before any work

    def test_not_a_number_meets_nothing(self):
        model = self.copy_model()
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e38}))  # its activations vanish
        result = miq("eval", "--config", CONFIG, "--model", model, "-q", "--json", "--expect", "perplexity.heldout > 0", "--expect", "perplexity.heldout < 1e30")
        value = json.loads(result.stdout)["perplexity"][0]["value"]
        self.assertEqual([gate["met"] for gate in json.loads(result.stdout)["expect"]], [value is not None] * 2)


class DryRun(Case):
    def dry(self, command, *arguments, check=0):
        return miq(command, "--config", CONFIG, "--dry-run", "-q", *arguments, check=check)

    def test_tells_and_writes_nothing(self):
        out = self.folder / "a/b"
        before = sorted(ROOT.iterdir())
        text = self.dry("run", "--output", out, "--set", "export.format=miq", "--expect", "perplexity.heldout <= 3").stdout
        for part in ("nothing is written", "self_attn.q_proj", "bits a weight", "32 samples, 8192 tokens", "50 windows of 256 tokens, of both models", "perplexity.heldout <= 3", "model/", "results.json"):
            self.assertIn(part, text)
        self.assertEqual((list(self.folder.iterdir()), sorted(ROOT.iterdir())), ([], before))

    def test_json_and_what_is_really_written(self):
        arguments = ("--output", self.folder / "out", "--set", "export.format=gptq", "--set", "recipe.grid={bits: 4, symmetric: true, group_size: 32}")
        told = json.loads(self.dry("run", "--json", *arguments).stdout)
        self.assertEqual((told["command"], told["calibration"]["tokens"], told["evaluation"]["perplexity"][0]["windows"]), ("run", 8192, 50))
        self.run_job("run", *arguments)
        files = {file["path"]: file["bytes"] for file in told["output"]["files"]}
        self.assertEqual(set(files), {path.name + "/" * path.is_dir() for path in (self.folder / "out").iterdir()})
        real = sum(path.stat().st_size for path in (self.folder / "out/model").glob("*.safetensors"))
        self.assertLess(abs(files["model/"] / real - 1), 0.15)
        self.assertLess(abs(files["results.json"] / (self.folder / "out/results.json").stat().st_size - 1), 0.5)
        again = json.loads(self.dry("run", "--json", *arguments).stdout)
        self.assertEqual((again["output"]["state"], [note for note in again["notes"] if "is there and complete" in note]), ("finished", again["notes"]))
        anew = json.loads(self.dry("run", "--json", "--overwrite", *arguments).stdout)
        self.assertEqual(len([note for note in anew["notes"] if "would be replaced" in note]), 2)
        self.expect_error(self.dry("run", *arguments, "--set", "recipe.grid.bits=3", check=2), 2, "another run", "4 -> 3")

    def test_tasks_are_counted(self):
        folder = self.folder / "data/piqa"
        folder.mkdir(parents=True)
        for split in ("train", "validation"):
            (folder / f"{split}.jsonl").write_text("".join(json.dumps({"goal": f"count {i}", "sol1": "one", "sol2": "two", "label": i % 2}) + "\n" for i in range(9)))
        told = json.loads(self.dry("eval", "--json", "--tasks", "piqa", "--shots", "2", "--limit", "7", "--data-dir", self.folder / "data").stdout)
        self.assertEqual([(task["task"], task["shots"], task["documents"], task["requests"]) for task in told["evaluation"]["tasks"]], [("piqa", 2, 7, 14)])
        self.assertNotIn("plan", told)

    def test_what_is_wrong_is_told(self):
        for command, arguments, status, text in [
            ("run", ("--set", "recipe.grid.bits=9"), 2, "2 .. 8"),
            ("run", ("--set", "calibration.samples=100000"), 2, "tokens"),
            ("run", ("--set", "export.format=miq"), 2, "--output"),
            ("run", ("--output", self.folder / "x", "--set", "recipe.preset=spqr", "--set", "export.format=gptq"), 3, "outliers"),
            ("eval", ("--tasks", "piqa", "--data-dir", self.folder), 4, "miq_data.py"),
            ("eval", ("--set", "evaluation.perplexity.0.seqlen=100000"), 2, "lower seqlen"),
            ("eval", ("--model", self.folder / "none"), 4, "none"),
            ("quantize", ("--memory", "1MiB"), 2, "pipeline.memory"),
            ("eval", ("--expect", "perplexity.wiki < 1"), 2, "no figure"),
        ]:
            with self.subTest(arguments):
                self.expect_error(self.dry(command, *arguments, check=status), status, text)
        (self.folder / "file").write_text("")
        self.expect_error(self.dry("eval", "--output", self.folder / "file/x", check=4), 4, "file/x")
        self.assertEqual([path.name for path in self.folder.iterdir()], ["file"])

    @unittest.skipIf(os.geteuid() == 0, "root may write everywhere")
    def test_a_folder_that_may_not_be_written(self):
        self.folder.chmod(0o500)
        self.expect_error(self.dry("eval", "--output", self.folder / "x", check=4), 4)

    def test_too_little_disk(self):
        told = json.loads(self.dry("eval", "--json", "--output", self.folder / "x").stdout)["output"]
        disk = os.statvfs(self.folder)
        self.assertLess(abs(told["free_bytes"] / (disk.f_bavail * disk.f_frsize) - 1), 0.2)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", self.folder], capture_output=True).returncode != 0:
            self.skipTest("a small disk cannot be mounted here")
        self.addCleanup(subprocess.run, ["umount", self.folder], check=True)
        self.dry("eval", "--output", self.folder / "x")
        self.expect_error(self.dry("run", "--output", self.folder / "x", "--set", "export.format=miq", check=4), 4, "are free", "choose another output")


if __name__ == "__main__":
    unittest.main()
