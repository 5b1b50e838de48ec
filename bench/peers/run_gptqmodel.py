"""GPTQModel on given ids: run_gptqmodel.py MODEL IDS OUT BITS GROUP SYM, with desc_act and
act_group_aware off. Writes the dequantized weights as a plain checkpoint, so that the same evaluator
can score it."""
import sys

import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

model_path, ids_path, out, bits, group, sym = *sys.argv[1:4], *map(int, sys.argv[4:7])
ids = load_file(ids_path)["ids"]
config = QuantizeConfig(bits=bits, group_size=group, sym=bool(sym), desc_act=False, act_group_aware=False, damp_percent=0.01)
model = GPTQModel.load(model_path, config, device="cpu")
model.quantize([{"input_ids": row[None], "attention_mask": row.new_ones(1, len(row))} for row in ids], batch_size=1)
model.save(out + ".quantized")

packed = GPTQModel.load(out + ".quantized", device="cpu", backend=BACKEND.TORCH).model
values = {name: module.dequantize_weight().T.float() for name, module in packed.named_modules() if hasattr(module, "dequantize_weight")}
plain = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
for name, module in plain.named_modules():
    if name in values:
        module.weight.data = values[name][: module.weight.shape[0], : module.weight.shape[1]].contiguous()
plain.save_pretrained(out)
AutoTokenizer.from_pretrained(model_path).save_pretrained(out)
