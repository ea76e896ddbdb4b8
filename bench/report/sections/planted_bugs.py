"""Planted bugs: bugs that GPT implementations had, and the check that catches each."""

from __future__ import annotations

from bench.report.charts import Axis, Dot, bars, ordered
from bench.report.proof_records import PlantedBugs
from bench.report.section import Table, View

WORDS = (
    "A proof is worth what it would have caught. Bugs that public implementations had, and some of our own, are "
    "planted one by one, and the check that is meant to catch each is run.",
)


def views(bugs: PlantedBugs) -> tuple[View, ...]:
    """What was caught, and what a mere comparison of outputs sees."""
    of_kind: dict[str, int] = {}
    for row in bugs.checks[1]:
        of_kind[row[0]] = of_kind.get(row[0], 0) + int(row[3])
    caught = [Dot(kind, "caught", count, str(count)) for kind, count in of_kind.items()]
    head, rows = bugs.usual
    ways = [(column, way) for column, way in enumerate(head) if column > 1]
    seen = [
        Dot(way, "seen", count, f"{count} of {len(rows)}")
        for column, way in ways
        for count in [sum(row[column] == "seen" for row in rows)]
    ]
    assert ordered(dot.name for dot in seen) == [way for _, way in ways]
    return (
        View(
            "what caught what",
            (bars("Bugs caught, by the kind of check", caught, Axis("bugs", format="d")),),
            (
                Table("The checks", *bugs.checks, words=(0, 1, 2)),
                Table("Every bug and what caught it", *bugs.caught, words=(0, 1, 2, 3, 4, 5), folded=True),
            ),
        ),
        View(
            "what comparing outputs sees",
            (bars("Bugs inside a model that a comparison of outputs sees", seen, Axis("bugs", format="d")),),
            (Table("Every bug inside a model", head, rows, words=(0, 1), folded=True),),
        ),
    )
