#!/usr/bin/env python3
"""miq report from outside: on runs that miq made of the embedded model, and on runs and sweeps made here from a seed.

    report_test.py PATH_TO_MIQ [unittest arguments]
"""
import copy
import csv
import html
import io
import json
import os
import random
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import unittest
from html.parser import HTMLParser
from pathlib import Path

MIQ = Path(sys.argv.pop(1)).resolve()
ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = ROOT / "configs/tiny.yaml"
HOSTILE = '<script>alert("1")</script>\'><img src=x onerror=alert(1)> & ](http://example.com) |`*_#'
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def miq(*arguments, check=None, cwd=ROOT, **options):
    result = subprocess.run([MIQ, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300, **options)
    if check is not None and result.returncode != check:
        raise AssertionError(f"exit {result.returncode}, not {check}: miq {arguments}\n{result.stdout}\n{result.stderr}")
    return result


class Page(HTMLParser):
    """A page as elements with their attributes, their depth checked: every element that is opened is closed in its order."""

    VOID = {"meta", "br", "wbr", "img", "hr", "input", "link"}

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts, self.problems, self.joins = [], [], [], [], False
        self.feed(text)
        self.close()
        if self.open:
            self.problems.append(f"not closed: {self.open}")

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        if len(set(names)) != len(names):
            self.problems.append(f"an attribute twice: <{tag} {names}>")
        self.elements.append((tag, dict(attributes), tuple(self.open)))
        self.joins = tag == "wbr"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self.open)))
        if "svg" not in self.open:
            self.problems.append(f"<{tag}/> outside of SVG")

    def handle_endtag(self, tag):
        self.joins = False
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        if self.joins and self.texts:
            self.texts[-1] = (self.texts[-1][0], self.texts[-1][1] + data)
        elif data.strip():
            self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag, **attributes):
        return [found for name, found, _ in self.elements if name == tag and all(found.get(key) == value for key, value in attributes.items())]

    def text(self):
        return " ".join(data for tag, data in self.texts if tag not in ("style", "script"))


def make_metric(rng, baseline, value, p):
    low, high = value - baseline - 0.03, value - baseline + 0.03
    return {"value": value, "stderr": 0.02, "ci95": [value - 0.04, value + 0.04], "documents": 200, "better": "higher", "baseline": baseline, "p_value": p,
            "comparison": {"difference": value - baseline, "ci95": [low, high], "p_value": p}}


