"""How much the reference rounds: against itself, summed in another order.

Permuting the width, the heads, the elements of a head and the hidden units of each MLP changes no logit, only the order
of all sums. The difference is rounding alone; it grows with size and depth, and with the sharpness of attention.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.candidate.search_causes import Probe
from bench.numerics.errors import Measurement, distance
from bench.numerics.outputs import Batch, ModelOutputs, collect_outputs, compare_outputs
from reference.config import GPTConfig
from reference.gpt import GPT
from reference.training.step import build_step

Weights = dict[str, Tensor]

ORDERS = 2  # other orders; the largest difference counts
MULTIPLE = 30.0  # of it that another implementation may have: with attention at 1e4 it varies twentyfold by the order
LARGEST = 1e-4  # a larger difference counts as no rounding


def reordered(weights: Weights, config: GPTConfig, seed: int) -> Weights:
    """Weights of the same function whose sums run in another order."""
    random = torch.Generator().manual_seed(seed)

    def shuffled(count: int) -> Tensor:
        return torch.randperm(count, generator=random)

    C, H, D = config.n_embd, config.n_head, config.head_size
    stream = shuffled(C)
    out = {name: tensor[:, stream] for name, tensor in weights.items() if name in ("wte.weight", "wpe.weight")}
    out |= {name: tensor[stream] for name, tensor in weights.items() if "ln_" in name}
    for i in range(config.n_layer):
        heads, hidden = shuffled(H)[:, None] * D, shuffled(4 * C)
        matched, values = ((heads + torch.stack([shuffled(D) for _ in range(H)])).flatten() for _ in range(2))
        rows_and_columns = {
            "attn.q_proj": (matched, stream),
            "attn.k_proj": (matched, stream),
            "attn.v_proj": (values, stream),
            "attn.c_proj": (stream, values),
            "mlp.c_fc": (hidden, stream),
            "mlp.c_proj": (stream, hidden),
        }
        for own, (rows, columns) in rows_and_columns.items():
            name = f"h.{i}.{own}"
            out[f"{name}.weight"] = weights[f"{name}.weight"][rows][:, columns]
            if f"{name}.bias" in weights:
                out[f"{name}.bias"] = weights[f"{name}.bias"][rows]
    return {name: out[name] for name in weights}


def put_back(tensors: Weights, config: GPTConfig, seed: int) -> Weights:
    """Undo `reordered`, for gradients and updates."""
    counts = {name: torch.arange(tensor.numel()).view(tensor.shape) for name, tensor in tensors.items()}
    found = {}
    for name, source in reordered(counts, config, seed).items():
        flat = torch.empty_like(tensors[name]).flatten()
        flat[source.flatten()] = tensors[name].flatten()
        found[name] = flat.view(tensors[name].shape)
    return found


def logits_scale(oracle: GPT, probe: Probe) -> float:
    """The rounding of a probe's logits; changes the oracle's weights."""
    with torch.no_grad():
        oracle.load_state_dict(probe.weights)
        expected, errors = oracle(probe.ids), []
        for seed in range(ORDERS):
            oracle.load_state_dict(reordered(probe.weights, oracle.config, seed))
            errors.append(distance(oracle(probe.ids), expected)[0])
    return max(errors)


def training_scales(
    oracle: GPT, weights: Weights, pair: Batch, steps: int, learning_rate: float, expected: ModelOutputs
) -> dict[str, float]:
    """The rounding of loss, gradients, losses and updates of AdamW steps; changes the oracle's weights."""
    config, found = oracle.config, list[Measurement]()
    for seed in range(ORDERS):
        start = reordered(weights, config, seed)
        oracle.load_state_dict(start)
        outputs = collect_outputs(
            oracle, build_step, pair, pair, steps, learning_rate=learning_rate, weights=start if steps else None
        )
        gradients, update = (put_back(t, config, seed) if t else {} for t in (outputs.gradients, outputs.update))
        again = ModelOutputs(outputs.logits, outputs.loss, gradients, outputs.losses, update)
        before = ModelOutputs(
            expected.logits,
            expected.loss,
            expected.gradients,
            expected.losses if steps else [],
            expected.update if steps else {},
        )
        found += compare_outputs(again, before).measurements
    quantities = {m.quantity for m in found} - {"logits"}
    return {quantity: max(m.error for m in found if m.quantity == quantity) for quantity in quantities}
