"""GPTQModel on given ids: run_gptqmodel.py MODEL IDS OUT BITS GROUP SYM, with desc_act and
act_group_aware off. Writes GPTQModel's own checkpoint."""
import sys

from gptqmodel import GPTQModel, QuantizeConfig
from safetensors.torch import load_file

model_path, ids_path, out, bits, group, sym = *sys.argv[1:4], *map(int, sys.argv[4:7])
ids = load_file(ids_path)["ids"]
config = QuantizeConfig(bits=bits, group_size=group, sym=bool(sym), desc_act=False, act_group_aware=False, damp_percent=0.01)
model = GPTQModel.load(model_path, config, device="cpu")
model.quantize([{"input_ids": row[None], "attention_mask": row.new_ones(1, len(row))} for row in ids], batch_size=1)
model.save(out)