def make_results(rng, bits=4, preset="gptq", path="/models/Tiny-1B", blocks=4, perplexity=None, tasks=True):
    """What miq writes, made up: a model of 28 linears and a head."""
    layers = [{"name": f"model.layers.{block}.{kind}", "rule": -1, "preset": preset, "bits": bits, "group_size": 64, "bits_per_weight": bits + 0.3125, "loss": 1.0,
               "relative_error": round(rng.uniform(0.5, 1) * 2.0**-bits, 6), "events": []}
              for block in range(blocks) for kind in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")]
    results = {
        "miq": {"version": "0.1.0", "libtorch": "2.1", "device": "cpu", "threads": 2},
        "config": {"model": {"path": path}, "recipe": {"preset": preset, "grid": {"type": "int", "bits": bits, "granularity": "group", "group_size": 64}}},
        "model": {"family": "llama", "parameters": 1000000, "bytes": 2000000, "dtype": "float32"},
        "quantization": {"seconds": rng.uniform(1, 90), "cpu_seconds": 100.0, "peak_rss_bytes": 300 << 20, "seconds_by_phase": {"read": 0.125, "forward": 0.25, "solve": 0.5},
                         "bits_per_weight": bits + 0.3125, "bytes": int(900000 * (bits + 0.3125) / 8), "layers": layers},
        "perplexity": [{"corpus": "wikitext2", "split": "test", "protocol": "gptq", "seqlen": 2048, "windows": 20, "tokens": 40940,
                        "value": perplexity if perplexity is not None else 10 + rng.uniform(0.2, 5), "baseline": 10.0, "seconds": 1.0, "kl_divergence": 0.01, "top1_agreement": 0.97}],
        "tasks": [], "events": []}
    if tasks:
        for name, baseline, value, p in (("arc_easy", 0.5, 0.4, 0.0005), ("sciq", 0.6, 0.59, 0.4), ("copa", 0.7, 0.75, 0.03)):
            results["tasks"].append({"task": name, "version": 1, "shots": 0, "split": "test", "documents": 200, "metrics": {"acc": make_metric(rng, baseline, value, p), "acc_norm": make_metric(rng, 0.5, 0.45, 0.0001)},
                                     "flips": 12, "agreement": 0.9, "kl_divergence": 0.02, "seconds": 1.0})
        for task, holm in zip(results["tasks"], (0.0015, 0.4, 0.06)):
            task["metrics"]["acc"]["p_value_holm"] = holm
    return results


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="miq-report-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.rng = random.Random(7)

    def write(self, name, results):
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / name / "results.json").write_text(json.dumps(results))
        return self.folder / name

    def write_sweep(self, name="sweep", missing=(), matrices=(), kind="grid"):
        axes = [{"key": "recipe.preset", "values": ["rtn", "gptq"]}, {"key": "recipe.grid.bits", "values": [4, 3, 2]}]
        variants = []
        for preset in axes[0]["values"]:
            for bits in axes[1]["values"]:
                variant = f"preset={preset},bits={bits}"
                if variant not in missing:
                    perplexity = 10 + (1.0 if preset == "gptq" else 2.5) * 2.0 ** (4 - bits) * self.rng.uniform(0.9, 1.1)
                    self.write(f"{name}/{variant}", make_results(self.rng, bits, preset, perplexity=perplexity))
                variants.append({"name": variant, "run": variant, "settings": {"recipe.preset": preset, "recipe.grid.bits": bits}, "pareto": False, "scores": []})
        sweep = {"miq": {"version": "0.1.0"}, "kind": kind, "title": "", "axes": axes, "variants": variants, "matrices": list(matrices)}
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / "sweep.json").write_text(json.dumps(sweep))
        return self.folder / name

    def page(self, *runs, options=()):
        target = self.folder / "report.html"
        miq("report", *runs, "-o", target, *options, check=0)
        self.source = target.read_text()
        page = Page(self.source)
        self.check(page)
        return page

    def check(self, page):
        """What holds of every page."""
        self.assertEqual(page.problems, [])
        ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
        self.assertEqual(len(ids), len(set(ids)), "an id twice")
        for tag, attributes, inside in page.elements:
            self.assertNotIn(tag, ("link", "img", "iframe", "object", "embed", "base", "form", "image", "foreignobject"))
            for name, value in attributes.items():
                self.assertFalse(name.startswith("on") or name in ("src", "style", "srcset", "action", "background"), f"<{tag} {name}={value}>")
                if name in ("href", "xlink:href"):
                    self.assertTrue(value.startswith("#") and value[1:] in ids, f"{tag} refers to {value}")
            if tag == "svg" and attributes.get("aria-hidden") != "true":
                self.assertTrue(attributes["aria-label"])
                self.assertEqual(attributes["role"], "img")
            if tag == "use" and attributes.get("class", "").startswith("mark") and "figure" in inside and "ul" not in inside:
                self.assertTrue(attributes["x"] and attributes["y"])
        styles = "".join(data for tag, data in page.texts if tag == "style")
        self.assertNotRegex(styles, r"@import|url\(|https?:")
        self.assertEqual((len(page.all("script")), len(page.all("style"))), (1, 1))
        for number in re.findall(r'(?: x| y| x1| x2| y1| y2| width| height| d)="([^"]*)"', self.source):
            self.assertNotRegex(number, "nan|inf")
        self.assertIn("default-src 'none'", page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"])

    def titles(self, page):
        return [data for tag, data in page.texts if tag == "title"]

    def expect_error(self, result, status, *texts):
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertEqual(result.stderr.count("error["), 1, result.stderr)
        for text in texts:
            self.assertIn(text, result.stderr)


class RealRuns(Case):
    def test_a_run_of_miq(self):
        task = self.folder / "riddles.yaml"
        task.write_text("task: riddles\nshape: choice\ndata: {test: riddles.jsonl}\ncontext: '{question}'\nchoices: {field: options}\ntarget: {field: answer}\nmetrics: [acc]\n")
        run = self.folder / "run"
        results = json.loads(miq("run", "--config", CONFIG, "--output", run, "--json", "-q", "--set", "recipe.grid.bits=2", "--set", "export.format=miq", check=0).stdout)
        page = self.page(run)
        text = page.text()
        score = results["perplexity"][0]
        for figure in (f"{score['value']:.3f}", f"{score['baseline']:.3f}", f"{results['quantization']['bits_per_weight']:.2f}", "28 linear layers", "heldout.txt", "853,120 parameters", results["miq"]["libtorch"]):
            self.assertIn(figure, text)
        worst = max(results["quantization"]["layers"], key=lambda layer: layer["relative_error"])
        self.assertIn(worst["name"], text)
        # A mark for each layer, whose title tells its error.
        for layer in results["quantization"]["layers"]:
            block, kind = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", layer["name"]).groups()
            self.assertTrue(any(title.startswith(f"block {block}, {kind}: {100 * layer['relative_error']:.1f} %") for title in self.titles(page)), layer)
        self.assertIn('"calibration"', text)
        rows = list(csv.DictReader(io.StringIO(miq("report", run, "--format", "csv", check=0).stdout)))
        disk = sum(file.stat().st_size for file in (run / "model").glob("*.safetensors"))
        self.assertIn(("disk_bytes", str(disk)), [(row["metric"], row["value"]) for row in rows])

    def test_eval_without_quantizing(self):
        run = self.folder / "float"
        miq("eval", "--config", CONFIG, "--output", run, "-q", check=0)
        page = self.page(run)
        self.assertIn("nothing was quantized in this run", page.text())
        self.assertNotIn("Layers", page.text())
        self.assertNotIn("efficiency", [attributes.get("id") for attributes in page.all("section")])


class Single(Case):
    def test_words_and_figures(self):
        results = make_results(self.rng)
        results["expect"] = [{"what": "perplexity wikitext2", "bound": "max", "value": 31.2, "limit": 30, "met": False}, {"what": "acc of sciq", "bound": "min", "value": 0.59, "limit": 0.5, "met": True}]
        results["events"] = [{"layer": f"model.layers.{n}.mlp.down_proj", "code": "dead_columns", "detail": f"{n} of 64"} for n in range(3)] + [{"layer": "lm_head", "code": "damping_raised", "detail": "to 0.03"}]
        page = self.page(self.write("run", results), options=("--title", "Our model"))
        self.assertIn("Our model", [data for tag, data in page.texts if tag == "h1"])
        text = page.text()
        self.assertIn("3 tasks were compared", text)
        self.assertIn("Significantly worse at 5 % with all of them taken together (Holm's correction): arc_easy (acc 0.500 to 0.400). The other 2 are not shown to differ.", text)  # copa: only without the correction
        self.assertIn("1 of 2 quality gates was not met.", text)
        for part in ("✗ not met", "✓ met", "≤ 30", "≥ 0.5", "4 events out of the ordinary were noted", "dead_columns", "inputs that were zero", "-0.100 ▼".replace("-", "−"), "0.360 – 0.440", "−0.130 to −0.070"):
            self.assertIn(part, text)
        ids = [attributes.get("id") for attributes in page.all("section")]
        self.assertEqual(ids, ["summary", "gates", "perplexity", "tasks", "layers", "efficiency", "events", "configuration", "environment"])
        intervals = [title for title in self.titles(page) if "95 %" in title]
        self.assertEqual(len([title for title in intervals if title.startswith("arc_easy, acc: 0.500 to 0.400")]), 2)  # of the mark and of its row
        self.assertEqual(len(page.all("line", **{"class": "whisker worse"})), 3)
        self.assertEqual(len(page.all("line", **{"class": "whisker same"})), 6)

    def test_no_difference_is_not_called_equality(self):
        results = make_results(self.rng)
        for task in results["tasks"]:
            task["metrics"]["acc"].update(p_value=0.5, p_value_holm=1.0)
        text = self.page(self.write("run", results)).text()
        self.assertIn("No difference is significant", text)
        self.assertIn("not a proof that there is none", text)

    def test_correction_where_the_file_has_none(self):
        results = make_results(self.rng)
        for task in results["tasks"]:
            del task["metrics"]["acc"]["p_value_holm"]
        self.assertIn("arc_easy (acc 0.500 to 0.400). The other 2 are not shown to differ.", self.page(self.write("run", results)).text())

    def test_a_single_test_needs_no_correction(self):
        results = make_results(self.rng)
        results["tasks"] = results["tasks"][2:]
        del results["tasks"][0]["metrics"]["acc"]["p_value_holm"]
        self.assertIn("Significantly better: copa (acc 0.700 to 0.750).", self.page(self.write("run", results)).text())

    def test_bits_by_layer_and_experts(self):
        results = make_results(self.rng)
        layers = results["quantization"]["layers"]
        for layer in layers[:7]:
            layer["bits_per_weight"] = 8.25
        for block in range(4):
            layers += [dict(layers[0], name=f"model.layers.{block}.mlp.experts.{expert}.up_proj", relative_error=0.1 * (expert + 1), bits_per_weight=4.3125) for expert in range(3)]
        layers.append(dict(layers[0], name="lm_head", bits_per_weight=8.25, relative_error=0.005))
        page = self.page(self.write("run", results))
        self.assertEqual(len([a for a in page.all("rect") if a["class"] == "tile q8"]), 7 + 1)  # and the legend's
        self.assertIn("block 2, mlp.experts.*.up_proj: 20.0 % on average, at most 30.0 %, 4.31 bits a weight", self.titles(page))
        self.assertIn("lm_head: 0.50 % at 8.25 bits a weight.", page.text())

    def test_divisions(self):
        results = make_results(self.rng)
        results["tasks"][0]["categories"] = [{"category": "STEM", "documents": 30, "metrics": {"acc": {"value": 0.123, "stderr": 0.01, "baseline": 0.3}}, "macro": {"acc": {"value": 0.321, "stderr": 0.01, "baseline": 0.3}}}]
        results["categories"] = [{"category": "all", "shots": None, "sets": 3, "value": 0.58, "stderr": 0.01, "baseline": 0.6}]
        results["groups"] = [{"group": "both", "tasks": ["arc_easy", "sciq"], "shots": 0, "documents": 400, "metrics": {"acc": make_metric(self.rng, 0.55, 0.5, 0.01)}}]
        run = self.write("run", results)
        page = self.page(run)
        text = page.text()
        group = next(n for n, (tag, data) in enumerate(page.texts) if data == "both")
        self.assertNotIn("▼", " ".join(data for _, data in page.texts[group : group + 14]))  # its p-value is not corrected
        for part in ("arc_easy/STEM", "0.123", "acc over subjects", "0.321", "Means by category", "Tasks taken together"):
            self.assertIn(part, text)
        rows = list(csv.DictReader(io.StringIO(miq("report", run, "--format", "csv", check=0).stdout)))
        self.assertEqual([(row["metric"], row["value"]) for row in rows if row["what"] == "category"], [("acc", "0.123"), ("acc over subjects", "0.321")])


class Hostile(Case):
    def test_everything_is_escaped(self):
        results = make_results(self.rng, path="/models/" + HOSTILE)
        results["model"]["family"] = results["miq"]["device"] = results["miq"]["version"] = HOSTILE
        results["perplexity"][0].update(corpus=HOSTILE, split=HOSTILE, protocol=HOSTILE)
        results["tasks"][0]["task"] = HOSTILE
        results["tasks"][1]["metrics"] = {HOSTILE: results["tasks"][1]["metrics"]["acc"]}
        results["events"] = [{"layer": HOSTILE, "code": HOSTILE, "detail": HOSTILE + "\u0000\u0007\n"}]
        results["expect"] = [{"what": HOSTILE, "bound": HOSTILE, "value": HOSTILE, "limit": HOSTILE, "met": True}]
        results["quantization"]["layers"][0]["name"] = "model.layers.0." + HOSTILE
        results["quantization"]["layers"][1]["name"] = HOSTILE
        results["quantization"]["seconds_by_phase"][HOSTILE] = 1.0
        results["config"]["recipe"]["preset"] = [HOSTILE, "</pre><script>"]
        first, second = self.write("a", results), self.write("b", make_results(self.rng))
        matrix = {"title": HOSTILE, "metric": HOSTILE, "rows_are": HOSTILE, "columns_are": HOSTILE, "rows": [HOSTILE], "columns": [HOSTILE], "values": [[0.5]], "baseline": [0.6], "p_values": [[0.01]], "in_distribution": [[True]]}
        sweep = self.folder / "sweep"
        self.write("sweep/x", results)
        (sweep / "sweep.json").write_text(json.dumps({"title": HOSTILE, "axes": [{"key": HOSTILE, "values": [HOSTILE, "b"]}], "variants": [{"name": HOSTILE, "run": "x", "settings": {HOSTILE: HOSTILE}}, {"name": HOSTILE + "2", "run": "../" + HOSTILE.replace("/", "")[:100], "settings": {}}], "matrices": [matrix]}))
        for runs in ([first], [first, second], [sweep], [sweep, first]):
            page = self.page(*runs, options=("--title", HOSTILE))
            self.assertIn(HOSTILE, page.text())
            self.assertNotIn("<img", self.source)
            self.assertNotIn("\u0000", self.source)
            markdown = miq("report", *runs, check=0).stdout
            outside = re.sub(r"```json\n.*?\n```", "", markdown, flags=re.S)
            self.assertNotRegex(outside, r"<[a-z/]|(?<!\\)\]\(|https?://")
            self.check_markdown(markdown)

    def check_markdown(self, text):
        """Every row of a table has as many cells as its head."""
        width, inside = None, False
        for line in text.splitlines():
            inside = inside != line.startswith("```")
            if not line.startswith("|") or inside:
                width = None
                continue
            cells = len(re.findall(r"(?<!\\)\|", line))
            self.assertEqual(width or cells, cells, line)
            width = cells

    def test_odd_numbers(self):
        for value in (0, 1e300, -1.5, 5e-324, 1 << 60, 1.0 + 1e-16):
            results = make_results(self.rng)
            results["perplexity"][0]["value"] = results["quantization"]["seconds"] = results["quantization"]["bytes"] = value
            results["quantization"]["layers"][3].update(relative_error=value, bits_per_weight=value)
            results["tasks"][0]["metrics"]["acc"]["value"] = value
            results["quantization"]["layers"][0]["name"] = "model.layers.99999999999999999999.x"
            results["quantization"]["layers"][1]["name"] = "model.layers.123456789.x"
            self.page(self.write("a", results), self.write("b", make_results(self.rng, 3)))

    def test_unknown_numbers(self):
        results = make_results(self.rng)
        for key in ("seconds", "cpu_seconds", "peak_rss_bytes", "bits_per_weight", "bytes"):
            results["quantization"][key] = None
        for layer in results["quantization"]["layers"]:
            layer["relative_error"] = layer["bits_per_weight"] = layer["bits"] = None
        results["perplexity"][0].update(value=None, baseline=None)
        results["model"] = {}
        for metric in results["tasks"][0]["metrics"].values():
            metric.update(value=None, stderr=None, ci95=[None, None], p_value=None, baseline=None, comparison=None)
        self.page(self.write("a", results))
        self.page(self.write("a", results), self.write("b", make_results(self.rng, 3)))


class Sweeps(Case):
    def pareto(self, points):
        return {name for name, x, y in points if not any(a <= x and b <= y and (a < x or b < y) for _, a, b in points)}

    def test_grid(self):
        sweep = self.write_sweep()
        page = self.page(sweep)
        runs = {folder.name: json.loads((folder / "results.json").read_text()) for folder in sweep.iterdir() if folder.is_dir()}
        for sign, figure in ((1, lambda r: r["perplexity"][0]["value"]), (-1, lambda r: sum(t["metrics"]["acc"]["value"] for t in r["tasks"]) / 3)):
            points = [(name, r["quantization"]["bits_per_weight"], sign * figure(r)) for name, r in runs.items()]
            best = self.pareto(points)
            self.assertTrue(best and len(best) < 6)
            marked = {title.split(": ")[0] for title in self.titles(page) if "Pareto-optimal" in title and (f"{abs(figure(runs[title.split(': ')[0]])):.2f}" in title if sign > 0 else ": 0." in title)}
            self.assertEqual(marked, best)
        text = page.text()
        for name in runs:
            self.assertIn(name, text)
        self.assertIn("unquantized 10.00", text)
        self.assertRegex(text, r"Quantized, all weights take [0-9.]+ KiB to [0-9.]+ KiB instead of 1.9 MiB. Quantizing took [0-9.]+ s to [0-9m. ]+s and 300.0 MiB of memory.")
        self.assertIn("In 6 of 6 runs at least one task is significantly worse", text)
        figures = [a["aria-label"] for a in page.all("svg") if "aria-label" in a]
        for start in ("Perplexity, wikitext2 against bits per weight of 6 runs", "Mean over 3 tasks against bits per weight", "Relative error of the weights by block, a curve for each run", "Seconds that quantizing took", "Peak memory", "Bytes of all weights"):
            self.assertTrue(any(label.startswith(start) for label in figures), start)
        self.assertEqual(sum(label.startswith("Difference of each task") for label in figures), 6)
        self.assertEqual([a["id"] for a in page.all("details") if "id" in a], [f"run-{n}" for n in range(1, 7)])

    def test_missing_variants(self):
        sweep = self.write_sweep(missing={"preset=rtn,bits=3", "preset=gptq,bits=2"})
        (sweep / "preset=rtn,bits=3").mkdir()
        (sweep / "preset=rtn,bits=3/miq.log").write_text("killed")
        text = self.page(sweep).text()
        self.assertIn("2 runs are missing, because they did not finish: preset=rtn,bits=3 and preset=gptq,bits=2", text)
        self.assertIn("it did not finish: no results.json", text)
        self.assertIn("it was not run", text)
        for folder in sweep.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)
        self.expect_error(miq("report", sweep), 4, "no run has finished", "preset=rtn,bits=4")

    def test_matrices(self):
        names = ["amazon", "sst5", "semeval"]
        values = [[0.50, 0.40, 0.61], [None, 0.41, 0.55], [0.45, 0.30, 0.66]]
        baseline = [0.55, 0.42, 0.66]
        p_values = [[0.4, 0.3, 0.001], [None, 0.9, 0.02], [0.0001, 0.0002, 1.0]]
        matrix = {"title": "gptq, 3 bits", "metric": "acc", "higher_is_better": True, "rows_are": "calibrated on", "columns_are": "tested on", "rows": names, "columns": names, "values": values, "baseline": baseline,
                  "p_values": p_values, "in_distribution": [[row == column for column in range(3)] for row in range(3)]}
        sweep = self.write_sweep(matrices=[matrix], kind="ood")
        page = self.page(sweep)
        text = page.text()
        inside = [values[n][n] for n in range(3)]
        outside = [values[r][c] for r in range(3) for c in range(3) if r != c and values[r][c] is not None]
        self.assertIn(f"In distribution the mean acc is {sum(inside) / 3:.3f} ", text)
        self.assertIn(f"out of distribution {sum(outside) / 5:.3f} ", text)
        gap = sum(values[n][n] - baseline[n] for n in range(3)) / 3 - sum(values[r][c] - baseline[c] for r in range(3) for c in range(3) if r != c and values[r][c] is not None) / 5
        self.assertIn(f"Calibrating on other data than is tested on costs {gap:.3f} more.", text)
        self.assertIn("Of 8 cells tested, 3 are significantly worse than unquantized and 0 better.", text)  # Holm over the 8: .0001, .0002, .001; .02 is not
        cells = [a for tag, a, inside in page.elements if tag == "td" and "own" in a.get("class", "").split()]
        self.assertEqual(len(cells), 3)
        self.assertEqual(text.count(f"{sum(v for v in values[0]) / 3:.3f}"), 1)
        for broken, what in (({"values": [[1]]}, "rows"), ({"p_values": [[1], [1], [1]]}, "columns names 3"), ({"baseline": [1]}, "baseline"), ({"values": None}, "values is missing"), ({"rows": [1, 2, 3]}, "rows[0] is not a text")):
            self.write_sweep("broken", matrices=[dict(matrix, **broken)])
            self.expect_error(miq("report", self.folder / "broken"), 4, "matrices[0]", what)

    def test_lower_is_better_in_a_matrix(self):
        matrix = {"title": "", "metric": "perplexity", "higher_is_better": False, "rows": ["a"], "columns": ["a", "b"], "values": [[12.0, 9.0]], "baseline": [10.0, 10.0]}
        page = self.page(self.write_sweep(matrices=[matrix]))
        shades = [a["class"] for tag, a, _ in page.elements if tag == "td" and re.fullmatch("[wb][1-4]", a.get("class", "")) and "unquantized 10.00" in a.get("title", "")]
        self.assertEqual(shades, ["w4", "b2"])

    def test_large(self):
        """48 variants of a model with 280 linears: every one is there, and the page stays of a size that opens."""
        axes = [{"key": "recipe.preset", "values": [f"method{n}" for n in range(12)]}, {"key": "recipe.grid.bits", "values": [8, 4, 3, 2]}]
        variants = []
        for preset in axes[0]["values"]:
            for bits in axes[1]["values"]:
                name = f"preset={preset},bits={bits},a-rather-long-name-that-goes-on-and-on-and-on"
                self.write("large/" + name, make_results(self.rng, bits, preset, blocks=40))
                variants.append({"name": name, "run": name, "settings": {"recipe.preset": preset, "recipe.grid.bits": bits}})
        (self.folder / "large/sweep.json").write_text(json.dumps({"axes": axes, "variants": variants}))
        page = self.page(self.folder / "large")
        self.assertEqual(len([a for a in page.all("details") if "id" in a]), 48)
        self.assertLess(len(self.source), 8 << 20)

    def test_several_inputs(self):
        a, b = self.write("one/run", make_results(self.rng, 4)), self.write("two/run", make_results(self.rng, 3, path="/models/Other-7B"))
        results = json.loads((b / "results.json").read_text())
        results["model"].update(parameters=7000000, bytes=14000000)
        results["quantization"]["bytes"] *= 7
        results["perplexity"][0].update(baseline=8.0, value=8.5)
        self.write("two/run", results)
        page = self.page(a, b, self.write_sweep(), a / "results.json")
        text = page.text()
        for part in ("one/run", "two/run", "Tiny-1B and Other-7B", "all weights (less is better)", "unquantized Tiny-1B 10.00", "unquantized Other-7B 8.000", "one/run (2)"):
            self.assertIn(part, text)

    def test_scores_over_other_documents_are_not_compared(self):
        few = make_results(self.rng)
        for task in few["tasks"]:
            task["documents"] = 50
        page = self.page(self.write("many", make_results(self.rng, 3)), self.write("few", few))
        heads = [data for tag, data in page.texts if tag == "th"]
        for head in ("arc_easy, acc, test, 200 documents", "arc_easy, acc, test, 50 documents"):
            self.assertIn(head, heads)
        self.assertNotIn("Mean over", page.text())

    def test_unfinished_beside_finished(self):
        (self.folder / "killed").mkdir()
        (self.folder / "killed/miq.log").write_text("")
        self.assertIn("One run is missing, because it did not finish: killed.", self.page(self.folder / "killed", self.write("done", make_results(self.rng))).text())


