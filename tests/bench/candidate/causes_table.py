"""`python -m tests.bench.candidate.causes_table` plants bugs in three right models, and measures what is found.

Written are docs/causes.json, and the table of docs/candidate.md made from it. Every bug of planted_models.py alone in
each file, 60 seeded pairs, and 20 seeds of ten right models. Each result is kept in build/causes, and a run goes on
with those of the same code; --part measures one part, beside others if you like, --again begins anew. --from-json
measures nothing and makes the table again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from bench.candidate.examination import Examination
from bench.candidate.examine import examine
from bench.candidate.guess_layout import choose_layout
from bench.candidate.layouts import layout_of
from bench.candidate.traced_gpt import nodes
from bench.user_code.load_function import load_function
from reference.cli.interrupts import end_at_once
from reference.config import GPTConfig
from tests.bench.candidate.planted_models import FILES, FOLDER, LAYOUTS, Planted, alone, in_pairs, text_with

DOCS = Path(__file__).parents[3] / "docs"
RECORD, DOCUMENT = DOCS / "causes.json", DOCS / "candidate.md"
BEGIN, END = "<!-- table of causes: python -m tests.bench.candidate.causes_table -->", "<!-- end of the table -->"
CONFIG = GPTConfig(block_size=26, vocab_size=37, n_layer=2, n_head=3, n_embd=30)
KEPT = DOCS.parent / "build" / "causes"
PARTS = ("alone", "pairs", "right")
PAIRS, SEEDS = 60, 20
TARGETS = {"alone": (1.0, 0.98, 0.95), "pairs": (1.0, 0.98, 0.85)}  # detected, place, cause


SECTION = """\
## How often the cause is right

    python -m tests.bench.candidate.causes_table        # some minutes; writes causes.json and this table

The bugs of [bugs.md](bugs.md) that are in a model, planted in three right models by changes of their text
([tests/bench/candidate/right_models/](../tests/bench/candidate/right_models)): nanoGPT's style with one projection for
q, k and v, a list of heads, and Hugging Face's style with Conv1D and an added mask. *Place right*: the first difference
is where the first bug begins (a mask of -1e4 shows with sharper attention only, so beside another bug it is not the
first). *Causes right*: every bug is named, nothing else is, and together they explain all numbers.

Each kind of bug here is among the known mistakes; one that is not is located, but not named.

"""


Cell = tuple[str, tuple[Planted, ...]]  # a file and the bugs planted in it


@dataclass(frozen=True)
class Row:
    """One candidate with bugs, and what was said of it."""

    file: str
    bugs: list[str]
    rows: list[int]
    detected: bool
    place: bool
    cause: bool  # every bug is named, nothing else is, and together they explain all that differs
    false: list[str]  # causes that were not planted
    said: list[str]
    first: str
    seconds: float  # of CPU time


def main() -> None:
    """Measure, and write record and table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="measure this part only; the table is written when all are there")
    parser.add_argument("--again", action="store_true", help="measure again what build/causes has")
    parser.add_argument("--only", help="bugs whose name has these words, alone; nothing is written")
    parser.add_argument("--from-json", action="store_true", help="make the table from docs/causes.json")
    options = parser.parse_args()
    if options.from_json:
        document(json.loads(RECORD.read_text(encoding="utf-8")))
        return
    torch.set_num_threads(1)
    if options.only:
        for file, bugs in shown("bugs", [c for c in alone() if options.only in c[1][0].name]):
            print(json.dumps(asdict(measured(file, bugs)), indent=1))
        return
    kept = Kept(KEPT, options.again)
    for part in [options.part] if options.part else PARTS:
        cells = cells_of(part)
        for name, measure in shown(part, [c for c in cells.items() if c[0] not in kept.results[part]]):
            kept.keep(part, name, measure())
    results = Kept(KEPT).results  # those measured beside this too
    left = {part: len(cells_of(part).keys() - results[part].keys()) for part in PARTS}
    if any(left.values()):
        print("not measured yet: " + ", ".join(f"{part} {number}" for part, number in left.items() if number))
        return
    record = record_of(results)
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    document(record)
    print("\n".join(table(record)))


def shown(what: str, cells: list[Any]) -> Iterator[Any]:
    """The cells, with a progress bar."""
    return iter(track(cells, what, console=Console(stderr=True)))


