"""docs/lessons/ says and shows what the lessons say and show today, and its links lead from the first to the last."""

from __future__ import annotations

import doctest
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reference.lessons import drawing
from tests.quick import quick
from tests.reference.lessons.pages import (
    AGAIN,
    FOLDER,
    ORDER,
    ROOT,
    STATED,
    first_page,
    lesson,
    page,
    stated,
    stated_page,
    stated_parts,
    told,
)

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?%?")
# A short run of each lesson: it prints the same words, around other numbers.
SHORT = {
    "autograd": {"steps": 5},
    "bigram": {"steps": 120},
    "mlp": {"steps": 120},
    "batchnorm": {"steps": 30},
    "manual_backprop": {"steps": 60},
    "wavenet": {"steps": 30},
    "attention_steps": {},
    "bpe": {"merges": 60},
    "tiny_gpt": {"steps": 50},
    "letter_gpts": {"steps": 3},
}
# In the folder of the lessons, and none.
HELPERS = {"__init__", "command", "drawing", "names", "bpe_speed"}
# Numbers of a whole run may differ so much from those of the page, which another machine computed.
ALLOWED = {"relative": 0.08, "absolute": 0.06}


def written(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def words(text: str) -> list[str]:
    """The lines of a page without what models said (it hangs on the last digits), and numbers as N."""
    lines = [NUMBER.sub("N", line) for line in text.splitlines() if not line.lstrip().startswith(">")]
    return [" ".join(line.split()) for line in lines]


def numbers(text: str) -> list[float]:
    """All numbers of a page, except in what models said."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(">")]
    return [float(found.rstrip("%").replace(",", "")) for line in lines for found in NUMBER.findall(line)]


def close(a: float, b: float) -> bool:
    if max(abs(a), abs(b)) < 1e-6:  # rounding errors, each machine has its own
        return True
    return abs(a - b) <= max(ALLOWED["absolute"], ALLOWED["relative"] * max(abs(a), abs(b)))


BRIEF = ("manual_backprop", "attention_steps")


@pytest.mark.parametrize("name", quick(ORDER, *BRIEF))
def test_the_page_has_the_words_and_pictures_of_the_lesson(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, object] = {}

    def draw(chart: Any, path: Path, what: str) -> str:
        drawn[path.name] = chart.to_dict()  # a PNG takes longer than all the rest
        return f"\n{what}: {path.as_posix()}"

    monkeypatch.setattr(drawing, "told", draw)
    said = told(name, Path("anywhere"), **SHORT[name])
    assert words(page(name, said)) == words(written(name)), f"out of date: {AGAIN} {name}"
    assert list(drawn) == re.findall(r"!\[[^]]*\]\((\S+)\)", written(name))
    for picture, chart in drawn.items():
        kept = FOLDER / picture
        assert kept.stat().st_size < 60_000, f"{picture} has {kept.stat().st_size:,} bytes"
        assert shape(drawing.description(kept)) == shape(chart), f"out of date: {AGAIN} {name}"


def test_no_picture_is_left_over() -> None:
    pages = (*ORDER, STATED.stem)
    shown = {link for name in pages for link in re.findall(r"!\[[^]]*\]\((\S+)\)", written(name))}
    assert {path.name for path in FOLDER.glob("*.png")} == shown


def test_every_picture_has_its_rows_inside() -> None:
    assert [path.name for path in FOLDER.glob("*.png") if not values(drawing.description(path))] == []


def shape(chart: object) -> object:
    """How a picture is drawn, without the numbers in it."""
    chart = json.loads(json.dumps(chart))
    chart.pop("datasets", None)  # type: ignore[attr-defined]
    return without_values(chart)


def without_values(part: object) -> object:
    if isinstance(part, dict):
        return {k: without_values(v) for k, v in part.items() if k not in ("values", "domain", "data", "sort", "name")}
    if isinstance(part, list):
        return [without_values(v) for v in part]
    return NUMBER.sub("N", part) if isinstance(part, str) else "N" if isinstance(part, (int, float)) else part


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in ORDER if name != "letter_gpts"])  # in test_letter_gpts.py
def test_the_page_has_the_numbers_of_the_lesson(name: str, tmp_path: Path) -> None:
    assert_page_has_numbers(name, tmp_path)


def assert_page_has_numbers(name: str, tmp_path: Path) -> None:
    """Run a lesson and hold its numbers and pictures against those of its page."""
    said = page(name, told(name, tmp_path))
    assert words(said) == words(written(name)), f"out of date: {AGAIN} {name}"
    pairs = list(zip(numbers(said), numbers(written(name)), strict=True))
    assert [pair for pair in pairs if not close(*pair)] == [], f"numbers of today and of the page: {AGAIN} {name}"
    for picture in tmp_path.glob("*.png"):
        today, kept = values(drawing.description(picture)), values(drawing.description(FOLDER / picture.name))
        assert len(today) == len(kept), f"{picture.name} shows {len(today)} rows, {len(kept)} on the page"
        if picture.stem == "letter_gpts-temperature":
            today, kept = warm(today), warm(kept)
        apart = [(a, b) for a, b in zip(today, kept, strict=True) if not alike(a, b)]
        assert len(apart) <= 0.05 * len(kept), f"{picture.name} shows other numbers: {apart[:5]}"


def values(part: object) -> list[dict[str, object]]:
    """The rows of a picture: where they are drawn, or by name in `datasets`."""
    if isinstance(part, dict):
        sets = part.get("datasets")
        lists = [part.get("values"), *(sets.values() if isinstance(sets, dict) else [])]
        rows = [row for own in lists if isinstance(own, list) for row in own if isinstance(row, dict)]
        return rows + [row for key, inner in part.items() if key not in ("values", "datasets") for row in values(inner)]
    return [row for inner in part for row in values(inner)] if isinstance(part, list) else []


def warm(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """The rows of a temperature of at least 1.

    Scores of models that two machines trained differ by some tenths; a temperature of 0.1 makes that a factor of 50.
    """
    found = [row for row in rows if float(str(row["row"])) >= 1.0]
    assert found
    return found


def alike(a: dict[str, object], b: dict[str, object]) -> bool:
    def same(x: object, y: object) -> bool:
        both = isinstance(x, (int, float)) and isinstance(y, (int, float))
        return abs(x - y) <= 0.1 + 0.1 * abs(y) if both else x == y  # type: ignore[operator]

    return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)


# ---- The full sizes, which take too long to be trained again ----


@pytest.mark.parametrize("text", quick(["counting", "stories", "code", "shakespeare"], "stories"))
def test_the_page_of_the_full_sizes_has_the_words_and_pictures_of_the_lesson(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    letter_gpts = lesson("letter_gpts")
    kept = stated_parts(STATED.read_text(encoding="utf-8"))
    drawn: dict[str, object] = {}

    def draw(chart: Any, path: Path, what: str) -> str:
        drawn[path.name] = chart.to_dict()
        return f"\n{what}: {path.name}"

    if text == "shakespeare":  # which not every machine has
        monkeypatch.setattr(letter_gpts, "load_text", lambda _: "Who's there? Nay, answer me: stand.\n" * 60)
    monkeypatch.setattr(drawing, "told", draw)
    course = letter_gpts.STATED[text]
    tiny = replace(course.shape, n_layer=1, n_head=2, n_embd=8)
    monkeypatch.setitem(letter_gpts.STATED, text, replace(course, shape=tiny))
    letter_gpts.full_size(text, Path("anywhere"), steps=10)
    part = stated(text, capsys.readouterr().out, "0:00 minutes")
    assert words(part) == words(kept[text]), f"out of date: {AGAIN} --stated {text}"
    (picture,) = drawn
    assert shape(drawing.description(FOLDER / picture)) == shape(drawn[picture]), (
        f"out of date: {AGAIN} --stated {text}"
    )
    assert (FOLDER / picture).stat().st_size < 60_000


def test_the_page_of_the_full_sizes_says_what_was_trained() -> None:
    parts = stated_parts(STATED.read_text(encoding="utf-8"))
    letter_gpts = lesson("letter_gpts")
    assert list(parts) == list(letter_gpts.STATED)
    assert stated_page(parts) == STATED.read_text(encoding="utf-8"), (
        "its head is another one in tests/reference/lessons/pages.py"
    )
    for text, course in letter_gpts.STATED.items():
        said = f"{course.steps:,} batches of {course.rows}, highest learning rate {course.peak:g}."
        assert said in parts[text], f"trained otherwise: {AGAIN} --stated {text}"
        assert f"{letter_gpts.in_words(course.shape)}, dropout {course.shape.dropout}:" in parts[text]


# ---- The way through ----


def test_the_first_page_lists_the_lessons_and_every_lesson_has_its_page() -> None:
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == first_page(), f"out of date: {AGAIN}"
    assert {path.stem for path in FOLDER.glob("*.md")} == {*ORDER, STATED.stem, "README"}
    assert {path.stem for path in (ROOT / "reference" / "lessons").glob("*.py")} - HELPERS == set(ORDER)


def test_the_links_alone_lead_from_the_first_lesson_to_optimized() -> None:
    seen, here = [], (FOLDER / "README.md")
    while True:
        line = re.findall(r"^(?:Begin|Next): \[[^]]*\]\((\S+)\)", here.read_text(encoding="utf-8"), re.MULTILINE)[-1]
        if here.stem in ORDER:
            seen.append(here.stem)
        target = (here.parent / line).resolve()
        assert target.is_file(), f"{here.name} leads to {line}, which is not there"
        if target.suffix == ".py":
            break
        here = target
    assert seen == list(ORDER)
    assert target == ROOT / "reference" / "gpt.py"
    assert "](../../optimized/gpt.py)" in here.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["README", *ORDER, STATED.stem])
def test_every_link_of_a_page_leads_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", written(name)):
        assert (FOLDER / link).exists(), f"{name}.md: {link}"


def test_the_lessons_say_their_places_on_the_road() -> None:
    said = [re.match(r"Lesson (\d+): ", lesson(name).__doc__) for name in ORDER]
    assert [int(found[1]) for found in said if found] == list(range(1, len(ORDER) + 1))


@pytest.mark.parametrize("name", [*ORDER, "names"])
def test_the_examples_in_docstrings_come_out(name: str) -> None:
    failed, _ = doctest.testmod(lesson(name))
    assert failed == 0


@pytest.mark.parametrize("name", ORDER)
def test_a_lesson_is_short_and_imports_no_other_lesson(name: str) -> None:
    source = Path(lesson(name).__file__).read_text(encoding="utf-8")
    assert source.count("\n") <= 300, "a lesson is read in ten minutes"
    others = set(re.findall(r"reference\.lessons\.(\w+) import|python -m reference\.lessons\.(\w+)", source))
    assert {a or b for a, b in others} <= {name} | HELPERS
