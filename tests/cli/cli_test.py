#!/usr/bin/env python3
"""The program from outside, on the embedded model: what commands print and write, exit statuses of
bad input, and that nothing half-written stands under a final name.

    cli_test.py PATH_TO_MIQ [unittest arguments]
"""
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

MIQ = Path(sys.argv.pop(1)).resolve()
ROOT = Path(__file__).resolve().parent.parent.parent
TINY = ROOT / "tests/fixtures/tiny-llama"
CONFIG = ROOT / "configs/tiny.yaml"


def miq(*arguments, check=None, **options):
    result = subprocess.run([MIQ, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300, **options)
    if check is not None and result.returncode != check:
        raise AssertionError(f"exit {result.returncode}, not {check}: miq {arguments}\n{result.stdout}\n{result.stderr}")
    return result


def read_header(path):
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="miq-cli-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def copy_model(self, name="model"):
        target = self.folder / name
        shutil.copytree(TINY, target)
        return target

    def expect_error(self, result, status, *texts):
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertIn("\nerror[", "\n" + result.stderr)
        self.assertEqual(result.stderr.count("error["), 1, result.stderr)
        for text in texts:
            self.assertIn(text, result.stderr)

    def run_job(self, command, *arguments):
        return json.loads(miq(command, "--config", CONFIG, "--json", "-q", *arguments, check=0).stdout)


class Jobs(Case):
    def test_run_reports_what_it_did(self):
        results = self.run_job("run", "--output", self.folder / "run", "--set", "recipe.grid.bits=3")
        self.assertEqual(json.loads((self.folder / "run/results.json").read_text()), results)
        self.assertEqual(results["model"]["family"], "llama")
        quantization = results["quantization"]
        self.assertEqual(len(quantization["layers"]), 28)
        self.assertEqual({layer["bits"] for layer in quantization["layers"]}, {3})
        self.assertTrue(all(layer["loss"] > 0 and layer["relative_error"] > 0 for layer in quantization["layers"]))
        self.assertEqual(set(quantization["seconds_by_phase"]), {"read", "forward", "statistics", "solve", "write"})
        score = results["perplexity"][0]
        self.assertGreater(score["value"], score["baseline"])
        self.assertLess(score["value"], 1.05 * score["baseline"])
        self.assertEqual(score["tokens"], score["windows"] * 255)
        self.assertTrue((self.folder / "run/miq.log").exists())

    def test_gptq_beats_rtn_and_bits_cost(self):
        value = {}
        for preset in ("rtn", "gptq"):
            for bits in (8, 4, 2):
                results = self.run_job("run", "--set", f"recipe.preset={preset}", "--set", f"recipe.grid.bits={bits}")
                value[preset, bits] = results["perplexity"][0]["value"] / results["perplexity"][0]["baseline"]
        self.assertLess(abs(value["gptq", 8] - 1), 1e-3)
        self.assertLess(value["gptq", 4], 1.01)
        self.assertGreater(value["rtn", 2], 1.2)
        self.assertLess(value["gptq", 4], value["rtn", 4])
        self.assertLess(value["gptq", 2] - 1, 0.5 * (value["rtn", 2] - 1))

    def test_export_is_the_model_that_was_scored(self):
        run = self.run_job("run", "--output", self.folder, "--set", "recipe.grid.bits=3", "--set", "export.format=dequantized")
        scored = self.run_job("eval", "--model", self.folder / "model")
        # The export is rounded to the checkpoint's bfloat16.
        self.assertAlmostEqual(scored["perplexity"][0]["value"] / run["perplexity"][0]["value"], 1, delta=2e-3)
        original, _ = read_header(TINY / "model.safetensors")
        exported, _ = read_header(self.folder / "model/model.safetensors")
        self.assertEqual({k: v["shape"] for k, v in original.items() if k[0] != "_"}, {k: v["shape"] for k, v in exported.items() if k[0] != "_"})
        for name in ("config.json", "tokenizer.json", "generation_config.json"):
            self.assertEqual((TINY / name).read_bytes(), (self.folder / "model" / name).read_bytes())

    def test_sharded_export_reads_back(self):
        whole = self.run_job("quantize", "--output", self.folder / "a", "--set", "recipe.preset=rtn", "--set", "export.format=dequantized")
        self.run_job("quantize", "--output", self.folder / "b", "--set", "recipe.preset=rtn", "--set", "export.shard_size=300KiB")
        shards = sorted((self.folder / "b/model").glob("model-*-of-*.safetensors"))
        self.assertGreater(len(shards), 3)
        scores = [self.run_job("eval", "--model", self.folder / name / "model")["perplexity"][0]["value"] for name in "ab"]
        self.assertEqual(*scores)
        self.assertEqual(len(whole["quantization"]["layers"]), 28)
        shards[1].unlink()
        self.expect_error(miq("eval", "--config", CONFIG, "--model", self.folder / "b/model"), 4, "missing", shards[1].name)

    def test_rules(self):
        results = self.run_job("quantize", "--set", "recipe.rules=[{match: lm_head, keep: float}, "
                               r"{match: 'model\.layers\.0\..*', keep: float}, {match: '.*down_proj', preset: rtn, grid: {bits: 8, granularity: channel}}]")
        layers = {layer["name"]: layer for layer in results["quantization"]["layers"]}
        self.assertEqual(len(layers), 21)
        self.assertEqual((layers["model.layers.1.mlp.down_proj"]["preset"], layers["model.layers.1.mlp.down_proj"]["bits"]), ("rtn", 8))
        self.assertEqual(layers["model.layers.1.mlp.up_proj"]["preset"], "gptq")

    def test_orders_and_propagation(self):
        values = {}
        for order in ("stage", "block"):
            for propagate in ("quantized", "float"):
                results = self.run_job("run", "--set", "recipe.grid.bits=2", "--set", f"pipeline.order={order}", "--set", f"pipeline.propagate={propagate}",
                                       "--memory", "200MiB")
                values[order, propagate] = results["perplexity"][0]["value"] / results["perplexity"][0]["baseline"]
        self.assertEqual(len(set(values.values())), 4, values)  # each is another computation
        self.assertTrue(all(1 < value < 1.1 for value in values.values()), values)

    def test_microbatches_do_not_matter(self):
        losses = []
        for memory in ("200MiB", "1GiB"):
            results = self.run_job("quantize", "--set", "recipe.preset=gptq", "--set", f"pipeline.memory={memory}", "--set", "calibration.dtype=float32")
            losses.append([layer["loss"] for layer in results["quantization"]["layers"]])
        for a, b in zip(*losses):
            self.assertAlmostEqual(a / b, 1, delta=0.05)

    def test_generate(self):
        greedy = json.loads(miq("generate", "--model", TINY, "--prompt", "two plus three is", "--max-new-tokens", "3", "--json", check=0).stdout)
        self.assertEqual(greedy["text"].split(".")[0].strip(), "five")
        plain = miq("generate", "--model", TINY, "--prompt", "two plus three is", "--max-new-tokens", "3", check=0)
        self.assertEqual(plain.stdout, greedy["text"] + "\n")
        sampled = [miq("generate", "--model", TINY, "--prompt", "Count:", "--temperature", "1.5", "--seed", seed, check=0).stdout for seed in (1, 1, 2)]
        self.assertEqual(sampled[0], sampled[1])
        self.assertNotEqual(sampled[0], sampled[2])

    def test_generate_chat(self):
        prompt = ("generate", "--model", TINY, "--prompt", "Count:", "--max-new-tokens", "2")
        self.assertIn("known: ", miq(*prompt, "--chat", check=3).stderr)
        self.assertIn("known: ", miq(*prompt, "--chat", "nonsense", check=2).stderr)
        self.assertIn("--chat", miq(*prompt, "--system", "x", check=2).stderr)


class Output(Case):
    def test_json_is_alone_on_stdout(self):
        result = miq("run", "--config", CONFIG, "--json", "-v", check=0)
        json.loads(result.stdout)
        self.assertIn("quantizing", result.stderr)

    def test_config_show_is_a_fixed_point(self):
        first = miq("config", "show", "--config", ROOT / "configs/mixed.yaml", "--set", "evaluation.perplexity=[{corpus: ptb}]", check=0).stdout
        (self.folder / "shown.yaml").write_text(first)
        self.assertEqual(miq("config", "show", "--config", self.folder / "shown.yaml", check=0).stdout, first)

    def test_example_configurations_are_valid(self):
        for path in sorted((ROOT / "configs").glob("*.yaml")):
            with self.subTest(path.name):
                miq("config", "show", "--config", path, check=0)

    def test_lists(self):
        names = [item["name"] for item in json.loads(miq("list", "algorithms", "--json", check=0).stdout)]
        self.assertEqual(names, ["rtn", "gptq", "awq", "smoothquant", "zeroquant", "fp8", "spqr", "quip", "hqq", "quarot"])

    def test_closed_stdout(self):
        with open("/dev/full", "w") as full:
            result = subprocess.run([MIQ, "list", "families"], stdout=full, stderr=subprocess.PIPE, text=True)
        self.expect_error(result, 4, "stdout")


class Tasks(Case):
    """Tasks from outside, on sums such as the embedded model was trained on."""

    def setUp(self):
        super().setUp()
        numbers = "zero one two three four five six seven eight nine".split()
        for subject, first in (("north", 1), ("south", 3)):
            rows = []
            for i in range(10):
                a, b = first + i % 2, 1 + i // 2
                right, wrong = numbers[a + b], numbers[a + b - 1 - i % 3 % 2]
                rows.append({"text": f"{numbers[a]} plus {numbers[b]} is", "options": [right, wrong] if i % 2 else [wrong, right], "answer": i % 2 ^ 1})
            for split in ("test", "train"):
                path = self.folder / "riddles" / subject / f"{split}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.task = self.folder / "riddles.yaml"
        self.task.write_text("shape: choice\ndata: {set: './riddles/{{SUBJECT}}', eval: test}\nsubjects: [{subject: north, category: Cold}, {subject: south, category: Warm}]\n"
                             "fewshot: {split: train, exclude_self: true}\nprompt: '{{text}}'\nchoices: '{{options}}'\ngold: '{{answer}}'\nmetrics: [acc, acc_norm]\n")

    def evaluate(self, *arguments, check=0):
        return miq("eval", "--model", TINY, "--set", "model.dtype=float32", *arguments, check=check)

    def test_eval_prints_and_writes(self):
        out = self.folder / "out"
        table = self.evaluate("--tasks", self.task, "--shots", "1", "--output", out).stdout
        for text in ("riddles", "acc_norm", "stderr", "Cold", "Warm", "over subjects", "tasks/riddles.subjects.txt"):
            self.assertIn(text, table)
        results = json.loads((out / "results.json").read_text())
        self.assertEqual(list(results), ["miq", "config", "model", "perplexity", "tasks", "events"])
        (task,) = results["tasks"]
        self.assertEqual((task["task"], task["shots"], task["documents"], task["records"]), ("riddles", 1, 20, "tasks/riddles.jsonl"))
        records = [json.loads(line) for line in (out / "tasks/riddles.jsonl").read_text().splitlines()]
        self.assertEqual([record["doc"] for record in records], list(range(10)) * 2)
        self.assertAlmostEqual(task["metrics"]["acc"]["value"], sum(record["prediction"] == record["gold"] for record in records) / 20)
        self.assertGreater(task["metrics"]["acc"]["value"], 0.6)  # the embedded model can add
        self.assertIn("north", (out / "tasks/riddles.subjects.txt").read_text())
        self.assertTrue((out / "miq.log").exists())
        again = json.loads(self.evaluate("--tasks", self.task, "--shots", "1", "--set", f"evaluation.against={out}", "--json", "-q").stdout)["tasks"][0]
        self.assertEqual((again["flips"], again["agreement"], again["metrics"]["acc"]["p_value"]), (0, 1, 1))

    def test_json_is_alone_and_nothing_is_written(self):
        before = sorted(self.folder.rglob("*"))
        here = sorted(ROOT.iterdir())
        results = json.loads(self.evaluate("--tasks", f"{self.task},{self.task}", "--limit", "3", "--json").stdout)
        self.assertEqual([(task["documents"], "records" in task) for task in results["tasks"]], [(6, False)])
        self.assertEqual((sorted(self.folder.rglob("*")), sorted(ROOT.iterdir())), (before, here))

    def test_a_config_with_tasks(self):
        config = self.folder / "job.yaml"
        config.write_text(f"model: {{path: {TINY}, dtype: float32}}\nrecipe: {{preset: rtn, grid: {{bits: 2, group_size: 32}}}}\n"
                          f"evaluation:\n  tasks:\n    - {{task: {self.task}, shots: 0, subjects: Cold}}\n    - {self.task}\n    - hellaswag\n")
        shown = miq("config", "show", "--config", config, check=0).stdout
        (self.folder / "shown.yaml").write_text(shown)
        self.assertEqual(miq("config", "show", "--config", self.folder / "shown.yaml", check=0).stdout, shown)
        for command in ("plan", "quantize"):  # read no task
            miq(command, "--config", config, "--data-dir", self.folder, check=0)
        self.expect_error(miq("run", "--config", config, "--data-dir", self.folder), 4, "hellaswag", "tools/miq_data.py hellaswag --data-dir")
        results = json.loads(miq("run", "--config", config, "--tasks", self.task, "--json", "-q", check=0).stdout)  # in place of the file's
        metric = results["tasks"][0]["metrics"]["acc"]
        self.assertTrue(0 <= metric["p_value"] <= 1 and metric["baseline"] > 0.5, metric)
        self.assertIn("kl_divergence", results["tasks"][0])

    def test_errors(self):
        for arguments, status, texts in [
            (("--tasks", "hellaswg"), 2, ("did you mean hellaswag", "--tasks")),
            (("--tasks", "none.yaml"), 2, ("no file 'none.yaml'",)),
            (("--tasks", "nothing_*"), 2, ("no task fits",)),
            (("--shots", "1"), 2, ("add --tasks",)),
            (("--tasks", self.task, "--shots", "-1"), 2, ("--shots",)),
            (("--tasks", self.task, "--limit", "0"), 2, ("--limit",)),
            (("--tasks", self.task, "--shots", "10"), 2, ("10 shots need 11 rows",)),
            (("--tasks", "blimp/wh_iland", "--data-dir", self.folder), 2, ("did you mean blimp/wh_island",)),
            (("--tasks", "arc_easy", "--data-dir", self.folder), 4, ("tools/miq_data.py arc_easy", "test")),
            (("--tasks", "ceval", "--data-dir", self.folder), 4, ("tools/miq_data.py ceval", "subjects")),
            (("--tasks", "followbench", "--data-dir", self.folder), 4, ("followbench",)),
            (("--tasks", self.task, "--set", f"evaluation.against={self.folder}"), 4, ("no records",)),
            (("--set", f"evaluation.tasks=[{{task: {self.task}, subjects: wst}}]"), 2, ("neither a subject nor a category",)),
            (("--set", "evaluation.tasks=[{task: piqa, shot: 1}]"), 2, ("did you mean shots",)),
        ]:
            with self.subTest(arguments):
                self.expect_error(self.evaluate(*arguments, check=status), status, *texts)
        rows = self.folder / "riddles/south/test.jsonl"
        rows.write_text(rows.read_text().replace("options", "choices", 1))
        self.expect_error(self.evaluate("--tasks", self.task, check=2), 2, "test.jsonl:1", "riddles.yaml:6:10 choices", "no field 'options'")
        rows.write_text('{"text": \n')
        self.expect_error(self.evaluate("--tasks", self.task, check=4), 4, "test.jsonl:1")

    def test_full_disk(self):
        for most, file in ((1500, "manifest.json"), (4000, "results.json")):
            def limit():
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

            result = miq("eval", "--model", TINY, "--tasks", self.task, "--output", self.folder / "out", "-q", preexec_fn=limit)
            self.expect_error(result, 4, file)
            self.assertFalse((self.folder / "out" / file).exists())
            self.assertEqual([path for path in (self.folder / "out").rglob("*") if "partial" in path.name], [])
        miq("eval", "--model", TINY, "--tasks", self.task, "--output", self.folder / "out", "-q", check=0)  # room was made: it goes on
        self.assertFalse((self.folder / "out/resume").exists())

    def test_ready_made_jobs(self):
        show = lambda name, *more: miq("config", "show", "--config", ROOT / "configs" / name, *more, check=0).stdout
        standard = show("eval-standard.yaml")
        self.assertEqual([standard.count(f"shots: {n} ") for n in (0, 5)], [1, 1], standard)
        self.assertEqual(standard.count("task: standard"), 2)
        self.assertIn("subjects: Humanities", show("ceval-cross-subject.yaml"))
        self.assertIn("subjects: STEM", show("ceval-cross-subject.yaml"))
        self.assertIn("dataset: boss/SentimentAnalysis/amazon", show("boss-ood.yaml"))
        other = show("boss-ood.yaml", "--set", "calibration.dataset=boss/NaturalLanguageInference/mnli", "--tasks", "boss_nli", "--shots", "3")
        self.assertIn("task: boss_nli", other)

    def test_calibration_on_one_subject(self):
        results = json.loads(miq("run", "--model", TINY, "--set", f"calibration={{dataset: {self.task}, split: train, subjects: Cold, per_subject: 10}}", "--set", "recipe.grid.group_size=32",
                                 "--set", f"evaluation.tasks=[{{task: {self.task}, subjects: Warm}}]", "--json", "-q", check=0).stdout)
        self.assertEqual((results["config"]["calibration"]["subjects"], results["tasks"][0]["selection"], results["tasks"][0]["documents"]), ("Cold", "Warm", 10))

    def test_list_says_what_is_on_disk(self):
        with tempfile.TemporaryDirectory() as data:
            os.makedirs(os.path.join(data, "arc_easy"))
            with open(os.path.join(data, "arc_easy", "test.jsonl"), "w") as file:
                file.write("{}\n")
            found = {task["name"]: task for task in json.loads(miq("list", "tasks", "--json", "--data-dir", data, check=0).stdout)}
            self.assertEqual(found["arc_easy"]["on disk"], "without train (shots)")
            self.assertTrue(found["mmlu"]["on disk"].startswith("no"))
            self.assertEqual(found["hellaswag"]["category"], "commonsense reasoning")
            table = miq("list", "tasks", "anli", "--data-dir", data, check=0).stdout
            self.assertIn("anli_r3", table)
            self.assertNotIn("hellaswag ", table)
            self.assertIn("did you mean anli", miq("list", "tasks", "anlli", "--data-dir", data, check=2).stderr)
            self.assertIn("miq_data.py", table)
            own = json.loads(miq("list", "tasks", self.task, "--json", check=0).stdout)
            self.assertEqual((own[0]["on disk"], own[0]["shape"]), ("yes", "choice"))


class Exports(Case):
    W4 = ("--set", "recipe.preset=gptq", "--set", "recipe.grid={bits: 4, symmetric: true, group_size: 32}", "--set", "export.shard_size=200KiB")

    def quantize(self, name, *arguments):
        self.run_job("quantize", "--output", self.folder / name, *self.W4, *arguments)
        return self.folder / name / "model"

    def test_export_convert_verify(self):
        gptq = self.quantize("run", "--set", "export.format=gptq")
        self.assertTrue((gptq / "model.safetensors.index.json").exists())
        inspection = json.loads(miq("inspect", gptq, "--json", check=0).stdout)
        self.assertEqual((inspection["loads"], inspection["quantization"]["bits"]), ({"ok": True}, [4]))
        ct = self.folder / "ct"
        done = json.loads(miq("export", "--from", gptq, "--format", "compressed-tensors", "--output", ct, "--json", "-q", check=0).stdout)
        self.assertEqual((done["from"], done["format"], done["linears"]), ("gptq", "compressed-tensors", 28))
        texts = [miq("generate", "--model", model, "--prompt", "def f(", "--max-new-tokens", "12", "-q", check=0).stdout for model in (gptq, ct)]
        self.assertEqual(*texts)
        found = json.loads(miq("verify", ct, "--against", TINY, "--json", "-q", check=0).stdout)
        self.assertEqual(found["problems"], [])
        self.assertLess(found["against"]["kl"], 0.05)
        self.assertIn("all is well", miq("verify", gptq, check=0).stdout)
        self.expect_error(miq("verify", ct, "--against", TINY, "--kl-max", "1e-9", "-q"), 5, "KL divergence")
        shard = next(ct.glob("*.safetensors"))
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
        self.expect_error(miq("verify", ct, "-q"), 5, "not the one that was written")

    def test_gguf(self):
        folder = self.quantize("run", "--set", "export={format: gguf}")
        self.assertTrue((folder / "model.gguf").exists())
        self.assertIn("all is well", miq("verify", folder, "--against", TINY, check=0).stdout)
        plain = self.folder / "plain"
        miq("export", "--from", TINY, "--format", "gguf", "--variant", "q8_0", "--output", plain, "-q", check=0)
        self.assertEqual(json.loads(miq("inspect", plain, "--json", check=0).stdout)["quantization"]["method"], "gguf")

    def test_a_quantized_head(self):
        head = "recipe.rules=[{match: lm_head, preset: rtn, grid: {bits: 8, symmetric: true, granularity: group, group_size: 32}}]"
        for form in ("miq", "gptq", "dequantized", "gguf"):
            result = self.run_job("run", "--output", self.folder / form, *self.W4, "--set", f"export.format={form}", "--set", head)
            self.assertEqual(result["quantization"]["layers"][-1]["name"], "lm_head")
            again = self.run_job("eval", "--model", self.folder / form / "model")
            self.assertAlmostEqual(result["perplexity"][0]["value"], again["perplexity"][0]["value"], delta=2e-3)
        self.expect_error(miq("plan", "--config", CONFIG, *self.W4, "--set", "recipe.rules=[{match: lm_head, preset: gptq}]"), 3, "rounded without data")

    def test_refusals(self):
        self.expect_error(miq("plan", "--config", CONFIG, "--set", "recipe={preset: spqr}", "--set", "export={format: gptq}"), 3, "outliers", "miq")
        self.expect_error(miq("quantize", "--config", CONFIG, "--output", self.folder / "x", "--set", "export={format: gptq, variant: v3}"), 2, "v1, v2")
        self.expect_error(miq("export", "--from", TINY, "--format", "awq", "--output", self.folder / "y"), 3, "not quantized")
        self.expect_error(miq("export", "--from", TINY, "--format", "no", "--output", self.folder / "y"), 2, "export.format")
        self.expect_error(miq("verify", self.folder), 4)
        self.assertFalse((self.folder / "y").exists())

    def test_bench(self):
        measured = json.loads(miq("bench", self.quantize("run", "--set", "export.format=miq"), "--context", "16,32", "--batch", "1,2", "--new-tokens", "4", "--runs", "1", "--json", "-q", check=0).stdout)
        self.assertEqual(len(measured["measured"]), 4)
        for entry in measured["measured"]:
            self.assertGreater(entry["decode_tokens_per_second"], 0)
            self.assertGreater(entry["decode_roofline"], entry["decode_tokens_per_second"] * 0.5)


class Inspect(Case):
    def test_tables_and_json(self):
        inspection = json.loads(miq("inspect", TINY, "--json", check=0).stdout)
        self.assertEqual((inspection["family"], inspection["container"], inspection["parameters"]["total"]), ("llama", "safetensors", 853120))
        self.assertEqual(inspection["loads"], {"ok": True})
        self.assertEqual([entry["bits"] for entry in inspection["memory"]["by_bits"]], [16, 8, 4, 3, 2])
        tables = miq("inspect", TINY, check=0).stdout
        for text in ("llama", "head tied to the embedding", "853120", "KV cache"):
            self.assertIn(text, tables)

    def test_a_quantized_checkpoint_is_described(self):
        model = self.copy_model()
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": False}}))
        self.assertIn("gptq, 4 bits, groups of 128, asymmetric", miq("inspect", model, check=0).stdout)

    def test_architecture(self):
        inspection = json.loads(miq("inspect", TINY, "--json", "--architecture", "qwen2", check=0).stdout)
        self.assertIn("q_proj.bias", inspection["loads"]["reason"])
        (self.folder / "my.yaml").write_text("based_on: llama\nkeys: {hiden_size: n_embd}\n")
        self.expect_error(miq("inspect", TINY, "--architecture", self.folder / "my.yaml"), 2, "my.yaml:2:20", "did you mean hidden_size")

    def test_errors(self):
        self.expect_error(miq("inspect"), 2)
        self.expect_error(miq("inspect", self.folder / "none"), 4, "none")
        self.expect_error(miq("inspect", "an/unknown-model"), 4, "hf download")
        self.expect_error(miq("inspect", TINY / "model.safetensors"), 4, "give the folder")


class BadInput(Case):
    def test_command_line(self):
        self.expect_error(miq("quantise"), 2)
        self.expect_error(miq("run", "--confg", "x"), 2, "--confg")
        self.expect_error(miq(), 2)
        self.expect_error(miq("run", "--config", self.folder / "none.yaml"), 4, "none.yaml")
        self.expect_error(miq("run"), 2, "--model")
        self.expect_error(miq("run", "--model", TINY, "--device", "gpu"), 2, "gpu")
        self.expect_error(miq("run", "--model", TINY, "--device", "cuda:7"), 3)

    def test_model_path(self):
        self.expect_error(miq("eval", "--config", CONFIG, "--model", self.folder / "none"), 4, "none")
        (self.folder / "empty").mkdir()
        self.expect_error(miq("eval", "--config", CONFIG, "--model", self.folder / "empty"), 4, "config.json")

    def test_truncated_weights(self):
        model = self.copy_model()
        data = (model / "model.safetensors").read_bytes()
        for size in (0, 7, 8, 100, 2000, len(data) - 1):
            with self.subTest(size):
                (model / "model.safetensors").write_bytes(data[:size])
                self.expect_error(miq("eval", "--config", CONFIG, "--model", model), 4, "model.safetensors")

    def test_bytes_flipped_in_the_header(self):
        model = self.copy_model()
        data = (model / "model.safetensors").read_bytes()
        for position in list(range(0, 8)) + list(range(8, 600, 37)):
            broken = bytearray(data)
            broken[position] ^= 0x41
            (model / "model.safetensors").write_bytes(broken)
            result = miq("eval", "--config", CONFIG, "--model", model)
            with self.subTest(position):
                self.assertIn(result.returncode, (0, 3, 4), result.stderr)

    def test_not_finite_weights(self):
        model = self.copy_model()
        header, data = read_header(model / "model.safetensors")
        begin, _ = header["model.layers.1.mlp.up_proj.weight"]["data_offsets"]
        data = bytearray(data)
        data[begin : begin + 2] = b"\xc0\x7f"  # NaN
        text = json.dumps(header).encode()
        (model / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
        for preset in ("rtn", "gptq"):
            self.expect_error(miq("quantize", "--config", CONFIG, "--model", model, "--set", f"recipe.preset={preset}"), 5, "model.layers.1.mlp.up_proj")

    def test_wrong_config_json(self):
        model = self.copy_model()
        config = json.loads((model / "config.json").read_text())
        for key, value, status in [("hidden_size", 256, 4), ("hidden_size", "128", 4), ("num_hidden_layers", 5, 4), ("num_hidden_layers", -1, 4),
                                   ("num_key_value_heads", 3, 4), ("model_type", "bloom", 3), ("hidden_act", "gelu", 3), ("vocab_size", 1 << 40, 4),
                                   ("rope_scaling", {"type": "weird", "factor": 2}, 3), ("rms_norm_eps", 0, 4), ("num_attention_heads", 0, 4)]:
            with self.subTest(key=key, value=value):
                (model / "config.json").write_text(json.dumps({**config, key: value}))
                self.expect_error(miq("eval", "--config", CONFIG, "--model", model), status)
        (model / "config.json").write_text("{" * 100000)
        self.expect_error(miq("eval", "--config", CONFIG, "--model", model), 4, "config.json")

    def test_configuration(self):
        for assignment, text in [("recipe.grid.bits=9", "2 .. 8"), ("recipe.grid.bit=4", "did you mean bits"), ("recipe.preset=gptc", "did you mean gptq"),
                                 ("calibration.samples=0", "1 .."), ("recipe.rules=[{match: nothing, keep: float}]", "matches no layer"),
                                 ("calibration.samples=1000000", "tokens"), ("calibration.dataset=wikitext3", "wikitext2"), ("model.dtype=int8", "dtype")]:
            with self.subTest(assignment):
                self.expect_error(miq("quantize", "--config", CONFIG, "--set", assignment), 2, text)
        self.expect_error(miq("quantize", "--config", CONFIG, "--set", "sweep={bits: [2]}"), 2, "miq sweep")


class Interruption(Case):
    def test_killed_at_any_moment(self):
        command = [MIQ, "quantize", "--config", CONFIG, "--output", self.folder, "-q", "--set", "export.format=dequantized"]
        for delay in (0.05, 0.15, 0.25, 0.35, 0.5):
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
            if (self.folder / "model").exists():  # it was done: then it is whole
                miq("eval", "--config", CONFIG, "--model", self.folder / "model", check=0)
                shutil.rmtree(self.folder / "model")
            if (self.folder / "results.json").exists():
                json.loads((self.folder / "results.json").read_text())

    def test_full_disk(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

        result = miq("quantize", "--config", CONFIG, "--output", self.folder, "-q", "--set", "export.format=dequantized", preexec_fn=limit)
        self.expect_error(result, 4, "model")
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["manifest.json", "miq.log", "resume"])
        miq("quantize", "--config", CONFIG, "--output", self.folder, "-q", "--set", "export.format=dequantized", check=0)  # room was made: it goes on
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["manifest.json", "miq.log", "model", "results.json"])

    @unittest.skipIf(os.geteuid() == 0, "root may write everywhere")
    def test_unwritable_output(self):
        self.folder.chmod(0o500)
        self.expect_error(miq("quantize", "--config", CONFIG, "--output", self.folder / "x"), 4)

    def test_output_is_a_file(self):
        (self.folder / "x").write_text("")
        self.expect_error(miq("quantize", "--config", CONFIG, "--output", self.folder / "x"), 4)


if __name__ == "__main__":
    unittest.main()