class Kept:
    """Results that are kept as they come, a file for each part, with the hash of the code that they measure.

    Args:
        folder: of the files
        again: whether to begin anew, without the results of the present code that are there
    """

    def __init__(self, folder: Path, again: bool = False) -> None:
        self.folder, self.code = folder, hash_of_code()
        self.results: dict[str, dict[str, Any]] = {}
        for part in PARTS:
            path = folder / f"{part}.json"
            kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() and not again else {}
            self.results[part] = kept["results"] if kept.get("code") == self.code else {}

    def keep(self, part: str, name: str, result: Any) -> None:
        """Add a result and write its part's file."""
        self.results[part][name] = result
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self.folder / f"{part}.new"
        new.write_text(json.dumps({"code": self.code, "results": self.results[part]}), encoding="utf-8")
        os.replace(new, self.folder / f"{part}.json")  # whole at any moment


def hash_of_code() -> str:
    """SHA-256 of the code on which a result depends: a changed file begins anew."""
    found = hashlib.sha256()
    here = Path(__file__).parent
    for folder in (DOCS.parent / "bench" / "candidate", DOCS.parent / "bench" / "numerics", here / "right_models"):
        for path in sorted(folder.glob("*.py")):
            found.update(path.read_bytes())
    for name in ("causes_table.py", "planted_models.py", "written.py"):
        found.update((here / name).read_bytes())
    return found.hexdigest()


def cells_of(part: str) -> dict[str, Callable[[], Any]]:
    """What a part measures: a name, and a function that gives a row, or whether a right model passes."""
    if part == "right":
        return {
            f"{name}, seed {seed}": partial(right_is_right, name, seed)
            for name in right_models()
            for seed in range(SEEDS)
        }
    cells: Iterable[Cell] = alone() if part == "alone" else in_pairs(PAIRS)
    return {f"{file}: {'; '.join(b.name for b in bugs)}": partial(row_of, file, bugs) for file, bugs in cells}


def row_of(file: str, bugs: tuple[Planted, ...]) -> dict[str, Any]:
    """`measured` as plain values."""
    return asdict(measured(file, bugs))


