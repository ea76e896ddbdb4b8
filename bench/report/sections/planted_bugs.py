"""Planted bugs: bugs that GPT implementations had, and the check that catches each."""

from __future__ import annotations

from bench.report.charts import Axis, Dot, bars
from bench.report.proof_records import CAUGHT_HEAD, CHECKS_HEAD, PlantedBugs
from bench.report.section import Table, View

WORDS = (
    "A proof is worth what it would have caught. Bugs that public implementations had, and some of our own, are "
    "planted one by one, and the check that is meant to catch each is run.",
)


def views(bugs: PlantedBugs) -> tuple[View, ...]:
    """The bugs by the check that catches them, and by the comparisons of outputs that see them."""
    of_topic: dict[str, int] = {}
    for check in bugs.checks:
        topic = f"{check.kind}, {check.topic}"
        of_topic[topic] = of_topic.get(topic, 0) + check.mutants
    caught = [Dot(topic, "caught", count, str(count)) for topic, count in of_topic.items()]
    total = len(bugs.compared)
    counts = {way: sum(bug.seen[way] for bug in bugs.compared) for way in bugs.compared_head[2:]}
    seen = [Dot(way, "seen", count, f"{count} of {total}") for way, count in counts.items()]
    return (
        View(
            "the check that catches each",
            (bars("Bugs caught, by the kind of check", caught, Axis("bugs", format="d")),),
            (
                Table("The checks", CHECKS_HEAD, tuple(check.cells for check in bugs.checks), words=(0, 1, 2)),
                Table(
                    "Every bug and what caught it",
                    CAUGHT_HEAD,
                    tuple(bug.cells for bug in bugs.caught),
                    words=(0, 1, 2, 3, 4, 5),
                    folded=True,
                ),
            ),
        ),
        View(
            "what a comparison of outputs sees",
            (bars("Bugs inside a model that a comparison of outputs sees", seen, Axis("bugs", format="d")),),
            (
                Table(
                    "Every bug inside a model",
                    bugs.compared_head,
                    tuple(bug.cells for bug in bugs.compared),
                    words=(0, 1),
                    folded=True,
                ),
            ),
        ),
    )
