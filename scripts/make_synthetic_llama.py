#!/usr/bin/env python3
"""Makes a random LLaMA checkpoint of a given size, to measure speed and memory on: never committed.

  scripts/make_synthetic_llama.py --size 3b OUT
  miq quantize --model OUT ...

Weights are random but shaped like trained ones: outlier channels in the norms, rows that keep the variance
of their input. Calibration ids (`calibration.safetensors`, uniform over the vocabulary) lie beside them, and
the tokenizer of the tiny fixture, so that everything runs without a download. Needs torch and numpy.
"""
import argparse
import json
import shutil
import struct
from pathlib import Path

import torch

SIZES = {  # hidden, intermediate, layers, heads, kv heads, vocabulary
    "135m": (576, 1536, 30, 9, 3, 49152),
    "1b": (2048, 8192, 16, 32, 8, 128256),
    "3b": (3072, 8192, 28, 24, 8, 128256),
    "7b": (4096, 11008, 32, 32, 32, 32000),
}


class ShardWriter:
    """Safetensors shards of about `limit` bytes, written tensor by tensor."""

    def __init__(self, folder, limit):
        self.folder, self.limit, self.pending, self.bytes, self.shards, self.index = folder, limit, [], 0, 0, {}

    def add(self, name, tensor):
        self.pending.append((name, tensor))
        self.bytes += tensor.numel() * 2
        if self.bytes >= self.limit:
            self.flush()

    def flush(self):
        if not self.pending:
            return
        self.shards += 1
        file = f"model-{self.shards:05d}.safetensors"
        header, at = {"__metadata__": {"format": "pt"}}, 0
        for name, tensor in self.pending:
            header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [at, at + tensor.numel() * 2]}
            at += tensor.numel() * 2
            self.index[name] = file
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(self.folder / file, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for _, tensor in self.pending:
                out.write(tensor.view(torch.int16).numpy().tobytes())
        self.pending, self.bytes = [], 0

    def finish(self):
        self.flush()
        (self.folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": self.index}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=SIZES, default="3b")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    hidden, inner, layers, heads, kv_heads, vocab = SIZES[args.size]
    args.out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(args.seed)

    def matrix(rows, columns, gain=1.0):
        return (torch.randn(rows, columns, generator=generator) * (gain / columns**0.5)).to(torch.bfloat16)

    def norm():
        weight = 1 + 0.2 * torch.randn(hidden, generator=generator)
        weight[torch.randperm(hidden, generator=generator)[:3]] *= 5
        return weight.to(torch.bfloat16)

    head_dim = hidden // heads
    writer = ShardWriter(args.out, 1 << 30)
    writer.add("model.embed_tokens.weight", matrix(vocab, hidden, hidden**0.5))
    writer.add("model.norm.weight", norm())
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        writer.add(prefix + "input_layernorm.weight", norm())
        writer.add(prefix + "post_attention_layernorm.weight", norm())
        for name, rows, columns in (("self_attn.q_proj", heads * head_dim, hidden), ("self_attn.k_proj", kv_heads * head_dim, hidden),
                                    ("self_attn.v_proj", kv_heads * head_dim, hidden), ("self_attn.o_proj", hidden, heads * head_dim),
                                    ("mlp.gate_proj", inner, hidden), ("mlp.up_proj", inner, hidden), ("mlp.down_proj", hidden, inner)):
            writer.add(f"{prefix}{name}.weight", matrix(rows, columns))
        print(f"layer {layer + 1} of {layers}", end="\r", flush=True)
    writer.finish()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
              "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "vocab_size": vocab, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
              "rope_theta": 500000.0, "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16"}
    (args.out / "config.json").write_text(json.dumps(config, indent=1))
    fixture = Path(__file__).resolve().parent.parent / "tests/fixtures/tiny-llama"
    for file in fixture.glob("*token*"):
        shutil.copy(file, args.out)
    ids = torch.randint(0, vocab, (args.samples, args.seqlen), generator=generator)
    text = json.dumps({"ids": {"dtype": "I64", "shape": list(ids.shape), "data_offsets": [0, ids.numel() * 8]}}).encode()
    text += b" " * (-len(text) % 8)
    (args.out / "calibration.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + ids.numpy().tobytes())
    print(f"{args.out}: {args.size}, {sum(1 for _ in writer.index)} tensors")


if __name__ == "__main__":
    main()
