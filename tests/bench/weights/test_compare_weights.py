"""Two checkpoints are compared tensor by tensor, whatever their layouts; nothing in them runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.__main__ import main
from bench.candidate.layouts import LAYOUTS
from bench.numerics.inputs import sharp_state_dict
from bench.weights.rules import apply
from reference import GPT, GPTConfig
from reference.checkpoints.checkpoint import Checkpoint, save
from reference.checkpoints.huggingface import hf_config, to_hf
from tests.bench.candidate.written import interleaved_layout, per_head_layout
from tests.bench.weights.public_layouts import PUBLIC

CONFIG = GPTConfig(block_size=20, vocab_size=67, n_layer=3, n_head=4, n_embd=32)
ROOT = Path(__file__).parents[3]
Weights = dict[str, Tensor]


def weights(config: GPTConfig = CONFIG) -> Weights:
    return sharp_state_dict(config, dtype=torch.float32)


def write_nanogpt(file: Path, tensors: Weights, config: GPTConfig = CONFIG, prefix: str = "_orig_mod.") -> Path:
    model = {prefix + name: tensor.contiguous() for name, tensor in tensors.items()}
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95)}]}
    torch.save({"model": model, "optimizer": optimizer, "model_args": asdict(config), "iter_num": 7}, file)
    return file


def write_hf(folder: Path, tensors: Weights, config: GPTConfig = CONFIG, **settings: Any) -> Path:
    folder.mkdir()
    save_file(to_hf(tensors, config), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**hf_config(config), **settings}))
    return folder


def compared(a: Path, b: Path, *options: str) -> tuple[int, dict[str, Any]]:
    status = main(["compare", "--weights", str(a), "--against", str(b), "--json", "w.json", "--threads", "1", *options])
    return status, json.loads(Path("w.json").read_text())


def different(found: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["looks"] for row in found["tensors"] if row["error"] != 0.0}


# The same weights


@dataclass
class Form:
    """A way to keep weights on disk."""

    write: Callable[[Path, Weights], Path]


def as_file(name: str, layout: Any = LAYOUTS["nanogpt"]) -> Callable[[Path, Weights], Path]:
    def write(folder: Path, tensors: Weights) -> Path:
        own = {n: t.contiguous().clone() for n, t in layout(tensors, CONFIG).items()}
        if name.endswith("safetensors"):
            save_file(own, folder / name)
        else:
            torch.save(own, folder / name)
        return folder / name

    return write


def in_shards(kind: str) -> Callable[[Path, Weights], Path]:
    def write(folder: Path, tensors: Weights) -> Path:
        target = write_hf(folder / f"shards-{kind}", tensors)
        own = dict(to_hf(tensors, CONFIG).items())
        (target / "model.safetensors").unlink()
        names = list(own)
        parts = {f"part-1.{kind}": names[:9], f"part-2.{kind}": names[9:]}
        for file, part in parts.items():
            chosen = {name: own[name].clone() for name in part}
            if kind == "safetensors":
                save_file(chosen, target / file)
            else:
                torch.save(chosen, target / file)
        index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
        whole = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
        (target / f"{whole}.index.json").write_text(json.dumps(index))
        return target

    return write


def pickled_folder(folder: Path, tensors: Weights) -> Path:
    target = write_hf(folder / "bin", tensors)
    (target / "model.safetensors").unlink()
    masks = {
        f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 20, 20).tril() for i in range(3)
    }  # as files had until 2023
    torch.save({**to_hf(tensors, CONFIG), **masks}, target / "pytorch_model.bin")
    return target


def own_run(folder: Path, tensors: Weights) -> Path:
    save(folder / "run", Checkpoint(12, CONFIG, tensors, {}, {"name": "byte"}, {}))
    return folder / "run"


def legacy(folder: Path, tensors: Weights) -> Path:
    torch.save(LAYOUTS["nanogpt"](tensors, CONFIG), folder / "old.pt", _use_new_zipfile_serialization=False)
    return folder / "old.pt"


FORMS: dict[str, Callable[[Path, Weights], Path]] = {
    "nanoGPT's ckpt.pt": lambda folder, w: write_nanogpt(folder / "ckpt.pt", LAYOUTS["nanogpt"](w, CONFIG)),
    "a Hugging Face folder": lambda folder, w: write_hf(folder / "hf", w),
    "shards": in_shards("safetensors"),
    "shards of pickles": in_shards("bin"),
    "pytorch_model.bin with masks": pickled_folder,
    "a run of ours": own_run,
    "a canonical file": as_file("ours.safetensors", LAYOUTS["canonical"]),
    "a state dict of nanoGPT": as_file("state.pth"),
    "the format before torch 1.6": legacy,
    "heads apart": as_file("heads.pt", per_head_layout),
    "interleaved": as_file("interleaved.pt", interleaved_layout),
    **{
        name: as_file(f"public{i}.pt", lambda w, c, r=rules: apply(r, w, c))
        for i, (name, rules) in enumerate(PUBLIC.items())
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_weights_are_the_same_in_every_form(
    form: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = weights()
    a = FORMS[form](folder, ours)
    status, found = compared(a, write_hf(folder / "b", ours))
    out = capsys.readouterr().out
    assert status == 0, out
    assert different(found) == {}
    assert len(found["tensors"]) == len(ours)
    assert "The same weights: all 52 tensors are equal, to the last bit." in out
    assert found["logits"]["largest"] < 1e-4  # the heads of some are joined in another order of sums
    assert max(map(len, out.splitlines())) <= 100


def test_without_biases_zero_biases_are_no_difference(folder: Path) -> None:
    bare = replace(CONFIG, bias=False)
    ours = weights(bare)
    a = write_nanogpt(folder / "ckpt.pt", LAYOUTS["nanogpt"](ours, bare), bare)
    status, found = compared(a, write_hf(folder / "hf", ours, bare))
    assert status == 0
    assert {"A has no norm biases, B's are zero: the same function"} <= set(found["notes"])
    assert found["logits"]["largest"] == 0.0


# Differences, and what they look like


def transposed(own: Weights) -> None:
    own["transformer.h.1.attn.c_proj.weight"] = own["transformer.h.1.attn.c_proj.weight"].T


def swapped(own: Weights) -> None:
    a, b = "transformer.h.0.mlp.c_fc.weight", "transformer.h.2.mlp.c_fc.weight"
    own[a], own[b] = own[b], own[a]


def interleaved(own: Weights) -> None:
    for kind in ("weight", "bias"):
        name = f"transformer.h.0.attn.c_attn.{kind}"
        own[name] = own[name].view(3, 4, 8, -1).transpose(0, 1).reshape(own[name].shape)


def scaled(own: Weights) -> None:
    own["transformer.h.2.mlp.c_proj.weight"] = own["transformer.h.2.mlp.c_proj.weight"] * 0.5


def one_row(own: Weights) -> None:
    own["transformer.wte.weight"] = own["transformer.wte.weight"].clone()
    own["transformer.wte.weight"][13] += 1


def missing(own: Weights) -> None:
    del own["transformer.h.2.mlp.c_proj.weight"]


def biasless(own: Weights) -> None:
    for i in range(3):
        del own[f"transformer.h.{i}.attn.c_proj.bias"]


def half(own: Weights) -> None:
    own.update({name: tensor.bfloat16() for name, tensor in own.items()})


def poisoned(own: Weights) -> None:
    own["transformer.ln_f.bias"] = own["transformer.ln_f.bias"] * float("nan")


def untied(own: Weights) -> None:
    own["lm_head.weight"] = own["lm_head.weight"] * 1.5


def zeroed(own: Weights) -> None:
    own["transformer.h.0.ln_2.bias"] = own["transformer.h.0.ln_2.bias"] * 0


def more(own: Weights) -> None:
    own["value_head.gate"] = torch.ones(5, 7)


def key_for_value(own: Weights) -> None:
    for i in range(3):
        for kind in ("weight", "bias"):
            name = f"transformer.h.{i}.attn.c_attn.{kind}"
            q, k, v = own[name].chunk(3)
            own[name] = torch.cat([q, v, k])


QKV = {
    f"h.0.attn.{letter}_proj.{kind}": f"equal if A's c_attn is read interleaved, as {axes}"
    for letter in "qkv"
    for kind, axes in (("weight", "(h s d) c"), ("bias", "(h s d)"))
}
DIFFERENCES: dict[str, tuple[Callable[[Weights], None], dict[str, str]]] = {
    "transposed": (transposed, {"h.1.attn.c_proj.weight": "transposed"}),
    "swapped": (
        swapped,
        {f"h.{i}.mlp.c_fc.weight": f"swapped with h.{j}.mlp.c_fc.weight" for i, j in ((0, 2), (2, 0))},
    ),
    "interleaved": (interleaved, QKV),
    "scaled": (scaled, {"h.2.mlp.c_proj.weight": "0.5 times B's"}),
    "one row": (one_row, {"wte.weight": "in 1 of 67 rows"}),
    "missing": (missing, {"h.2.mlp.c_proj.weight": "missing in A"}),
    "no biases": (biasless, {f"h.{i}.attn.c_proj.bias": "missing in A, so zero" for i in range(3)}),
    "NaN": (poisoned, {"ln_f.bias": "A's has NaN or infinity"}),
    "zero": (zeroed, {"h.0.ln_2.bias": "A's is zero"}),
    "untied": (untied, {"lm_head.weight": "A's head is a table of its own, B's is its token table"}),
    "k for v": (
        key_for_value,
        {
            f"h.{i}.attn.{a}_proj.{kind}": f"swapped with h.{i}.attn.{b}_proj.{kind}"
            for i in range(3)
            for a, b in ("kv", "vk")
            for kind in ("weight", "bias")
        },
    ),
    "more": (more, {}),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_a_difference_is_named(difference: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, looks = DIFFERENCES[difference]
    ours = weights()
    own = LAYOUTS["nanogpt"](ours, CONFIG)
    change(own)
    if difference == "one row":
        own["lm_head.weight"] = own["transformer.wte.weight"]
    status, found = compared(write_nanogpt(folder / "ckpt.pt", own), write_hf(folder / "hf", ours))
    assert status == 1
    assert different(found) == looks
    out = capsys.readouterr().out
    assert "Different: " in out
    if difference == "more":
        assert found["only"] == ["only in A: value_head.gate (5, 7), which is no part of a GPT-2"]
    if difference == "missing":
        assert "logits not compared: A lacks h.2.mlp.c_proj.weight" in found["notes"]
    elif difference not in ("NaN", "more"):
        assert found["logits"]["largest"] > 1e-3
        assert found["logits"]["kl"] > 0.0


@pytest.mark.parametrize("width", [40, 60, 80])
def test_on_a_narrow_terminal_no_number_is_cut(
    width: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = weights()
    other = {name: tensor * 1.5 for name, tensor in tensors.items()}
    monkeypatch.setenv("COLUMNS", f"{width}")
    _, found = compared(write_nanogpt(folder / "a.pt", other), write_hf(folder / "b", tensors))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    for row in [row for row in found["tensors"] if row["error"]][:5]:
        assert {f"{row['error']:.1e}", f"{row['largest']:.1e}"} <= {word for line in lines for word in line.split()}


def test_rounding_to_bfloat16_is_told_from_a_difference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = weights()
    own = LAYOUTS["nanogpt"](ours, CONFIG)
    half(own)
    status, found = compared(write_nanogpt(folder / "ckpt.pt", own), write_hf(folder / "hf", ours))
    assert status == 1
    assert set(different(found).values()) == {"A's is the other's rounded to bfloat16"}
    assert "only by rounding: A's is the other's rounded to bfloat16" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("fill", [0.0, 0.3])
def test_a_padded_vocabulary_is_no_difference_and_said(fill: float, folder: Path) -> None:
    ours = weights()
    own = LAYOUTS["nanogpt"](ours, CONFIG)
    table = torch.cat([own["transformer.wte.weight"], torch.full((5, 32), fill)])
    own["transformer.wte.weight"] = own["lm_head.weight"] = table
    config = replace(CONFIG, vocab_size=72)
    status, found = compared(write_nanogpt(folder / "ckpt.pt", own, config), write_hf(folder / "hf", ours))
    assert status == 0
    what = "are zero" if fill == 0.0 else "are not zero, up to 0.3"
    assert any(
        f"A's vocabulary is padded from 67 to 72 tokens: its 5 more rows of wte {what}" in n for n in found["notes"]
    )
    assert found["logits"]["largest"] < 1e-5


def test_a_renamed_tensor_is_found_by_its_numbers(folder: Path) -> None:
    ours = weights()
    own = LAYOUTS["nanogpt"](ours, CONFIG)
    own["positions_of_old"] = own.pop("transformer.wpe.weight")
    del own["transformer.h.1.mlp.c_fc.weight"]
    own["surprise"] = ours["h.1.mlp.c_fc.weight"].T
    status, found = compared(write_nanogpt(folder / "ckpt.pt", own), write_hf(folder / "hf", ours))
    assert "renamed: A's surprise is B's transformer.h.1.mlp.c_fc.weight" in found["notes"]
    assert found["a"]["names"]["wpe.weight"] == "positions_of_old", "recognised by its word"
    assert status == 0


def test_other_heads_are_another_function(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = weights()
    a = write_nanogpt(folder / "ckpt.pt", LAYOUTS["nanogpt"](ours, CONFIG), replace(CONFIG, n_head=2))
    status, found = compared(a, write_hf(folder / "hf", ours))
    assert (status, different(found)) == (1, {})
    assert "all 52 tensors are equal, but A has 2 heads, B 4." in capsys.readouterr().out


def test_heads_that_no_file_says_are_asked_for(folder: Path) -> None:
    ours = weights()
    a, b = as_file("a.pt")(folder, ours), as_file("b.pt", LAYOUTS["canonical"])(folder, ours)
    status, found = compared(a, b)
    assert (status, found["logits"]) == (0, None)
    assert "logits not compared: the number of A's heads is not in its file: give it by --heads" in found["notes"]
    assert compared(a, b, "--heads", "4")[1]["logits"]["largest"] == 0.0
    said = compared(a, write_hf(folder / "hf", ours))[1]
    assert "A does not say its number of heads: B's is taken" in said["notes"]


def test_a_config_of_another_function_is_not_judged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = weights()
    a, b = write_hf(folder / "a", ours, activation_function="gelu"), write_hf(folder / "b", ours)
    status, _ = compared(a, b)
    assert status == 2
    out = " ".join(capsys.readouterr().out.split())
    assert "Not judged: all 52 tensors are equal, but A's config is of another function: activation_function" in out


def test_text_is_used_where_the_vocabulary_is_gpt2s(folder: Path) -> None:
    config = GPTConfig(block_size=40, vocab_size=50257, n_layer=1, n_head=2, n_embd=8)
    ours = weights(config)
    a = write_nanogpt(folder / "ckpt.pt", LAYOUTS["nanogpt"](ours, config), config)
    status, found = compared(a, write_hf(folder / "hf", ours, config))
    assert status == 0
    assert found["logits"]["text"] == "40 tokens of English text"
    assert compared(FORMS["a Hugging Face folder"](folder / "..", weights()), own_run(folder, weights()))[1]["logits"][
        "text"
    ].startswith("20 fixed random ids, as no text is known for a vocabulary of 67")


def test_logits_are_those_of_the_model_itself(folder: Path) -> None:
    from bench.weights.compare_logits import logits_of, text_ids
    from bench.weights.read_weights import read_weights
    from bench.weights.side import side_of

    ours = weights()
    ids, _ = text_ids(67, 20)
    model = GPT(CONFIG)
    model.load_state_dict(ours)
    side = side_of(read_weights(write_hf(folder / "hf", ours), "--weights"), "A", "--weights", None)
    assert torch.equal(logits_of(side, ids), model(ids).detach())


# What is refused


class Evil:
    """Runs a command when it is unpickled by a reader that allows it."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


