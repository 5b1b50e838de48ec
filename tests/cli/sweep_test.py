#!/usr/bin/env python3
"""miq sweep from outside, on the embedded model: variants and their names, what is refused, that each variant is the run it would be alone, what is done
once, studies against the variants' own results.

    sweep_test.py PATH_TO_MIQ [unittest arguments]
"""
import json
import shutil
import unittest

from cli_test import CONFIG, ROOT, TINY, Case, miq
from runs import JOB, content, write_task


class SweepCase(Case):
    def config(self, sweep, job=JOB, name="job.yaml"):
        path = self.folder / name
        path.write_text(job + "sweep:\n" + "".join("  " + line + "\n" for line in sweep.strip().splitlines()))
        return path

    def sweep(self, config, *more, check=0, output="sweep"):
        return miq("sweep", "--config", config, "--output", self.folder / output, "-q", *more, check=check)

    def summary(self, config, *more, output="sweep"):
        return json.loads(self.sweep(config, "--json", *more, output=output).stdout)

    def names(self, sweep, *more):
        return [variant["name"] for variant in self.summary(self.config(sweep), "--dry-run", *more)["variants"]]

    def results(self, name, output="sweep"):
        return json.loads((self.folder / output / name / "results.json").read_text())


class Variants(SweepCase):
    def test_names(self):
        for sweep, names in [
            ("recipe.preset: [rtn, gptq]\nrecipe.grid.bits: [4, 3]", ["preset=rtn,bits=4", "preset=rtn,bits=3", "preset=gptq,bits=4", "preset=gptq,bits=3"]),
            ("recipe: {preset: [rtn], grid: {bits: [4, 3], group_size: [32]}}", ["preset=rtn,bits=4,group_size=32", "preset=rtn,bits=3,group_size=32"]),
            ("recipe: {grid.bits: [4]}\ncalibration.samples: [4, 2]", ["bits=4,samples=4", "bits=4,samples=2"]),
            ("recipe.preset: [[awq, gptq], awq+gptq+x, rtn]", None),
            ("recipe.preset: [[awq, gptq], smoothquant]", ["preset=awq+gptq", "preset=smoothquant"]),
            ("recipe.grid.bits: [8]\nrecipe.activation.bits: [8, 16]", ["grid.bits=8,activation.bits=8", "grid.bits=8,activation.bits=16"]),
            ("variants: [{name: small, recipe.grid.bits: 2}, {name: a b/c, recipe: {preset: rtn, grid: {bits: 8}}}]", ["small", "a_b_c"]),
            ("variants: [{recipe.grid.bits: 2}, {recipe.grid.bits: 3}]", ["1", "2"]),
            ("calibration: [{samples: 4, seqlen: 32, name: short}, {seqlen: 64}]", ["calibration=short", "calibration=2"]),
            ("recipe.rounding.percdamp: [0.01, 1e-1]\nrecipe.rounding.act_order: [true, false]",
             ["percdamp=0.01,act_order=true", "percdamp=0.01,act_order=false", "percdamp=0.1,act_order=true", "percdamp=0.1,act_order=false"]),
        ]:
            with self.subTest(sweep):
                if names is None:
                    self.expect_error(miq("sweep", "--config", self.config(sweep), "--output", self.folder / "sweep", "--dry-run", "-q"), 2, "awq+gptq+x")
                else:
                    self.assertEqual(self.names(sweep), names)
        self.assertFalse((self.folder / "sweep").exists())  # nothing was made

    def test_an_axis_from_the_command_line(self):
        dotted, nested = "recipe.preset: [rtn, gptq]\nrecipe.grid.bits: [4, 3]", "recipe: {preset: [rtn, gptq], grid: {bits: [4, 3]}}"
        for sweep in (dotted, nested, "recipe: {preset: [rtn, gptq], grid.bits: [4, 3]}"):
            with self.subTest(sweep):
                self.assertEqual(self.names(sweep, "--set", "sweep.recipe.preset=[gptq]", "--set", "sweep.recipe.grid.bits=[2]"), ["preset=gptq,bits=2"])
                self.assertEqual(self.names(sweep, "--set", "sweep.recipe.grid={group_size: [64, 32]}", "--set", "sweep.recipe.preset=[rtn]"),
                                 ["preset=rtn,group_size=64", "preset=rtn,group_size=32"])
        self.assertEqual(self.names(dotted, "--set", "sweep={recipe.grid.bits: [8]}"), ["bits=8"])
        self.assertEqual(self.names("variants: [{name: a, recipe.grid.bits: 2}, {name: b, recipe.grid.bits: 3}]", "--set", "sweep.variants.1.name=c"), ["a", "c"])

    def test_what_is_refused(self):
        for sweep, status, texts in [
            ("recipe.preset: []", 2, ["recipe.preset is an empty list", "job.yaml:7:18 sweep.recipe.preset"]),
            ("recipe.grid.bits: 4", 2, ["recipe.grid.bits must be a list of values", "write [4]"]),
            ("recipe.grid.bits: [4, 3, 4]", 2, ["has '4' twice"]),
            ("recipe: {grid: {bits: [4]}}\nrecipe.grid.bits: [3]", 2, ["recipe.grid.bits stands twice", "job.yaml:8:"]),
            ("recipe.grid.bit: [4]", 2, ["variant bit=4", "recipe.grid.bit", "did you mean bits"]),
            ("recipe.grid.bits: [4, 9]", 2, ["variant bits=9", "2 .. 8"]),
            ("recipe.preset: [gptq, gptc]", 2, ["variant preset=gptc", "did you mean gptq"]),
            ("variants: [{name: x, recipe.grid.bits: 3}, {name: x, recipe.grid.bits: 4}]", 2, ["has 'x' twice"]),
            ("variants: [{name: a b, recipe.grid.bits: 3}, {name: a_b, recipe.grid.bits: 4}]", 2, ["two variants that are called a_b"]),
            ("variants: [w4]", 2, ["has an element that is no mapping"]),
            ("variants: [{name: w4}]", 2, ["sets nothing"]),
            ("recipe.preset: [[awq, [gptq]]]", 2, ["list of more than words"]),
            ("calibration.seed: [%s]\nrecipe.rounding.percdamp: [%s]" % (", ".join(map(str, range(101))), ", ".join(f"0.{i:03}" for i in range(1, 101))), 2, ["more than 10000 variants"]),
            ("kind: oood\nrecipe.grid.bits: [4]", 2, ["cannot be 'oood'", "ood"]),
            ("command: plan\nrecipe.grid.bits: [4]", 2, ["cannot be 'plan'", "quantize"]),
            ("missing: yes\nrecipe.grid.bits: [4]", 2, ["cannot be 'yes'", "skip"]),
            ("title: x", 2, ["lists no values"]),
            ("kind: ood\ncalibration.samples: [4]", 2, ["test must be a list of test sets"]),
            ("kind: ood\ncalibration.samples: [4]\ntest: [{subjects: x}]", 2, ["names neither a task nor a corpus"]),
            ("kind: ood\ncalibration.samples: [4]\nshots: 5\ntest: [arc_easy]", 2, ["shots must be a list"]),
            ("kind: ood\ncalibration.samples: [4]\ntest: [standard]", 2, ["'standard' is several tasks"]),
            (f"kind: ood\ncalibration.samples: [4]\ntest: [{{corpus: {TINY}/heldout.txt}}]", 2, ["stands beside evaluation.perplexity"]),
            ("kind: ood\nrecipe.grid.bits: [4]\ntest: [arc_easy]", 2, ["of kind ood lists no calibration sets"]),
            ("calibration.dataset: [/none.txt]", 4, ["variant dataset=_none.txt", "/none.txt"]),
            ("output: [a, b]", 2, ["output is the same for all variants"]),
            ("sweep.recipe.grid.bits: [4]", 2, ["sweep.recipe.grid.bits is the same for all variants"]),
        ]:
            with self.subTest(sweep[:80]):
                self.expect_error(self.sweep(self.config(sweep), check=status), status, *texts)
                self.assertFalse((self.folder / "sweep/sweep.json").exists())
        self.expect_error(miq("sweep", "--config", CONFIG, "--output", self.folder / "sweep"), 2, "the configuration has no sweep")
        config = self.config("recipe.grid.bits: [4]")
        self.expect_error(miq("sweep", "--config", config), 2, "a sweep needs a folder", "--output")
        for command in ("run", "quantize", "eval"):
            self.expect_error(miq(command, "--config", config, "--output", self.folder / "run"), 2, "describes a sweep", "miq sweep")
        self.expect_error(self.sweep(config, "--limit", "0", check=2), 2, "--limit")
        (self.folder / "file").write_text("")
        self.expect_error(self.sweep(config, check=4, output="file/sweep"), 4, "file/sweep")


