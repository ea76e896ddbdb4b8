"""A checkpoint folder is a Hugging Face folder: transformers opens ours, we open theirs, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from bench.numerics.inputs import random_batch, sharp_state_dict
from reference import GPT, SIZES, GPTConfig
from reference.checkpoints.checkpoint import CONFIG, MODEL, Checkpoint, load, save
from reference.checkpoints.huggingface import config_from_hf, from_hf, hf_config
from reference.checkpoints.pretrained import load_pretrained
from reference.training.adamw import AdamW
from tests.parity.shapes import SHAPES
from tests.quick import quick

DTYPES = {"float64": torch.float64, "float32": torch.float32}
BUDGET = {"float64": 1e-12, "float32": 5e-6}  # of the logits, relative L2, as for the models themselves


def saved(folder: Path, config: GPTConfig, weights: dict[str, Tensor]) -> Path:
    """A checkpoint as training leaves one, moments and all."""
    model = GPT(config).to(weights["wte.weight"].dtype)
    model.load_state_dict(weights)
    optimizer = AdamW(model)
    model.loss(*random_batch(config, 1, 8)).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    model.load_state_dict(weights)
    tokenizer = {"name": "char", "characters": "ab"}
    return save(folder, Checkpoint(3, config, model.state_dict(), optimizer.state_dict(), tokenizer, {"seed": 1}))


def opened(folder: Path, **options: Any) -> GPT2LMHeadModel:
    """What transformers makes of a folder, after a look at everything that it would only mention."""
    model, report = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True, **options)
    assert {kind: list(names) for kind, names in report.items()} == {kind: [] for kind in report}
    assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= report.keys()
    return model.eval()


@torch.no_grad()
def assert_same_logits(weights: dict[str, Tensor], theirs: GPT2LMHeadModel, config: GPTConfig) -> None:
    """Fail unless our model with these weights says what theirs says, within the budget of the precision."""
    precision = str(weights["wte.weight"].dtype).removeprefix("torch.")
    assert theirs.dtype == weights["wte.weight"].dtype
    ours = GPT(config).to(theirs.dtype).eval()
    ours.load_state_dict(weights)
    ids, _ = random_batch(config, 2, min(60, config.block_size))
    a, b = ours(ids), theirs(ids).logits
    error = float((a - b).norm() / b.norm())
    assert error <= BUDGET[precision], f"logits differ by {error:.2e}, allowed is {BUDGET[precision]:.0e}"


def assert_same_tensors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("attention", quick(["eager", "sdpa"], "sdpa"))
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_opens_our_checkpoint_with_nothing_missing_and_says_the_same(
    tmp_path: Path, shape: str, precision: str, attention: str
) -> None:
    config = SHAPES[shape]
    weights = sharp_state_dict(config, dtype=DTYPES[precision])
    theirs = opened(saved(tmp_path, config, weights), attn_implementation=attention)
    assert_same_logits(weights, theirs, config)
    assert theirs.transformer.wte.weight.data_ptr() == theirs.lm_head.weight.data_ptr(), "the tables are untied"


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_ours_through_transformers_and_back_is_the_same_file(tmp_path: Path, shape: str, precision: str) -> None:
    config = SHAPES[shape]
    weights = sharp_state_dict(config, dtype=DTYPES[precision])
    folder = saved(tmp_path / "ours", config, weights)
    opened(folder).save_pretrained(tmp_path / "theirs")

    assert (tmp_path / "theirs" / MODEL).read_bytes() == (folder / MODEL).read_bytes()
    assert_same_tensors(from_hf(load_file(tmp_path / "theirs" / MODEL), config), weights)
    again, config_again = load_pretrained(tmp_path / "theirs")
    assert config_again == config
    assert_same_tensors(again, weights)

    checkpoint = load(folder)
    twice = save(tmp_path / "twice", Checkpoint(3, config_again, again, checkpoint.optimizer, {}, {}))
    for name in (MODEL, CONFIG, "optimizer.safetensors"):
        assert (twice / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if SHAPES[shape].bias])
def test_theirs_through_us_and_back_is_the_same_file(tmp_path: Path, shape: str, precision: str) -> None:
    config = SHAPES[shape]
    torch.manual_seed(3)
    theirs = GPT2LMHeadModel(GPT2Config(**hf_config(config))).to(DTYPES[precision]).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    theirs.save_pretrained(tmp_path / "theirs")

    weights, read_config = load_pretrained(tmp_path / "theirs")
    assert read_config == config
    assert_same_logits(weights, theirs, config)
    folder = saved(tmp_path / "ours", read_config, weights)
    assert (folder / MODEL).read_bytes() == (tmp_path / "theirs" / MODEL).read_bytes()

    back = opened(folder)
    assert_same_tensors(back.state_dict(), theirs.state_dict())


def test_what_transformers_makes_by_default_is_opened_by_us(tmp_path: Path) -> None:
    theirs = GPT2LMHeadModel(GPT2Config(n_positions=16, vocab_size=40, n_embd=24, n_layer=2, n_head=3)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    weights, config = load_pretrained(tmp_path / "theirs")
    assert config == GPTConfig(block_size=16, vocab_size=40, n_layer=2, n_head=3, n_embd=24, dropout=0.1)
    assert_same_logits(weights, theirs, config)


def test_the_old_form_of_the_published_files_says_to_both_the_same(tmp_path: Path) -> None:
    config = SHAPES["usual"]
    folder = saved(tmp_path / "ours", config, sharp_state_dict(config, dtype=torch.float32))
    tensors = {name.removeprefix("transformer."): t for name, t in load_file(folder / MODEL).items()}
    for layer in range(config.n_layer):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, config.block_size, config.block_size).tril()
    old = tmp_path / "old"
    old.mkdir()
    save_file(tensors, old / MODEL, metadata={"format": "pt"})
    (old / CONFIG).write_bytes((folder / CONFIG).read_bytes())
    weights, read_config = load_pretrained(old)
    assert read_config == config
    assert_same_tensors(weights, load(folder).model)
    assert_same_logits(weights, GPT2LMHeadModel.from_pretrained(old).eval(), config)


def test_a_checkpoint_without_biases_stays_one_on_both_sides(tmp_path: Path) -> None:
    config = SHAPES["no-bias"]
    weights = sharp_state_dict(config, dtype=torch.float32)
    theirs = opened(saved(tmp_path / "ours", config, weights))
    biases = [tensor for name, tensor in theirs.state_dict().items() if name.endswith(".bias")]
    assert biases
    assert not any(bias.count_nonzero() for bias in biases)
    assert config_from_hf(theirs.config.to_dict()) == config


def test_the_weights_file_is_what_transformers_files_by_name_shape_and_metadata(tmp_path: Path) -> None:
    config = SHAPES["usual"]
    folder = saved(tmp_path, config, sharp_state_dict(config, dtype=torch.float32))
    with safe_open(folder / MODEL, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118  # not a dict
        assert file.get_slice("transformer.h.0.mlp.c_fc.weight").get_shape() == [48, 192]
        assert file.get_slice("transformer.wte.weight").get_shape() == [101, 48], "the vocabulary is padded"


def test_our_tokenizer_file_is_not_taken_for_one_of_theirs(tmp_path: Path) -> None:
    config = SHAPES["usual"]
    folder = saved(tmp_path, config, sharp_state_dict(config, dtype=torch.float32))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    try:
        vocabulary = AutoTokenizer.from_pretrained(folder).get_vocab()
    except (OSError, ValueError, TypeError):
        vocabulary = {}  # it finds no tokenizer, which is right
    assert not {"name", "char", "characters", "a", "b"} & vocabulary.keys()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
def test_at_the_real_gpt2_size_the_checkpoint_is_opened_and_comes_back_as_the_same_file(tmp_path: Path) -> None:
    config = SIZES["gpt2"]
    weights = sharp_state_dict(config, dtype=torch.float32)
    folder = save(tmp_path / "ours", Checkpoint(0, config, weights, {}, {}, {}))
    assert json.loads((folder / CONFIG).read_text())["n_positions"] == 1024
    theirs = opened(folder)
    assert_same_logits(weights, theirs, config)
    theirs.save_pretrained(tmp_path / "theirs")
    assert (tmp_path / "theirs" / MODEL).read_bytes() == (folder / MODEL).read_bytes()
