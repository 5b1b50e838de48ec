#!/usr/bin/env python3
"""Makes the fuzz targets' seeds: small valid files and a few malformed ones, and dictionaries of what the formats repeat.

    make_corpora.py FOLDER    writes FOLDER/<target>/* and FOLDER/<target>.dict; needs torch
"""
import io
import json
import struct
import sys
from collections import OrderedDict
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent.parent


def safetensors():
    def file(header, data=b""):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    def entry(dtype, shape, begin, end):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    yield file({"w": entry("F32", [2, 3], 0, 24)}, bytes(24))
    yield file({"__metadata__": {"format": "pt"}, "a": entry("BF16", [2], 0, 4), "b": entry("I64", [], 4, 12),
                "c": entry("F8_E4M3", [0, 7], 12, 12), "d": entry("BOOL", [1, 1, 3], 12, 15)}, bytes(15))
    yield file(b'{"w":{"dtype":"U8","shape":[5],"data_offsets":[0,5]}} ', bytes(5))
    yield file({"w": entry("F32", [2, 3], 0, 20)}, bytes(24))
    yield file({"w": entry("F32", [2**62, 4], 0, 24)}, bytes(24))
    yield file({"w": entry("F16", [4], 0, 8), "v": entry("F16", [4], 4, 12)}, bytes(12))
    yield struct.pack("<Q", 2**63) + b"{}"


def torch_bin():
    base = torch.arange(12, dtype=torch.float32).view(3, 4)
    dicts = [
        OrderedDict(w=base, t=base.t(), row=base[1], one=base[0, 0], none=torch.empty(0, 3), half=base.half()),
        {"state_dict": {"layer": {"w": torch.nn.Parameter(base)}, "list": [base, (base, 1)]}, "step": 7, "lr": 0.5, "big": 2**70},
        {"e": base.to(torch.float8_e4m3fn), "u": torch.zeros(2, dtype=torch.uint16), "x": base[:1].expand(3, 4), "b": torch.ones(2, dtype=torch.bool)},
    ]
    for state in dicts:
        for protocol in (2, 4):
            out = io.BytesIO()
            torch.save(state, out, pickle_protocol=protocol)
            yield out.getvalue()
        if "e" not in state:
            out = io.BytesIO()
            torch.save(state, out, _use_new_zipfile_serialization=False)
            yield out.getvalue()
        # The pickle alone, which the target puts into an archive.
        out = io.BytesIO()
        torch.save(state, out, pickle_protocol=4)
        archive = out.getvalue()
        start = archive.index(b"\x80\x04\x95")
        yield archive[start:archive.index(b"PK\x07\x08", start)]
    yield b"PK\x05\x06" + bytes(18)
    yield b"\x80\x04}\x94h\x00h\x00s."
    yield b"\x80\x04\x8c\x02os\x8c\x06system\x93)R."


