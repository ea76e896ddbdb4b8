"""All chapters of a report, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.report import ceilings, components, curves, ladder, peers, proofs, surroundings, zoo
from bench.report.chapter import Chapter, View
from bench.report.documents import Bugs, Parity

METHOD = (
    "No number without a proof: whoever is timed was first shown to be the same function. No single absolute time is "
    "a result: contenders take turns in one run, and what is compared are times that were taken next to each other. "
    "Compiling and warming up come before the times; waiting for the device is part of them. A number that is not "
    "known is n/a, never 0.",
)


@dataclass(frozen=True)
class OfARun:
    """A chapter that every run has views of its own in."""

    title: str
    words: tuple[str, ...]
    choice: str  # what is chosen between the views
    views: Callable[[dict[str, Any]], tuple[View, ...]]  # of a result


OF_A_RUN: dict[str, OfARun] = {
    "fastest": OfARun("At a glance", METHOD, "", peers.fastest_views),
    "ladder": OfARun("The ladder", ladder.WORDS, "Task", ladder.views),
    "peers": OfARun("Peers", peers.WORDS, "Workload and task", peers.views),
    "roofline": OfARun("Roofline", ceilings.WORDS, "Workload", ceilings.views),
    "scaling": OfARun("Scaling", curves.WORDS, "What grows", curves.views),
    "parity": OfARun("Parity of what was timed", proofs.WORDS, "Proven at", proofs.views),
    "components": OfARun("Components", components.WORDS, "", components.views),
    "environment": OfARun("Environment", surroundings.WORDS, "", surroundings.views),
}


def chapters(of_runs: Sequence[dict[str, tuple[View, ...]]], parity: Parity | str, bugs: Bugs | str) -> list[Chapter]:
    """Everything, for all runs.

    Args:
        of_runs: the views of each, by chapter
        parity, bugs: what the tests found out, or the line that says why it cannot be read
    """
    found = [
        Chapter(key, one.title, one.words, one.choice, tuple(views[key] for views in of_runs))
        for key, one in OF_A_RUN.items()
    ]
    tested = Chapter(
        "tests",
        "Parity of every rung",
        proofs.TESTED,
        "Precision",
        ((() if isinstance(parity, str) else proofs.tested_views(parity)),),
        shared=True,
        empty=parity if isinstance(parity, str) else "",
    )
    planted = Chapter(
        "bugs",
        "Planted bugs",
        zoo.WORDS if isinstance(bugs, str) else (*zoo.WORDS, bugs.summary),
        "What is shown",
        ((() if isinstance(bugs, str) else zoo.views(bugs)),),
        shared=True,
        empty=bugs if isinstance(bugs, str) else "",
    )
    place = list(OF_A_RUN).index("parity") + 1
    return [*found[:place], tested, planted, *found[place:]]
