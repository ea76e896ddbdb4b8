"""Padding rows have no probability, no gradient and no update, and no result depends on their content."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.numerics.inputs import random_batch
from optimized import FULL, PLAIN, Recipe, build, build_step, generate, only
from optimized.embedding import ExactTable, PaddedTable
from optimized.gpt import GPT
from reference import SIZES, GPTConfig
from reference.checkpoints.canonical import canonical_gradients
from tests.optimized.models import SMALL, gradients_of, relative, sharp_model, sharp_reference

V = SMALL.vocab_size  # 101 of 128 rows
EAGER = FULL.without("compile", "ddp")
RECIPES = [
    pytest.param(only("padded_vocab"), id="alone"),
    pytest.param(only("padded_vocab", "fused_loss"), id="fused_loss"),
    pytest.param(only("padded_vocab", "fused_adamw"), id="fused_adamw"),
    pytest.param(only("padded_vocab", "bf16"), id="bf16"),
    pytest.param(EAGER.without("bf16"), id="full, float64"),
    pytest.param(EAGER, id="full"),
    pytest.param(EAGER.plus("compile"), id="full, compiled", marks=pytest.mark.slow),
]
POISONS = (1e4, 3e38)


def poison(model: GPT, value: float) -> GPT:
    """Fill the padding, with both signs, so that some score of it is huge whatever x is."""
    with torch.no_grad():
        padding: Tensor = model.wte.weight[V:]
        padding.fill_(value)
        padding[::2] *= -1.0
    assert len(padding) == 27
    return model


@pytest.mark.parametrize(
    "vocab_size, rows", [(50257, 50304), (1, 128), (127, 128), (128, 128), (129, 256), (256, 256), (50304, 50304)]
)
def test_the_table_has_the_next_multiple_of_128_rows(vocab_size: int, rows: int) -> None:
    config = GPTConfig(block_size=2, vocab_size=vocab_size, n_layer=1, n_head=1, n_embd=1)
    assert PaddedTable(config).weight.shape == (rows, 1)
    assert ExactTable(config).weight.shape == (vocab_size, 1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recipe", [PLAIN, *RECIPES[:-1]])
def test_an_id_of_the_padding_is_refused_as_any_that_is_out_of_range(recipe: Recipe, training: bool) -> None:
    model = sharp_model(recipe).train(training)
    good = torch.tensor([[V - 1]])
    for bad in (V, 127, 128, -1):
        wrong = torch.tensor([[bad]])
        with pytest.raises(IndexError, match="index out of range in self"):
            model(wrong)
        with pytest.raises(IndexError, match="index out of range in self"):
            model.loss(wrong, good)
        if bad != -1:  # the target that does not count
            with pytest.raises(RuntimeError, match="is out of bounds"):
                model.loss(good, wrong)


def test_gpt2_has_50304_rows_and_logits_for_50257_tokens() -> None:
    assert SIZES["gpt2"].vocab_size == 50257
    config = GPTConfig(block_size=4, n_layer=1, n_head=1, n_embd=2)
    model = build(config, only("padded_vocab"))
    ids = torch.tensor([[0, 50256]])
    assert model.wte.weight.shape == (50304, 2)
    assert model(ids).shape == (1, 2, 50257)
    assert model.state_dict()["wte.weight"].shape == (50257, 2)


@pytest.mark.parametrize("recipe", RECIPES)
def test_logits_that_leave_the_model_are_those_of_true_tokens(recipe: Recipe) -> None:
    model = sharp_model(recipe).eval()
    ids, _ = random_batch(SMALL, 2, 5)
    assert model.wte.weight.shape[0] == 128
    assert model(ids).shape == (2, 5, V)
    with torch.no_grad():
        assert model(ids).shape == (2, 5, V)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_gradient_of_the_padding_is_exactly_zero(recipe: Recipe) -> None:
    model = sharp_model(recipe)
    ids, targets = random_batch(SMALL, 2, 9)
    gradient = gradients_of(model.loss(ids, targets), model)["wte.weight"]
    assert gradient.shape[0] == 128
    assert torch.equal(gradient[V:], torch.zeros_like(gradient[V:]))
    assert bool((gradient[:V].abs().sum(dim=1) > 0).all()), "a true row without a gradient shows nothing"


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_padding_does_not_move_in_20_steps_with_decay(recipe: Recipe) -> None:
    model = sharp_model(recipe)
    before = model.wte.weight.detach().clone()
    step = build_step(model, recipe, learning_rate=1e-2, weight_decay=0.5)
    for seed in range(20):
        step(*random_batch(SMALL, 2, 9, seed=seed))
    after = model.wte.weight.detach()
    assert torch.equal(after[V:], torch.zeros_like(after[V:]))
    assert bool((after[:V] != before[:V]).any(dim=1).all()), "a true row did not move"
    for kind in ("exp_avg", "exp_avg_sq"):
        moment = step.optimizer.moments(kind)["wte.weight"]
        assert moment.shape[0] == 128
        assert torch.equal(moment[V:], torch.zeros_like(moment[V:])), kind
        assert step.optimizer.state_dict()[f"{kind}/wte.weight"].shape[0] == V


@pytest.mark.parametrize("value", POISONS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_in_the_padding_changes_no_bit_of_logits_loss_or_gradients(recipe: Recipe, value: float) -> None:
    ids, targets = random_batch(SMALL, 2, 9)
    results = []
    for model in (sharp_model(recipe), poison(sharp_model(recipe), value)):
        loss = model.loss(ids, targets)
        results.append({"loss": loss.detach(), "logits": model(ids).detach(), **gradients_of(loss, model)})
    clean, poisoned = results
    assert clean["loss"].isfinite()
    for name, tensor in clean.items():
        assert torch.equal(tensor, poisoned[name]), f"{name} depends on the padding"


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {}, {"top_k": 5, "top_p": 0.9}], ids=str)
@pytest.mark.parametrize(
    "recipe", [only("padded_vocab"), only("padded_vocab", "kv_cache"), only("padded_vocab", "bf16"), EAGER], ids=str
)
def test_padding_is_never_sampled_and_changes_no_token(recipe: Recipe, settings: dict[str, Any]) -> None:
    ids, _ = random_batch(SMALL, 4, 16)
    clean, poisoned = (
        generate(model, ids, 12, generator=torch.Generator().manual_seed(1), **settings)
        for model in (sharp_model(recipe).eval(), poison(sharp_model(recipe), 3e38).eval())
    )
    assert int(poisoned.max()) < V
    assert torch.equal(clean, poisoned)


@pytest.mark.parametrize("recipe", [only("padded_vocab"), EAGER], ids=str)
def test_poisoned_padding_shows_where_it_is_not_cut_off(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    model = poison(sharp_model(recipe), 1e4).eval()
    monkeypatch.setattr(PaddedTable, "logits", ExactTable.logits)
    assert model(random_batch(SMALL, 1, 4)[0]).argmax(-1).min() >= V


@pytest.mark.parametrize("recipe", [PLAIN, only("fused_loss"), EAGER.without("bf16")], ids=str)
@pytest.mark.parametrize("vocab_size", [128, 101])
def test_it_is_the_same_function_whether_there_is_padding_or_not(recipe: Recipe, vocab_size: int) -> None:
    config = GPTConfig(block_size=8, vocab_size=vocab_size, n_layer=1, n_head=2, n_embd=12)
    ids, targets = random_batch(config, 3, 8)
    plain, padded = sharp_reference(config), sharp_model(recipe.plus("padded_vocab"), config)
    assert padded.wte.weight.shape[0] == 128
    assert relative(padded(ids), plain(ids)) <= 1e-12
    losses = []
    for model in (plain, padded):
        losses.append(model.loss(ids, targets))
        losses[-1].backward()  # type: ignore[no-untyped-call]
    assert relative(losses[1], losses[0]) <= 1e-12
    expected = canonical_gradients(plain)["wte.weight"]
    assert relative(canonical_gradients(padded)["wte.weight"], expected) <= 1e-11


def test_the_state_dict_has_no_padding_and_shares_the_weights() -> None:
    model = poison(sharp_model(only("padded_vocab")), 7.0)
    table = model.state_dict()["wte.weight"]
    assert table.shape == (V, SMALL.n_embd)
    assert torch.equal(table, sharp_reference().state_dict()["wte.weight"])
    assert table.is_contiguous()
    assert table.data_ptr() == model.wte.weight.data_ptr(), "a state dict is a view, as everywhere in torch"


def test_loading_clears_the_padding() -> None:
    model = poison(sharp_model(only("padded_vocab")), 7.0)
    model.load_state_dict(sharp_reference(seed=1).state_dict())
    assert torch.equal(model.wte.weight[V:], torch.zeros(27, SMALL.n_embd, dtype=torch.float64))
    assert torch.equal(model.wte.weight[:V], sharp_reference(seed=1).wte.weight)


@pytest.mark.parametrize("rows", [0, 1, V - 1, V + 1, 127, 128, 129])
@pytest.mark.parametrize("recipe", [PLAIN, only("padded_vocab"), EAGER.without("bf16")], ids=str)
def test_a_table_of_another_height_is_an_error_that_names_it_and_both_shapes(recipe: Recipe, rows: int) -> None:
    model = sharp_model(recipe)
    before = model.wte.weight.detach().clone()
    state = {**model.state_dict(), "wte.weight": torch.ones(rows, SMALL.n_embd, dtype=torch.float64)}
    with pytest.raises(RuntimeError, match=r"size mismatch for wte\.weight") as error:
        model.load_state_dict(state)
    assert f"[{rows}, {SMALL.n_embd}]" in str(error.value)
    assert f"[{V}, {SMALL.n_embd}]" in str(error.value)
    assert str(error.value).count("size mismatch") == 1
    assert len(str(error.value).splitlines()) == 2, "a head line and this error, and nothing that follows from it"
    assert torch.equal(model.wte.weight, before)


@pytest.mark.parametrize("shape", [(V,), (), (V, SMALL.n_embd + 1), (V, SMALL.n_embd, 1)], ids=str)
def test_a_table_of_any_other_shape_is_an_error_that_names_it(shape: tuple[int, ...]) -> None:
    model = sharp_model(only("padded_vocab"))
    with pytest.raises(RuntimeError, match=r"size mismatch for wte\.weight"):
        model.load_state_dict({**model.state_dict(), "wte.weight": torch.ones(shape, dtype=torch.float64)})


def test_a_missing_table_is_named() -> None:
    model = sharp_model(only("padded_vocab"))
    state = dict(model.state_dict())
    del state["wte.weight"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "wte\.weight"'):
        model.load_state_dict(state)


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", [only("padded_vocab"), FULL.without("ddp")], ids=str)
def test_on_cuda_the_padding_neither_moves_nor_shows(recipe: Recipe) -> None:
    model = sharp_model(recipe, dtype=torch.float32, device="cuda")
    step = build_step(model, recipe, learning_rate=1e-2, weight_decay=0.5)
    for seed in range(20):
        step(*(t.cuda() for t in random_batch(SMALL, 2, 9, seed=seed)))
    assert torch.equal(model.wte.weight[V:].cpu(), torch.zeros(27, SMALL.n_embd))
    ids = random_batch(SMALL, 4, 3)[0].cuda()
    clean = generate(model.eval(), ids, 12, generator=torch.Generator("cuda").manual_seed(1))
    poisoned = generate(poison(model, 1e30), ids, 12, generator=torch.Generator("cuda").manual_seed(1))
    assert torch.equal(clean, poisoned)
