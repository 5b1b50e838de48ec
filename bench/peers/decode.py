#!/usr/bin/env python3
"""Decoding beside llama.cpp: tokens a second of miq's packed 4-bit weights and of llama.cpp's Q4_0, one model, one run.

    bench/peers/decode.py --model CHECKPOINT --binary build/release/bench/bench_decode [--group 32] [--threads 2] [--runs 5] [--tokens 128]
                          [--dtype bfloat16] [--venv .venv-llama]

CHECKPOINT is a llama-like Hugging Face folder. The script makes a float16 GGUF of it and lets llama.cpp quantize that to Q4_0 (its
own choice for the tied head, Q8_0 or finer), sets llama-cpp-python up in a virtual environment of its own, and alternates the runs. Both
decode greedily from a prompt of 16 ids. Beside it stands the rate at which the machine reads memory. The head of miq has 8 bits.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CONVERT = r"""
import json, sys
from pathlib import Path
import gguf, numpy as np
import llama_cpp

source, target = Path(sys.argv[1]), sys.argv[2]
config = json.loads((source / "config.json").read_text())
def tensors():
    for file in sorted(source.glob("*.safetensors")):
        with open(file, "rb") as f:
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
            begin = f.tell()
        header.pop("__metadata__", None)
        for name, spec in header.items():
            raw = np.memmap(file, np.uint8, "r", begin + spec["data_offsets"][0], (spec["data_offsets"][1] - spec["data_offsets"][0],))
            if spec["dtype"] == "BF16":
                values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                values = raw.view({"F16": np.float16, "F32": np.float32}[spec["dtype"]]).astype(np.float32)
            yield name, values.reshape(spec["shape"])
heads = config["num_attention_heads"]
kv_heads = config.get("num_key_value_heads", heads)
def interleave(w, n):  # halves of a head to pairs, as llama.cpp rotates
    return w.reshape(n, 2, w.shape[0] // n // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
writer = gguf.GGUFWriter(target + ".f16", "llama")
writer.add_vocab_size(config["vocab_size"])
writer.add_tokenizer_model("no_vocab")
writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(config["hidden_size"])
writer.add_block_count(config["num_hidden_layers"])
writer.add_feed_forward_length(config["intermediate_size"])
writer.add_head_count(heads)
writer.add_head_count_kv(kv_heads)
writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
writer.add_rope_freq_base(float(config.get("rope_theta", 10000)))
writer.add_rope_dimension_count(config["hidden_size"] // heads)
writer.add_file_type(1)
names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
for name, w in tensors():
    parts = name.removesuffix(".weight").split(".", 3)
    if name == "model.embed_tokens.weight": out = "token_embd.weight"
    elif name == "model.norm.weight": out = "output_norm.weight"
    elif name == "lm_head.weight":
        if config.get("tie_word_embeddings"): continue
        out = "output.weight"
    else:
        out = f"blk.{parts[2]}.{names[parts[3]]}.weight"
        if parts[3] == "self_attn.q_proj": w = interleave(w, heads)
        if parts[3] == "self_attn.k_proj": w = interleave(w, kv_heads)
    writer.add_tensor(out, w if w.ndim == 1 else w.astype(np.float16))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = 2  # Q4_0
params.nthread = 2
if llama_cpp.llama_model_quantize((target + ".f16").encode(), target.encode(), params): sys.exit("llama.cpp could not quantize")
"""

DECODE = r"""
import ctypes, json, resource, sys, time
import llama_cpp
path, threads, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
llama_cpp.llama_log_set(ctypes.cast(None, llama_cpp.llama_log_callback), None)
llama_cpp.llama_backend_init()
params = llama_cpp.llama_model_default_params()
model = llama_cpp.llama_model_load_from_file(path.encode(), params)
context_params = llama_cpp.llama_context_default_params()
context_params.n_ctx, context_params.n_threads, context_params.n_threads_batch = 16 + tokens + 16, threads, threads
context = llama_cpp.llama_init_from_model(model, context_params)
vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
import numpy as np
def decode(ids):
    array = (llama_cpp.llama_token * len(ids))(*ids)
    if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(ids))): sys.exit("llama_decode failed")
    logits = llama_cpp.llama_get_logits_ith(context, -1)
    return int(np.ctypeslib.as_array(logits, shape=(vocab,)).argmax())
token = decode(list(range(1, 17)))
seconds, cpu = [], []
for _ in range(tokens):
    begin, cpu_begin = time.perf_counter(), time.process_time()
    token = decode([token])
    seconds.append(time.perf_counter() - begin)
    cpu.append(time.process_time() - cpu_begin)
seconds.sort(); cpu.sort()
print(json.dumps({"tokens_per_second": tokens / sum(seconds), "median_ms": 1e3 * seconds[tokens // 2], "median_cpu_ms": 1e3 * cpu[tokens // 2],
                  "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def setup(venv):
    python = venv / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    if subprocess.run([python, "-c", "import llama_cpp, gguf"], capture_output=True).returncode:
        subprocess.run([venv / "bin/pip", "install", "-q", "llama-cpp-python", "gguf", "numpy"], check=True)
    return python


def last_line(command, threads):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--group", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--venv", type=Path, default=Path(".venv-llama"))
    args = parser.parse_args()
    python = setup(args.venv)
    with tempfile.TemporaryDirectory() as folder:
        gguf = Path(folder) / "q4_0.gguf"
        subprocess.run([python, "-c", CONVERT, args.model, gguf], check=True, capture_output=True)
        (gguf.parent / "q4_0.gguf.f16").unlink()
        print(f"llama.cpp's file: {gguf.stat().st_size / 2**20:.1f} MiB")
        runs = {"miq": [], "llama.cpp": []}
        for _ in range(args.runs):
            runs["miq"].append(last_line([args.binary, args.model, 4, args.group, 8, args.tokens, args.dtype], args.threads))
            runs["llama.cpp"].append(last_line([python, "-c", DECODE, gguf, args.threads, args.tokens], args.threads))
    for name, results in runs.items():
        best = min(r["median_ms"] for r in results)
        print(f"{name:10} best median {best:7.3f} ms a token ({1e3 / best:6.1f} tokens/s), least CPU {min(r['median_cpu_ms'] for r in results):7.3f} ms")
    cpu = [b["median_cpu_ms"] / a["median_cpu_ms"] for a, b in zip(runs["miq"], runs["llama.cpp"])]
    ratios = [b["median_ms"] / a["median_ms"] for a, b in zip(runs["miq"], runs["llama.cpp"])]
    print(f"miq is {statistics.median(ratios):.2f} times as fast (median of {args.runs} pairs: {', '.join(f'{r:.2f}' for r in ratios)})")
    print(f"by processor time, which other work on the machine distorts less: {statistics.median(cpu):.2f} ({', '.join(f'{r:.2f}' for r in cpu)})")
    for key, what in (("share_of_bandwidth", "wall time"), ("share_of_bandwidth_cpu", "processor time")):
        shares = [r[key] for r in runs["miq"]]
        print(f"miq's share of the read bandwidth by {what}: {max(shares):.2f} at best, {statistics.median(shares):.2f} in the median")
    first = runs["miq"][0]
    print(f"miq holds {first['packed_bytes'] / 2**20:.1f} MiB packed and {first['decoding_bytes'] / 2**20:.1f} MiB of memory without a file behind it")


if __name__ == "__main__":
    main()
