"""Exit status 1 means a difference and nothing else: what a candidate raises is one line with its place."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.__main__ import main

HEAD = "import sys, torch\nfrom tests.bench.candidate.written import Written\n"
COMMAND = ["compare", "--candidate", "mine.py", "--layout", "nanogpt", "--threads", "1", "--steps", "2"]


SAME = {
    "a `to` with other arguments": "class build(Written):\n    def to(self, device_or_dtype):\n"
    "        return super().to(device_or_dtype)\n",
    "a `to` that does nothing": "class build(Written):\n    def to(self, *a, **k):\n        pass\n",
    "the meta device": "def build(config):\n    with torch.device('meta'):\n        return Written(config)\n",
    "prints": "print('imported')\nclass build(Written):\n    def forward(self, ids):\n        print(ids.shape)\n"
    "        return super().forward(ids)\n",
    "a command line that it reads": "import argparse\nargparse.ArgumentParser().parse_args()\nbuild = Written\n",
    "no gradients since its import": "torch.set_grad_enabled(False)\nbuild = Written\n",
    "another folder": "import os, tempfile\nos.chdir(tempfile.gettempdir())\nbuild = Written\n",
    "another default device": "torch.set_default_device('meta')\nbuild = Written\n",
}


@pytest.mark.parametrize("what", SAME)
def test_what_a_candidate_does_beside_its_model_is_no_difference(
    what: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine.py").write_text(HEAD + SAME[what])
    assert main(COMMAND) == 0, capsys.readouterr()
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].startswith("mine.py, layout nanogpt"), captured.out
    assert ("torch.Size" in captured.err) == (what == "prints")
    assert Path.cwd() == folder


def test_a_file_with_model_and_layout_is_imported_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.py").write_text(
        HEAD + "from bench.candidate.layouts import nanogpt\n"
        "assert not hasattr(torch.nn, 'registered_by_mine'), 'registered twice'\n"
        "torch.nn.registered_by_mine = True\nbuild = Written\nlayout = nanogpt\n"
    )
    import torch

    try:
        assert main([*COMMAND, "--layout", "mine.py:layout"]) == 0, capsys.readouterr().err
    finally:
        del torch.nn.registered_by_mine


RAISES = {
    "a tensor on the meta device": (
        "def build(config):\n    with torch.device('meta'):\n        m = Written(config)\n"
        "        m.register_buffer('mask', torch.ones(3))\n    return m\n",
        r"candidate: its buffers 'mask' are on the meta device, without values: fill them in build\(config\)",
    ),
    "a backward pass": (
        "class Wrong(torch.autograd.Function):\n    @staticmethod\n    def forward(ctx, x):\n        return x * 1\n"
        "    @staticmethod\n    def backward(ctx, g):\n        return g.no_such_thing\n"
        "class build(Written):\n    def embed(self, ids):\n        return Wrong.apply(super().embed(ids))\n",
        r"candidate: its backward pass raised AttributeError: .*no_such_thing.* \(mine\.py, line 9\)",
    ),
    "the end of the process": (
        "class build(Written):\n    def forward(self, ids):\n        sys.exit(1)\n",
        r"candidate: a call with ids of shape \(3, 36\) raised SystemExit: 1 \(mine\.py, line 5\)",
    ),
    "a training step": (
        "class build(Written):\n    calls = 0\n    def forward(self, ids):\n"
        "        self.calls += torch.is_grad_enabled()\n        if self.calls > 3:\n"
        "            raise ValueError('called too often')\n"
        "        return super().forward(ids)\n",
        r"candidate: ValueError: called too often \(mine\.py, line 8\); --traceback shows more",
    ),
}


@pytest.mark.parametrize("what", RAISES)
def test_what_a_candidate_raises_is_one_line_with_its_place_and_the_traceback_is_there_on_request(
    what: str, folder: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    source, message = RAISES[what]
    (folder / "mine.py").write_text(HEAD + source)
    line = refused(*COMMAND)
    assert re.fullmatch(message, line), line
    assert main([*COMMAND, "--traceback"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_probe_that_raises_is_not_judged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.py").write_text(
        HEAD + "class build(Written):\n    def forward(self, ids):\n        assert ids.shape[1] == 48, 'one length'\n"
        "        return super().forward(ids)\n"
    )
    assert main([*COMMAND, "--time", "48", "--json", "result.json"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "The same function: in float64, " in out
    assert "Not judged: logits of 1 token." in out
    why = "a call with ids of shape (2, 1) raised AssertionError: one length (mine.py, line 5)"
    assert f"Not judged logits of 1 token: {why}" in out
    assert why in (folder / "result.json").read_text()
    assert main([*COMMAND, "--time", "48", "--traceback"]) == 0
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_exception_in_the_diagnosis_leaves_the_verdict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.py").write_text(
        HEAD + "class build(Written):\n    def forward(self, ids):\n"
        "        if torch.overrides._get_current_function_mode_stack():\n            raise RuntimeError('is watched')\n"
        "        return super().forward(ids) * 2\n"
    )
    assert main(COMMAND) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "Not the same function" in out
    assert "the first difference is unknown: " in out
    assert "raised RuntimeError: is watched (mine.py, line 6)" in out


def test_another_version_of_a_file_is_imported_again(folder: Path) -> None:
    from bench.user_code.load_function import load_function

    (folder / "mine.py").write_text("def build(config): return 1\n")
    first = load_function("mine.py", "build", "candidate")
    assert load_function("mine.py:build", "build", "candidate") is first
    (folder / "mine.py").write_text("def build(config): return 2\n")
    assert load_function("mine.py", "build", "candidate")(None) == 2
    assert not [name for name in sys.modules if name == "mine"]