class Running(SweepCase):
    def single(self, name, command, assignments, job=JOB):
        path = self.folder / "single.yaml"
        path.write_text(job)
        flags = [part for assignment in assignments for part in ("--set", assignment)]
        miq(command, "--config", path, "--output", self.folder / "single" / name, "-q", *flags, check=0)
        return content(self.folder / "single" / name)

    def check_variants(self, sweep, settings, job=JOB, command="run"):
        config = self.config(sweep, job)
        summary = self.summary(config)
        self.assertEqual([variant["name"] for variant in summary["variants"]], list(settings))
        self.assertEqual(json.loads((self.folder / "sweep/sweep.json").read_text()), summary)
        for name, assignments in settings.items():
            with self.subTest(name):
                self.assertEqual(content(self.folder / "sweep" / name), self.single(name, command, assignments, job))
        self.assertFalse((self.folder / "sweep/resume").exists())
        return summary

    def test_variants_are_runs_of_their_own(self):
        write_task(self.folder, "sums", seed=1)
        job = JOB + f"  tasks: [{self.folder}/sums.yaml]\nexport: {{format: dequantized}}\n"
        presets = ["rtn", "gptq", "awq+gptq", "spqr"]
        self.check_variants(f"recipe.preset: [{', '.join(presets)}]", {f"preset={preset}": [f"recipe.preset={preset}"] for preset in presets}, job)

    def test_variants_that_share_a_capture_are_too(self):
        job = JOB + "pipeline: {propagate: float}\nexport: {format: miq}\n"
        presets = ["gptq", "awq", "[awq, gptq]", "smoothquant", "rtn"]
        settings = {}
        for preset in presets:
            name = "preset=" + preset.strip("[]").replace(", ", "+")
            for bits in (4, 2):
                settings[f"{name},bits={bits}"] = [f"recipe.preset={preset}", f"recipe.grid.bits={bits}"]
        self.check_variants(f"recipe.preset: [{', '.join(presets)}]\nrecipe.grid.bits: [4, 2]", settings, job)

    def test_other_commands(self):
        job = JOB.replace("group_size", "symmetric: true, group_size") + "export: {format: gptq}\n"
        summary = self.check_variants("command: quantize\nrecipe.grid.bits: [8, 4]", {"bits=8": ["recipe.grid.bits=8"], "bits=4": ["recipe.grid.bits=4"]}, job, "quantize")
        self.assertEqual([variant["scores"] for variant in summary["variants"]], [[], []])
        self.assertTrue((self.folder / "sweep/bits=8/model/model.safetensors").exists())
        summary = self.summary(self.config("command: eval\nmodel.dtype: [float32, bfloat16]"), output="scored")
        self.assertNotIn("bits_per_weight", summary["variants"][0])
        self.assertNotEqual(*(variant["scores"][0]["value"] for variant in summary["variants"]))

    def test_complete_variants_are_left(self):
        config = self.config("recipe.grid.bits: [4, 3]")
        first = self.summary(config)
        times = {name: (self.folder / "sweep" / name / "results.json").stat().st_mtime_ns for name in ("bits=4", "bits=3")}
        result = miq("sweep", "--config", self.config("recipe.grid.bits: [4, 3, 2]"), "--output", self.folder / "sweep", "--json", check=0)
        self.assertIn("sweep of 3 variants, 2 of them complete", result.stderr)
        self.assertEqual(result.stderr.count("variant 3 of 3: bits=2"), 1)
        self.assertNotIn("variant 1 of 3", result.stderr)
        for name, time in times.items():
            self.assertEqual((self.folder / "sweep" / name / "results.json").stat().st_mtime_ns, time)
        second = json.loads(result.stdout)
        strip = lambda variant: {key: value for key, value in variant.items() if key != "pareto"}
        self.assertEqual([strip(variant) for variant in second["variants"][:2]], [strip(variant) for variant in first["variants"]])
        # What is there of another job is refused, and left.
        changed = self.config("recipe.grid.bits: [4, 3, 2]", JOB.replace("samples: 8", "samples: 4"), "changed.yaml")
        self.expect_error(self.sweep(changed, check=2), 2, "variant bits=4", "config.calibration.samples: 8 -> 4")
        self.assertEqual(self.summary(config)["variants"], second["variants"])
        anew = self.summary(changed, "--overwrite")
        self.assertNotEqual(anew["variants"][0]["scores"][0]["value"], first["variants"][0]["scores"][0]["value"])

    def test_a_variant_that_fails_does_not_stop_the_others(self):
        bad = "recipe.rounding: {percdamp: 1.0e-30, damp_auto_increment: 0.01}, calibration: {samples: 1, seqlen: 16}"
        config = self.config(f"variants: [{{name: bad, strict: true, {bad}}}, {{name: good, recipe.grid.bits: 4}}]")
        result = self.sweep(config, check=5)
        self.expect_error(result, 5, "variant bad", "1 of 2 variants failed", "starved_hessian")
        summary = json.loads((self.folder / "sweep/sweep.json").read_text())
        self.assertEqual([variant["complete"] for variant in summary["variants"]], [False, True])
        self.assertEqual([variant["pareto"] for variant in summary["variants"]], [False, True])
        report = miq("report", self.folder / "sweep", check=0).stdout
        self.assertIn("bad", report)
        # Mended, the rest is done, and the sweep is whole.
        self.assertEqual([variant["complete"] for variant in self.summary(config, "--set", "sweep.variants.0.strict=false", "--overwrite")["variants"]], [True, True])

    def test_pareto(self):
        summary = self.summary(self.config("recipe.preset: [rtn, gptq]\nrecipe.grid.bits: [8, 4, 3, 2]\nrecipe.grid.group_size: [32, 128]"))
        points = [(variant["bytes"], self.results(variant["name"])["perplexity"][0]["value"]) for variant in summary["variants"]]
        best, expected = float("inf"), set()
        for size, value in sorted(points):  # from the smallest: those that are better than all before
            if value < best:
                best = value
                expected.add((size, value))
        self.assertEqual({point for point, variant in zip(points, summary["variants"]) if variant["pareto"]}, expected)
        self.assertLess(len(expected), len(points))
        for variant in summary["variants"]:
            results = self.results(variant["name"])
            self.assertEqual((variant["bits_per_weight"], variant["bytes"], variant["model_bytes"]), (results["quantization"]["bits_per_weight"], results["quantization"]["bytes"], results["model"]["bytes"]))

    def test_gates(self):
        config = self.config("recipe.grid.bits: [8, 2]", JOB + "expect: {quantization.bits_per_weight: '<= 4'}\n")
        self.expect_error(self.sweep(config, check=5), 5, "1 of 1 quality gate missed", "bits=8/results.json")
        summary = json.loads((self.folder / "sweep/sweep.json").read_text())
        self.assertEqual([[gate["met"] for gate in variant["expect"]] for variant in summary["variants"]], [[False], [True]])
        self.sweep(config, "--set", "expect={quantization.bits_per_weight: '<= 9'}")

    def test_the_table(self):
        config = self.config("title: Two widths\nrecipe.preset: [rtn]\nrecipe.grid.bits: [8, 2]")
        text = self.sweep(config).stdout
        for part in ("preset", "bits", "bits/weight", "not quantized", "* no other variant is both smaller and better"):
            self.assertIn(part, text)
        self.assertEqual(text, self.sweep(config).stdout)  # complete: told again
        for format in ("html", "markdown", "csv"):
            report = self.folder / ("report." + format)
            miq("report", self.folder / "sweep", "-o", report, "--format", format, check=0)
            self.assertIn("Two widths" if format != "csv" else "bits=8", report.read_text())


