"""`python -m bench report`: every number is the file's, and whatever cannot be shown is one line."""

from __future__ import annotations

import copy
import json
import re
import shutil
import struct
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import altair as alt
import pytest
import vl_convert

from bench.__main__ import main
from bench.formatting import interval, significant, size
from bench.report import charts, pictures
from bench.report.all_sections import RUN_SECTIONS, all_sections
from bench.report.charts import Axis, Bar, Dot, dots, grouped_bars
from bench.report.load_results import Run, load_result, load_results, result_files, with_unique_names
from bench.report.markdown import document
from bench.report.page import page
from bench.report.proof_records import read_bugs, read_parity
from bench.report.result_keys import ABLATION
from bench.report.section import Chart, View
from bench.report.sections import headline, parity, peers
from bench.report.sections.ablation import KINDS
from bench.report.sections.peers import named_with
from bench.settings import DOCS
from bench.suite.result_file import HOME, VERSION, save
from tests.bench.compare.made_up_compare import compare_result
from tests.bench.report.made_up_report import CUDA, RUNGS, whole
from tests.bench.suite.made_up import ENVIRONMENT, result

OLDER = "2026-01-01T03:04:05+00:00"


@pytest.fixture(scope="module", autouse=True)
def no_library() -> Iterator[None]:
    """Making the library takes seconds, drawing pictures too; test_report_chromium.py has the real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vl_convert.javascript_bundle", lambda snippet, version: "/* </script> is a comment here */")
        patch.setattr("bench.report.command.png", lambda views: None)
        yield


@pytest.fixture
def nothing_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look into no chart, of which a result has a hundred: drawing takes most of the time."""
    monkeypatch.setattr(charts, "alt", MagicMock())
    monkeypatch.setattr(charts, "chart", lambda title, drawn, says: Chart(title, {"description": says}))


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    """Two of a CPU, the older first, then one of an accelerator: the order of a report."""
    return [whole(1, started=OLDER), whole(2), whole(3, environment=CUDA)]