class Formats(Case):
    def test_csv_round_trips(self):
        sweep = self.write_sweep()
        text = miq("report", sweep, "-o", self.folder / "x.csv", check=0) and (self.folder / "x.csv").read_bytes().decode()
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        self.assertTrue(all(None not in row and None not in row.values() for row in rows))
        for folder in (f for f in sweep.iterdir() if f.is_dir()):
            results = json.loads((folder / "results.json").read_text())
            own = [row for row in rows if row["run"] == folder.name]
            self.assertTrue(all(f"preset={row['recipe.preset']},bits={row['recipe.grid.bits']}" == folder.name for row in own))
            found = {(row["what"], row["name"], row["metric"]): row for row in own}
            self.assertEqual(len(found), len(own))
            for key in ("bits_per_weight", "bytes", "seconds", "cpu_seconds", "peak_rss_bytes"):
                self.assertEqual(float(found["quantization", "", key]["value"]), results["quantization"][key])
            score = found["perplexity", "wikitext2", "perplexity"]
            self.assertEqual((float(score["value"]), float(score["baseline"]), score["p_value"]), (results["perplexity"][0]["value"], 10.0, ""))
            for task in results["tasks"]:
                for name, metric in task["metrics"].items():
                    row = found["task", task["task"], name]
                    for column, value in (("value", metric["value"]), ("stderr", metric["stderr"]), ("baseline", metric["baseline"]), ("p_value", metric["p_value"]), ("ci95_low", metric["ci95"][0]), ("ci95_high", metric["ci95"][1])):
                        self.assertEqual(float(row[column]), value)
                    self.assertEqual(row["p_value_holm"], repr(metric["p_value_holm"]) if "p_value_holm" in metric else "")
                    self.assertEqual((row["shots"], row["count"]), ("0", "200"))

    def test_csv_quotes(self):
        results = make_results(self.rng)
        results["perplexity"][0]["corpus"] = 'a,"b"\nc'
        rows = list(csv.DictReader(io.StringIO(miq("report", self.write("run", results), "--format", "csv", check=0).stdout, newline="")))
        self.assertIn('a,"b"\nc', [row["name"] for row in rows])

    def test_markdown_says_what_the_page_says(self):
        sweep = self.write_sweep()
        page, markdown = self.page(sweep), miq("report", sweep, check=0).stdout
        self.assertEqual(markdown, miq("report", sweep, "--format", "markdown", check=0).stdout)
        for item in (data for tag, data in page.texts if tag in ("li", "h2", "caption", "summary") and data not in ("rtn", "gptq")):
            if not re.match(r"preset=|forward|read|solve|other|self_attn|mlp|quantized layers|the rest", item):
                self.assertIn(html.escape(item, quote=False), markdown.replace("\\", ""))

    def test_the_same_bytes(self):
        sweep = self.write_sweep()
        for ending in ("html", "md", "csv"):
            outputs = []
            for name, cwd, run in (("a", ROOT, sweep), ("b", self.folder, "sweep"), ("c", sweep, ".")):
                miq("report", run, "-o", self.folder / f"{name}.{ending}", check=0, cwd=cwd)
                outputs.append((self.folder / f"{name}.{ending}").read_bytes())
            self.assertEqual(outputs[0], outputs[1])
            self.assertEqual(outputs[0], outputs[2])

    def test_json_tells_the_path(self):
        target = self.folder / "report.html"
        done = miq("report", self.write("run", make_results(self.rng)), "-o", target, "--json", check=0)
        self.assertEqual(json.loads(done.stdout), {"written": [str(target)]})

    def test_colours_can_be_told_apart(self):
        self.page(self.write("run", make_results(self.rng)))
        light, dark = re.findall(r":root\{color-scheme:(?:light|dark);([^}]*)\}", self.source)

        def luminance(colour):
            colour = "".join(2 * c for c in colour) if len(colour) == 3 else colour
            parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
            return sum(w * (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4) for w, p in zip((0.2126, 0.7152, 0.0722), parts))

        def contrast(a, b):
            high, low = sorted((luminance(a), luminance(b)), reverse=True)
            return (high + 0.05) / (low + 0.05)

        for mode in (light, dark):
            colours = dict(re.findall(r"--(\w+):#([0-9a-f]{3,6})", mode))
            for name in ("ink", "soft", "muted", "accent", "bad", "good"):
                self.assertGreaterEqual(contrast(colours[name], colours["card"]), 4.5, name)
                if name in ("ink", "soft", "muted", "accent"):
                    self.assertGreaterEqual(contrast(colours[name], colours["page"]), 4.5, name)
            for shade in ("w1", "w2", "w3", "b1", "b2", "b3", "z"):
                self.assertGreaterEqual(contrast(colours["ink"], colours[shade]), 4.5, shade)
            for shade in ("w4", "b4"):
                self.assertGreaterEqual(contrast(colours["deep"], colours[shade]), 4.5, shade)
            series = [colours[f"s{n}"] for n in range(8)]
            self.assertEqual(len(set(series)), 8)
            for colour in series:
                self.assertGreaterEqual(contrast(colour, colours["card"]), 3, colour)
        for fill, ink in re.findall(r"\.q\d\{--t:#([0-9a-f]+);--on:#([0-9a-f]+)\}", self.source):
            self.assertGreaterEqual(contrast(fill, ink), 4.5)


