"""All sections of a report, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.report.proof_records import Parity, PlantedBugs
from bench.report.section import Section, View
from bench.report.sections import (
    ablation,
    components,
    environment,
    headline,
    parity,
    peers,
    planted_bugs,
    roofline,
    scaling,
)

METHOD = (
    "No number without a proof: a contender is timed only after it was shown to be the same function. Ratios are the "
    "results, absolute times are not: contenders take turns in one run, and a ratio compares times that were taken "
    "next to each other. Compiling and warming up come before the times; waiting for the device is part of them. An "
    "unknown number is n/a, never 0.",
)


@dataclass(frozen=True)
class RunSection:
    """A section that shows views of one run."""

    title: str
    words: tuple[str, ...]
    choice: str  # what the reader chooses among the views
    views: Callable[[dict[str, Any]], tuple[View, ...]]  # of a result
    empty: str = "This run has none."
    side_by_side: bool = False


RUN_SECTIONS: dict[str, RunSection] = {
    "headline": RunSection(headline.TITLE, headline.WORDS, "", headline.views, empty=headline.EMPTY, side_by_side=True),
    "fastest": RunSection("At a glance", METHOD, "", peers.fastest_views),
    "ablation": RunSection("Ablation", ablation.WORDS, "Task", ablation.views),
    "peers": RunSection("Peers", peers.WORDS, "Workload and task", peers.views),
    "roofline": RunSection("Roofline", roofline.WORDS, "Workload", roofline.views),
    "scaling": RunSection("Scaling", scaling.WORDS, "Size that grows", scaling.views),
    "parity": RunSection("Parity of the timed contenders", parity.WORDS, "Proven at", parity.views),
    "components": RunSection("Components", components.WORDS, "", components.views),
    "environment": RunSection("Environment", environment.WORDS, "", environment.views),
}


def all_sections(
    of_runs: Sequence[dict[str, tuple[View, ...]]], proofs: Parity | str, bugs: PlantedBugs | str
) -> list[Section]:
    """Every section, with the views of every run.

    Args:
        of_runs: the views of each run, by section
        proofs, bugs: the tests' records, or the line that says why a record cannot be read
    """
    found = [
        Section(
            key,
            one.title,
            one.words,
            one.choice,
            tuple(views[key] for views in of_runs),
            empty=one.empty,
            side_by_side=one.side_by_side,
        )
        for key, one in RUN_SECTIONS.items()
    ]
    tested = Section(
        "tested",
        "Parity of every rung",
        parity.TESTED,
        "Precision",
        ((() if isinstance(proofs, str) else parity.tested_views(proofs)),),
        shared=True,
        empty=proofs if isinstance(proofs, str) else "",
    )
    planted = Section(
        "bugs",
        "Planted bugs",
        planted_bugs.WORDS if isinstance(bugs, str) else (*planted_bugs.WORDS, bugs.summary),
        "Compared",
        ((() if isinstance(bugs, str) else planted_bugs.views(bugs)),),
        shared=True,
        empty=bugs if isinstance(bugs, str) else "",
    )
    place = list(RUN_SECTIONS).index("parity") + 1
    return [*found[:place], tested, planted, *found[place:]]