def gguf():
    def text(value):
        return struct.pack("<Q", len(value)) + value

    def file(keys, tensors, data, version=3):
        content = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
        return content + bytes(-len(content) % 32) + data

    def tensor(name, dims, kind, offset):
        return text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<iQ", kind, offset)

    keys = [text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama"), text(b"general.alignment") + struct.pack("<II", 4, 32),
            text(b"f") + struct.pack("<If", 6, 0.5), text(b"b") + struct.pack("<IB", 7, 1), text(b"q") + struct.pack("<Iq", 11, -5),
            text(b"tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b""), text(b"scores") + struct.pack("<IIQff", 9, 6, 2, 1, -1)]
    yield file(keys, [tensor(b"w", [3, 2], 0, 0), tensor(b"v", [32], 2, 32)], bytes(64))
    blocks = {2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176),
              14: (256, 210), 20: (32, 18), 23: (256, 136), 1: (1, 2), 30: (1, 2), 28: (1, 8), 24: (1, 1), 18: (256, 98), 99: (1, 1)}
    for kind, (length, size) in blocks.items():
        yield file([], [tensor(b"w", [length, 2], kind, 0)], bytes(range(256)) * 3 if size > 100 else bytes(96), 2 if kind == 8 else 3)
    def value(name, kind, packed):
        return text(b"tokenizer.ggml." + name) + struct.pack("<I", kind) + packed

    def array(name, kind, items):
        return value(name, 9, struct.pack("<IQ", kind, len(items)) + b"".join(items))

    def texts(words):
        return [text(word.encode()) for word in words]

    tokens = ["<unk>", "<s>", "</s>", "<0x41>", "\u2581", "l", "o", "lo", "\u2581lo"]
    yield file([value(b"model", 8, text(b"llama")), array(b"tokens", 8, texts(tokens)), array(b"scores", 6, [struct.pack("<f", -i) for i in range(9)]),
                array(b"token_type", 5, [struct.pack("<i", kind) for kind in (2, 3, 3, 6, 1, 1, 1, 1, 4)]), value(b"bos_token_id", 4, struct.pack("<I", 1)),
                value(b"add_space_prefix", 7, b"\1"), value(b"add_bos_token", 7, b"\1")], [], b"")
    for pre in (b"llama-bpe", b"smollm", b"qwen2", b"none"):
        yield file([value(b"model", 8, text(b"gpt2")), value(b"pre", 8, text(pre)), array(b"tokens", 8, texts(["H", "e", "l", "o", "\u0120", "He", "lo", "<s>"])),
                    array(b"merges", 8, texts(["H e", "l o"])), array(b"token_type", 5, [struct.pack("<i", kind) for kind in (1, 1, 1, 1, 1, 1, 1, 3)])], [], b"")
    yield file([], [tensor(b"w", [2**62, 2**62], 0, 0)], bytes(64))
    yield file([text(b"a") + struct.pack("<IIQ", 9, 0, 2**62)], [], b"")


def tokenizer_json():
    def bpe(merges, **more):
        pieces = ["<unk>", "<s>"] + [f"<0x{i:02X}>" for i in range(4)] + list("Helowrd,123▁ĠĊ ") + [a + b for a, b in merges]
        return {"type": "BPE", "vocab": {p: i for i, p in enumerate(dict.fromkeys(pieces))}, "merges": [" ".join(m) for m in merges], **more}

    added = [{"id": 1, "content": "<s>", "special": True, "normalized": False, "lstrip": True, "rstrip": False, "single_word": False}]
    merges = [("l", "o"), ("H", "e"), ("lo", "w"), ("Ġ", "w")]
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True, "trim_offsets": True}
    mark = "\u2581"
    metaspace = {"type": "Metaspace", "replacement": mark, "prepend_scheme": "first", "split": True}
    pattern = {"Regex": r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"}
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": mark}
    cases = [
        {"model": bpe(merges), "pre_tokenizer": byte_level, "decoder": byte_level, "added_tokens": added, "post_processor": byte_level},
        {"model": bpe(merges, ignore_merges=True), "normalizer": {"type": "NFC"}, "added_tokens": added, "post_processor": template,
         "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, {**byte_level, "use_regex": False}, {"type": "Digits", "individual_digits": True}]},
         "decoder": {"type": "ByteLevel"}},
        {"model": bpe(merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True), "added_tokens": added, "post_processor": template,
         "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": mark}, replace, {"type": "NFKC"}]},
         "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": mark}, "content": " "}, {"type": "ByteFallback"},
                                                      {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}},
        {"model": bpe([]), "pre_tokenizer": metaspace, "decoder": metaspace, "added_tokens": []},
    ]
    for case in cases:
        yield json.dumps(case, ensure_ascii=False).encode()
        yield json.dumps({**case, "pre_tokenizer": {**split, "behavior": "MergedWithNext"}}).encode()
    yield json.dumps({"model": {"type": "WordPiece"}}).encode()
    yield b"[" * 300