def record_of(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The record that docs/causes.json holds, in the order of the cells."""
    return {
        "alone": [results["alone"][name] for name in cells_of("alone")],
        "pairs": [results["pairs"][name] for name in cells_of("pairs")],
        "right": {
            "models": list(right_models()),
            "seeds": SEEDS,
            "alarms": [name for name in cells_of("right") if not results["right"][name]],
        },
    }


def measured(file: str, bugs: tuple[Planted, ...]) -> Row:
    """Plant bugs and examine the candidate."""
    before = cpu()
    seen = examined(file, text_with(file, bugs))
    seconds = cpu() - before
    said = [cause.what for cause in seen.causes]
    if seen.lowering is not None and not any(one.startswith("it computes in") for one in said):
        said.append(f"it computes in {seen.lowering.place}")
    said = [re.sub(r"[^\s(]*/(\w+\.py)", r"\1", one) for one in said]  # without the folder, which is another each time
    wanted = [bug.causes for bug in bugs]
    named = [any(one.startswith(causes) for one in said) for causes in wanted]
    false = [one for one in said if not any(one.startswith(causes) for causes in wanted)]
    return Row(
        file,
        [bug.name for bug in bugs],
        [bug.row for bug in bugs],
        detected=not seen.same,
        place=right_place(seen, bugs),
        cause=all(named) and not false and all(cause.whole for cause in seen.causes),
        false=false,
        said=said,
        first=first_of(seen),
        seconds=round(seconds, 2),
    )


def cpu() -> float:
    """CPU time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def examined(file: str, text: str) -> Examination:
    """Examine a changed text of one of the three files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{file}.py")
        path.write_text(text, encoding="utf-8")
        build = load_function(f"{path}:build", "build", "candidate")
        return examine(build, layout_of(LAYOUTS[file]), config=CONFIG, steps=0)


def first_of(seen: Examination) -> str:
    """Where it first differs, as in `Planted.place`."""
    if seen.where is None:
        return ""
    if seen.where.forward is not None:
        return seen.where.forward.name
    return f"backward {seen.where.backward.name}" if seen.where.backward is not None else ""


def right_place(seen: Examination, bugs: tuple[Planted, ...]) -> bool:
    """Whether the first difference is where the first of the bugs begins."""
    order = list(nodes(CONFIG))
    forward = [bug.place for bug in bugs if bug.place in order and not bug.only_in]
    forward = forward or [bug.place for bug in bugs if bug.place in order]
    first = first_of(seen)
    if forward:
        hidden = seen.where is not None and seen.where.forward is not None and bool(seen.where.forward.hidden)
        return first == min(forward, key=order.index) or hidden
    backward = [bug.place for bug in bugs if bug.place.startswith("backward")]
    return not backward or any(first.startswith(place) for place in backward)


# Right models


def right_models() -> dict[str, Callable[[], tuple[Any, Any]]]:
    """Ten right models, differently written: name -> build and layout."""
    from tests.bench.candidate import written

    root = DOCS.parent

    def of_file(path: Path, layout: str) -> tuple[Any, Any]:
        build = load_function(f"{path}:build", "build", "candidate")
        return build, choose_layout(layout, build, CONFIG).layout

    def hugging_face() -> tuple[Any, Any]:
        from bench.candidate.against import transformers_model

        return transformers_model, layout_of("hf")

    def ours() -> tuple[Any, Any]:
        from reference.gpt import GPT

        return GPT, layout_of("canonical")

    def fast() -> tuple[Any, Any]:
        import optimized

        return (lambda config: optimized.build(config, optimized.PLAIN)), layout_of("canonical")

    return {
        **{name: lambda name=name: of_file(FOLDER / f"{name}.py", LAYOUTS[name]) for name in FILES},  # type: ignore[misc]
        "examples/my_gpt.py": lambda: of_file(root / "examples" / "my_gpt.py", "auto"),
        "reference": ours,
        "nanoGPT's structure": lambda: (written.Written, layout_of("nanogpt")),
        "a dict of heads": lambda: (written.PerHead, written.per_head_layout),
        "q, k and v interleaved, time first": lambda: (written.Interleaved, written.interleaved_layout),
        "transformers": hugging_face,
        "optimized": fast,
    }


def right_is_right(name: str, seed: int) -> bool:
    """Whether a right model passes."""
    build, layout = right_models()[name]()
    return examine(build, layout, config=CONFIG, steps=0, seed=seed).same


# The table


def table(record: dict[str, Any]) -> list[str]:
    """The record in Markdown."""
    lines = [
        "| planted | candidates | detected | place right | causes right | a false cause | CPU s, median and most |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for kind, title in (("alone", "one bug"), ("pairs", "two bugs")):
        rows = record[kind]
        cells = [f"{share(rows, what):.1%}" for what in ("detected", "place", "cause")]
        false = sum(bool(row["false"]) for row in rows)
        times = sorted(row["seconds"] for row in rows)
        lines.append(
            f"| {title} | {len(rows)} | {' | '.join(cells)} | {false} | {times[len(times) // 2]:.1f}, {times[-1]:.1f} |"
        )
    right = record["right"]
    count = len(right["models"]) * right["seeds"]
    lines.append(f"| nothing: {len(right['models'])} right models | {count} | {len(right['alarms'])} alarms | | | | |")
    lines += ["", "Not right, of one bug:" if any(not good(row) for row in record["alone"]) else ""]
    lines += [line(row) for row in record["alone"] if not good(row)]
    lines += ["", "Not right, of two bugs:" if any(not good(row) for row in record["pairs"]) else ""]
    lines += [line(row) for row in record["pairs"] if not good(row)]
    return lines


def share(rows: list[dict[str, Any]], what: str) -> float:
    """The fraction of rows that have something."""
    return sum(bool(row[what]) for row in rows) / len(rows)


def good(row: dict[str, Any]) -> bool:
    """Whether everything is right."""
    return bool(row["detected"] and row["place"] and row["cause"])


def line(row: dict[str, Any]) -> str:
    """What was said of a candidate that is not right."""
    place = "" if row["place"] else f" (first difference: {row['first'] or 'unknown'})"
    return f"- {row['file']}: {'; '.join(row['bugs'])}. Named: {'; '.join(row['said']) or 'nothing'}{place}"


def document(record: dict[str, Any]) -> None:
    """Write the table into docs/candidate.md."""
    text = DOCUMENT.read_text(encoding="utf-8")
    if BEGIN not in text:
        text = f"{text}\n{SECTION}{BEGIN}\n{END}\n"
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    lines = "\n".join(table(record)).strip()
    DOCUMENT.write_text(f"{head}{BEGIN}\n{lines}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    end_at_once()
    sys.exit(main())
