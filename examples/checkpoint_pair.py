"""Write the same GPT-2 as a nanoGPT checkpoint and as a Hugging Face folder, and a copy with two mistakes in it.

    python examples/checkpoint_pair.py build/pair
    python -m bench compare --weights build/pair/ckpt.pt --against build/pair/hf
    python -m bench compare --weights build/pair/wrong.pt --against build/pair/hf

In the copy the attention's output matrix of layer 0 is transposed, and layer 1 has layer 2's MLP.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

SHAPE = {"n_layer": 3, "n_head": 4, "n_embd": 48, "block_size": 32, "vocab_size": 211}
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # which Hugging Face keeps as (in, out)


def nanogpt_weights():
    """Random weights in nanoGPT's names and orientation, (out, in)."""
    torch.manual_seed(0)
    C = SHAPE["n_embd"]
    linears = {"attn.c_attn": (3 * C, C), "attn.c_proj": (C, C), "mlp.c_fc": (4 * C, C), "mlp.c_proj": (C, 4 * C)}
    weights = {
        "transformer.wte.weight": torch.randn(SHAPE["vocab_size"], C),
        "transformer.wpe.weight": torch.randn(SHAPE["block_size"], C),
    }
    for i in range(SHAPE["n_layer"]):
        for norm in ("ln_1", "ln_2"):
            weights[f"transformer.h.{i}.{norm}.weight"] = 1 + 0.1 * torch.randn(C)
            weights[f"transformer.h.{i}.{norm}.bias"] = 0.1 * torch.randn(C)
        for name, (rows, columns) in linears.items():
            weights[f"transformer.h.{i}.{name}.weight"] = torch.randn(rows, columns) / columns**0.5
            weights[f"transformer.h.{i}.{name}.bias"] = 0.1 * torch.randn(rows)
    weights["transformer.ln_f.weight"] = 1 + 0.1 * torch.randn(C)
    weights["transformer.ln_f.bias"] = 0.1 * torch.randn(C)
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    return weights


def write_nanogpt(file, weights):
    """A checkpoint as nanoGPT's train.py writes it from a compiled model."""
    model = {f"_orig_mod.{name}": tensor for name, tensor in weights.items()}
    torch.save({"model": model, "model_args": {**SHAPE, "bias": True, "dropout": 0.0}, "iter_num": 2000}, file)


def write_hugging_face(folder, weights):
    """A folder as transformers' save_pretrained writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: (t.T if name.endswith(CONV1D) else t).contiguous() for name, t in weights.items()}
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shape = {**SHAPE, "n_positions": SHAPE["block_size"], "model_type": "gpt2"}
    (folder / "config.json").write_text(json.dumps(shape, indent=2))


def main(folder):
    """Write all three."""
    weights = nanogpt_weights()
    write_hugging_face(folder / "hf", weights)
    write_nanogpt(folder / "ckpt.pt", weights)
    weights["transformer.h.0.attn.c_proj.weight"] = weights["transformer.h.0.attn.c_proj.weight"].T
    for name in ("c_fc", "c_proj"):
        weights[f"transformer.h.1.mlp.{name}.weight"] = weights[f"transformer.h.2.mlp.{name}.weight"]
    write_nanogpt(folder / "wrong.pt", weights)
    print(f"{folder}/ckpt.pt, {folder}/wrong.pt and the folder {folder}/hf")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
