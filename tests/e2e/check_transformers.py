#!/usr/bin/env python3
"""Loads a checkpoint that miq wrote with transformers, and compares perplexity with miq's own.

    check_transformers.py MIQ CHECKPOINT TEXT [SEQLEN] [WINDOWS]

Needs torch and transformers; CI without them leaves it out (CONTRIBUTING.md).
"""
import json
import math
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

miq, checkpoint, text = sys.argv[1:4]
seqlen, windows = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((4, 256), (5, 8)))
model, info = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
tokenizer = PreTrainedTokenizerFast(tokenizer_file=checkpoint + "/tokenizer.json")
ids = torch.tensor(tokenizer(open(text).read(), add_special_tokens=False)["input_ids"])
losses = []
with torch.no_grad():
    for w in range(min(windows, len(ids) // seqlen)):
        window = ids[None, w * seqlen : (w + 1) * seqlen]
        losses.append(model(window, labels=window).loss.item())
theirs = math.exp(sum(losses) / len(losses))
command = [miq, "eval", "--model", checkpoint, "--json", "-q", "--set", "model.dtype=float32",
           "--set", f"evaluation.perplexity=[{{corpus: {text}, seqlen: {seqlen}, windows: {windows}}}]"]
ours = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["perplexity"][0]["value"]
print(f"transformers {theirs:.6f}, miq {ours:.6f}")
sys.exit(0 if abs(theirs / ours - 1) < 1e-4 else 1)
