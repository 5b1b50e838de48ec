#!/usr/bin/env python3
"""docs/tutorial.md does what it says: its shell blocks are run in order in one shell, and what each prints is compared with the block behind it.
There "..." stands for any text of a line, and alone on a line for any lines.

    tutorial_test.py PATH_TO_MIQ [unittest arguments]
"""
import os
import re
import shutil
import socket
import subprocess
import unittest

from cli_test import MIQ, ROOT, Case

MARK = "=== block %d ==="


def blocks(text):
    """[(commands, output that is shown, or none)] of all that is to be run."""
    found = []
    for skipped, language, content in re.findall(r"^(<!-- not run -->\n)?```(\w*)\n(.*?)^```$", text, re.M | re.S):
        if language == "sh" and not skipped:
            found.append([content, None])
        elif language == "":
            found[-1][1] = content
    return found


def pattern(shown):
    lines = []
    for line in shown.splitlines():
        lines.append("(?:.*\n)*?" if line == "..." else ".*".join(re.escape(part.rstrip() if part != line else part) for part in line.split("...")) + " *\n")
    return re.compile("".join(lines))


class Tutorial(Case):
    def setUp(self):
        super().setUp()
        for name in ("configs", "scripts", "tests/fixtures/tiny-llama", "tools"):
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(ROOT / name)
        bin = self.folder / "bin"
        bin.mkdir()
        (bin / "miq").symlink_to(MIQ)

    @unittest.skipIf(shutil.which("curl") is None, "curl is not installed")
    def test_every_block(self):
        text = (ROOT / "docs/tutorial.md").read_text()
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        parts = blocks(text)
        self.assertGreater(len(parts), 12)
        script = "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n" + "".join(f"echo '{MARK % i}'\n{commands}" for i, (commands, _) in enumerate(parts)).replace("8000", port)
        environment = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "OMP_WAIT_POLICY": "PASSIVE"}
        result = subprocess.run(["bash", "-c", script], cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        printed = re.split(r"=== block \d+ ===\n", result.stdout)[1:]
        self.assertEqual(len(printed), len(parts))
        for (commands, shown), out in zip(parts, printed):
            with self.subTest(commands):
                if shown is None:
                    self.assertEqual(out, "")
                else:
                    self.assertTrue(pattern(shown).fullmatch(out), f"{commands}\nshown:\n{shown}\nprinted:\n{out}")

    def test_the_comparison(self):
        self.assertTrue(pattern("a ... c\n...\nz\n").fullmatch("a b c\n1\n2\nz\n"))
        self.assertFalse(pattern("a\n...\nz\n").fullmatch("a\n1\ny\n"))
        self.assertFalse(pattern("a\n").fullmatch("a\nb\n"))


if __name__ == "__main__":
    unittest.main()
