"""Outputs in the documents are what their commands print, and a stale one is noticed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.project.doc_outputs import STALE, documents, kept, make, same_but_for_rounding

NEEDS = {"peers.md": "x_transformers"}  # by document: what its commands need besides the project
DOCUMENT = """\
# A page

<!-- [[[cog run("python -c 'print(6 * 7, chr(119) + str())'") ]]] -->
old
<!-- [[[end]]] -->

The end.
"""


QUICK = ("README.md", "CONTRIBUTING.md", "speed.md")  # the others take up to 15 s


@pytest.mark.parametrize(
    "document",
    [pytest.param(path, id=path.name, marks=[] if path.name in QUICK else pytest.mark.slow) for path in documents()],
)
def test_every_output_in_a_document_is_what_its_command_prints(document: Path) -> None:
    if importlib.util.find_spec(NEEDS.get(document.name, "torch")) is None:
        pytest.skip(f"{NEEDS[document.name]} is not installed")
    assert make([document], check=True) == 0, STALE


def test_there_are_such_documents() -> None:
    assert {"README.md", "CONTRIBUTING.md", "candidate.md"} <= {path.name for path in documents()}


def test_a_stale_output_fails_the_check_with_what_to_do_and_is_written_anew(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(DOCUMENT)
    assert make([page], check=True) != 0
    said = capfd.readouterr()
    assert "nox -s docs" in said.out + said.err
    assert page.read_text() == DOCUMENT, "a check writes nothing"
    assert make([page], check=False) == 0
    assert "\n42 w\n```\n" in page.read_text()
    assert page.read_text().endswith("<!-- [[[end]]] -->\n\nThe end.\n")
    assert make([page], check=True) == 0


def test_another_number_is_not_stale_and_another_word_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(DOCUMENT)
    make([page], check=False)
    right = page.read_text()
    page.write_text(right.replace("\n42 w\n", "\n3.9e-15   w\n"))
    assert make([page], check=True) == 0
    assert "3.9e-15" in page.read_text()
    page.write_text(right.replace("\n42 w\n", "\n42 v\n"))
    assert make([page], check=True) != 0


def test_another_number_in_a_table_of_results_is_stale(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text('<!-- [[[cog table("cpu-intel", "The fastest", ["gpt2-128: forw"]) ]]] -->\n<!-- [[[end]]] -->\n')
    assert make([page], check=False) == 0
    right = page.read_text()
    assert right.count("\n| ") == 3
    assert "(AMX bfloat16), 2 threads, measured 2" in right
    page.write_text(right.replace("×", "× 1"))
    assert make([page], check=True) != 0


@pytest.mark.parametrize(
    "a, b, same",
    [
        ("logits  8.5e-16\n", "logits  0\n", True),
        ("0.00051  h.1.attn.q_proj.weight", "0.0004  wte.weight", True),
        ("error\n──────", "error\n───────", True),
        ("1.3e+08 FAILED", "1.3e+08", False),
        ("exit status 1: different", "exit status 1: the same", False),
    ],
)
def test_what_differs_by_rounding_alone(a: str, b: str, same: bool) -> None:
    assert same_but_for_rounding(a, b) is same


def test_an_excerpt_has_one_ellipsis_for_each_run_of_lines_left_out() -> None:
    assert list(kept(["a", "", "b", "c", "d", ""], ["a", "d"])) == ["a", "...", "d"]
    assert list(kept(["x", "a", "y"], ["a"])) == ["a", "..."]


def test_a_command_that_fails_is_an_error_and_leaves_the_page_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(DOCUMENT.replace("print(6 * 7", "exit(6 * 7"))
    before = page.read_text()
    assert make([page], check=False) != 0
    assert page.read_text() == before
