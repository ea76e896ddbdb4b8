"""`python -m tests.machines [--no-tests | --all-tests | --speed] [NAME ...]`: a user's first commands on each machine.

Runs the tests that depend on it, a training run of both packages and a comparison, all at a small size. Writes
build/machines.json, and the table of docs/machines.md as build/machines.md.

`--speed` instead tests whether the default recipe is slower than plain code at any workload of the suite; 15 minutes
per machine.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

from reference.cli.progress import waiting
from tests.machines.machines import BUILD, MACHINES, Machine

ROOT = Path(__file__).parents[2]

SPREAD = ("-n", "logical", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder")
# Tests that depend on the CPU: kernels, recipes, rounding. On fake tensors no kernel runs.
ON_CPU = (
    *("tests/optimized", "--ignore=tests/optimized/test_device_reads.py", "tests/reference/training"),
    *("tests/parity/test_parity_huggingface.py", "tests/parity/test_parity_generation.py"),
    "tests/bench/test_environment.py",
)
# Tests that depend on the system: files, encodings, terminals, the command line, workers, memory.
ON_SYSTEM = (
    *("tests/reference/cli", "tests/optimized", "tests/reference/training/test_cpu.py"),
    *("tests/bench/compare/test_compare.py", "tests/bench/timing/test_worker.py", "tests/bench/test_environment.py"),
)
OPTIONS: dict[str, tuple[str, ...]] = {"--no-tests": (), "--all-tests": ("tests",)}  # the tests to run instead

COUNTS = "tests.xml"  # how many passed

SPEED = "--speed"
NEVER_SLOWER = (
    *("-m", "pytest", "bench/suite", "-q", "-k", "test_models or nowhere_slower"),
    *("--workloads", "smoke,mini-64,mini,gpt2-128", "--contenders", "plain,optimized"),
)

TRAIN = ("train", "--corpus", "nursery", "--size", "tiny", "--steps", "200", "--eval-interval", "200")


@dataclass(frozen=True)
class Outcome:
    """The outcome of one command on one machine."""

    machine: str
    command: str
    passed: bool
    seconds: float
    tokens_per_second: float | None = None
    tests_passed: int | None = None
    why: str = ""  # the last line of output, if it failed


def commands(machine: Machine, folder: Path, tests: tuple[str, ...] | None = None) -> dict[str, tuple[str, ...]]:
    """The commands for a machine, by their column in the table; tests are those that depend on it if not given."""
    python = sys.executable
    if tests is None:
        tests = ON_CPU if "ATEN_CPU_CAPABILITY" in machine.variables else ON_SYSTEM
    found = {
        "train (reference)": (python, "-m", "reference", *TRAIN, "--out", str(folder / "readable")),
        "train (optimized)": (python, "-m", "optimized", *TRAIN, "--out", str(folder / "fast")),
        "sample": (python, "-m", "optimized", "sample", str(folder / "fast"), "--tokens", "40"),
        "compare": (
            *(python, "-m", "bench", "compare", "--size", "tiny", "--seconds", "2"),
            *("--json", str(folder / "compare.json")),
        ),
    }
    if "ATEN_CPU_CAPABILITY" in machine.variables:  # a simulated CPU: wide enough for bfloat16 to pay
        found["compare, 256 wide"] = (
            *(python, "-m", "bench", "compare", "--size", "mini", "--time", "32", "--new-tokens", "4", "--steps", "1"),
            *("--contenders", "reference", "optimized", "--seconds", "2", "--json", str(folder / "compare-256.json")),
        )
    if tests and machine.stdout:  # pytest needs standard output
        found["tests"] = (python, "-m", "pytest", "-q", *SPREAD, f"--junit-xml={folder / COUNTS}", *tests)
    return found


def run(machine: Machine, called: str, command: Sequence[str], folder: Path) -> Outcome:
    """Run a command on a simulated machine; returns its outcome."""
    one_thread = {"OMP_NUM_THREADS": machine.environment().get("OMP_NUM_THREADS", "1")}
    start = time.monotonic()
    done = machine.run(*command, cwd=ROOT, env=one_thread if called == "tests" else {})
    seconds = time.monotonic() - start
    out, errors = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
    (folder / f"{called}.log").write_text(f"{out}\n{errors}")
    log = folder / ("readable" if "reference" in called else "fast") / "log.jsonl"
    rate = rate_of(log) if called.startswith("train") and log.is_file() else None
    lines = (errors.strip() or out.strip() or "it wrote nothing").splitlines()
    if called == "tests":
        lines = out.strip().splitlines() or lines
    passed = done.returncode == 0
    if machine.columns is not None and called.startswith("compare"):  # tables; a terminal wraps text itself
        longest = max((line for line in out.splitlines() if " " in line), key=len, default="")
        if len(longest) > machine.columns:
            passed, lines = False, [f"a line of {len(longest)} columns: {longest}"]
    counted = count_passed(folder / COUNTS) if called == "tests" else None
    return Outcome(machine.name, called, passed, seconds, rate, counted, "" if passed else lines[-1])


def count_passed(counts: Path) -> int | None:
    """The number of tests that passed, from pytest's XML; None if pytest ended before it wrote that."""
    if not counts.is_file():
        return None
    suite = next(ElementTree.parse(counts).iter("testsuite"))
    return int(suite.attrib["tests"]) - sum(int(suite.attrib[kind]) for kind in ("errors", "failures", "skipped"))