@dataclass
class OwnConfig:
    n_layer: int = 3


def test_a_file_that_would_run_code_is_refused_and_runs_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    b = write_hf(folder / "hf", weights())
    for held, name in ((Evil(), "system"), (OwnConfig(), "OwnConfig")):
        torch.save({"model": weights(), "config": held}, folder / "ckpt.pt")
        assert main(["compare", "--weights", "ckpt.pt", "--against", str(b)]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert re.fullmatch(
            rf"error: --weights ckpt\.pt: stays closed, as opening ckpt\.pt would run code \(it holds \S*{name}\): .*",
            last,
        ), last
    assert not (folder / "executed").exists()


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing there": (lambda p: None, r"there is no such file or folder"),
    "an empty folder": (lambda p: p.mkdir(), r"has no model\.safetensors and no pytorch_model\.bin: .*"),
    "a folder with another file": (
        lambda p: (p.mkdir(), torch.save({}, p / "ckpt.pt")),
        r"has no model\.safetensors and no pytorch_model\.bin: give the file a/ckpt\.pt",
    ),
    "an empty file": (lambda p: p.touch(), r"a is no file of torch\.save: .*"),
    "a text": (lambda p: p.write_text("weights"), r"(a is no file of torch\.save: .*|stays closed, .*)"),
    "a number": (lambda p: torch.save(3, p), r"holds a int: give a state dict, or a dict with one"),
    "no state dict": (
        lambda p: torch.save({"step": 3, "loss": 0.5}, p),
        r"holds 'step', 'loss': give a state dict, or a dict with one under model or state_dict or model_state_dict",
    ),
    "integers only": (lambda p: torch.save({"a": torch.arange(3)}, p), r"has no floating-point tensors"),
    "no GPT-2": (
        lambda p: torch.save({"fc.weight": torch.ones(3, 4), "fc.bias": torch.ones(3)}, p),
        r"no GPT-2: it has no numbered layers with norms",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_what_is_no_checkpoint_is_refused_in_one_line(mistake: str, folder: Path, refused: Callable[..., str]) -> None:
    make, message = REFUSED[mistake]
    make(folder / "a")
    b = write_hf(folder / "hf", weights())
    line = refused("compare", "--weights", "a", "--against", str(b), "--json", "w.json")
    assert re.fullmatch(f"--weights a: {message}", line), line
    assert not (folder / "w.json").exists()


@pytest.mark.parametrize(
    "option,message",
    [
        ("--heads 0", r"--heads 0: give a whole number of at least 1"),
        ("--heads 5", r".*n_head = 5 does not divide n_embd = 32: .*"),
        ("--json none/w.json", r"--json none/w\.json: give the name of a file in an existing folder"),
    ],
)
def test_an_invalid_option_is_refused_in_one_line(
    option: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    b = str(write_hf(folder / "hf", weights()))
    assert main(["compare", "--weights", b, "--against", b, *option.split()]) == 2
    assert re.fullmatch(f"error: {message}", capsys.readouterr().err.splitlines()[-1])


def test_a_damaged_checkpoint_of_ours_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = own_run(folder, weights())
    (step,) = run.glob("step-*")
    data = bytearray((step / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (step / "model.safetensors").write_bytes(data)
    assert main(["compare", "--weights", str(step), "--against", str(write_hf(folder / "hf", weights()))]) == 2
    assert "model.safetensors: SHA-256 differs" in capsys.readouterr().err


@pytest.mark.slow
def test_the_example_writes_a_pair_that_is_judged_as_its_comment_says(folder: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "examples" / "checkpoint_pair.py"), "pair"], check=True)
    assert compared(folder / "pair" / "ckpt.pt", folder / "pair" / "hf")[0] == 0
    status, found = compared(folder / "pair" / "wrong.pt", folder / "pair" / "hf")
    assert status == 1
    assert different(found) == {
        "h.0.attn.c_proj.weight": "transposed",
        "h.1.mlp.c_fc.weight": "is B's h.2.mlp.c_fc.weight",
        "h.1.mlp.c_proj.weight": "is B's h.2.mlp.c_proj.weight",
    }