def tokenizer_model():
    def varint(value):
        out = b""
        while value > 127:
            out += bytes([value & 127 | 128])
            value >>= 7
        return out + bytes([value])

    def field(number, value):
        if isinstance(value, bytes):
            return varint(number << 3 | 2) + varint(len(value)) + value
        if isinstance(value, float):
            return varint(number << 3 | 5) + struct.pack("<f", value)
        return varint(number << 3) + varint(value)

    def piece(text, score=0.0, kind=1):
        return field(1, field(1, text.encode()) + field(2, score) + field(3, kind))

    def model(kind, normalizer=b"", more=b""):
        pieces = piece("<unk>", 0.0, 2) + piece("<s>", 0.0, 3) + piece("</s>", 0.0, 3) + b"".join(piece(f"<0x{i:02X}>", 0.0, 6) for i in range(256))
        pieces += b"".join(piece(text, -float(i)) for i, text in enumerate(["\u2581", "l", "o", "H", "e", "lo", "He", "\u2581w"]))
        trainer = field(3, kind) + field(35, 1) + field(40, 0) + field(41, 1) + field(42, 2)
        return pieces + more + field(2, trainer) + field(3, normalizer + field(3, 1) + field(4, 0) + field(5, 1))

    # A character map is a length, a trie of that many bytes and texts.
    trie = struct.pack("<I", 1024) + struct.pack("<256I", *([0x400] + [0] * 255)) + b"a\0b\0"
    for rules in range(4):
        for kind in (1, 2):
            yield bytes([rules]) + model(kind)
    yield b"\0" + model(2, field(1, b"nmt_nfkc") + field(2, trie))
    yield b"\0" + model(2, more=piece("<h2>", 0.0, 4) + piece("unused", 0.0, 5))
    yield b"\0" + model(2)[:700]
    yield b"\0IQ== 0\nIg== 1\nIyQl 2\n"
    yield b"\0IQ== 0\nIg== 4294967296\n"


def yaml():
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        yield path.read_bytes()
    yield b"quant_config: {algo: rtn, kwargs: {w_dtype: int4, w_qtype: per_group, w_groupsize: 128}, calibrate_config: {name: c4, nsample: 1}}\n"
    yield b"quant_config:\n  algo: awq+gptq\n  kwargs: {w_dtype: w4a8, actorder: true, skip_layers: [model.layers.0], percdamp: 0.01}\n"
    yield b"recipe:\n  preset: [quip, gptq]\n  rules:\n    - {match: '.*down.*', keep: float}\n    - {match: '.*', preset: spqr, grid: {bits: 3, bilevel: {bits: 3}}}\n"
    yield b"a: &a [*a]\n"
    yield b"a: &a {b: c}\n<<: *a\n? [x]\n: 1\n"


def task():
    quiz = b'shape: choice\ndata: {set: rows, eval: test}\nprompt: "Q: {{question|strip}}\\nA:"\nchoices: "{{options}}"\ngold: "{{answer}}"\nmetrics: [acc]\n'
    row = b'{"question": " 2+2? ", "options": ["3", "4"], "answer": 1}\n'
    yield quiz + b"---rows\n" + row
    yield quiz + b"fewshot: {split: test, count: 2, exclude_self: true}\n---rows\n" + row * 3 + b'{"question": "q", "options": ["a"], "answer": "a"}\n'
    rows = {"hellaswag": b'{"ctx_a": "A b", "ctx_b": "c", "activity_label": "l", "endings": ["[x] y", "z", "1", "2"], "label": "3"}\n',
            "mathqa": b'{"Problem": "p", "options": "a ) 1 , b ) 2 , c ) 3 , d ) 4 , e ) 5", "correct": "e"}\n',
            "mutual": b'{"answers": "B", "options": ["f : a", "m : b !", "c", "d"], "article": "f : x . m : y"}\n',
            "race": b'{"article": "a", "problems": [{"question": "x  _  .", "answer": "A", "options": ["a", "b"]}, {"question": "q", "answer": "B", "options": ["c", "d"]}]}\n',
            "wsc273": b'{"text": "The dog. It  barked", "pronoun": "It", "pronoun_loc": 9, "options": ["The dog", "A cat"], "label": 0}\n',
            "bbq": b'{"answer_info": {"ans0": ["a", "old"], "ans1": ["b", "man"], "ans2": []}, "additional_metadata": {"stereotyped_groups": ["Old"]}, "context": "c", "question": "q", '
                   b'"question_polarity": "neg", "ans0": "a", "ans1": "b", "ans2": "Unknown", "label": 2}\n',
            "wikitext": b'{"page": " = A = \\n ( b ) \\" c \\" 3 @.@ 5 N"}\n',
            "boss_eqa": b'{"context": "c", "question": "q", "answers": {"text": ["a", "b"]}}\n'}
    for name, text in rows.items():
        content = (ROOT / f"configs/tasks/{name}.yaml").read_bytes().replace(b"/{{SUBJECT}}", b"")
        yield b"\n".join(line for line in content.split(b"\n") if not line.startswith(b"subjects:")) + b"---rows\n" + text * 2
    yield b"include: anli_r1\n---rows\n" + b'{"premise": "p", "hypothesis": "h", "label": 1}\n'


