"""Learning byte pairs: the times of the lesson and the tokenizers library become two components and a ratio."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bench.journal import without_journal
from bench.report.sections.components import views
from bench.suite import bpe, test_components
from bench.suite.session import LeftOut
from bench.suite.tables import show
from tests.bench.suite.made_up import result

FOUND: dict[str, Any] = {
    "characters": 60_000,
    "merges": 300,
    "seconds": {"lesson": [0.5, 0.6, 0.7], "tokenizers": [0.1, 0.1, 0.1]},
    "tokens": {"lesson": 1001, "tokenizers": 1000},
}


class Session:
    def __init__(self) -> None:
        self.components: list[dict[str, Any]] = []
        self.left_out: list[str] = []
        self.plan = SimpleNamespace(components=("smoke", "mini"))
        self.keep = without_journal

    def tell(self, what: str) -> None:
        pass

    def leave_out(self, line: str) -> LeftOut:
        self.left_out.append(line)
        return LeftOut(line)


def measured(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Session:
    session = Session()
    monkeypatch.setattr(bpe, "measure", lambda: {**FOUND, **changes})
    sessions: Any = {"cpu": session}
    test_components.test_bpe("cpu", sessions)
    return session


def test_both_are_components_with_ratios_to_the_lesson(monkeypatch: pytest.MonkeyPatch) -> None:
    lesson, library = measured(monkeypatch).components
    assert lesson["name"] == "smoke/bpe, lesson"
    assert library["per_second"] == pytest.approx(600_000)
    assert lesson["ratios"] == {lesson["component"]: {"median": 1.0, "low": 1.0, "high": 1.0, "confidence": 0.75}}
    (ratio,) = library["ratios"].values()
    assert ratio["median"] == pytest.approx(6.0)
    assert 5.0 - 1e-9 <= ratio["low"] < ratio["high"] <= 7.0 + 1e-9
    assert library["error"] == pytest.approx(0.001)


def test_the_table_shows_the_ratio_with_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    components = measured(monkeypatch).components
    other = {**components[0], "name": "smoke/batches", "component": "batches"}
    del other["ratios"]
    lines = {line.split("  ")[0]: line for line in show(result(components=[*components, other]))}
    assert "6.00 [5.00, 7.00]" in lines["bpe, tokenizers"]
    assert lines["bpe, lesson"].split()[5:7] == ["1", "±8"]
    assert "[" not in lines["batches"]


def test_the_page_shows_the_ratios_base_and_confidence(monkeypatch: pytest.MonkeyPatch) -> None:
    components = measured(monkeypatch).components
    other = {**components[0], "name": "smoke/batches", "component": "batches"}
    del other["ratios"]
    (view,) = views(result(components=[*components, other]))
    (table,) = view.tables
    place = table.head.index("times as fast")
    assert [row[place] for row in table.rows] == ["1", "bpe, lesson × 6.00 [5.00, 7.00], 75 %", ""]


def test_different_numbers_of_tokens_give_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"no parity pass, no number: 0\.6% more or fewer tokens"):
        measured(monkeypatch, tokens={"lesson": 1006, "tokenizers": 1000})


def test_a_failed_measurement_is_left_out_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "TARGET", "importlib:import_module")  # which fails with None
    session: Any = Session()
    line = (
        "bpe: learning byte pairs failed with status 1: "
        "AttributeError: 'NoneType' object has no attribute 'startswith': left out"
    )
    with pytest.raises(LeftOut, match=line):
        test_components.test_bpe("cpu", {"cpu": session})
    assert session.left_out == [line]
    assert session.components == []


@pytest.mark.slow
def test_the_lesson_returns_the_expected_values() -> None:
    pytest.importorskip("tokenizers")
    found = bpe.measure()
    assert found.keys() == FOUND.keys()
    assert bpe.error_of(found) <= bpe.ALLOWED
    lesson, library = bpe.rows(found, "smoke")
    assert lesson["per_second"] < library["per_second"]