def rate_of(log: Path) -> float | None:
    """The median tokens/s in a run's log."""
    rates = [json.loads(line).get("tokens_per_second") for line in log.read_text().splitlines()]
    known = sorted(rate for rate in rates if rate)
    return known[len(known) // 2] if known else None


def table(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table with a row for each machine."""
    columns = list(dict.fromkeys(outcome.command for outcome in outcomes))
    rows = [f"| machine | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for name in dict.fromkeys(outcome.machine for outcome in outcomes):
        found = {outcome.command: outcome for outcome in outcomes if outcome.machine == name}
        rows.append(f"| {name} | {' | '.join(cell(found.get(column)) for column in columns)} |")
    return "\n".join(rows)


def cell(outcome: Outcome | None) -> str:
    """A cell: failed or not, seconds, tokens/s or number of tests."""
    if outcome is None:
        return "n/a"
    words = [f"{outcome.seconds:.0f} s"]
    if outcome.tokens_per_second:
        words.append(f"{outcome.tokens_per_second:,.0f} tokens/s")
    if outcome.tests_passed is not None:
        words.append(f"{outcome.tests_passed} passed")
    return ("" if outcome.passed else "**failed**, ") + ", ".join(words)


def others(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes of earlier calls, for other commands and machines."""
    file = BUILD / "machines.json"
    known = {(one.machine, one.command) for one in outcomes}
    found = [Outcome(**one) for one in json.loads(file.read_text())] if file.is_file() else []
    return [one for one in found if (one.machine, one.command) not in known]


def main(names: Sequence[str]) -> int:
    """Run the commands on the named machines, or on all. Returns 1 if one failed, 2 for an unknown machine."""
    tests = next((OPTIONS[name] for name in names if name in OPTIONS), None)
    speed = SPEED in names
    names = [name for name in names if name not in OPTIONS and name != SPEED]
    for name in names:
        if name not in MACHINES:
            print(f"error: unknown machine {name!r}: give some of {', '.join(MACHINES)}", file=sys.stderr)
            return 2
    BUILD.mkdir(exist_ok=True)
    outcomes = []
    for name in names or MACHINES:
        machine = MACHINES[name]
        print(f"\n{name}: {machine.description}", flush=True)
        if not machine.possible():
            print("  can be simulated on x86-64 alone: left out")
            continue
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        asked = commands(machine, folder, tests)
        if speed:
            asked = {"never slower": (sys.executable, *NEVER_SLOWER, "--json", str(BUILD / f"speed-{name}.json"))}
        for called, command in asked.items():
            with waiting(f"{name}: {called}"):
                outcome = run(machine, called, command, folder)
            outcomes.append(outcome)
            print(f"  {called:<18} {cell(outcome)}", flush=True)
            if not outcome.passed:
                print((folder / f"{called}.log").read_text()[-4000:], file=sys.stderr, flush=True)
    every = [*others(outcomes), *outcomes]
    (BUILD / "machines.json").write_text(json.dumps([asdict(outcome) for outcome in every], indent=1) + "\n")
    (BUILD / "machines.md").write_text(table(every) + "\n")
    print(f"\n{table(outcomes)}")
    failed = [outcome for outcome in outcomes if not outcome.passed]
    passed = len(outcomes) - len(failed)
    print(f"\n{passed} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
