"""llm-compressor's GPTQ on given ids: run_llmcompressor.py MODEL IDS OUT BITS GROUP SYM. Writes the
dequantized weights as a plain checkpoint, so that the same evaluator can score it."""
import sys

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

model_path, ids_path, out, bits, group, sym = *sys.argv[1:4], *map(int, sys.argv[4:7])
model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
ids = load_file(ids_path)["ids"]
data = Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist()})
weights = {"num_bits": bits, "type": "int", "symmetric": bool(sym), "strategy": "group", "group_size": group, "dynamic": False}
modifier = GPTQModifier(config_groups={"group_0": {"targets": ["Linear"], "weights": weights}}, ignore=["lm_head"], actorder=None)
oneshot(model=model, dataset=data, recipe=modifier, max_seq_length=ids.shape[1], num_calibration_samples=ids.shape[0], shuffle_calibration_samples=False)

values = {}
for name, module in model.named_modules():
    if hasattr(module, "weight_scale"):
        scale = module.weight_scale.data.repeat_interleave(group, 1)
        zero = module.weight_zero_point.data.repeat_interleave(group, 1) if hasattr(module, "weight_zero_point") else 0
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        values[name] = (torch.clamp(torch.round(module.weight.data / scale + zero), low, high) - zero) * scale
plain = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
for name, module in plain.named_modules():
    if name in values:
        module.weight.data = values[name]
plain.save_pretrained(out)
AutoTokenizer.from_pretrained(model_path).save_pretrained(out)
