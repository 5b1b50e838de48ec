"""llm-compressor on given ids: run_llmcompressor.py MODEL IDS OUT BITS GROUP SYM [METHOD [TEXT]].

METHOD: gptq (default), awq, rtn, smoothquant (W8A8 int8, channel and token; rounded to nearest), fp8 (dynamic).
Writes the dequantized weights as a plain checkpoint, so that the same evaluator can score it; methods that
quantize activations are scored here, with its own fake-quantized forward, on 5 windows of 2048 tokens of TEXT."""
import json
import sys

import torch
from datasets import Dataset
from llmcompressor import oneshot
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

model_path, ids_path, out, bits, group, sym = *sys.argv[1:4], *map(int, sys.argv[4:7])
method = sys.argv[7] if len(sys.argv) > 7 else "gptq"
text = sys.argv[8] if len(sys.argv) > 8 else None
if not torch.accelerator.is_available():
    torch.Tensor.pin_memory = lambda self, *_: self  # awq pins memory for a device that is not there
model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
ids = load_file(ids_path)["ids"]
data = Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist()})
weights = {"num_bits": bits, "type": "int", "symmetric": bool(sym), "strategy": "group", "group_size": group, "dynamic": False}
if method in ("smoothquant", "rtn8", "fp8"):
    kind = {"num_bits": 8, "type": "float" if method == "fp8" else "int", "symmetric": True}
    weights = {**kind, "strategy": "channel", "dynamic": False}
    inputs = {**kind, "strategy": "token", "dynamic": True}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}}
else:
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}

if method == "gptq":
    from llmcompressor.modifiers.gptq import GPTQModifier
    recipe = GPTQModifier(config_groups=groups, ignore=["lm_head"], actorder=None)
elif method == "awq":
    from llmcompressor.modifiers.awq import AWQModifier
    recipe = AWQModifier(config_groups=groups, ignore=["lm_head"])
else:
    from llmcompressor.modifiers.quantization import QuantizationModifier
    recipe = [QuantizationModifier(config_groups=groups, ignore=["lm_head"])]
    if method == "smoothquant":
        try:
            from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
        except ImportError:
            from llmcompressor.modifiers.smoothquant import SmoothQuantModifier
        recipe.insert(0, SmoothQuantModifier(smoothing_strength=0.8))
oneshot(model=model, dataset=data, recipe=recipe, max_seq_length=ids.shape[1], num_calibration_samples=ids.shape[0], shuffle_calibration_samples=False)

if text:
    from tokenizers import Tokenizer
    rows = [json.loads(line)["text"] for line in open(text, encoding="utf-8")]
    stream = torch.tensor(Tokenizer.from_file(model_path + "/tokenizer.json").encode("\n\n".join(rows), add_special_tokens=False).ids)
    losses = []
    with torch.inference_mode():
        for window in range(5):
            tokens = stream[window * 2048 : (window + 1) * 2048][None]
            logits = model(tokens).logits[0, :-1].float()
            losses.append(torch.nn.functional.cross_entropy(logits, tokens[0, 1:]).item())
    print(json.dumps({"perplexity": float(torch.tensor(losses).mean().exp())}))

values = {}
for name, module in model.named_modules():
    if hasattr(module, "weight_scale") and method not in ("smoothquant", "rtn8", "fp8"):
        scale = module.weight_scale.data.repeat_interleave(group, 1)
        zero = module.weight_zero_point.data.repeat_interleave(group, 1) if hasattr(module, "weight_zero_point") else 0
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        values[name] = (torch.clamp(torch.round(module.weight.data / scale + zero), low, high) - zero) * scale
plain = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
mine = dict(model.named_modules())
for name, module in plain.named_modules():
    if name in values:
        module.weight.data = values[name]
    elif "norm" in name and hasattr(module, "weight"):
        module.weight.data = mine[name].weight.data.clone()  # awq and smoothquant scale them
plain.save_pretrained(out)
AutoTokenizer.from_pretrained(model_path).save_pretrained(out)