@pytest.fixture(scope="module")
def folder(results: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("results")
    for name, one in zip("bac", results, strict=True):
        save(one, found / f"{name}.json")
    return found


@pytest.fixture(params=range(3))
def run(request: pytest.FixtureRequest) -> int:
    """The number of a result."""
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one result of a few numbers, which takes no time to show."""
    found = tmp_path_factory.mktemp("small")
    save(result(), found / "a.json")
    return found


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[Run]:
    return with_unique_names([load_result(path) for path in result_files([folder])])


@pytest.fixture(scope="module")
def html(runs: list[Run]) -> str:
    parity, bugs = read_parity(DOCS / "parity.json"), read_bugs(DOCS / "bugs.json")
    return page(runs, all_sections([run.views for run in runs], parity, bugs))


@pytest.fixture(scope="module")
def data(html: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(found)


class Reader(HTMLParser):
    """What a browser makes of the page: tables by their caption, and whatever refers to something else."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.caption, self.rows, self.into = "", [[""]], ""
        self.loads: list[str] = []
        self.links: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "a":
            self.links.append(found["href"] or "")
        else:
            self.loads += [str(found[key]) for key in ("src", "href", "data", "action", "srcset") if key in found]
        if tag == "table":
            self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td", "caption"):
            self.into = tag
            if tag != "caption":
                self.rows[-1].append("")
            else:
                self.caption = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td", "caption"):
            self.into = ""
        elif tag == "table":
            self.tables.setdefault(self.caption, []).append(self.rows)

    def handle_data(self, data: str) -> None:
        if self.into == "caption":
            self.caption += data
        elif self.into:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def read(html: str) -> Reader:
    return Reader(html)


def rows_of(data: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """The rows that a chart draws, all layers together."""
    found: list[dict[str, Any]] = []

    def look(one: Any) -> None:
        if isinstance(one, dict):
            found.extend(row for row in one.get("values", ()) if isinstance(row, dict) and row not in found)
        for inside in one.values() if isinstance(one, dict) else one if isinstance(one, list) else ():
            look(inside)

    look(data["charts"][place])
    return found


def places(data: dict[str, Any], section: str, run: int) -> list[str]:
    return [place for place in data["charts"] if place.startswith(f"{section}-{run}-")]


def test_every_ratio_rate_and_memory_of_the_ablation_is_drawn_as_in_the_file(
    run: int, results: list[dict[str, Any]], data: dict[str, Any]
) -> None:
    for number, task in enumerate(("training_step", "per_token")):
        expected: list[dict[tuple[str, str], list[Any]]] = [{}, {}, {}]
        for row in results[run][ABLATION]:
            for kind, one in row["tasks"][task].items():
                if one is not None:
                    key, ratio = (row["rung"], KINDS[kind]), one["ratio"]
                    expected[0][key] = [ratio["median"], ratio["low"], ratio["high"]]
                    expected[1][key] = [one["tokens_per_second"], None, None]
                    expected[2][key] = [one["memory"], None, None]
        assert len(expected[0]) == 8, "sdpa has no leave-one-out"
        for chart in range(3):
            drawn = [row for row in rows_of(data, f"ablation-{run}-{number}-{chart}") if "kind" in row]
            found = {(row["name"], row["kind"]): [row["value"], row["low"], row["high"]] for row in drawn}
            assert found == expected[chart]
            assert len(drawn) == len(found)


def test_every_ratio_of_a_peer_that_is_drawn_is_the_files(
    run: int, results: list[dict[str, Any]], data: dict[str, Any]
) -> None:
    for number, task in enumerate(("loss_and_gradient", "training_step")):
        cases = [case for case in results[run]["cases"] if case["task"] == task]
        drawn = [row for row in rows_of(data, f"peers-{run}-{number + 1}-0") if "kind" in row]
        assert [(row["name"], row["kind"], row["value"], row["low"], row["high"]) for row in drawn] == [
            (
                case["contender"],
                case["precision"],
                *(case["ratios"]["reference"][of] for of in ("median", "low", "high")),
            )
            for case in cases
        ]
        drawn = rows_of(data, f"peers-{run}-{number + 1}-1")
        assert [row["value"] for row in drawn] == [case["memory"]["peak"] for case in cases]


def test_every_point_of_the_curves_and_under_the_roofs_is_the_files(
    run: int, results: list[dict[str, Any]], data: dict[str, Any]
) -> None:
    for number, axis in enumerate(("time", "vocabulary")):
        points = [point for point in results[run]["scaling"] if point["axis"] == axis]
        for chart, of in enumerate(("tokens_per_second", "memory")):
            drawn = rows_of(data, f"scaling-{run}-{number}-{chart}")
            assert [(row["at"], row["kind"], row["value"]) for row in drawn] == [
                (point["value"], point["contender"], point[of]) for point in points
            ]
    cases = results[run]["cases"]
    points = [row for row in rows_of(data, f"roofline-{run}-0-0") if "name" in row]
    assert [(row["name"], row["flops"]) for row in points] == [(c["name"], c["flops_per_second"]) for c in cases]
    assert {row["intensity"] for row in points} == {1.0, 0.5}, "operations over bytes of the floor"
    roofs = [row for row in rows_of(data, f"roofline-{run}-0-0") if "name" not in row]
    assert max(row["flops"] for row in roofs) == 3.1e11
    for row in roofs:
        assert row["flops"] <= 2.5e10 * row["intensity"] * (1 + 1e-12), "a roof is above the bandwidth"
    drawn = rows_of(data, f"roofline-{run}-1-0")
    assert [row["value"] for row in drawn] == [case["floor"]["share"] for case in cases]


def test_every_proof_that_is_drawn_is_the_files(results: list[dict[str, Any]], data: dict[str, Any]) -> None:
    drawn = [row for place in places(data, "parity", 1) for row in rows_of(data, place) if "kind" in row]
    proven = [found["over"]["float32"] for found in results[1]["parity"] if not found["unlike"]]
    assert [row["value"] for row in drawn] == proven
    titles = [data["charts"][place]["description"].partition(":")[0] for place in places(data, "parity", 1)]
    assert titles == [f"Error over budget, {size}" for size in ("tiny", "ladder", "scaling")]


def test_another_function_has_words_in_its_row_and_no_dot(data: dict[str, Any]) -> None:
    rows = [row for row in rows_of(data, "parity-1-0-0") if row.get("name") == "x-transformers"]
    assert rows == [{"name": "x-transformers", "words": "not the same function"}]


def test_an_error_beyond_the_scale_is_an_arrow_at_its_end_with_its_number() -> None:
    made = whole(1)
    made["parity"][1]["over"] = {"float32": 7500.0}
    (chart,) = parity.views(made)[0].charts
    arrows = [one for one in chart.spec["layer"] if one["mark"].get("shape") == "triangle-right"]
    assert [one["encoding"]["x"] for one in arrows] == [{"value": "width"}]
    assert [(row["value"], row["shown"]) for row in arrows[0]["data"]["values"]] == [(7500.0, "7,500")]
    dots_drawn = [one for one in chart.spec["layer"] if one["mark"].get("size") == 60]
    assert all(row["value"] <= 1.1 for one in dots_drawn for row in one["data"]["values"])


def of_gpt2_size(seed: int, **changes: Any) -> dict[str, Any]:
    """A whole run whose cases are of GPT-2's size."""
    made = whole(seed, **changes)
    for case in made["cases"]:
        case["size"] = "gpt2"
    return made


def test_the_headline_has_the_reference_hugging_faces_best_and_ours_with_the_files_numbers() -> None:
    made = of_gpt2_size(1)
    (view,) = headline.views(made)
    cases = {case["contender"]: case for case in made["cases"] if case["task"] == "training_step"}
    theirs = [cases[name] for name in ("huggingface-sdpa", "huggingface-best")]
    best = max(theirs, key=lambda case: case["ratios"]["reference"]["median"])
    expected = [cases["reference"], best, cases["full"]]
    rows = [row for row in rows_of({"charts": {"it": view.charts[0].spec}}, "it") if "value" in row]
    assert [(row["name"], row["value"]) for row in rows] == [
        (name, case["tokens_per_second"])
        for name, case in zip(("readable reference", "Hugging Face's best", "ours"), expected, strict=True)
    ]
    assert [row[1] for row in view.tables[0].rows] == [case["contender"] for case in expected]
    assert headline.views(whole(1)) == (), "other sizes are no headline"
    assert [headline.three_digits(value) for value in (1234.0, 160.55, 23.75, 6.333)] == [
        "1,234",
        "161",
        "23.8",
        "6.33",
    ]
    assert [headline.in_words(seconds) for seconds in (2.4014, 0.0421)] == ["2.40 s", "42.1 ms"]


@pytest.mark.usefixtures("nothing_drawn")
def test_the_page_opens_with_the_headline_of_the_newest_run_of_each_device(tmp_path: Path) -> None:
    for name, one in {
        "a": of_gpt2_size(1, started=OLDER),
        "b": of_gpt2_size(2),
        "c": of_gpt2_size(3, environment=CUDA),
    }.items():
        save(one, tmp_path / f"{name}.json")
    runs, refused = load_results([tmp_path])
    assert not refused
    made = page(runs, all_sections([run.views for run in runs], "no parity", "no bugs"))
    found = re.findall(r'data-chart="([^"]+)"', made)
    assert found[:2] == ["headline-1-0-0", "headline-2-0-0"]
    assert made.index('id="headline"') < made.index('<select id="device"') < made.index('id="fastest"')
    assert "headline-0-0-0" not in found, "an older run"


def test_the_result_of_a_comparison_is_shown_too(tmp_path: Path) -> None:
    save(compare_result(), tmp_path / "compare.json")
    run = load_result(tmp_path / "compare.json")
    titles = [view.name for view in run.views["peers"]]
    assert titles[1:] == [
        "gpt2-xl: forward, batch 64 x time 1024",
        "gpt2-xl: training step, batch 64 x time 1024",
        "gpt2-xl: generation, 1 x 128 tokens after 32",
    ]
    assert not run.quick


def test_the_charts_of_every_section_are_valid_by_the_schema_of_vega_lite(data: dict[str, Any]) -> None:
    """Altair could say so whenever a chart is drawn, for a fifth of the time of a report."""
    first: dict[str, dict[str, Any]] = {}
    for place, spec in data["charts"].items():
        first.setdefault(place.split("-")[0], spec)
    assert {"ablation", "peers", "scaling", "roofline"} <= first.keys()
    for spec in first.values():
        alt.Chart.from_dict(spec)  # validates
    broken = copy.deepcopy(first["peers"])
    broken["layer"][0]["encoding"]["x"]["type"] = "no such type"
    with pytest.raises(Exception, match="'no such type' is not one of"):
        alt.Chart.from_dict(broken)


def test_the_ticks_of_an_axis_are_plain_numbers_with_a_labelled_zero() -> None:
    bars = [Bar("Training step", "ours", 161.0, "161/s")]
    dot = [Dot("ours", "float32", 12_345.0, "12,345")]
    for chart, expected in (
        (grouped_bars("title", bars, "tokens per second"), {"0", "50", "100", "150"}),
        (dots("title", dot, Axis("tokens per second")), {"0", "6,000", "10,000"}),
        (dots("title", [Dot("ours", "float32", 0.5, "0.5")], Axis("times", log=True, rule=10.0)), {"0.5", "1", "10"}),
    ):
        drawn = vl_convert.vegalite_to_svg({**chart.spec, "width": 400}, vl_version=pictures.VEGA_LITE)
        assert expected <= set(re.findall(r">([^<>]+)</text>", drawn))
        assert "e+" not in drawn
        assert '"format": ' not in json.dumps(chart.spec), "Vega-Lite's own format may round 150 to 200"


def test_the_first_panels_of_the_peers_are_the_training_step_at_each_size(results: list[dict[str, Any]]) -> None:
    made = copy.deepcopy(results[0])
    for case in [case for case in made["cases"] if case["task"] == "training_step"]:
        longer = [10 * seconds for seconds in case["seconds"]]
        made["cases"].append({**case, "workload": "larger", "seconds": longer})
    first, *others = peers.views(made)
    assert [chart.title.partition(":")[0] for chart in first.charts] == ["larger", "smoke"]
    assert len(others) == 3, "a view for each workload and task"
    assert pictures.PICTURES["peers"] == 1, "of which the picture shows the first"


def test_a_picture_has_at_most_three_charts_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    def draw(spec: dict[str, Any], **options: Any) -> bytes:
        made.append(spec)
        return b""

    monkeypatch.setattr("vl_convert.vegalite_to_png", draw)
    monkeypatch.setattr(pictures, "packed", lambda picture: picture)
    one = dots("title", [Dot("ours", "float32", 1.0, "1")], Axis("times"))
    for count, expected in ((1, [1]), (3, [3]), (4, [3, 1]), (7, [3, 3, 1])):
        assert pictures.png((View("", (one,) * count), View("no charts"))) == b""
        assert [len(row["hconcat"]) for row in made[-1]["vconcat"]] == expected
    assert pictures.png((View("no charts"),)) is None


def test_the_curves_have_the_intervals_of_their_ratios_in_tokens_per_second(
    results: list[dict[str, Any]], data: dict[str, Any]
) -> None:
    points = [point for point in results[0]["scaling"] if point["axis"] == "time"]
    plain = {point["value"]: point["tokens_per_second"] for point in points if point["contender"] == "plain"}
    drawn = rows_of(data, "scaling-0-0-0")
    for point, row in zip(points, drawn, strict=True):
        if point["contender"] == "plain":
            assert (row["low"], row["high"]) == (None, None)
        else:
            ends = [point["ratios"]["plain"][end] * plain[point["value"]] for end in ("low", "high")]
            assert [row["low"], row["high"]] == ends


def test_every_number_of_a_table_names_its_column_where_a_phone_shows_it_as_a_line(html: str) -> None:
    (table,) = re.findall(r"<caption>The training step at every size.*?</table>", html, re.S)[:1]
    assert re.findall(r'<td data-head="([^"]+)"', table)[:3] == ["contender", "times as fast", "tokens/s"]


def test_the_tables_say_the_same_in_words(results: list[dict[str, Any]], read: Reader) -> None:
    for run, found in enumerate(results):
        rows = read.tables["mini, training step: times as fast, with intervals of 6 rounds of 3 launches, 75 %"][run]
        assert [row[0] for row in rows[1:]] == list(RUNGS)
        for row, rung in zip(rows[1:], found[ABLATION], strict=True):
            task = rung["tasks"]["training_step"]
            words = ["n/a" if task[kind] is None else interval(task[kind]["ratio"]) for kind in KINDS]
            assert row == [rung["rung"], *words, "0.25", rung["loses"]]
        rows = read.tables["smoke: training step, batch 8 x time 64; 5 rounds of 1 launch, 94 %"][run]
        cases = [case for case in found["cases"] if case["task"] == "training_step"]
        for row, case in zip(rows[1:], cases, strict=False):
            assert row[2] == interval(case["ratios"]["reference"])
            assert row[3] == f"{significant(case['tokens_per_second'])} ±1 %"
            assert row[5] == "n/a", "what no data sheet says is not 0"
            assert row[8] == size(case["memory"]["peak"])
        assert rows[-1][:2] == [
            "x-transformers",
            "no number: logits in float32: 7.5e+03 times its budget",
        ]
        ((best, *_),) = [[row[1:] for row in read.tables["The fastest proven contender"][run][2:]]]
        fastest = max(cases, key=lambda case: case["ratios"]["reference"]["median"])
        assert best[0] == named_with(fastest, cases, "reference")


def test_who_may_be_as_fast_as_the_fastest_is_named_beside_it() -> None:
    def one(contender: str, low: float, middle: float, high: float) -> dict[str, Any]:
        return {"contender": contender, "ratios": {"reference": {"median": middle, "low": low, "high": high}}}

    far, near, best = one("far", 2.0, 2.3, 2.7), one("near", 2.2, 2.5, 2.9), one("best", 2.8, 3.0, 3.1)
    base, wide = one("reference", 1.0, 1.0, 4.0), one("wide", 1.0, 2.9, 2.95)
    assert named_with(best, [base, far, near, wide, best], "reference") == "best or wide or near"
    assert named_with(best, [base, far, best], "reference") == "best"
    assert named_with(best, [best, near], None) == "best"


def test_every_point_under_the_roofs_is_in_a_table(results: list[dict[str, Any]], read: Reader) -> None:
    for run, found in enumerate(results):
        rows = read.tables["Every case under the roofs"][run][1:]
        assert [row[0] for row in rows] == [case["name"] for case in found["cases"]]
        for row, case in zip(rows, found["cases"], strict=True):
            assert row[3] == f"{case['flops_per_second'] / 1e9:.4g} GFLOP/s"


def test_all_planted_bugs_and_all_of_the_tests_own_proofs_are_there(read: Reader, data: dict[str, Any]) -> None:
    bugs, parity = read_bugs(DOCS / "bugs.json"), read_parity(DOCS / "parity.json")
    (rows,) = read.tables["Every bug and what caught it"]
    assert [row[1] for row in rows[1:]] == [bug.bug for bug in bugs.caught]
    assert sum(row["value"] for row in rows_of(data, "bugs-0-0-0")) == len(bugs.caught)
    for way in rows_of(data, "bugs-0-1-0"):
        assert way["shown"].startswith(f"{way['value']} of ")
    for precision, recipes in parity.precisions.items():
        (rows,) = read.tables[f"Error (over budget) in {precision}"]
        proven = [one for one in recipes if one.errors]
        assert [row[0] for row in rows[1:]] == [one.recipe for one in proven]
        assert [row[1] for row in rows[1:]] == [str(one.errors["logits"]) for one in proven]


def test_the_environment_and_what_was_left_out_are_there_and_what_is_unknown_is_not_0(read: Reader) -> None:
    rows = dict(read.tables["Environment"][2][1:])  # type: ignore[arg-type]
    assert rows["device"] == "NVIDIA <H100> & more (cuda)"
    assert (rows["torch"], rows["commit"], rows["clock before, MHz"]) == ("2.13.0", "0" * 40, "n/a")
    rows_left_out = read.tables["What was left out, and why"][0]
    assert rows_left_out[1] == ["1", "gpt2-xl/training: needs about 30.0 GB of memory & <more> | or less: left out"]
    (title,) = [title for title in read.tables if "A/A test" in title]
    assert read.tables[title][0][1] == ["all launches", "1.00 [0.98, 1.03]"]


def test_names_are_text_and_never_markup(html: str) -> None:
    assert "NVIDIA &lt;H100&gt; &amp; more" in html
    assert "where sdpa &lt;does not&gt; pay" in html
    body = html.partition('<script type="application/json"')[0]
    assert "<H100>" not in body
    assert "<does not>" not in body
    evil = whole(4)
    name = '"><img src=x onerror=alert(1)></script><script>alert(2)</script>'
    evil["cases"][0]["contender"] = evil["environment"]["device"] = evil["left_out"][0] = name
    evil["cases"][0]["name"] = evil[ABLATION][0]["rung"] = name
    made = page_of(evil)
    assert "<img" not in made
    assert made.count("</script>") == made.count("<script") == 3
    assert name in unescape(made)


def page_of(one: dict[str, Any]) -> str:
    views = {key: section.views(one) for key, section in RUN_SECTIONS.items()}
    run = Run(Path("x.json"), "x", one["environment"]["device"], "today", "torch", False, views)
    return page([run], all_sections([views], "no parity", "no bugs"))


def test_nothing_is_loaded_from_anywhere(read: Reader, html: str) -> None:
    assert read.loads == ["data:,"]
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert all(link.startswith(("#", "https://github.com/")) for link in read.links)
    assert "default-src 'none'" in html
    for chart in json.loads(re.findall(r'id="data">(.*?)</script>', html, re.S)[0])["charts"].values():
        assert "url" not in json.dumps({key: value for key, value in chart.items() if key != "$schema"})


def test_every_link_to_a_section_leads_to_one_and_every_choice_has_a_label(html: str) -> None:
    ids = re.findall(r' id="([^"]+)"', html.partition('<script type="application/json"')[0])
    assert len(ids) == len(set(ids)), "an id is there twice"
    for target in re.findall(r'href="#([^"]+)"', html):
        assert target in ids
    selects = re.findall(r'<select id="([^"]+)"', html)
    assert len(selects) > 10
    for select in selects:
        assert f'<label for="{select}">' in html


def test_a_run_with_nothing_but_cases_has_a_page_that_says_what_it_lacks() -> None:
    made = page_of(result())
    assert made.count("This run has none.") == 4, "ablation, roofline, scaling, components"
    assert "no parity" in made
    assert "no bugs" in made


@pytest.mark.slow
def test_the_command_writes_page_pictures_and_tables_and_nothing_else(
    folder: Path,
    tmp_path: Path,
    results: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.report.command.png", pictures.png)
    out = tmp_path / "new" / "report"
    assert main(["report", str(folder / "a.json"), str(folder / "c.json"), "--out", str(out)]) == 0
    made = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    names = ("cpu-some-cpu-avx2-2-threads", "cuda-nvidia-h100-more")
    drawings = [f"{key}.png" for key in pictures.PICTURES if key != "headline"]  # no case here is of gpt2's size
    assert made == {"index.html", *(f"{name}/{file}" for name in names for file in (*drawings, "tables.md"))}
    *paths, last = capsys.readouterr().out.splitlines()
    assert {str(out / name) for name in made} == set(paths)
    assert last == f"Open {out / 'index.html'} in a browser."
    for path in out.rglob("*.png"):
        head = path.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", head[16:])
        assert 1000 < width < 3500
        assert 300 < height < 12000
    markdown = (out / names[0] / "tables.md").read_text()
    assert "2026-01-02 03:04, torch 2.13.0, transformers 5.1.0, numpy 2.0.0, commit 0000000000" in markdown
    assert "![Ablation, Some CPU (AVX2), 2 threads](ablation.png)" in markdown
    rung = results[1][ABLATION][0]
    words = " | ".join(interval(rung["tasks"]["training_step"][kind]["ratio"]) for kind in KINDS)
    assert f"| fused_qkv | {words} | 0.25 | where fused_qkv \\<does not> pay |" in markdown


def test_markdown_tables_are_whole(runs: list[Run]) -> None:
    found = all_sections([run.views for run in runs], "", "")
    lines = document(runs[0], 0, found, {}).splitlines()
    width = 0
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|"):
            cells = len(re.findall(r"(?<!\\)\|", line))
            width = width if before.startswith("|") else cells
            assert cells == width, line
    assert sum(line.startswith("| ---") for line in lines) > 10


def test_the_page_can_be_left_away(small: Path, tmp_path: Path) -> None:
    assert main(["report", str(small / "a.json"), "--out", str(tmp_path), "--no-page"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["cpu-some-cpu-avx2-2-threads"]


def test_a_run_of_changed_code_says_so(tmp_path: Path) -> None:
    for commit, words in ((f"{'0' * 40}+changes", "commit 0000000000+changes"), ("1" * 40, "commit 1111111111")):
        save(result(environment={**ENVIRONMENT, "commit": commit}), tmp_path / "a.json")
        assert load_result(tmp_path / "a.json").title.endswith(words)
    save(result(environment={**ENVIRONMENT, "commit": None}), tmp_path / "a.json")
    assert "commit" not in load_result(tmp_path / "a.json").title


def test_two_runs_of_a_device_have_names_of_their_own_and_a_file_that_is_named_twice_is_one(
    folder: Path, small: Path, runs: list[Run]
) -> None:
    twice = result_files([folder, folder / ".." / folder.name / "a.json"])
    assert [path.name for path in twice] == ["a.json", "b.json", "c.json"]
    found = [run.name for run in runs]
    cpu = "cpu-some-cpu-avx2-2-threads"
    assert found == [f"{cpu}-202601010304", f"{cpu}-202601020304", "cuda-nvidia-h100-more"]
    one = load_result(small / "a.json")
    assert len({run.name for run in with_unique_names([one, copy.copy(one)])}) == 2


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str]]:
    """The exit status, and the lines on standard error but those that say how far it is."""
    status = main(["report", *map(str, arguments)])
    lines = capsys.readouterr().err.splitlines()
    return status, [line for line in lines if not re.match(r"\d+/\d+ ", line)]


@pytest.mark.usefixtures("nothing_drawn")
def test_how_far_it_is_and_the_time_left_are_said(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(small / "a.json"), "--out", str(tmp_path)]) == 0
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "1/7 the page (0 s)"
    assert [re.sub(r"\(.*\)", "", line) for line in others] == [
        f"{number}/7 {load_result(small / 'a.json').name}: the picture {key} "
        for number, key in enumerate(pictures.PICTURES, 2)
    ]
    assert all(line.endswith(" left)") for line in others)


@pytest.mark.usefixtures("nothing_drawn")
def test_files_that_cannot_be_shown_are_a_line_each_and_the_others_go_on(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cut.json").write_text((small / "a.json").read_text()[:3000])
    (tmp_path / "other.json").write_text(json.dumps(whole(version=VERSION + 1)))
    lacking = whole()
    del lacking[ABLATION][0]["tasks"]["per_token"]["alone"]["ratio"]
    (tmp_path / "lacking.json").write_text(json.dumps(lacking))
    (tmp_path / "numbers.json").write_text(json.dumps(whole(cases=5)))
    bad = ["cut", "other", "lacking", "numbers", "nowhere"]
    out = tmp_path / "out"
    paths = [tmp_path / f"{name}.json" for name in bad]
    status, lines = told(capsys, *paths[:2], small / "a.json", *paths[2:], "--out", out)
    assert status == 0
    assert (out / "index.html").is_file()
    assert len(lines) == 5
    expected = [
        "cut.json: is cut short or damaged, not a result (",
        f"other.json: is of version {VERSION + 1}, this program reads {VERSION}: measure again",
        "lacking.json: is damaged, or no result of bench or compare (lacks 'ratio'): measure again",
        "numbers.json: is damaged, or no result of bench or compare (TypeError: 'int' object is not iterable): measure",
        "nowhere.json: cannot be read (No such file or directory)",
    ]
    for line, words in zip(lines, expected, strict=True):
        assert line.startswith("left out: ")
        assert words in line
    shutil.rmtree(out)
    status, lines = told(capsys, *paths, "--out", out)
    assert status == 2
    assert len(lines) == 6
    assert (
        lines[-1] == "error: none of 5 result files can be shown: measure by nox -s bench in a checkout, or name others"
    )
    assert not out.exists(), "nothing is written"


def test_folders_without_results_and_places_to_write_that_are_none_are_one_line(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, (line,) = told(capsys, tmp_path)
    assert status == 2
    remedy = "measure by nox -s bench in a checkout, or name a file"
    assert line == f"error: {tmp_path}: has no result file (*.json): {remedy}"
    monkeypatch.setattr("bench.report.load_results.HOME", tmp_path / "results")
    status, (line,) = told(capsys)
    assert status == 2
    assert line == f"error: {tmp_path / 'results'}: is not there: {remedy}"
    (tmp_path / "file").write_text("mine")
    status, (line,) = told(capsys, small, "--out", tmp_path / "file")
    assert status == 2
    assert line == f"error: --out {tmp_path / 'file'}: is a file: give the name of a folder"
    status, (line,) = told(capsys, small, "--out", tmp_path / "file" / "inside")
    assert status == 2
    assert line == f"error: cannot write into {str(tmp_path / 'file' / 'inside')!r}: Not a directory"
    assert (tmp_path / "file").read_text() == "mine"


def test_a_report_that_fails_half_way_leaves_the_last_one_and_nothing_else(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.html").write_text("the last one")
    (tmp_path / "mine.txt").write_text("mine")
    calls = []

    def full_disk(views: object) -> None:
        calls.append(views)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.report.command.png", full_disk)
    status, (line,) = told(capsys, small, "--out", tmp_path)
    assert (status, len(calls)) == (2, 3)
    assert line == f"error: cannot write into {str(tmp_path)!r}: No space left on device"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "mine.txt"]
    assert (tmp_path / "index.html").read_text() == "the last one"


def test_documents_that_cannot_be_read_are_a_note_and_the_rest_goes_on(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bugs.json").write_text("{}")
    options = ("--parity", tmp_path / "parity.json", "--bugs", tmp_path / "bugs.json", "--out", tmp_path / "out")
    status, lines = told(capsys, small / "a.json", *options)
    assert status == 0
    assert lines == [
        f"note: {tmp_path / 'parity.json'}: cannot be read (No such file or directory), write it again by "
        'python -m pytest tests/parity/test_parity_recipes.py -m "slow or not slow" && cp build/parity.json docs/ '
        "in a checkout",
        f"note: {tmp_path / 'bugs.json'}: is no record of planted bugs, version 1, write it again by "
        "python -m tests.bugs.measure in a checkout",
    ]
    made = unescape((tmp_path / "out" / "index.html").read_text())
    for line in lines:
        assert line.removeprefix("note: ") in made


def test_the_made_up_environment_is_that_of_a_run() -> None:
    assert whole()["environment"].keys() == ENVIRONMENT.keys() == CUDA.keys()


@pytest.mark.usefixtures("nothing_drawn")
@pytest.mark.parametrize("path", sorted(HOME.glob("*.json")), ids=lambda path: path.name)
def test_the_committed_tables_are_those_of_the_committed_results(path: Path) -> None:
    """As `python -m bench report --out docs/results --no-page` writes them, with the pictures."""
    (run,) = with_unique_names([load_result(path)])
    folder = DOCS / "results" / run.name
    drawn = {key: f"{key}.png" for key in pictures.PICTURES if any(view.charts for view in run.views[key])}
    assert (folder / "tables.md").read_text() == document(run, 0, all_sections([run.views], "", ""), drawn)
    assert {file.name for file in folder.iterdir()} == {"tables.md", *drawn.values()}
