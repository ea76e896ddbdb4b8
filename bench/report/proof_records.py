"""What the tests measured, as they write it: docs/parity.json and docs/bugs.json.

The page of the report and the Markdown beside these files are both made from them. A record is read strictly: a file
of another form is refused in one line that names it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from bench.report.section import Cell, Link

VERSION = 1
PARITY, BUGS = "parity", "planted bugs"
QUANTITIES = {"logits": "logits", "loss": "loss", "gradient": "gradient", "trajectory": "20 steps", "update": "update"}
CAUGHT_HEAD = ("#", "bug", "met in", "of", "needs", "check", "error", "allowed", "times")
CHECKS_HEAD = ("kind", "check", "asks", "mutants", "right code")
REMEDY = {
    PARITY: 'python -m pytest tests/parity/test_parity_recipes.py -m "slow or not slow" && cp build/parity.json docs/',
    BUGS: "python -m tests.bugs.measure",
}
Row = TypeVar("Row")


@dataclass(frozen=True)
class MeasuredError:
    """The largest relative L2 distance of a quantity to the readable GPT in float64."""

    error: float
    over: float | None  # error / budget; None if there is no budget

    def __str__(self) -> str:
        return f"{self.error:.1e}" + ("" if self.over is None else f" ({self.over:.2f})")


@dataclass(frozen=True)
class ProvenRecipe:
    """The errors of one recipe in one precision."""

    recipe: str
    errors: dict[str, MeasuredError]  # by quantity
    worst_over: float | None  # largest error / budget of all proven recipes that have the rung; None for PLAIN and FULL
    recipes: int | None  # how many these are
    proven_in: str  # the tests that prove a rung which changes no forward pass and no training step; else ""


@dataclass(frozen=True)
class Parity:
    """The errors of every recipe."""

    precisions: dict[str, tuple[ProvenRecipe, ...]]


@dataclass(frozen=True)
class CaughtBug:
    """A planted bug and the check that catches it."""

    row: int
    bug: str
    source: str  # an issue, a commit, or words
    address: str  # of the source; "" if it has none
    side: str  # the code that it is planted in
    needs: str  # what must be there for it to show
    check: str
    kind: str  # of the check: a letter
    error: float | None  # an int where things are counted; None: the program stops, or the error is not a number
    allowed: float
    times: float | None  # error / allowed; None where nothing may differ

    @property
    def cells(self) -> tuple[Cell, ...]:
        """A row under CAUGHT_HEAD."""
        source = Link(self.source, self.address) if self.address else self.source
        if self.error is None:
            error = "inf"
        else:
            error = str(self.error) if isinstance(self.error, int) else f"{self.error:.1e}"
        allowed = f"{self.allowed:.0e}" if self.allowed else "0"
        times = "" if self.times is None else f"{self.times:.1e}"
        check = f"{self.kind} {self.check}"
        return (str(self.row), self.bug, source, self.side, self.needs, check, error, allowed, times)


@dataclass(frozen=True)
class ComparedBug:
    """A planted bug inside a model, and the comparisons of outputs that see it."""

    row: int
    bug: str
    seen: dict[str, bool]  # by way of comparing

    @property
    def cells(self) -> tuple[str, ...]:
        """Number, bug, then "seen" or "-" for each way."""
        return (str(self.row), self.bug, *("seen" if seen else "-" for seen in self.seen.values()))


@dataclass(frozen=True)
class CheckRecord:
    """A check, and how near its budget code without a bug comes."""

    kind: str  # a letter
    topic: str
    check: str
    asks: str
    mutants: int
    right_code: float  # largest error / budget

    @property
    def cells(self) -> tuple[str, ...]:
        """A row under CHECKS_HEAD."""
        kind = f"{self.kind}, {self.topic}"
        return (kind, self.check, self.asks, str(self.mutants), f"{self.right_code:.2g}")


@dataclass(frozen=True)
class PlantedBugs:
    """All planted bugs."""

    summary: str  # for readers: counts, in sentences
    seeds: int  # of the right code
    tolerances: dict[str, list[float]]  # by weights: the least at which right code passes in bfloat16
    caught: tuple[CaughtBug, ...]
    compared: tuple[ComparedBug, ...]
    checks: tuple[CheckRecord, ...]

    @property
    def compared_head(self) -> tuple[str, ...]:
        """The head over the cells of `compared`."""
        return ("#", "bug", *(self.compared[0].seen if self.compared else ()))


def read_parity(path: Path) -> Parity:
    """Read docs/parity.json. Raises ValueError, one line, for a missing file or another form."""
    record = record_of(path, PARITY)
    try:
        found: dict[str, tuple[ProvenRecipe, ...]] = {}
        for precision, rows in record["precisions"].items():
            recipes = []
            for row in rows:
                errors = {quantity: strict(MeasuredError, one) for quantity, one in row["errors"].items()}
                unknown = sorted(errors.keys() - QUANTITIES.keys())
                if unknown:
                    raise ValueError(f"{row['recipe']} has an unknown quantity {unknown[0]!r}")
                recipes.append(strict(ProvenRecipe, {**row, "errors": errors}))
            found[precision] = tuple(recipes)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise damaged(path, PARITY, error) from None
    if not found:
        raise ValueError(f"{path}: has no errors, {remedy(PARITY)}")
    return Parity(found)


def read_bugs(path: Path) -> PlantedBugs:
    """Read docs/bugs.json. Raises ValueError, one line, for a missing file or another form."""
    record = record_of(path, BUGS)
    try:
        lists = {
            key: tuple(strict(of, row) for row in record[key])
            for key, of in (("caught", CaughtBug), ("compared", ComparedBug), ("checks", CheckRecord))
        }
        rest = {key: value for key, value in record.items() if key not in ("kind", "version")}
        return strict(PlantedBugs, {**rest, **lists})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise damaged(path, BUGS, error) from None


def text_of(record: Parity | PlantedBugs) -> str:
    """The JSON text of a record."""
    kind = PARITY if isinstance(record, Parity) else BUGS
    return json.dumps({"kind": kind, "version": VERSION, **asdict(record)}, indent=1, allow_nan=False) + "\n"


def strict(of: type[Row], values: dict[str, Any]) -> Row:
    """Make a dataclass from its fields by name. Raises ValueError for a missing, unknown or wrongly typed field."""
    hints = get_type_hints(of)
    known = {field.name for field in fields(of)}  # type: ignore[arg-type]
    for name in sorted(known - values.keys()):
        raise ValueError(f"lacks {name!r}")
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"has an unknown {name!r}")
        allowed = getattr(hints[name], "__origin__", hints[name])
        if isinstance(value, bool) or not isinstance(value, allowed | int if allowed is float else allowed):
            if isinstance(value, int) and not isinstance(value, bool) and allowed == float | None:
                continue
            raise ValueError(f"{name} is {value!r}")
    return of(**values)


def record_of(path: Path, kind: str) -> dict[str, Any]:
    """Read the object in a record's file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}), {remedy(kind)}") from None
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({error}), {remedy(kind)}") from None
    if not isinstance(record, dict) or (record.get("kind"), record.get("version")) != (kind, VERSION):
        raise ValueError(f"{path}: is no record of {kind}, version {VERSION}, {remedy(kind)}")
    return record


def damaged(path: Path, kind: str, error: Exception) -> ValueError:
    """The line about a record of another form."""
    what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
    return ValueError(f"{path}: is damaged ({what}), {remedy(kind)}")


def remedy(kind: str) -> str:
    """The command that writes a new record."""
    return f"write it again by {REMEDY[kind]} in a checkout"
