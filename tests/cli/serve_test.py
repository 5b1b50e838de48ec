#!/usr/bin/env python3
"""miq serve from outside, on the embedded model: the protocol over real sockets, against what other commands say of the same
model, and clients that misbehave.

    serve_test.py PATH_TO_MIQ [unittest arguments]
"""
import concurrent.futures
import http.client
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

MIQ = Path(sys.argv.pop(1)).resolve()
ROOT = Path(__file__).resolve().parent.parent.parent
TINY = ROOT / "tests/fixtures/tiny-llama"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def miq(*arguments):
    result = subprocess.run([MIQ, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    if result.returncode != 0:
        raise AssertionError(f"exit {result.returncode}: miq {arguments}\n{result.stderr}")
    return json.loads(result.stdout)


class Server:
    def __init__(self, *arguments, env=None):
        self.process = subprocess.Popen(
            [MIQ, "serve", *([] if "--model" in arguments else ["--model", TINY]), "--port", "0", "--served-name", "tiny", "--dtype", "float32", "--chat", "baichuan", *map(str, arguments)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
        line = self.process.stdout.readline()
        match = re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+)\n", line)
        if not match:
            raise AssertionError(f"the server said {line!r}: {self.process.stderr.read()}")
        self.port = int(match[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def post(self, path="/v1/completions", headers=None, **fields):
        status, _, body = self.request("POST", path, json.dumps(fields), headers)
        return status, strict(body)

    def complete(self, **fields):
        status, answer = self.post(**{"temperature": 0, "max_tokens": 4, **fields})
        if status != 200:
            raise AssertionError(f"{status}: {answer}")
        return answer

    def events(self, path="/v1/completions", **fields):
        status, headers, body = self.request("POST", path, json.dumps({"stream": True, "temperature": 0, "max_tokens": 4, **fields}))
        assert status == 200 and headers["Content-Type"] == "text/event-stream", (status, body)
        events = body.decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""], events
        return [strict(event[len("data: "):]) for event in events[:-2]]

    def raw(self, data):
        """What the server sends until it closes."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)

    def rss(self):
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1]) * 1024


def strict(text):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")
    return json.loads(text, parse_constant=refuse)


def read_all(connection):
    data = b""
    while True:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            return data
        if not part:
            return data
        data += part


def until(condition, seconds=20):
    end = time.time() + seconds
    while not condition():
        if time.time() > end:
            raise AssertionError("waited in vain")
        time.sleep(0.02)


class Protocol(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def refused(self, status, *texts, param=None, **fields):
        got, answer = self.server.post(**fields)
        self.assertEqual(got, status, answer)
        self.assertEqual(set(answer["error"]), {"message", "type", "param", "code"})
        self.assertEqual(answer["error"]["param"], param, answer)
        for text in texts:
            self.assertIn(text, answer["error"]["message"])

    def test_answers_as_generate_does(self):
        for prompt in ("two plus three is", "Count: 3 6 9", "Emil has the box."):
            alone = miq("generate", "--model", TINY, "--prompt", prompt, "--max-new-tokens", "12", "--dtype", "float32", "--json")
            choice = self.server.complete(prompt=prompt, max_tokens=12)["choices"][0]
            self.assertEqual(choice["text"], alone["text"])
            by_ids = self.server.complete(prompt=alone["prompt_ids"], max_tokens=12)["choices"][0]
            self.assertEqual(by_ids["text"], alone["text"])
            self.assertEqual(choice["finish_reason"], "length" if len(alone["ids"]) == 12 else "stop")
            streamed = self.server.events(prompt=prompt, max_tokens=12)
            self.assertEqual("".join(event["choices"][0]["text"] for event in streamed), alone["text"])
            self.assertEqual(streamed[-1]["choices"][0]["finish_reason"], choice["finish_reason"])

    def test_scores_as_eval_does(self):
        text = (TINY / "heldout.txt").read_text()[:3000]
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder) / "corpus.txt"
            corpus.write_text(text)
            score = miq("eval", "--config", ROOT / "configs/tiny.yaml", "--set", f"evaluation.perplexity=[{{corpus: {corpus}, seqlen: 200}}]", "--json")["perplexity"][0]
        ids = miq("generate", "--model", TINY, "--prompt", text, "--max-new-tokens", "1", "--json")["prompt_ids"]
        windows = [ids[i * 200:(i + 1) * 200] for i in range(score["windows"])]
        self.assertGreaterEqual(len(windows), 3)
        answer = self.server.complete(prompt=windows, echo=True, logprobs=1, max_tokens=1)
        total = 0
        for window, choice in zip(windows, answer["choices"]):
            logprobs = choice["logprobs"]
            self.assertEqual({len(values) for values in logprobs.values()}, {len(window) + 1})
            self.assertIsNone(logprobs["token_logprobs"][0])
            self.assertIsNone(logprobs["top_logprobs"][0])
            total += sum(logprobs["token_logprobs"][1:-1])
            for token, logprob, top, offset in zip(*(logprobs[key][1:] for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"))):
                self.assertEqual(top[token], logprob)
                self.assertLessEqual(logprob, max(top.values()))
                self.assertIn(len(top), (1, 2))
                self.assertEqual(choice["text"][offset:offset + len(token)], token)
            self.assertEqual(logprobs["token_logprobs"][-1], max(logprobs["top_logprobs"][-1].values()))
        self.assertAlmostEqual(math.exp(-total / (199 * len(windows))) / score["value"], 1, delta=1e-5)

    def test_scoring_and_generating_agree(self):
        scored = self.server.complete(prompt="Count: 3 6 9", echo=True, logprobs=3, max_tokens=1)["choices"][0]
        generated = self.server.complete(prompt="Count: 3 6 9", echo=True, logprobs=3, max_tokens=2)["choices"][0]
        count = len(scored["logprobs"]["tokens"])
        self.assertEqual(scored["logprobs"]["tokens"], generated["logprobs"]["tokens"][:count])
        for a, b in zip(scored["logprobs"]["token_logprobs"][1:], generated["logprobs"]["token_logprobs"][1:]):
            self.assertAlmostEqual(a, b, delta=1e-4)
        nothing = self.server.complete(prompt="Count: 3 6 9", echo=True, logprobs=3, max_tokens=0)["choices"][0]
        self.assertEqual(nothing["text"], "Count: 3 6 9")
        self.assertEqual(nothing["logprobs"]["tokens"], scored["logprobs"]["tokens"][:-1])

    def test_a_text_that_ends_at_once_still_has_its_token(self):
        # What lm-evaluation-harness drops as the one generated token must be there, also where that is the end of the text.
        greedy = miq("generate", "--model", TINY, "--prompt", "Count:", "--max-new-tokens", "3", "--dtype", "float32", "--json")
        self.assertNotIn(greedy["ids"][1], greedy["ids"][:1])
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model"
            shutil.copytree(TINY, model)
            (model / "generation_config.json").write_text(json.dumps({"eos_token_id": greedy["ids"][1]}))
            with Server("--model", model) as server:
                ids = greedy["prompt_ids"] + greedy["ids"][:1]
                for max_tokens in (1, 2):  # in one pass, and by generation
                    choice = server.complete(prompt=ids, echo=True, logprobs=1, max_tokens=max_tokens)["choices"][0]
                    self.assertEqual({len(values) for values in choice["logprobs"].values()}, {len(ids) + 1})
                    self.assertEqual(choice["finish_reason"], "stop")
                    self.assertEqual(choice["text"], server.complete(prompt=ids, echo=True, max_tokens=0)["choices"][0]["text"])
                self.assertEqual(server.complete(prompt=ids, ignore_eos=True, max_tokens=3)["usage"]["completion_tokens"], 3)

    def test_stop_strings(self):
        whole = self.server.complete(prompt="Emil has the box.", max_tokens=40)["choices"][0]["text"]
        stop = whole[15:22]
        for stops in (stop, [stop], ["no such text", stop, whole[20:30]]):
            for events in (False, True):
                fields = {"prompt": "Emil has the box.", "max_tokens": 40, "stop": stops, "logprobs": 0}
                if events:
                    parts = [event["choices"][0] for event in self.server.events(**fields)]
                else:
                    parts = self.server.complete(**fields)["choices"]
                self.assertEqual("".join(part["text"] for part in parts), whole[:whole.index(stop)])
                self.assertEqual(parts[-1]["finish_reason"], "stop")
                offsets = [offset for part in parts for offset in part["logprobs"]["text_offset"]]
                self.assertTrue(all(offset < whole.index(stop) for offset in offsets), offsets)

    def test_sampling(self):
        def text(**fields):
            return self.server.complete(prompt="Count:", temperature=1.5, max_tokens=12, **fields)["choices"]
        self.assertEqual(text(seed=7), text(seed=7))
        several = text(seed=7, n=4)
        self.assertEqual(several[0], text(seed=7)[0])
        self.assertEqual([choice["index"] for choice in several], [0, 1, 2, 3])
        self.assertGreater(len({choice["text"] for choice in several}), 1)
        self.assertGreater(len({text()[0]["text"] for _ in range(6)}), 1)
        greedy = self.server.complete(prompt="Count:", max_tokens=12)["choices"][0]["text"]
        for fields in ({"top_k": 1}, {"top_p": 0}):
            self.assertEqual(text(**fields)[0]["text"], greedy)
        self.assertEqual(self.server.complete(prompt="Count:", max_tokens=12, temperature=1e-300)["choices"][0]["text"], greedy)

    def test_several_prompts_and_usage(self):
        prompts = ["Count: 3 6", "two plus three is", ""]
        answer = self.server.complete(prompt=prompts, n=2, max_tokens=3)
        self.assertEqual([choice["index"] for choice in answer["choices"]], list(range(6)))
        for i, prompt in enumerate(prompts):
            self.assertEqual(answer["choices"][2 * i]["text"], self.server.complete(prompt=prompt, max_tokens=3)["choices"][0]["text"])
        self.assertEqual(answer["usage"]["total_tokens"], answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"])
        events = self.server.events(prompt=prompts, max_tokens=3, stream_options={"include_usage": True})
        self.assertEqual(events[-1]["choices"], [])
        self.assertEqual(events[-1]["usage"]["completion_tokens"], answer["usage"]["completion_tokens"] // 2)

    def test_chat(self):
        fields = {"path": "/v1/chat/completions", "messages": [{"role": "user", "content": "Count:"}], "max_tokens": 5, "temperature": 0}
        alone = miq("generate", "--model", TINY, "--prompt", "Count:", "--chat", "baichuan", "--max-new-tokens", "5", "--dtype", "float32", "--json")
        status, answer = self.server.post(**fields)
        self.assertEqual((status, answer["choices"][0]["message"]["content"], answer["object"]), (200, alone["text"], "chat.completion"))
        parts = {"role": "user", "content": [{"type": "text", "text": "Cou"}, {"type": "text", "text": "nt:"}]}
        self.assertEqual(self.server.post(**{**fields, "messages": [parts]})[1]["choices"], answer["choices"])
        events = self.server.events(**fields)
        self.assertEqual(events[0]["choices"][0]["delta"], {"role": "assistant", "content": ""})
        self.assertEqual("".join(event["choices"][0]["delta"].get("content", "") for event in events), alone["text"])
        _, scored = self.server.post(**fields, logprobs=True, top_logprobs=2)
        content = scored["choices"][0]["logprobs"]["content"]
        self.assertEqual("".join(token["token"] for token in content), alone["text"])
        self.assertTrue(all(len(token["top_logprobs"]) == 2 and token["logprob"] == token["top_logprobs"][0]["logprob"] for token in content))
        self.assertEqual(bytes(content[0]["bytes"]).decode(), content[0]["token"])
        for messages, text in (([], "at least one"), ("hi", "at least one"), ([{"role": "tool", "content": "x"}], "messages[0].role"), ([{"role": "user"}], "messages[0].content"),
                               ([{"role": "assistant", "content": "x"}], "user"), ([{"role": "user", "content": [{"type": "image_url"}]}], "only text")):
            self.refused(400, text, param="messages", path="/v1/chat/completions", messages=messages)
        self.refused(400, "'tools'", param="tools", path="/v1/chat/completions", messages=fields["messages"], tools=[{}])

    def test_wrong_fields(self):
        for field, value, text in (("max_tokens", "4", "a string"), ("max_tokens", -1, "not between"), ("max_tokens", 1.5, "fraction"), ("max_tokens", 2**64 - 1, "not between"),
                                   ("temperature", -0.1, "not between"), ("temperature", [], "a list"), ("top_p", 1.01, "not between"), ("n", 0, "not between"), ("n", 10**9, "not between"),
                                   ("logprobs", 21, "not between"), ("logprobs", True, "true or false"), ("echo", 1, "a number"), ("stream", "yes", "a string"), ("stop", 3, "a number"),
                                   ("stop", [""], "empty"), ("stop", ["a"] * 65, "more than 64"), ("stop", ["a" * 1025], "more than 1024"), ("seed", 0.5, "fraction"), ("model", 1, "a number"),
                                   ("logit_bias", {"1": 2}, "not supported"), ("suffix", "x", "not supported"), ("best_of", 9, "not supported"), ("presence_penalty", 1, "not supported"),
                                   ("stream_options", {"x": 1}, "unknown field 'x'")):
            self.refused(400, text, param="x" if field == "stream_options" else field, **{"prompt": "a", field: value})
        self.refused(400, "did you mean 'max_tokens'", param="max_toknes", prompt="a", max_toknes=3)
        self.refused(404, "'gpt-4'", param="model", prompt="a", model="gpt-4")
        for field in ("max_tokens", "temperature", "stop", "logprobs", "seed", "user", "stream_options", "suffix", "model"):
            self.server.complete(prompt="a", **{field: None} if field != "max_tokens" else {"max_tokens": 1, "user": "x"})

    def test_wrong_prompts(self):
        for prompt, text in ((None, "missing"), ([], "empty"), ([[]], "prompt[0]"), (3, "a number"), ({}, "an object"), ([1, "a"], "prompt[1]"), (["a", 1], "prompt[1]"), ([[1], "a"], "prompt[1]"),
                             ([1, -1], "prompt[1] is -1"), ([512], "0 to 511"), ([[1, 2], [3, 2**63]], "prompt[1][1]"), ([2**64 - 1], "prompt[0]"), ([1.0], "fraction"), ([True], "true or false"),
                             ([["a"]], "prompt[0][0]"), (["a"] * 1025, "more than 1024")):
            self.refused(400, text, param="prompt", prompt=prompt)
        self.refused(400, "context is 1024", param="max_tokens", prompt=[5] * 1025, max_tokens=0)
        self.refused(400, "1024 and 1 more", param="max_tokens", prompt=[5] * 1024, max_tokens=1)
        self.refused(400, "prompt[1]", param="max_tokens", prompt=["a", "b " * 2000])
        self.assertEqual(self.server.complete(prompt=[5] * 1024, max_tokens=0, echo=True, logprobs=0)["usage"]["prompt_tokens"], 1024)
        self.assertEqual(self.server.complete(prompt=[5] * 1023, max_tokens=1, ignore_eos=True)["usage"]["completion_tokens"], 1)
        self.refused(400, "log-probabilities", param="logprobs", prompt=[[5] * 1000] * 60, max_tokens=0, echo=True, logprobs=20)

    def test_malformed_bodies(self):
        for body, text in ((b"", "not valid JSON"), (b"{", "not valid JSON"), (b"[1]", "must be a JSON object"), (b"null", "must be a JSON object"), (b'{"prompt": "\xff\xfe"}', "UTF-8"),
                           (b'{"prompt": "\\ud800"}', "not valid JSON"), (b'{"prompt": "a"} x', "not valid JSON"), (b'{"temperature": NaN}', "not valid JSON"), (b'{"prompt": 1e999}', "not valid JSON"),
                           (b'{"prompt": ' + b"[" * 100000 + b"]" * 100000 + b"}", "nested deeper"), (b'{"a":' * 50000 + b"1" + b"}" * 50000, "nested deeper")):
            status, _, answer = self.server.request("POST", "/v1/completions", body)
            self.assertEqual(status, 400, answer)
            self.assertIn(text, strict(answer)["error"]["message"])
        self.assertEqual(self.server.complete(prompt="a\u0000b", echo=True, max_tokens=0)["choices"][0]["text"], "a\u0000b")

    def test_characters_stay_whole(self):
        text = "naïve 日本語 🙂 é"
        answer = self.server.complete(prompt=text, echo=True, logprobs=0, max_tokens=0)["choices"][0]
        self.assertEqual(answer["text"], text)
        offsets = answer["logprobs"]["text_offset"]
        self.assertEqual(offsets, sorted(offsets))
        self.assertLess(max(offsets), len(text))
        for event in self.server.events(prompt=text[:-1], max_tokens=30, temperature=2, seed=3, ignore_eos=True):
            event["choices"][0]["text"].encode()  # valid by itself

    def test_http(self):
        def status(method, path, body=None, headers=None):
            code, answer_headers, answer = self.server.request(method, path, body, headers)
            return code, answer_headers, strict(answer) if answer else None
        self.assertEqual(status("GET", "/health")[0::2], (200, {"status": "ok"}))
        self.assertEqual([model["id"] for model in status("GET", "/v1/models")[2]["data"]], ["tiny"])
        self.assertEqual(status("GET", "/v1/models/tiny")[2]["id"], "tiny")
        for name in ("none", "", "a/b", "a" * 8000, "%ff%00"):
            self.assertEqual(status("GET", "/v1/models/" + name)[0], 404)
        self.assertEqual(status("GET", "/nope")[0], 404)
        self.assertEqual(status("POST", "/nope", "x" * 1000)[0], 404)
        self.assertEqual(status("POST", "/health", "{}")[0], 405)
        code, headers, answer = status("GET", "/v1/completions")
        self.assertEqual((code, headers["Allow"]), (405, "POST"))
        self.assertEqual(status("PUT", "/v1/completions", "{}")[0], 405)
        self.assertEqual(status("POST", "/v1/completions", "{}", {"Content-Type": "text/plain"})[0], 415)
        self.assertEqual(status("POST", "/v1/completions", "x", {"Content-Encoding": "gzip"})[0], 415)
        self.assertEqual(status("POST", "/v1/completions", '{"prompt":"a","max_tokens":1}', {"Content-Type": "Application/JSON ; charset=utf-8", "Range": "bytes=0-3"})[0], 200)
        self.assertEqual(status("GET", "/health", None, {"Range": "bytes=0-3,5-7"})[0::2], (200, {"status": "ok"}))

    def test_malformed_http(self):
        post = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        for data, code in ((b"nonsense\r\n\r\n", 400), (b"GET / HTTP/9.9\r\n\r\n", 400), (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414), (post + b"\r\n{}", 411), (post + b"Content-Length: -5\r\n\r\n", 400),
                           (post + b"Content-Length: 5x\r\n\r\n", 400), (post + b"Content-Length: 99999999999999999999999\r\n\r\n", 413), (post + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
                           (post + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 400), (post + b"Transfer-Encoding: gzip\r\n\r\n{}", 501), (post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
                           (b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 20000 + b"\r\n", 431)):
            answer = self.server.raw(data)
            self.assertEqual(answer.split(b" ")[1:2], [str(code).encode()], (data[:80], answer))
            self.assertIn("error", strict(answer.split(b"\r\n\r\n", 1)[1]))
        body = b'{"prompt": "Count:", "max_tokens": 1, "temperature": 0}'
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        self.assertIn(b" 200 ", self.server.raw(post + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks).split(b"\r\n")[0])
        two = post + b"Content-Length: %d\r\n\r\n" % len(body) + body
        self.assertEqual(self.server.raw(two + two.replace(b"Host: x", b"Connection: close")).count(b"HTTP/1.1 200"), 2)
        body = b'{"prompt": "a", "stream": true}'
        old = self.server.raw(b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        self.assertTrue(old.endswith(b"data: [DONE]\n\n"), old)
        self.assertNotIn(b"chunked", old)

    def test_huge_bodies(self):
        size = 64 << 20
        head = b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\n"
        self.assertIn(b" 413 ", self.server.raw(head + b"Content-Length: %d\r\n\r\n" % size + b" " * size)[:20])
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        before = self.server.rss()
        self.assertIn(b" 413 ", self.server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 64)[:20])
        self.assertIn(b" 413 ", self.server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * size)[:20])  # a length line without an end
        self.assertLess(self.server.rss() - before, 64 << 20)
        self.server.complete(prompt="a")

    def test_parallel_requests_are_themselves(self):
        prompts = [f"Count: {i} {i + 1}" for i in range(24)]
        jobs = [{"prompt": prompt, "max_tokens": 6} for prompt in prompts] + [{"prompt": prompt, "max_tokens": 1, "echo": True, "logprobs": 1} for prompt in prompts]
        alone = [self.server.complete(**job)["choices"] for job in jobs]
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            together = list(pool.map(lambda job: self.server.complete(**job)["choices"], jobs))
        for a, b in zip(alone, together):
            self.assertEqual(a[0]["text"], b[0]["text"])
            if a[0]["logprobs"]:
                for x, y in zip(a[0]["logprobs"]["token_logprobs"][1:], b[0]["logprobs"]["token_logprobs"][1:]):
                    self.assertAlmostEqual(x, y, delta=1e-4)


LONG = {"prompt": "Count:", "max_tokens": 1000, "ignore_eos": True, "temperature": 1, "n": 100}  # far more than a test waits for


class Conduct(unittest.TestCase):
    def start(self, server, **fields):
        connection = server.connect()
        body = json.dumps({**LONG, **fields}).encode()
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        self.addCleanup(connection.close)
        return connection

    def test_clients_that_go_away_end_their_requests(self):
        with Server("--max-queue", 3) as server:
            for stream in (True, False):
                connections = [self.start(server, stream=stream) for _ in range(3)]
                time.sleep(1.5)  # all three are taken: a probe among them would wait for a long text
                until(lambda: server.post(prompt="a", max_tokens=1)[0] == 429)
                for connection in connections:
                    connection.close()
                began = time.time()
                until(lambda: server.post(prompt="a", max_tokens=1)[0] == 200)
                self.assertLess(time.time() - began, 5)

    def test_a_full_queue(self):
        with Server("--max-queue", 1) as server:
            running = self.start(server, stream=True)
            self.assertIn(b" 200 ", running.recv(100))
            status, headers, body = server.request("POST", "/v1/completions", '{"prompt": "a"}')
            self.assertEqual((status, headers["Retry-After"]), (429, "1"))
            self.assertEqual(strict(body)["error"]["code"], "queue_full")
            self.assertEqual(server.request("GET", "/health")[0], 200)

    def test_slow_clients_hinder_nobody(self):
        with Server() as server:
            half = [b"POST /v1/comp", b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Le",
                    b'POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"prom']
            slow = [server.connect() for _ in range(420)]
            for i, connection in enumerate(slow):
                try:
                    connection.sendall(half[i % 3])
                except OSError:
                    pass  # turned away already
            began = time.time()
            for _ in range(5):
                self.assertEqual(server.post(prompt="Count:", max_tokens=2)[0], 200)
            self.assertLess(time.time() - began, 30)
            for connection in slow:
                connection.close()
            connection = server.connect()
            connection.sendall(half[1])
            began = time.time()
            answer = read_all(connection)
            connection.close()
            self.assertIn(b" 408 ", answer[:20])
            self.assertLess(time.time() - began, 20)

    def test_clients_that_do_not_read(self):
        with Server("--max-queue", 4) as server:
            for _ in range(3):  # megabytes of events that nobody takes: the engine goes on to the next
                self.start(server, stream=True, logprobs=20, n=1)
            self.assertEqual(server.post(prompt="a", max_tokens=2)[0], 200)

    def test_timeout(self):
        with Server("--timeout", 1) as server:
            status, answer = server.post(**LONG)
            self.assertEqual((status, answer["error"]["code"]), (504, "timeout"))
            connection = self.start(server, stream=True)
            connection.settimeout(20)
            text = b""
            while b"[DONE]" not in text:
                text += connection.recv(65536)
            self.assertIn(b'"code":"timeout"', text)
            self.assertEqual(server.post(prompt="a", max_tokens=1)[0], 200)

    def test_keys(self):
        with Server(env={"MIQ_API_KEY": "secret"}) as server:
            self.assertEqual(server.request("GET", "/health")[0], 200)
            for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": "Bearer secre"}, {"Authorization": "Bearer secrets"}, {"Authorization": "secret"}):
                status, answer = server.post(prompt="a", headers=headers)
                self.assertEqual((status, answer["error"]["type"]), (401, "authentication_error"))
            self.assertEqual(server.post(prompt="a", headers={"Authorization": "Bearer secret"})[0], 200)
            self.assertEqual(server.request("GET", "/v1/models")[0], 401)

    def test_running_requests_finish(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with Server() as server:
                running = self.start(server, stream=True, max_tokens=300, n=4)
                running.settimeout(60)
                text = running.recv(1000)
                server.process.send_signal(number)
                until(lambda: server.request("GET", "/health")[0] == 503)
                self.assertEqual(server.post(prompt="a")[0], 503)
                text += read_all(running)
                self.assertIn(b"data: [DONE]", text)
                self.assertEqual(text.count(b'"finish_reason":"length"'), 4)
                self.assertEqual(server.process.wait(timeout=20), 0)

    def test_a_second_signal_ends_all(self):
        with Server() as server:
            running = self.start(server, stream=True)
            running.recv(1000)
            server.process.send_signal(signal.SIGTERM)
            until(lambda: server.request("GET", "/health")[0] == 503)
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(server.process.wait(timeout=20), 0)
            self.assertNotIn(b"[DONE]", read_all(running))

    def test_idle_connections_do_not_hold_the_end_up(self):
        with Server() as server:
            idle = [server.connect() for _ in range(5)]
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(server.process.wait(timeout=10), 0)
            for connection in idle:
                connection.close()

    def test_what_cannot_start(self):
        with Server() as server:
            second = subprocess.run([MIQ, "serve", "--model", TINY, "--port", str(server.port)], capture_output=True, text=True, timeout=60)
            self.assertEqual(second.returncode, 4, second.stderr)
            self.assertIn(f"port {server.port}", second.stderr)
        for arguments, status in ((["--port", "70000"], 2), (["--max-queue", "0"], 2), (["--max-body", "many"], 2), (["--chat", "nope"], 2), (["--host", "256.0.0.1"], 4)):
            result = subprocess.run([MIQ, "serve", "--model", TINY, "--port", "0", *arguments], capture_output=True, text=True, timeout=60)
            self.assertEqual(result.returncode, status, (arguments, result.stderr))


if __name__ == "__main__":
    unittest.main()
