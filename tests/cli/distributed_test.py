#!/usr/bin/env python3
"""`miq eval` as several processes, on the embedded model: what one process gives, however they are started, and a prompt end for all
when one is lost.

    distributed_test.py PATH_TO_MIQ [unittest arguments]
"""
import json
import os
import shutil
import signal
import socket
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
DATA = ROOT.parent / "shared/data"
TORCHRUN = next((path for path in (ROOT / ".venv/bin/torchrun", shutil.which("torchrun")) if path and Path(path).exists()), None)
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "SLURM_", "OMPI_", "PMI_", "TORCHELASTIC_", "MIQ_DIST_")
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)} | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def miq(*arguments, env=CLEAN):
    return subprocess.run([MIQ, *map(str, arguments)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def torchrun(*arguments, options=()):
    command = [TORCHRUN, "--no-python", "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(free_port()), *options, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=CLEAN, capture_output=True, text=True, timeout=120)


class Ranks:
    """A process for each list of arguments, with the variables set by hand."""

    def __init__(self, *arguments, **variables):
        port = free_port()
        self.processes = []
        for rank, own in enumerate(arguments):
            env = CLEAN | {"RANK": str(rank), "WORLD_SIZE": str(len(arguments)), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | variables
            self.processes.append(subprocess.Popen([MIQ, *map(str, own)], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))

    def wait(self):
        """(exit status, stdout, stderr) of each."""
        try:
            texts = [process.communicate(timeout=60) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [(process.returncode, *text) for process, text in zip(self.processes, texts)]


def without_seconds(value):
    if isinstance(value, dict):
        return {key: without_seconds(entry) for key, entry in value.items() if key not in ("seconds", "ranks")}
    return [without_seconds(entry) for entry in value] if isinstance(value, list) else value


class Distributed(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="miq-ranks-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        numbers = "zero one two three four five six seven eight nine".split()
        for subject, first in (("north", 1), ("south", 3)):
            rows = []
            for i in range(10):
                a, b = first + i % 2, 1 + i // 2
                right, wrong = numbers[a + b], numbers[a + b - 1 - i % 3 % 2]
                rows.append({"text": f"{numbers[a]} plus {numbers[b]} is", "options": [right, wrong] if i % 2 else [wrong, right], "answer": i % 2 ^ 1})
            path = self.folder / "riddles" / f"{subject}/test.jsonl"
            path.parent.mkdir(parents=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.task = self.folder / "riddles.yaml"
        self.task.write_text("shape: choice\ndata: {set: './riddles/{{SUBJECT}}', eval: test}\nsubjects: [{subject: north, category: Cold}, {subject: south, category: Warm}]\n"
                             "fewshot: {split: test, exclude_self: true}\nprompt: '{{text}}'\nchoices: '{{options}}'\ngold: '{{answer}}'\nmetrics: [acc, acc_norm]\n")
        self.arguments = ["eval", "--config", CONFIG]

    def expect_same_files(self, one, other):
        names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
        self.assertEqual(names, sorted(str(path.relative_to(other)) for path in other.rglob("*") if path.is_file()))
        for name in names:
            if name == "results.json":
                a, b = (without_seconds(json.loads((folder / name).read_text())) for folder in (one, other))
                for results in (a, b):
                    results["config"]["output"] = ""
                self.assertEqual(a, b)
            elif name != "miq.log":
                self.assertEqual((one / name).read_bytes(), (other / name).read_bytes(), name)

    def test_perplexity_is_that_of_one_process(self):
        one = json.loads(miq(*self.arguments, "--json", "-q").stdout)
        for size in (2, 3):
            ended = Ranks(*[[*self.arguments, "--json", "-q", "--output", self.folder / f"run{size}"]] * size).wait()
            self.assertEqual([status for status, _, _ in ended], [0] * size, ended)
            self.assertEqual([out for _, out, _ in ended[1:]], [""] * (size - 1))
            results = json.loads(ended[0][1])
            self.assertEqual(results["miq"]["ranks"], size)
            self.assertEqual(without_seconds(results["perplexity"]), without_seconds(one["perplexity"]))
            self.assertEqual(json.loads((self.folder / f"run{size}/results.json").read_text()), results)
            self.assertEqual(sorted(path.name for path in (self.folder / f"run{size}").iterdir()), ["miq.log", "results.json"])

    def test_a_task_is_that_of_one_process(self):
        arguments = [*self.arguments, "--tasks", self.task, "--shots", "2", "-q"]
        self.assertEqual(miq(*arguments, "--output", self.folder / "one").returncode, 0)
        for size in (2, 3):
            ended = Ranks(*[[*arguments, "--output", self.folder / f"run{size}"]] * size).wait()
            self.assertEqual([status for status, _, _ in ended], [0] * size, ended)
            self.expect_same_files(self.folder / "one", self.folder / f"run{size}")

    def test_more_ranks_than_windows_and_documents(self):
        arguments = [*self.arguments, "--json", "-q", "--tasks", self.task, "--limit", "1", "--set", f"evaluation.perplexity=[{{corpus: {TINY}/heldout.txt, seqlen: 256, windows: 1}}]"]
        one = json.loads(miq(*arguments).stdout)
        ended = Ranks(arguments, arguments, arguments).wait()
        self.assertEqual([status for status, _, _ in ended], [0, 0, 0], ended)
        for key in ("perplexity", "tasks"):
            self.assertEqual(without_seconds(json.loads(ended[0][1])[key]), without_seconds(one[key]))

    @unittest.skipUnless(TORCHRUN, "no torchrun")
    @unittest.skipUnless(DATA.exists(), "no ../shared/data")
    def test_tasks_are_those_of_one_process(self):
        arguments = [*self.arguments, "--data-dir", DATA, "--tasks", "sciq,gsm8k,ceval_mi,crows_pairs_english,wikitext", "--limit", "3"]
        one = miq(*arguments, "--output", self.folder / "one")
        self.assertEqual(one.returncode, 0, one.stderr)
        two = torchrun(MIQ, *arguments, "--output", self.folder / "two")
        self.assertEqual(two.returncode, 0, two.stderr)
        self.assertIn("[rank 1] gsm8k: ", two.stderr)  # warnings of its own texts
        self.expect_same_files(self.folder / "one", self.folder / "two")

    @unittest.skipUnless(TORCHRUN, "no torchrun")
    def test_torchrun_starts_again_after_a_failure_and_a_script_runs_two_commands(self):
        script = 'if [ "$TORCHELASTIC_RESTART_COUNT$RANK" = 01 ]; then kill -9 $$; fi; "$@" > /dev/null && exec "$@"'
        ended = torchrun("sh", "-c", script, "sh", MIQ, *self.arguments, "--json", options=("--max-restarts", "1"))
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertEqual(json.loads(ended.stdout)["miq"]["ranks"], 2)

    def test_a_killed_rank_ends_the_others(self):
        for lost in (1, 0):
            ranks = Ranks([*self.arguments, "--output", self.folder / "run"], self.arguments)
            for line in ranks.processes[0].stderr:  # all have met
                if "parameters" in line:
                    break
            ranks.processes[lost].send_signal(signal.SIGSTOP)  # so that the others cannot be done before
            ranks.processes[lost].kill()
            start = time.monotonic()
            ended = ranks.wait()
            self.assertLess(time.monotonic() - start, 20)
            self.assertEqual(ended[lost][0], -signal.SIGKILL)
            self.assertEqual(ended[1 - lost][0], 4, ended)
            self.assertIn(f"error[io]: rank {lost} is lost", ended[1 - lost][2])
            self.assertFalse((self.folder / "run/results.json").exists())

    def test_ranks_that_differ_are_refused(self):
        other = self.folder / "model"
        shutil.copytree(TINY, other)
        file = other / "model.safetensors"
        data = bytearray(file.read_bytes())
        (length,) = struct.unpack("<Q", data[:8])
        begin = 8 + length + json.loads(data[8 : 8 + length])["model.norm.weight"]["data_offsets"][0]
        data[begin] ^= 1
        file.write_bytes(data)
        for more, texts in ((["--set", "evaluation.bootstrap=500"], ("another configuration than rank 0", "500", "1000")), (["--model", other], ("another model than rank 0", "final norm"))):
            ended = Ranks([*self.arguments, "--output", self.folder / "run"], [*self.arguments, *more]).wait()
            self.assertEqual([status for status, _, _ in ended], [2, 2], ended)
            for text in texts:
                self.assertIn(text, ended[0][2])
            self.assertEqual((ended[0][2] + ended[1][2]).count("error["), 1, ended)
            self.assertFalse((self.folder / "run/results.json").exists())

    def test_an_error_of_one_rank_is_everybodys(self):
        ended = Ranks(self.arguments, [*self.arguments, "--model", self.folder / "none"]).wait()
        self.assertEqual([status for status, _, _ in ended], [4, 4], ended)
        self.assertIn("[rank 1] error[io]: ", ended[1][2])
        self.assertIn("error[io]: rank 1: ", ended[0][2])
        ended = Ranks(*[[*self.arguments, "--set", "evaluation.bootstrp=1"]] * 2).wait()
        self.assertEqual([status for status, _, _ in ended], [2, 2], ended)
        self.assertEqual((ended[0][2] + ended[1][2]).count("error["), 1, ended)

    def test_a_result_that_cannot_be_written_is_everybodys(self):
        (self.folder / "file").write_text("")
        ended = Ranks(*[[*self.arguments, "--output", self.folder / "file"]] * 2).wait()
        self.assertEqual([status for status, _, _ in ended], [4, 4], ended)

    def test_other_commands_run_alone(self):
        for command in (("quantize", "--config", CONFIG), ("run", "--config", CONFIG), ("generate", "--model", TINY, "--prompt", "a"), ("serve", "--model", TINY)):
            ended = Ranks([*command, *(["--output", self.folder / "run"] if "--config" in command else [])], command).wait()
            for status, out, text in ended:
                self.assertEqual((status, out), (3, ""), (command, text))
                self.assertIn(f"error[unsupported]: miq {command[0]} runs as one process, not as 2", text)
            self.assertFalse((self.folder / "run").exists())

    def test_variables_without_a_launcher(self):
        for variables in ({"WORLD_SIZE": "1", "RANK": "0"}, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}):
            result = miq(*self.arguments, "--json", "-q", env=CLEAN | variables)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertNotIn("ranks", json.loads(result.stdout)["miq"])
        for variables, text in (({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2"), ({"RANK": "x", "WORLD_SIZE": "2"}, "'x'"), ({"WORLD_SIZE": "2"}, "RANK is missing"), ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR is missing")):
            result = miq(*self.arguments, env=CLEAN | variables)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertIn(text, result.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=1)