class BadInput(Case):
    def test_folders(self):
        run = self.write("run", make_results(self.rng))
        (self.folder / "empty").mkdir()
        (self.folder / "killed").mkdir()
        (self.folder / "killed/miq.log").write_text("")
        target = self.folder / "report.html"
        self.expect_error(miq("report"), 2, "RUN")
        self.expect_error(miq("report", self.folder / "none", "-o", target), 4, "none", "no such folder")
        self.expect_error(miq("report", self.folder / "empty", run, "-o", target), 4, "empty", "neither results.json nor sweep.json", "miq run --output")
        self.expect_error(miq("report", self.folder / "killed", "-o", target), 4, "killed", "only a log")
        self.assertFalse(target.exists())

    def test_results(self):
        target = self.folder / "report.html"
        good = make_results(self.rng)
        run = self.write("run", good)
        for text, what in (("", "not valid JSON"), (json.dumps(good)[:-20], "not valid JSON"), ("[1]", "not miq's"), ('{"a": 1}', "not miq's"), ("[" * 100000, "results.json")):
            (run / "results.json").write_text(text)
            self.expect_error(miq("report", run, "-o", target), 4, "results.json", what)
        for path, value, what in ((("perplexity",), 3, "perplexity is not a list"), (("perplexity", 0, "value"), "x", "perplexity[0].value is not a number"), (("perplexity", 0, "corpus"), None, "perplexity[0].corpus is missing"),
                                  (("quantization", "layers", 2, "name"), [], "quantization.layers[2].name is not a text"), (("tasks", 0, "metrics"), [1], "tasks[0].metrics is not a mapping"),
                                  (("tasks", 0, "metrics", "acc", "ci95"), [1], "tasks[0].metrics.acc.ci95 has not two ends"), (("tasks", 0, "documents"), 0.5, "tasks[0].documents is not a whole number"),
                                  (("model", "parameters"), True, "model.parameters is not a number"), (("config", "model"), 1, "config.model is not a mapping"), (("events",), [1], "events[0] is not a mapping"),
                                  (("quantization",), [], "quantization is not a mapping")):
            broken = copy.deepcopy(good)
            place = broken
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
            self.write("run", broken)
            with self.subTest(what):
                self.expect_error(miq("report", run, "-o", target), 4, "results.json", what)
        self.assertFalse(target.exists())

    def test_damaged_bytes(self):
        """No damage ends otherwise than in a report or an error."""
        text = json.dumps(make_results(self.rng)).encode()
        run = self.write("run", {})
        for _ in range(40):
            broken = bytearray(text)
            for _ in range(self.rng.randint(1, 3)):
                broken[self.rng.randrange(len(broken))] = self.rng.choice(b'{}[]",:0e-\x00\xff')
            (run / "results.json").write_bytes(broken)
            result = subprocess.run([MIQ, "report", run, "-o", self.folder / "x.html"], capture_output=True)
            self.assertIn(result.returncode, (0, 4), result.stderr)

    def test_output(self):
        run = self.write("run", make_results(self.rng))
        self.expect_error(miq("report", run, "-o", self.folder / "report.pdf"), 2, ".html, .md or .csv")
        self.expect_error(miq("report", run, "-o", self.folder / "report"), 2, "--format")
        self.expect_error(miq("report", run, "--format", "pdf"), 2, "--format")
        self.expect_error(miq("report", run, "--json"), 2, "-o FILE")
        self.expect_error(miq("report", run, "-o", self.folder / "no/such/report.html"), 4, "report.html")
        (self.folder / "folder.html").mkdir()
        self.expect_error(miq("report", run, "-o", self.folder / "folder.html"), 4, "folder.html")
        miq("report", run, "-o", self.folder / "any", "--format", "html", check=0)
        self.assertTrue((self.folder / "any").read_text().startswith("<!DOCTYPE html>"))
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["any", "folder.html", "run"])

    @unittest.skipIf(os.geteuid() == 0, "root may write everywhere")
    def test_unwritable_folder(self):
        run = self.write("run", make_results(self.rng))
        (self.folder / "closed").mkdir()
        (self.folder / "closed").chmod(stat.S_IRUSR | stat.S_IXUSR)
        self.expect_error(miq("report", run, "-o", self.folder / "closed/report.html"), 4, "report.html")


if __name__ == "__main__":
    unittest.main()