DICTIONARIES = {
    "safetensors": ["dtype", "shape", "data_offsets", "__metadata__", "F32", "BF16", "I64"],
    "torch_bin": ["ccollections\nOrderedDict\n", "ctorch._utils\n_rebuild_tensor_v2\n", "ctorch._utils\n_rebuild_tensor_v3\n", "ctorch\nFloatStorage\n",
                  "ctorch._utils\n_rebuild_parameter\n", "ctorch\nSize\n", "storage", "PK\x01\x02", "PK\x03\x04", "PK\x05\x06", "PK\x06\x06", "PK\x06\x07",
                  "\x80\x02", "\x80\x04\x95", "\x8c\x07storage", "\x8a\x08", "\xff\xff\xff\xff"],
    "gguf": ["general.alignment", "\xff\xff\xff\xff\xff\xff\xff\x7f", "\x00\x00\x00\x00\x00\x00\x00\x40"],
    "tokenizer_json": ["type", "Sequence", "Replace", "Regex", "String", "ByteLevel", "Metaspace", "Split", "behavior", "Removed", "MergedWithPrevious",
                       "normalizers", "pretokenizers", "decoders", "added_tokens", "single_word", "lstrip", "normalized", "<0x41>", "\\\\p{L}"],
    "tokenizer_model": ["\x0a", "\x12", "\x1a", "\x18\x02", "<0x41>", "<unk>"],
    "task": ["{{", "}}", "{%", "|strip", "|lower", "|capitalize", "|join('", "|before('", "|after('", "|ensure_end('", "|replace('", "|label('", "---rows", "shape:", "prepare:", "include:",
             "gold_labels:", "gold_mask:", "fewshot:", "subjects:", "SUBJECT", "mode: windows", "text:", "\xff", "\xe2\x80\x83"],
    "yaml": ["recipe:", "preset:", "rules:", "match:", "grid:", "bits:", "group_size:", "granularity:", "rounding:", "transform:", "range:", "activation:",
             "allocate:", "quant_config:", "algo:", "kwargs:", "calibration:", "evaluation:", "perplexity:", "export:", "pipeline:", "&a", "*a", "<<:"],
}


def main():
    folder = Path(sys.argv[1])
    for make in (safetensors, torch_bin, gguf, tokenizer_json, tokenizer_model, task, yaml):
        target = folder / make.__name__
        target.mkdir(parents=True, exist_ok=True)
        for i, content in enumerate(make()):
            (target / f"seed-{i:02}").write_bytes(content)
        words = ["".join(f"\\x{byte:02x}" for byte in word.encode("latin-1")) for word in DICTIONARIES[make.__name__]]
        (folder / f"{make.__name__}.dict").write_text("".join(f'"{word}"\n' for word in words))


if __name__ == "__main__":
    main()
