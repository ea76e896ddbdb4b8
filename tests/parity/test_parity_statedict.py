"""Conversion between Hugging Face's state dict and ours: strict, exact, both ways."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from bench.numerics.inputs import random_batch, sharp_state_dict
from reference import GPT, SIZES, GPTConfig
from reference.checkpoints.canonical import canonical_gradients, to_canonical
from reference.checkpoints.huggingface import canonical_shapes, config_from_hf, from_hf, hf_config, hf_shapes, to_hf
from tests.parity.shapes import SHAPES


@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back_is_bitwise(shape: str) -> None:
    config = SHAPES[shape]
    weights = sharp_state_dict(config)
    back = from_hf(to_hf(weights, config), config)
    assert list(back) == list(weights)
    for name, tensor in weights.items():
        assert torch.equal(back[name], tensor), name
        assert back[name].is_contiguous(), name


@pytest.mark.parametrize("shape", [s for s in SHAPES if SHAPES[s].bias])
def test_back_and_there_is_bitwise_for_a_model_made_by_transformers(shape: str) -> None:
    config = SHAPES[shape]
    model = GPT2LMHeadModel(GPT2Config(**hf_config(config)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    theirs = model.state_dict()
    again = to_hf(from_hf(theirs, config), config)
    assert again.keys() | {"lm_head.weight"} == theirs.keys()
    for name, tensor in again.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("size", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_names_and_shapes_of_the_four_sizes_are_those_of_transformers_and_of_ours(size: str) -> None:
    config = SIZES[size]
    with torch.device("meta"):
        theirs, ours = GPT2LMHeadModel(GPT2Config(**hf_config(config))), GPT(config)
    expected = {name: tuple(t.shape) for name, t in theirs.state_dict().items() if name != "lm_head.weight"}
    assert hf_shapes(config) == expected
    assert canonical_shapes(config) == {name: tuple(t.shape) for name, t in ours.state_dict().items()}


@pytest.mark.parametrize("bias", [True, False])
def test_the_canonical_names_are_in_the_order_of_the_model(bias: bool) -> None:
    config = SHAPES["usual" if bias else "no-bias"]
    assert list(canonical_shapes(config)) == list(GPT(config).state_dict())


def test_names_without_the_prefix_and_with_mask_buffers_are_read_too() -> None:
    config = SHAPES["usual"]
    weights = sharp_state_dict(config)
    old = {name.removeprefix("transformer."): t for name, t in to_hf(weights, config).items()}
    for i in range(config.n_layer):
        old[f"h.{i}.attn.bias"] = torch.ones(1, 1, 80, 80).tril()
        old[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    back = from_hf(old, config)
    assert all(torch.equal(back[name], t) for name, t in weights.items())
    assert back.keys() == weights.keys()


def test_an_unknown_a_missing_and_a_misshapen_tensor_are_named() -> None:
    config = SHAPES["usual"]
    good = to_hf(sharp_state_dict(config), config)
    with pytest.raises(
        ValueError, match="^" + re.escape("Hugging Face state dict: 'transformer.h.1.mlp.gate.weight' is unknown")
    ):
        from_hf({**good, "transformer.h.1.mlp.gate.weight": torch.zeros(2)}, config)
    for name in good:
        with pytest.raises(ValueError, match="^" + re.escape(f"Hugging Face state dict: '{name}' is missing")):
            from_hf({n: t for n, t in good.items() if n != name}, config)
    name = "transformer.h.0.mlp.c_fc.weight"
    with pytest.raises(
        ValueError,
        match="^" + re.escape(f"Hugging Face state dict: '{name}' has shape (192, 48), the config needs (48, 192)"),
    ):
        from_hf({**good, name: good[name].T}, config)
    ours = sharp_state_dict(config)
    with pytest.raises(ValueError, match="^" + re.escape("canonical state dict: 'h.3.ln_1.weight' is unknown")):
        to_hf({**ours, "h.3.ln_1.weight": torch.zeros(48)}, config)
    with pytest.raises(ValueError, match="^" + re.escape("canonical state dict: 'ln_f.bias' is missing")):
        to_hf({n: t for n, t in ours.items() if n != "ln_f.bias"}, config)
    with pytest.raises(
        ValueError,
        match="^" + re.escape("canonical state dict: 'wpe.weight' has shape (79, 48), the config needs (80, 48)"),
    ):
        to_hf({**ours, "wpe.weight": torch.zeros(79, 48)}, config)


def test_an_untied_head_is_refused_and_a_tied_one_accepted() -> None:
    config = SHAPES["usual"]
    state = to_hf(sharp_state_dict(config), config)
    head = state["transformer.wte.weight"].clone()
    from_hf({**state, "lm_head.weight": head}, config)
    head[3, 4] += 1e-9
    message = (
        "Hugging Face state dict: 'lm_head.weight' differs from 'transformer.wte.weight'; this GPT-2 ties the two, so "
        "give a model with tied embeddings"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        from_hf({**state, "lm_head.weight": head}, config)


def test_a_bias_in_a_model_without_biases_is_refused_by_name() -> None:
    config = SHAPES["no-bias"]
    state = to_hf(sharp_state_dict(config), config)
    assert all(t.count_nonzero() == 0 for name, t in state.items() if name.endswith(".bias"))
    state["transformer.h.2.mlp.c_proj.bias"][5] = 1e-30
    with pytest.raises(ValueError, match=r"'transformer\.h\.2\.mlp\.c_proj\.bias' is not zero"):
        from_hf(state, config)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_config_survives_the_way_through_transformers(shape: str) -> None:
    config = SHAPES[shape]
    assert config_from_hf(hf_config(config)) == config
    assert config_from_hf(GPT2Config(**hf_config(config)).to_dict()) == config
    dropping = replace(config, dropout=0.25)
    assert config_from_hf(hf_config(dropping)) == dropping


def test_transformers_is_told_all_that_its_own_file_would_say() -> None:
    config = SHAPES["usual"]
    said = hf_config(config, torch.bfloat16)
    assert said.pop("bias") is config.bias  # ours alone
    theirs = GPT2Config(**said)
    assert theirs.architectures == ["GPT2LMHeadModel"]
    assert theirs.dtype == torch.bfloat16
    assert said.keys() <= GPT2Config().to_dict().keys() | {"dtype"}, "a name that transformers does not know"
    wanted = {"initializer_range": 0.02, "bos_token_id": None, "eos_token_id": None, "n_inner": None}
    assert {name: said[name] for name in wanted} == wanted
    assert {name: getattr(theirs, name) for name in wanted} == wanted


def test_a_config_that_says_only_the_shape_is_gpt2s_in_all_else() -> None:
    shape = {"n_positions": 80, "vocab_size": 101, "n_layer": 2, "n_head": 4, "n_embd": 48}
    expected = GPTConfig(block_size=80, vocab_size=101, n_layer=2, n_head=4, n_embd=48, dropout=0.1, bias=True)
    assert config_from_hf(shape) == expected
    assert config_from_hf({**shape, "n_inner": 192}) == expected
    for name in shape:
        with pytest.raises(ValueError, match=f"^Hugging Face config: '{name}' is missing$"):
            config_from_hf({key: value for key, value in shape.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("activation_function", "gelu"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("tie_word_embeddings", False),
        ("n_inner", 100),
        ("n_inner", 5 * SHAPES["usual"].n_embd),
        ("model_type", "llama"),
        ("attn_pdrop", 0.3),
    ],
)
def test_a_config_of_another_function_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        config_from_hf({**hf_config(SHAPES["usual"]), name: value})


def test_gradients_take_the_same_way_as_weights() -> None:
    """The map is linear, so the derivative along it is the map itself."""
    config = SHAPES["usual"]
    a, b = sharp_state_dict(config, 1), sharp_state_dict(config, 2)
    joined = to_hf({name: 2.0 * a[name] - b[name] for name in a}, config)
    hf_a, hf_b = to_hf(a, config), to_hf(b, config)
    for name, tensor in joined.items():
        assert torch.equal(tensor, 2.0 * hf_a[name] - hf_b[name]), name


def test_canonical_gradients_leave_the_model_as_it_was() -> None:
    config = SHAPES["usual"]
    model = GPT(config).double()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.loss(*random_batch(config, 2, 9)).backward()
    found = canonical_gradients(model)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(found[name], parameter.grad), name
        assert torch.equal(before[name], parameter), name
    with pytest.raises(ValueError, match="are missing or have no parameter"):
        to_canonical(model, {"wte.weight": None})
