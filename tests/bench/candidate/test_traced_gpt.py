"""The readable GPT step by step is the readable GPT, and watching a model does not change it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from bench.candidate.faulty_steps import detaching
from bench.candidate.layouts import LAYOUTS
from bench.candidate.locate import Readings, implied, readings, shape_of, sizes
from bench.candidate.recorder import recorded, roundings
from bench.candidate.traced_gpt import Activations, Change, nodes, traced_forward
from bench.numerics.inputs import random_batch, sharp_state_dict
from reference import GPT, GPTConfig
from reference.functional import cross_entropy
from tests.bench.candidate.written import Interleaved, PerHead, Written

CONFIG = GPTConfig(block_size=16, vocab_size=23, n_layer=2, n_head=3, n_embd=12)


def reference(config: GPTConfig = CONFIG) -> GPT:
    model = GPT(config).double()
    model.load_state_dict(sharp_state_dict(config))
    return model


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, bias=False)], ids=["bias", "no bias"])
def test_the_replay_is_the_reference_bit_for_bit_gradients_too(config: GPTConfig) -> None:
    ids, targets = random_batch(config, 2, 11)
    model = reference(config)
    leaves = {name: tensor.requires_grad_() for name, tensor in sharp_state_dict(config).items()}
    logits = traced_forward(config, leaves, ids)
    assert torch.equal(logits, model(ids))
    cross_entropy(logits, targets).backward()
    model.loss(ids, targets).backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, leaves[name].grad), name


def test_every_activation_is_shown_once_in_the_order_of_its_table() -> None:
    seen: list[str] = []
    traced_forward(
        CONFIG, sharp_state_dict(CONFIG), random_batch(CONFIG, 2, 7)[0], watch=lambda name, x: seen.append(name) or x
    )
    assert seen == list(nodes(CONFIG))
    order = {name: number for number, name in enumerate(seen)}
    assert all(order[parent] < order[name] for name, node in nodes(CONFIG).items() for parent in node.parents)


def test_every_activation_has_the_shape_of_its_form() -> None:
    ids = random_batch(CONFIG, 2, 7)[0]
    kept = Activations()
    traced_forward(CONFIG, sharp_state_dict(CONFIG), ids, watch=kept)
    s = shape_of(CONFIG, ids)
    for name, node in nodes(CONFIG).items():
        assert kept.kept[name].numel() in sizes(s), name
        assert any(torch.equal(x, kept.kept[name]) for x in readings(kept.kept[name], node.form, s)), name


@pytest.mark.parametrize("block", [0, 1, 2])
def test_from_the_stream_that_enters_a_block_the_rest_is_the_same_bit_for_bit(block: int) -> None:
    weights, ids = sharp_state_dict(CONFIG), random_batch(CONFIG, 2, 7)[0]
    whole, rest = Activations(), Activations()
    traced_forward(CONFIG, weights, ids, watch=whole)
    stream = whole.kept["embedding" if block == 0 else f"h.{block - 1}.residual_2"]
    traced_forward(CONFIG, weights, ids, watch=rest, begin=(block, stream))
    assert next(iter(rest.kept)) == ("ln_f" if block == 2 else f"h.{block}.ln_1")
    assert all(torch.equal(x, whole.kept[name]) for name, x in rest.kept.items())


@pytest.mark.parametrize("make", [Written, PerHead, Interleaved])
def test_a_few_elements_tell_no_tensor_apart_that_the_whole_does_not(make: Any) -> None:
    config = replace(CONFIG, n_head=2)
    ids, kept = random_batch(config, 2, 7)[0], Activations()
    traced_forward(config, sharp_state_dict(config), ids, watch=kept)
    s, model = shape_of(config, ids), make(config).double()
    with torch.no_grad(), recorded(model, sizes(s)) as records:
        model(ids)
    read = Readings(records, s)
    for name, node in nodes(config).items():
        every = read.matches(kept.kept[name], node.form)
        for allowed in (1e-11, 0.9, 1.2, 1.5):  # of random weights, errors are around 1.4
            near = [match for match in every if match.error <= allowed]
            assert read.matching(kept.kept[name], node.form, allowed) == near, (name, allowed)
    assert read.matching(torch.full((2, 7, 12), torch.inf), "stream", 1e-11) == []


def test_a_change_can_be_made_in_one_block_and_detaching_cuts_one_place() -> None:
    weights, ids = sharp_state_dict(CONFIG), random_batch(CONFIG, 2, 7)[0]
    zeros = Change(gelu=lambda x, at: x * 0.0)
    kept = Activations()
    traced_forward(CONFIG, weights, ids, zeros, {1}, kept)
    assert kept.kept["h.0.gelu"].any()
    assert not kept.kept["h.1.gelu"].any()
    leaves = {name: tensor.requires_grad_() for name, tensor in weights.items()}
    traced_forward(CONFIG, leaves, ids, watch=detaching(("q",), {1})).sum().backward()
    assert leaves["h.1.attn.q_proj.weight"].grad is None
    assert leaves["h.0.attn.q_proj.weight"].grad is not None


def test_what_was_met_later_makes_what_it_is_computed_from_right() -> None:
    found = implied({"h.0.attention"}, nodes(CONFIG))
    assert {"h.0.scores", "h.0.weights", "h.0.q", "h.0.k", "h.0.v", "h.0.ln_1", "embedding", "tokens"} <= found
    assert not {"h.0.joined", "h.1.ln_1", "logits"} & found


def test_watching_changes_nothing_and_leaves_no_hook_behind() -> None:
    model: Any = Written(CONFIG).double()
    weights = LAYOUTS["nanogpt"](sharp_state_dict(CONFIG), CONFIG)
    model.load_state_dict(weights)
    ids = random_batch(CONFIG, 2, 7)[0]
    before = model(ids)
    with recorded(model, sizes(shape_of(CONFIG, ids)), gradients=True) as records:
        during = model(ids)
    assert torch.equal(before, during)
    assert torch.equal(before, model(ids))
    assert {"softmax", "gelu", "layer_norm", "embedding", "split"} <= {record.operation for record in records}
    assert "transformer.h.1.mlp.c_fc" in {record.module for record in records}
    assert [record.number for record in records] == list(range(len(records)))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    count = len(records)
    model(ids)
    assert len(records) == count


def test_what_is_written_into_a_tensor_later_does_not_change_its_record() -> None:
    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2.0
            y[0] = 7.0
            y.add_(1.0)
            return y

    x = torch.ones(2, 3)
    with recorded(InPlace(), {6}) as records:
        InPlace()(x)
    assert [record.operation for record in records] == ["mul", "setitem", "add"]
    assert [float(record.value[0, 0]) for record in records] == [2.0, 7.0, 8.0]


def test_a_step_down_in_precision_is_noticed_where_it_is_made_and_only_there() -> None:
    model = Written(CONFIG).double()
    ids = random_batch(CONFIG, 2, 7)[0]
    with roundings(model) as found:
        model(ids)
    assert found == [], "masks and constants of float32 round nothing"
    model.transformer.h[1].mlp.activate = lambda x: nn.functional.gelu(x.float(), approximate="tanh").double()
    with roundings(model) as found:
        model(ids)
    assert [str(one) for one in found] == ["float32 in transformer.h.1.mlp (_to_copy)"]
