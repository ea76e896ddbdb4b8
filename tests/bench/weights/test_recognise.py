"""The layout of a GPT-2 is recognised from names and shapes, and its rules are a layout and its inverse."""

from __future__ import annotations

import pytest
import torch

from bench.candidate.layouts import LAYOUTS
from bench.numerics.inputs import sharp_state_dict
from bench.weights.axes import groups, rearrange, sizes_of
from bench.weights.entities import config_of_shapes
from bench.weights.recognise import Recognised, recognise
from bench.weights.rules import OURS, Rule, apply, canonical_tensor
from reference import GPTConfig
from tests.bench.candidate.written import interleaved_layout, per_head_layout
from tests.bench.weights.public_layouts import PUBLIC

# Three layers and five heads of width 8: no number is the product or the double of others.
CONFIG = GPTConfig(block_size=22, vocab_size=131, n_layer=3, n_head=5, n_embd=40)
Tensors = dict[str, torch.Tensor]


def shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def recognised(tensors: Tensors) -> Recognised:
    return recognise(shapes(tensors), CONFIG)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_layout_is_recognised_whole(name: str) -> None:
    rules = PUBLIC[name]
    found = recognised(apply(rules, sharp_state_dict(CONFIG), CONFIG))
    assert (found.unknown, found.missing, found.scheme) == ([], [], None)
    assert {rule.own: rule for rule in found.rules} == {rule.own: rule for rule in rules}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_named_layouts_are_recognised_by_name(name: str) -> None:
    weights = sharp_state_dict(CONFIG)
    tensors = LAYOUTS[name](weights, CONFIG)
    found = recognised(tensors)
    assert (found.unknown, found.missing, found.scheme) == ([], [], name)
    again = apply(found.rules, weights, CONFIG)
    assert all(torch.equal(again[n], t) for n, t in tensors.items())


@pytest.mark.parametrize("name", ["per head", "interleaved"])
def test_a_layout_that_only_the_numbers_decide_is_among_the_alternatives(name: str) -> None:
    weights = sharp_state_dict(CONFIG)
    tensors = {"per head": per_head_layout, "interleaved": interleaved_layout}[name](weights, CONFIG)
    found = recognised(tensors)
    assert (found.unknown, found.missing) == ([], [])
    tried = [apply(rules, weights, CONFIG) for rules in (found.rules, *found.alternatives)]
    assert [all(torch.equal(one[n], t) for n, t in tensors.items()) for one in tried].count(True) == 1


@pytest.mark.parametrize("name", PUBLIC)
def test_a_rule_inverted_gives_our_tensor_back(name: str) -> None:
    weights = sharp_state_dict(CONFIG)
    own = apply(PUBLIC[name], weights, CONFIG)
    seen = set()
    for rule in PUBLIC[name]:
        for ours in rule.ours:
            for i in range(CONFIG.n_layer):
                back = canonical_tensor(rule, ours, own, CONFIG, i)
                assert torch.equal(back, weights[ours.format(i=i)]), ours
                seen.add(ours)
    assert seen == set(OURS)


def test_axes_are_moved_as_einops_moves_them() -> None:
    sizes = sizes_of(CONFIG)
    weight = torch.arange(3.0 * 40 * 40).view(120, 40)
    per_head = rearrange(weight, "(s h d) c", "(h s d) c", sizes)
    assert torch.equal(per_head.view(5, 3, 8, 40)[1, 2], weight.view(3, 5, 8, 40)[2, 1])
    assert torch.equal(rearrange(weight, "(s h d) c", "c (s h d)", sizes), weight.T)
    assert groups("1 t c") == [["1"], ["t"], ["c"]]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_config_is_read_from_the_shapes(name: str) -> None:
    found = config_of_shapes(shapes(apply(PUBLIC[name], sharp_state_dict(CONFIG), CONFIG)), n_head=5)
    assert found == CONFIG


def test_heads_are_counted_where_each_has_its_own_tensors() -> None:
    own = per_head_layout(sharp_state_dict(CONFIG), CONFIG)
    assert config_of_shapes(shapes(own)).n_head == 5


@pytest.mark.parametrize(
    "size", [(64, 256, 2, 2, 64), (256, 65, 6, 6, 384), (1024, 50304, 12, 12, 768), (48, 48, 1, 1, 48)]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sizes_that_are_equal_to_each_other_confuse_nothing(size: tuple[int, ...], layout: str) -> None:
    """Block and width, layers and heads may be equal; then the words of the names decide."""
    config = GPTConfig(**dict(zip(("block_size", "vocab_size", "n_layer", "n_head", "n_embd"), size, strict=True)))
    with torch.device("meta"):
        from reference import GPT

        own = LAYOUTS[layout](GPT(config).state_dict(), config)
    found = shapes(own)
    assert config_of_shapes(found, n_head=config.n_head) == config
    assert recognise(found, config).scheme == layout


def test_masks_are_no_weights() -> None:
    own = LAYOUTS["hf"](sharp_state_dict(CONFIG), CONFIG)
    for i in range(3):
        own |= {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 22, 22).tril(), f"h.{i}.tril": torch.ones(22, 22)}
        own |= {f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e4), f"h.{i}.bias": torch.ones(1, 22, 22)}
    assert recognised(own).scheme == "hf"
    assert recognised(own).unknown == []


def test_a_tensor_that_no_word_and_no_shape_explains_is_named() -> None:
    own = LAYOUTS["nanogpt"](sharp_state_dict(CONFIG), CONFIG) | {"gate": torch.zeros(7)}
    del own["transformer.wpe.weight"]
    found = recognised(own)
    assert found.unknown == ["gate"]
    assert found.missing == ["wpe.weight"]
    assert found.scheme is None


def test_no_gpt_is_no_gpt() -> None:
    for tensors in ({"a.weight": (3, 4)}, {"layers.0.w": (4, 4), "layers.0.norm": (4,)}):
        with pytest.raises(ValueError, match=r"^no GPT-2: it has no (numbered layers with norms|token table with 4)"):
            config_of_shapes(tensors)


def test_the_constant_of_a_head_with_a_bias_is_zero() -> None:
    own = LAYOUTS["nanogpt"](sharp_state_dict(CONFIG), CONFIG) | {"lm_head.bias": torch.zeros(131)}
    found = recognised(own)
    assert Rule("lm_head.bias", (), "v") in found.rules
    assert not apply(found.rules, sharp_state_dict(CONFIG), CONFIG)["lm_head.bias"].any()


def test_where_no_word_tells_the_norms_apart_both_orders_are_tried() -> None:
    own = LAYOUTS["nanogpt"](sharp_state_dict(CONFIG), CONFIG)
    renamed = {name.replace("ln_1", "norm_x").replace("ln_2", "norm_y"): tensor for name, tensor in own.items()}
    found = recognised(renamed)
    assert (found.unknown, found.missing) == ([], [])
    places = [
        next(rule.ours for rule in rules if rule.own == "transformer.h.{i}.norm_x.weight")
        for rules in (found.rules, *found.alternatives)
    ]
    assert set(places) == {("h.{i}.ln_1.weight",), ("h.{i}.ln_2.weight",)}
    assert places[0] == ("h.{i}.ln_1.weight",), "the first in the file comes first"


def test_a_position_table_of_as_many_rows_as_columns_is_no_mask() -> None:
    config = GPTConfig(block_size=40, vocab_size=131, n_layer=3, n_head=5, n_embd=40)
    own = apply(PUBLIC["minGPT of 2020"], sharp_state_dict(config), config)
    assert recognise(shapes(own), config).missing == []
    assert config_of_shapes(shapes(own), n_head=5) == config
