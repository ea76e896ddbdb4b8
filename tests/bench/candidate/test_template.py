"""A template wraps a module with another signature, so that it can be tested as it is written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import main
from tests.quick import quick

ROOT = Path(__file__).parents[3]
IMPORTS = "from dataclasses import dataclass\nfrom tests.bench.candidate.written import PerHead, Written\n"
SHAPE = "from reference import GPTConfig as Shape\n"
ARGUMENTS = "Shape(block_size={}, vocab_size={}, n_layer={}, n_head={}, n_embd={})"
MODULES = {
    "arguments": (
        "class GPT(Written):\n"
        "    def __init__(self, vocab_size, d_model, n_heads, num_layers, max_len, d_ff=None, dropout=0.1):\n"
        f"        super().__init__({ARGUMENTS.format('max_len', 'vocab_size', 'num_layers', 'n_heads', 'd_model')})\n",
        r"GPT\(  # check\n +vocab_size=config\.vocab_size,\n +d_model=config\.n_embd,\n.*d_ff=4 \* config\.n_embd,\n",
    ),
    "a dataclass": (
        "@dataclass\nclass Settings:\n    context_length: int\n    emb_dim: int = 768\n    n_heads: int = 12\n"
        "    n_layers: int = 12\n    n_vocab: int = 50257\n    name: str = 'gpt'\n"
        "class GPT(Written):\n    def __init__(self, s: Settings):\n        super().__init__("
        + ARGUMENTS.format("s.context_length", "s.n_vocab", "s.n_layers", "s.n_heads", "s.emb_dim")
        + ")\n",
        r"settings = Settings\(  # check\n +context_length=config\.block_size,\n +emb_dim=config\.n_embd,\n",
    ),
    "a dict": (
        "class GPT(Written):\n    def __init__(self, cfg):\n        super().__init__("
        + ARGUMENTS.format(
            *(f'cfg["{key}"]' for key in ("context_length", "vocab_size", "n_layers", "n_heads", "emb_dim"))
        )
        + ")\n",
        r'settings = \{  # check\n +"context_length": config\.block_size,\n +"emb_dim": config\.n_embd,\n',
    ),
    "attributes": (
        "class GPT(Written):\n    def __init__(self, config):\n        super().__init__("
        + ARGUMENTS.format(*(f"config.{key}" for key in ("seq_len", "vocab_size", "depth", "heads", "dim")))
        + ")\n",
        r"settings = SimpleNamespace\(  # check\n +depth=config\.n_layer,\n +dim=config\.n_embd,\n",
    ),
    "globals": (
        "n_embd, n_head, n_layer, block_size, vocab_size = 384, 6, 6, 256, 65\nclass GPT(Written):\n"
        "    def __init__(self):\n"
        f"        super().__init__({ARGUMENTS.format('block_size', 'vocab_size', 'n_layer', 'n_head', 'n_embd')})\n",
        r"model\.n_embd = config\.n_embd  # check",
    ),
    "another output": (
        "class GPT(Written):\n    def forward(self, x):\n"
        "        return {'hidden': x, 'scores': super().forward(x).transpose(1, 2)}\n",
        r"return out\['scores'\]\.permute\(0, 2, 1\)  # check",
    ),
    "flattened": (
        "class GPT(Written):\n    def forward(self, x):\n        return 0.5, super().forward(x).flatten(0, 1)\n",
        r"return out\[1\]\.view\(\*ids\.shape, -1\)  # check",
    ),
    "heads apart": ("class GPT(PerHead):\n    pass\n", r"wrapped = GPT\(config\)  # check"),
}


@pytest.mark.parametrize("name", quick(MODULES, "arguments", "a dataclass", "heads apart"))
def test_a_wrapper_is_right_as_it_is_written(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, line = MODULES[name]
    (folder / "model.py").write_text(IMPORTS + SHAPE + source)
    assert main(["compare", "--template", "model.py:GPT", "--out", "wrapper.py"]) == 0
    written = (folder / "wrapper.py").read_text()
    assert max(map(len, written.splitlines())) <= 104
    assert re.search(line, written, re.DOTALL), written
    assert "TODO" not in written
    checks = [one for one in written.splitlines() if "# check" in one]
    assert len(checks) <= (5 if name == "globals" else 3), written
    assert "note: built and called with a batch of (2, 7); layout " in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "model", raising=False)
    assert main(["compare", "--candidate", "wrapper.py", "--steps", "0"]) == 0, capsys.readouterr().out
    monkeypatch.delitem(sys.modules, "model", raising=False)


def test_an_argument_without_a_match_is_marked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model.py").write_text(IMPORTS + "class GPT(Written):\n    def __init__(self, dim, gate, flow): pass\n")
    assert main(["compare", "--template", "model.py:GPT"]) == 0
    captured = capsys.readouterr()
    assert "wrapped = GPT(dim=config.n_embd, gate=None, flow=None)  # TODO: gate, flow" in captured.out
    assert "note: no match for gate: complete the line marked TODO" in captured.err
    compile(captured.out, "wrapper.py", "exec")


def test_a_module_that_fails_or_gives_no_logits_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = "class GPT(Written):\n    def forward(self, x):\n        {}\n"
    for line, note in (
        ("raise RuntimeError('no')", "not tried: GPT raised RuntimeError: no"),
        ("return x.sum()", "its call returns a tensor of shape (): no logits (batch, time, vocabulary) are in it"),
    ):
        (folder / "model.py").write_text(IMPORTS + body.format(line))
        assert main(["compare", "--template", "model.py:GPT"]) == 0
        assert f"note: {note}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options,message",
    [
        ("missing.py:GPT", r"template missing\.py: there is no such file"),
        ("model.py:Other", r"template model\.py: has no 'Other'; it defines helper: .*"),
        ("model.py:helper", r"template model\.py:helper: is a function: name a torch\.nn\.Module class"),
        ("model.py:Written --out model.py", r"--out model\.py: give the name of a new file in an existing folder"),
    ],
)
def test_what_cannot_be_wrapped_is_refused_in_one_line(
    options: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model.py").write_text(IMPORTS + "def helper(): pass\n")
    assert main(["compare", "--template", *options.split()]) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(f"error: {message}", captured.err.splitlines()[-1]), captured.err
    assert captured.out == ""


@pytest.mark.parametrize("name", quick(["code", 'mein "Code" für ☃']))
def test_a_wrapper_finds_a_file_in_another_folder_and_is_ascii(name: str, folder: Path) -> None:
    (folder / name).mkdir()
    (folder / name / "model.py").write_text(IMPORTS + "class GPT(Written): pass\n")
    assert main(["compare", "--template", f"{name}/model.py:GPT", "--out", "wrapper.py"]) == 0
    assert (folder / "wrapper.py").read_bytes().isascii()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import wrapper; from reference import GPTConfig; wrapper.build(GPTConfig(8, 9, 1, 1, 4))",
        ],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_example_of_torchs_own_layers_needs_a_wrapper_of_one_line_and_no_layout(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = str(ROOT / "examples" / "torch_gpt.py")
    assert main(["compare", "--template", f"{example}:TorchGPT", "--out", "wrapper.py"]) == 0
    assert (folder / "wrapper.py").read_text().count("# check") == 1
    assert main(["compare", "--candidate", "wrapper.py", "--steps", "2"]) == 0
    assert "layout guessed, and verified by the numbers: q, k and v joined" in capsys.readouterr().out
