"""The page in headless Chromium: it loads by itself, switches, can be read on a phone, in the dark and by keyboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.report.all_sections import all_sections
from bench.report.load_results import load_result, with_unique_names
from bench.report.page import page
from bench.report.proof_records import read_bugs, read_parity
from bench.report.result_keys import ABLATION
from bench.settings import DOCS
from bench.suite.result_file import HOME, save
from tests.bench.report import chromium
from tests.bench.report.made_up_report import CUDA, whole

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.program() is None, reason=f"needs one of {', '.join(chromium.PROGRAMS)} on PATH"),
]

PICTURES = Path(__file__).parents[3] / "build" / "report-pages"
RESULTS = sorted(HOME.glob("*.json"))
DRAWN = "document.documentElement.dataset.drawn"
SEEN = """[...document.querySelectorAll('.chart')].filter((one) => !one.closest('[hidden]'))"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two runs of a CPU and one of an accelerator."""
    folder = tmp_path_factory.mktemp("report")
    made = [whole(1, started="2026-01-01T03:04:05+00:00"), whole(2), whole(3, environment=CUDA)]
    for number, one in enumerate(made):
        save(one, folder / f"{number}.json")
    runs = with_unique_names([load_result(path) for path in sorted(folder.glob("*.json"))])
    parity, bugs = read_parity(DOCS / "parity.json"), read_bugs(DOCS / "bugs.json")
    found = folder / "index.html"
    found.write_text(page(runs, all_sections([run.views for run in runs], parity, bugs)), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    with chromium.page(tmp_path_factory.mktemp("chromium") / "profile") as found:
        yield found


@pytest.fixture
def tab(browser: chromium.Page, file: Path) -> chromium.Page:
    """The page, just opened, light, in a wide window."""
    browser.resize(1200, 900)
    browser.prefer("light")
    browser.events.clear()
    browser.open(file)
    browser.until(f"{DRAWN} === 'light'")
    return browser


def choose(tab: chromium.Page, select: str, value: int) -> None:
    """Choose as a person does, who makes the select say that it has changed."""
    before = tab.run(DRAWN)
    tab.run(
        f"""(() => {{ const one = document.getElementById({json.dumps(select)}); one.value = '{value}';
        one.dispatchEvent(new Event('change', {{ bubbles: true }})); }})()"""
    )
    tab.until(f"{DRAWN} === {json.dumps(before)}")


def labels(tab: chromium.Page, place: str) -> list[str]:
    """What a drawing says of each of its points."""
    found: list[str] = tab.run(
        f"""[...document.querySelectorAll('[data-chart="{place}"] .mark-symbol.role-mark path')]
        .map((one) => one.getAttribute('aria-label'))"""
    )
    return found


def places(tab: chromium.Page) -> list[str]:
    """The drawings that are seen; each is there."""
    found: list[list[Any]] = tab.run(f"{SEEN}.map((one) => [one.dataset.chart, one.querySelectorAll('svg').length])")
    assert {drawings for _, drawings in found} == {1}
    return [place for place, _ in found]


def overflow(tab: chromium.Page) -> list[str]:
    """What is wider than the window and does not scroll by itself."""
    found: list[str] = tab.run(
        """[...document.querySelectorAll('body *')]
        .filter((one) => !one.closest('.scroll, [hidden], .skip, details, #vg-tooltip-element, svg *'))
        .filter((one) => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
        .map((one) => one.outerHTML.slice(0, 200))"""
    )
    return found


def cut_off(tab: chromium.Page) -> list[str]:
    """Words in drawings that reach beyond them, or are cut short."""
    found: list[str] = tab.run(
        """[...document.querySelectorAll('.chart svg text')].filter((one) => {
        const [word, drawing] = [one, one.closest('svg')].map((any) => any.getBoundingClientRect());
        return one.textContent.includes('…') || word.width && (
        word.left < drawing.left - 2 || word.right > drawing.right + 2 ||
        word.top < drawing.top - 2 || word.bottom > drawing.bottom + 2);
        }).map((one) => one.closest('.chart').dataset.chart + ': ' + one.textContent)"""
    )
    return found


def test_it_loads_without_a_word_in_the_console_and_asks_for_nothing_else(tab: chromium.Page, file: Path) -> None:
    assert tab.complaints() == []
    asked = [url for url in tab.requests() if not url.startswith("data:")]
    assert asked == [file.resolve().as_uri()]
    found = places(tab)
    assert {place.split("-")[0] for place in found} == {
        *("ablation", "peers", "roofline", "scaling", "parity", "tested", "bugs")
    }
    assert cut_off(tab) == []
    tab.picture(PICTURES / "light.png")


@pytest.mark.skipif(not RESULTS, reason="no result is committed")
def test_the_page_of_the_committed_results_loads_as_well(browser: chromium.Page, tmp_path: Path) -> None:
    """The picture that it leaves is the one in docs/benchmarks.md: docs/results/page.png."""
    runs = with_unique_names([load_result(path) for path in RESULTS])
    parity, bugs = read_parity(DOCS / "parity.json"), read_bugs(DOCS / "bugs.json")
    index = tmp_path / "index.html"
    index.write_text(page(runs, all_sections([run.views for run in runs], parity, bugs)), encoding="utf-8")
    browser.resize(1280, 2300)
    browser.prefer("light")
    browser.events.clear()
    browser.open(index)
    browser.until(f"{DRAWN} === 'light'")
    assert browser.complaints() == []
    assert cut_off(browser) == []
    first = "document.querySelector('.chart').getBoundingClientRect().bottom"
    assert browser.run(first) < 800, "the first chart is above the fold"
    assert {place.split("-")[0] for place in places(browser)} >= {
        "headline",
        "ablation",
        "peers",
        "roofline",
        "scaling",
        "parity",
    }
    browser.picture(PICTURES / "page.png", whole=False)


def test_the_newest_run_of_the_first_device_is_shown_first_and_both_choices_change_what_is_drawn(
    tab: chromium.Page,
) -> None:
    first = places(tab)
    assert {place for place in first if place.startswith("ablation")} == {f"ablation-1-0-{chart}" for chart in range(3)}
    older, newer, other = (whole(seed)[ABLATION][0]["tasks"] for seed in (1, 2, 3))
    seen = labels(tab, "ablation-1-0-0")
    assert len(seen) == 8

    def shows(seen: list[str], tasks: dict[str, Any], task: str) -> bool:
        value = tasks[task]["alone"]["ratio"]["median"]
        return any(f"fused_qkv, alone: {value:.2f} [" in label for label in seen)

    assert shows(seen, newer, "training_step")
    choose(tab, "run", 0)
    assert not tab.run("document.querySelectorAll('[data-chart^=\"ablation-1\"] svg').length"), "the old ones are gone"
    assert shows(labels(tab, "ablation-0-0-0"), older, "training_step")
    choose(tab, "ablation-0", 1)
    assert shows(labels(tab, "ablation-0-1-0"), older, "per_token")
    choose(tab, "device", 1)
    assert tab.run("document.getElementById('run').options.length") == 1
    assert shows(labels(tab, "ablation-2-0-0"), other, "training_step")
    choose(tab, "device", 0)
    assert tab.run("[...document.getElementById('run').options].map((one) => one.value)") == ["0", "1"]
    assert places(tab) == first
    assert tab.complaints() == []


@pytest.mark.parametrize("width", [390, 1200])
def test_every_view_of_every_section_can_be_drawn_and_has_room(width: int, tab: chromium.Page) -> None:
    tab.resize(width, 900)
    selects = tab.run(
        """[...document.querySelectorAll('select.views')].filter((one) => !one.closest('[hidden]'))
        .map((one) => [one.id, one.options.length])"""
    )
    assert len(selects) >= 7
    for place, count in selects:
        for value in range(count):
            choose(tab, place, value)
            assert any(one.startswith(f"{place}-{value}-") for one in places(tab))
            assert cut_off(tab) == []
            assert overflow(tab) == []
    assert tab.complaints() == []


def test_in_the_dark_paper_words_and_drawings_are_dark_and_change_as_the_wish_does(tab: chromium.Page) -> None:
    def colours() -> tuple[str, str, str]:
        return tab.run(
            """[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
            document.querySelector('[data-chart="ablation-1-0-0"] .role-axis-label text').getAttribute('fill')]"""
        )

    light = colours()
    tab.prefer("dark")
    tab.until(f"{DRAWN} === 'dark'")
    dark = colours()
    assert all(a != b for a, b in zip(light, dark, strict=True)), (light, dark)
    assert dark[2] == "#e6ebf1"
    tab.picture(PICTURES / "dark.png")
    tab.prefer("light")
    tab.until(f"{DRAWN} === 'light'")
    assert colours() == light
    assert tab.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen_and_every_number_is_seen(
    scheme: str, browser: chromium.Page, file: Path
) -> None:
    browser.resize(390, 844, phone=True)
    browser.prefer(scheme)
    browser.events.clear()
    browser.open(file)
    browser.until(f"{DRAWN} === '{scheme}'")
    assert browser.run("document.documentElement.clientWidth") == 390, "the page takes the width of the phone"
    assert overflow(browser) == []
    assert cut_off(browser) == []
    assert browser.run("document.documentElement.scrollWidth") <= 390
    hidden = browser.run(
        "[...document.querySelectorAll('.scroll td')].filter((one) => one.getBoundingClientRect().right > 391).length"
    )
    assert hidden == 0, "numbers beyond the edge of the screen"
    assert browser.complaints() == []
    browser.picture(PICTURES / f"phone-{scheme}.png")


def test_a_window_that_becomes_narrow_takes_its_drawings_along(tab: chromium.Page) -> None:
    tab.resize(500, 900)
    tab.until("document.querySelector('[data-chart=\"ablation-1-0-0\"] svg').getBoundingClientRect().width < 500")
    assert overflow(tab) == []


def test_the_keyboard_reaches_the_choices_the_sections_and_the_tables(tab: chromium.Page) -> None:
    def at() -> str:
        return tab.run("document.activeElement.id || document.activeElement.className || document.activeElement.hash")

    reached = []
    for _ in range(60):
        tab.press("Tab")
        reached.append(at())
        if reached[-1] == "run":
            tab.press("ArrowUp")
            tab.until("document.getElementById('run').value === '0'")
            tab.until(f"{DRAWN} && document.querySelector('[data-chart=\"ablation-0-0-0\"] svg') !== null")
        if reached[-1] == "ablation-0":
            tab.press("ArrowDown")
            tab.until(f"{DRAWN} && document.querySelector('[data-chart=\"ablation-0-1-0\"] svg') !== null")
        if reached.count("scroll") == 4:
            break
    assert reached[0] == "skip" or reached[0] == "#contents"
    assert reached.index("device") < reached.index("run") < reached.index("#ablation") < reached.index("ablation-0")
    assert reached.count("scroll") >= 4, "tables can be scrolled by keyboard"
    assert tab.complaints() == []
