"""`--html`: the report on a candidate as a page without scripts or network, with the user's text escaped."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.candidate.page import height, page
from bench.parity import assert_same
from bench.settings import CompareCandidate

EXAMPLES = Path(__file__).parents[3] / "examples"


class Tags(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of one kind of element."""
        return [attributes for name, attributes in self.found if name == tag]


def read(path: Path) -> Tags:
    """A page, parsed."""
    tags = Tags()
    tags.feed(path.read_text(encoding="utf-8"))
    return tags


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page and the JSON of a wrong example."""
    folder = tmp_path_factory.mktemp("page")
    files = ["--html", str(folder / "report.html"), "--json", str(folder / "report.json")]
    command = ["compare", "--candidate", f"{EXAMPLES / 'erf_gelu.py'}:build", "--threads", "1", "--steps", "2"]
    assert main([*command, *files]) == 1
    return folder


def test_the_page_shows_verdict_first_difference_cause_errors_and_environment(wrong: Path) -> None:
    tags = read(wrong / "report.html")
    said = " ".join(tags.text.split())
    assert "Not the same function: logits off by" in said
    assert "GELU in its exact erf form" in said
    assert "use F.gelu(x, approximate='tanh')" in said
    assert "MLP, GELU, block 0 (h.0.gelu)" in said
    assert "torch" in said
    boxes = [box["class"] for box in tags.of("rect")]
    assert boxes == ["box agrees", "box first", *["box differs"] * 4]  # embedding, three blocks, last norm, logits
    states = [dot["class"] for dot in tags.of("circle")]
    assert states.count("first") == 1
    assert len(states) > 80  # 50 activations and 52 gradients
    assert all(15.0 <= float(dot["cy"] or 0.0) <= 235.0 for dot in tags.of("circle"))


def test_the_page_needs_no_network_and_runs_no_script(wrong: Path) -> None:
    text = (wrong / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert not re.search(r"https?://|@import|url\(", text)


def test_the_json_holds_verdict_depth_and_environment(wrong: Path) -> None:
    found = json.loads((wrong / "report.json").read_text())
    assert found["verdict"].startswith("Not the same function")
    [first] = [one for one in found["depth"] if one["state"] == "first"]
    assert first["name"] == "h.0.gelu" == found["where"]["forward"]["name"]
    before = found["depth"][: found["depth"].index(first)]
    assert all(one["state"] in ("agrees", "hidden") for one in before)
    assert found["environment"]["packages"]["torch"]


def test_the_user_s_text_is_escaped(tmp_path: Path) -> None:
    file = tmp_path / "x&<b>y.py"
    file.write_text(f"import sys\nsys.path.insert(0, {str(EXAMPLES)!r})\nfrom my_gpt import build\n")
    out = tmp_path / "page.html"
    assert main(["compare", "--candidate", f"{file}:build", "--html", str(out), "--steps", "0"]) == 0
    assert "<b>" not in out.read_text()
    tags = read(out)
    assert "x&<b>y.py" in tags.text
    assert "The same function" in tags.text
    assert {box["class"] for box in tags.of("rect")} == {"box agrees"}


def test_assert_same_writes_page_and_json_and_says_where(tmp_path: Path) -> None:
    out = tmp_path / "new" / "failure.html"
    with pytest.raises(AssertionError, match=r"as a page: .*failure\.html, as JSON: .*failure\.json"):
        assert_same(f"{EXAMPLES / 'erf_gelu.py'}:build", steps=0, html=out)
    assert "GELU in its exact erf form" in read(out).text
    assert json.loads(out.with_suffix(".json").read_text())["same"] is False


def test_errors_that_are_not_finite_lie_at_the_upper_end() -> None:
    assert height(float("inf")) == height(10.0) == 15.0
    assert height(0.0) == 235.0
    assert callable(page)


@pytest.mark.parametrize(
    "more, line",
    [
        ({"html": Path("no", "folder.html")}, "--html no/folder.html: give the name of a file in an existing folder"),
        ({"html": Path("a.html"), "against": "b.py"}, "--html with --against: the page is of one candidate"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_at_once(more: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)):
        CompareCandidate("a.py", **more).check()  # type: ignore[arg-type]
