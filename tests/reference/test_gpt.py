"""The reference model's sizes, initialisation, dropout, causality and error messages."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
import torch

from bench.numerics.inputs import random_batch, sharp_state_dict
from reference import GPT, SIZES, GPTConfig, generate

CONFIG = GPTConfig(block_size=20, vocab_size=50, n_layer=2, n_head=3, n_embd=24)


def sharp(config: GPTConfig = CONFIG) -> GPT:
    model = GPT(config).double()
    model.load_state_dict(sharp_state_dict(config))
    return model.eval()


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("counting", 2_673_792),
    ],
)
def test_the_sizes_have_the_published_parameter_counts(size: str, count: int) -> None:
    with torch.device("meta"):
        model = GPT(SIZES[size])
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("size", SIZES)
def test_the_counted_parameters_are_those_of_the_model(size: str) -> None:
    with torch.device("meta"):
        model = GPT(SIZES[size])
    assert SIZES[size].parameter_count() == sum(p.numel() for p in model.parameters())


def test_a_padded_vocabulary_of_50304_adds_36096_parameters() -> None:
    assert dataclasses.replace(SIZES["gpt2"], vocab_size=50304).parameter_count() == 124_475_904


def test_initial_weights_have_the_deviations_of_gpt2() -> None:
    torch.manual_seed(0)
    config = GPTConfig(block_size=256, vocab_size=2000, n_layer=8, n_head=4, n_embd=256)
    for name, parameter in GPT(config).state_dict().items():
        if name.endswith("bias"):
            assert parameter.count_nonzero() == 0, name
        elif "ln_" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            expected = 0.02 / math.sqrt(2 * 8) if name.endswith("c_proj.weight") else 0.02
            # the deviation of n normal numbers is itself off by about 1 / sqrt(2 n)
            allowed = 5 / math.sqrt(2 * parameter.numel())
            assert abs(float(parameter.std()) / expected - 1) < allowed, f"{name}: {float(parameter.std())}"
            assert abs(float(parameter.mean())) < 5 * expected / math.sqrt(parameter.numel()), name


def test_the_loss_of_a_new_gpt2_is_near_the_log_of_its_vocabulary() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(SIZES["gpt2"], n_layer=2)
    ids, targets = random_batch(config, 2, 64)
    with torch.no_grad():
        loss = float(GPT(config).loss(ids, targets))
    assert abs(loss - math.log(50257)) < 0.2, f"{loss:.3f}, ln(50257) = {math.log(50257):.3f}"


def test_the_head_is_the_token_table_and_its_gradient_has_both_parts() -> None:
    model = sharp()
    assert not any("head" in name for name in model.state_dict())
    ids, targets = random_batch(CONFIG, 2, 10)
    ids %= 25  # the upper half is never read, only scored
    model.loss(ids, targets).backward()
    assert model.wte.weight.grad is not None
    assert (model.wte.weight.grad.abs().sum(dim=1) > 0).all(), "some rows get no gradient from the head"


def test_no_logit_depends_on_a_later_token() -> None:
    model = sharp()
    ids, _ = random_batch(CONFIG, 2, 20)
    before = model(ids)
    for t in range(20):
        changed = ids.clone()
        changed[:, t] = (changed[:, t] + 1) % 50
        after = model(changed)
        assert torch.equal(after[:, :t], before[:, :t]), f"token {t} changes an earlier logit"
        assert not torch.equal(after[:, t], before[:, t]), f"token {t} does not change its own logit"
        if t < 19:
            assert not torch.equal(after[:, -1], before[:, -1]), f"token {t} is forgotten at the end"


def test_a_shorter_sequence_has_the_same_logits() -> None:
    model = sharp()
    ids, _ = random_batch(CONFIG, 2, 20)
    full = model(ids)
    for T in (1, 7, 19):
        assert torch.allclose(model(ids[:, :T]), full[:, :T], rtol=0, atol=1e-12)


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    model = sharp()
    ids, _ = random_batch(CONFIG, 3, 12)
    assert torch.allclose(model(ids)[1:2], model(ids[1:2]), rtol=0, atol=1e-12)


def test_dropout_works_in_training_and_is_gone_in_evaluation_and_comes_back() -> None:
    model = sharp(dataclasses.replace(CONFIG, dropout=0.3))
    ids, _ = random_batch(CONFIG, 2, 12)
    quiet = model(ids)
    assert torch.equal(model(ids), quiet)
    for _ in range(2):
        model.train()
        assert not torch.equal(model(ids), model(ids))
        model.eval()
        assert torch.equal(model(ids), quiet)


def test_dropout_acts_at_all_four_places() -> None:
    """On the embeddings, on the attention weights, and on both branches of each block."""
    model = sharp(dataclasses.replace(CONFIG, dropout=0.3)).train()
    ids, _ = random_batch(CONFIG, 2, 12)
    places = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert len(places) == 1 + 3 * CONFIG.n_layer
    for module in places:
        for other in places:
            other.p = 0.0
        module.p = 0.5
        assert not torch.equal(model(ids), model(ids)), module


def test_a_model_without_biases_has_none() -> None:
    model = GPT(dataclasses.replace(CONFIG, bias=False))
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())


def test_the_loss_under_bfloat16_autocast_is_computed_in_float32() -> None:
    model = GPT(CONFIG)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(*random_batch(CONFIG, 2, 12))
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_head": 5}, "n_head = 5 does not divide n_embd = 24: give one of 1, 2, 3, 4, 6, 8, 12, 24"),
        ({"n_layer": 0}, "n_layer = 0: give a whole number of at least 1"),
        ({"vocab_size": 2.5}, "vocab_size = 2.5: give a whole number"),
        ({"block_size": True}, "block_size = True: give a whole number"),
        ({"dropout": 1.0}, "dropout = 1.0: give a number from 0 up to, not including, 1"),
        ({"dropout": math.nan}, "dropout = nan: give a number from 0"),
        ({"dropout": "a"}, "dropout = 'a': give a number from 0"),
        ({"bias": 1}, "bias = 1: give True or False"),
    ],
)
def test_an_impossible_config_says_what_is_allowed(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(CONFIG, **values)  # type: ignore[arg-type]


def test_a_config_is_frozen_and_goes_through_a_dict() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.n_layer = 3  # type: ignore[misc]
    values = dataclasses.asdict(CONFIG)
    assert GPTConfig.from_dict(values) == CONFIG
    with pytest.raises(ValueError, match=r"unknown fields \['depth'\], missing fields \['bias'\]"):
        GPTConfig.from_dict({**{n: v for n, v in values.items() if n != "bias"}, "depth": 1})


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(1, 21, dtype=torch.int64), "a sequence of 21 tokens: this model takes 1 to 20"),
        (torch.zeros(1, 0, dtype=torch.int64), "a sequence of 0 tokens: this model takes 1 to 20"),
        (
            torch.tensor([3, 4]),
            "ids of shape (2,) and type torch.int64: give int64 ids of shape (batch, time)",
        ),
        (torch.tensor([[3.0]]), "ids of shape (1, 1) and type torch.float32: give int64 ids"),
    ],
)
def test_ids_that_the_model_cannot_read_say_what_is_allowed(ids: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        GPT(CONFIG)(ids)


@pytest.mark.parametrize("bad", [-1, 50, 2**40])
def test_values_of_ids_and_targets_are_left_to_torch_which_refuses_them_on_the_cpu(bad: int) -> None:
    model, good, wrong = GPT(CONFIG), torch.tensor([[3, 4]]), torch.tensor([[3, bad]])
    with pytest.raises(IndexError, match="index out of range in self"):
        model(wrong)
    with pytest.raises(IndexError, match="index out of range in self"):
        model.loss(wrong, good)
    with pytest.raises(RuntimeError, match="is out of bounds"):
        model.loss(good, torch.tensor([[3, bad if bad > 0 else -2]]))  # -1 is a target that does not count


def test_a_batch_without_rows_gives_logits_without_rows() -> None:
    assert GPT(CONFIG)(torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 3, CONFIG.vocab_size)


def test_importing_and_building_leaves_the_random_stream_to_the_caller() -> None:
    """Weights come from the global generator, as everywhere in torch, so a seed fixes them."""
    torch.manual_seed(5)
    first = GPT(CONFIG).state_dict()
    torch.manual_seed(5)
    second = GPT(CONFIG).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_generation_refuses_an_empty_prompt_and_a_negative_length() -> None:
    model = sharp()
    with pytest.raises(ValueError, match="at least one token to go on from"):
        generate(model, torch.zeros(1, 0, dtype=torch.int64), 3)
    with pytest.raises(ValueError, match="-1 new tokens: give 0 or more"):
        generate(model, torch.zeros(1, 1, dtype=torch.int64), -1)
    prompt = torch.tensor([[1, 2]])
    assert torch.equal(generate(model, prompt, 0), prompt)


@pytest.mark.parametrize("new", [0, 3])
@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([[3, 50]]), "token id 50: this model's vocabulary has the ids 0 to 49"),
        (torch.tensor([[3, -1]]), "token id -1: this model's vocabulary has the ids 0 to 49"),
        (torch.tensor([[50] + 30 * [1]]), "token id 50: "),  # of which the model would see the last 20
        (torch.tensor([[3.0]]), "ids of shape (1, 1) and type torch.float32: give int64 ids of shape (batch, time)"),
        (torch.tensor([[3]], dtype=torch.int32), "ids of shape (1, 1) and type torch.int32: give int64 ids"),
    ],
)
def test_generation_refuses_a_prompt_of_ids_outside_the_vocabulary(ids: torch.Tensor, message: str, new: int) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        generate(sharp(), ids, new)