class Studies(SweepCase):
    TEXTS = "calibration: [{name: sums, dataset: sums.yaml, samples: 8}, {name: more, dataset: more.yaml, samples: 8}]"

    def setUp(self):
        super().setUp()
        write_task(self.folder, "sums", seed=1)
        write_task(self.folder, "more", seed=2, documents=9)
        half = (TINY / "heldout.txt").read_text()
        (self.folder / "text.txt").write_text(half[: len(half) // 2])
        self.job = JOB[: JOB.index("evaluation")].replace(f"dataset: {TINY}/calibration.txt, ", "split: test, ") + "pipeline: {propagate: float}\n"

    def study(self, more="", tests="", skip=""):
        calibration = self.TEXTS.replace("dataset: ", f"dataset: {self.folder}/")
        return self.config(f"kind: ood\n{skip}\n{calibration}\ntest:\n  - {{name: sums, task: {self.folder}/sums.yaml}}\n  - {{name: more, task: {self.folder}/more.yaml}}\n{tests}\n{more}", self.job)

    def test_matrices_are_the_variants_results(self):
        config = self.study("shots: [0, 1]\nrecipe.preset: [rtn, gptq]", f"  - {{name: text, corpus: {self.folder}/text.txt, seqlen: 64, windows: 4}}")
        for task in ("sums", "more"):  # shots come from somewhere
            path = self.folder / (task + ".yaml")
            path.write_text(path.read_text() + "fewshot: {split: test, exclude_self: true}\n")
        summary = self.summary(config)
        self.assertEqual(summary["kind"], "ood")
        self.assertEqual([variant["name"] for variant in summary["variants"]],
                         ["calibration=sums,preset=rtn", "calibration=sums,preset=gptq", "calibration=more,preset=rtn", "calibration=more,preset=gptq"])
        matrices = {matrix["title"]: matrix for matrix in summary["matrices"]}
        self.assertEqual(set(matrices), {f"{preset}, {end}" for preset in ("rtn", "gptq") for end in ("0 shots", "1 shots", "perplexity")})
        for title, matrix in matrices.items():
            preset, end = title.split(", ")
            perplexity = end == "perplexity"
            self.assertEqual(matrix["rows"], ["sums", "more"])
            self.assertEqual(matrix["columns"], ["text"] if perplexity else ["sums", "more"])
            self.assertEqual((matrix["metric"], matrix["higher_is_better"]), ("perplexity", False) if perplexity else ("acc", True))
            self.assertEqual(matrix["in_distribution"], [[False], [False]] if perplexity else [[True, False], [False, True]])
            for row, name in enumerate(matrix["rows"]):
                results = self.results(f"calibration={name},preset={preset}")
                if perplexity:
                    found = results["perplexity"]
                    self.assertEqual((matrix["values"][row], matrix["baseline"]), ([found[0]["value"]], [found[0]["baseline"]]))
                    continue
                found = {task["task"]: task["metrics"]["acc"] for task in results["tasks"] if task["shots"] == int(end[0])}
                self.assertEqual(len(found), 2)
                for column, test in enumerate(matrix["columns"]):
                    self.assertEqual((matrix["values"][row][column], matrix["baseline"][column], matrix["p_values"][row][column]), tuple(found[test][key] for key in ("value", "baseline", "p_value")))
        text = self.sweep(config).stdout
        self.assertIn("= tested on what it was calibrated on", text)
        report = miq("report", self.folder / "sweep", check=0).stdout
        self.assertIn("calibrat", report.lower())
        self.assertIn("sums", report)

    def test_tests_of_one_task(self):
        (self.folder / "sums/dev.jsonl").write_text((self.folder / "more/test.jsonl").read_text())
        tests = f"  - {{name: dev, task: {self.folder}/sums.yaml, split: dev}}\n  - {{name: two, task: {self.folder}/sums.yaml, limit: 2}}"
        matrix = self.summary(self.study("recipe.preset: [rtn]", tests))["matrices"][0]
        tasks = self.results("calibration=more,preset=rtn")["tasks"]
        self.assertEqual(matrix["columns"], ["sums", "more", "dev", "two"])
        self.assertEqual(matrix["values"][1], [task["metrics"]["acc"]["value"] for task in tasks])
        self.assertEqual([task["documents"] for task in tasks], [12, 9, 9, 2])
        self.assertEqual((matrix["title"], matrix["values"][1][1]), ("rtn", matrix["values"][1][2]))
        again = self.study("recipe.preset: [rtn]", f"  - {{name: again, task: {self.folder}/more.yaml}}")
        self.expect_error(self.sweep(again, check=2, output="again"), 2, "twice in the same way")

    def test_limit(self):
        summary = self.summary(self.study("recipe.preset: [rtn]"), "--limit", "3")
        self.assertEqual([task["documents"] for variant in summary["variants"] for task in self.results(variant["name"])["tasks"]], [3] * 4)
        self.assertEqual([task["documents"] for task in self.results("calibration=sums,preset=rtn")["tasks"]], [3, 3])

    def test_sets_that_are_not_there(self):
        shutil.rmtree(self.folder / "more")
        self.expect_error(self.sweep(self.study("recipe.preset: [rtn]"), check=4), 4, "more")
        result = miq("sweep", "--config", self.study("recipe.preset: [rtn]", skip="missing: skip"), "--output", self.folder / "sweep", "--json", check=0)
        summary = json.loads(result.stdout)
        self.assertEqual([variant["name"] for variant in summary["variants"]], ["calibration=sums,preset=rtn"])
        self.assertEqual([left.split(":")[0] for left in summary["left_out"]], ["test set more", "calibration set more"])
        self.assertEqual(result.stderr.count("left out, for its data are not there"), 2)
        self.assertEqual((summary["matrices"][0]["rows"], summary["matrices"][0]["columns"]), (["sums"], ["sums"]))
        shutil.rmtree(self.folder / "sums")
        self.expect_error(self.sweep(self.study("recipe.preset: [rtn]", skip="missing: skip"), check=4, output="none"), 4, "the data of no test set are there")

    def test_tasks_that_are_not_there(self):
        shutil.rmtree(self.folder / "more")
        (self.folder / "both.yaml").write_text("tasks: [./sums.yaml, ./more.yaml]\n")
        job = JOB + f"  tasks: [{{task: {self.folder}/both.yaml, limit: 4}}]\n"
        self.expect_error(self.sweep(self.config("recipe.preset: [rtn]", job), check=4), 4, "more")
        summary = self.summary(self.config("missing: skip\nrecipe.preset: [rtn]", job), output="skipped")
        self.assertEqual([task["task"] for task in self.results("preset=rtn", "skipped")["tasks"]], ["sums"])
        self.assertEqual(len(summary["left_out"]), 1)

    def test_a_dry_run_writes_nothing(self):
        config = self.study("recipe.preset: [rtn, gptq]")
        before = sorted(self.folder.rglob("*"))
        checked = self.summary(config, "--dry-run")
        self.assertEqual(sorted(self.folder.rglob("*")), before)
        self.assertEqual({variant["state"] for variant in checked["variants"]}, {"fresh"})
        self.sweep(config, "--set", "sweep.recipe.preset=[rtn]")
        self.assertEqual([variant["state"] for variant in self.summary(config, "--dry-run")["variants"]], ["finished", "fresh"] * 2)
        self.assertIn("4 variants, in ", self.sweep(config, "--dry-run").stdout)


class Papers(SweepCase):
    """configs/papers, as far as a dry run goes."""

    DATA = ROOT.parent / "shared/data"
    VARIANTS = {"figure1-standard": 12, "table2-boss-eqa": 48, "table2-boss-nli": 48, "table2-boss-sa": 48, "table2-boss-td": 48, "table3-cross-dataset": 24, "table4-subjects-ceval": 36,
                "table4-subjects-cmmlu": 36, "table5-corpora": 45}

    def test_every_file_is_known(self):
        self.assertEqual({path.stem for path in (ROOT / "configs/papers").iterdir()}, set(self.VARIANTS))
        for path in (ROOT / "configs/papers").iterdir():
            miq("config", "show", "--config", path, check=0)

    @unittest.skipUnless(DATA.is_dir(), "no ../shared/data")
    def test_what_is_there_can_run(self):
        for name, count in self.VARIANTS.items():
            with self.subTest(name):
                small = [] if "subjects" in name or "cross" in name else ["--set", "calibration.samples=2"]
                small += ["--set", "calibration.per_subject=1"] if not small else []
                fewer = ["--set", "sweep.recipe.grid.bits=[4]"]  # a third
                checked = self.summary(ROOT / f"configs/papers/{name}.yaml", "--dry-run", "--limit", "1", "--model", TINY, "--data-dir", self.DATA, "--set", "calibration.seqlen=64", *small, *fewer)
                left = sum(entry.startswith("calibration set") for entry in checked["left_out"])
                sets = {"table2": 4, "table3": 2, "table4": 3, "table5": 3}.get(name[:6], 1)
                self.assertEqual(len(checked["variants"]), count // 3 // sets * (sets - left))


if __name__ == "__main__":
    unittest.main()
