#!/usr/bin/env python3
"""The shell loops of scripts/, on the embedded model.

    scripts_test.py PATH_TO_MIQ [unittest arguments]
"""
import json
import os
import shutil
import subprocess
import unittest

from cli_test import CONFIG, MIQ, ROOT, TINY, Case

SCRIPTS = sorted((ROOT / "scripts").glob("sweep_*.sh"))


class Sweeps(Case):
    def sweep(self, script, *arguments, **variables):
        environment = {**os.environ, "MIQ": str(MIQ), "OUT": str(self.folder / "runs"), "OMP_WAIT_POLICY": "PASSIVE", **variables}
        result = subprocess.run([ROOT / "scripts" / script, "--config", CONFIG, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        self.assertEqual(result.returncode, 0, result.stderr)
        header, rule, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in result.stdout.splitlines()]
        self.assertEqual(set("".join(rule)), {"-"})
        return [dict(zip(header, row)) for row in rows]

    def results(self, run):
        return json.loads((self.folder / "runs" / run / "results.json").read_text())

    def test_bits(self):
        rows = self.sweep("sweep_bits.sh", BITS="4 2")
        self.assertEqual([row["run"] for row in rows], ["w4", "w2"])
        for row in rows:
            score = self.results(row["run"])["perplexity"][0]
            self.assertEqual((row["heldout before"], row["heldout"]), (f"{score['baseline']:.4f}", f"{score['value']:.4f}"))
        self.assertLess(float(rows[0]["heldout"]), float(rows[1]["heldout"]))
        before = (self.folder / "runs/w4/results.json").stat().st_mtime_ns
        self.assertEqual(self.sweep("sweep_bits.sh", BITS="4 2"), rows)
        self.assertEqual((self.folder / "runs/w4/results.json").stat().st_mtime_ns, before)  # not done again

    def test_methods(self):
        rows = self.sweep("sweep_methods.sh", METHODS="rtn awq+gptq")
        self.assertEqual([row["run"] for row in rows], ["rtn", "awq+gptq"])
        self.assertEqual([self.results(run)["quantization"]["layers"][0]["preset"] for run in ("rtn", "awq+gptq")], ["rtn", "awq+gptq"])

    def test_calibration(self):
        rows = self.sweep("sweep_calibration.sh", DATASETS=str(TINY / "calibration.txt"), SAMPLES="4 8")
        self.assertEqual([row["run"] for row in rows], ["calibration-4", "calibration-8"])
        self.assertEqual(self.results("calibration-4")["config"]["calibration"]["samples"], 4)

    def test_a_failure_ends_it(self):
        result = subprocess.run([SCRIPTS[0], "--config", CONFIG], cwd=ROOT, env={**os.environ, "MIQ": str(MIQ), "OUT": str(self.folder), "BITS": "9"}, capture_output=True, text=True)
        self.assertEqual((result.returncode, result.stdout), (2, ""))

    @unittest.skipIf(shutil.which("shellcheck") is None, "shellcheck is not installed")
    def test_shellcheck(self):
        self.assertEqual(len(SCRIPTS), 3)
        result = subprocess.run(["shellcheck", *SCRIPTS], capture_output=True, text=True)
        self.assertEqual((result.returncode, result.stdout), (0, ""))


if __name__ == "__main__":
    unittest.main()
