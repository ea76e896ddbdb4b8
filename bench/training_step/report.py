"""The result of testing a training step."""

from __future__ import annotations

from typing import Any

from bench.formatting import digits, plain_table, scientific
from bench.training_step.audit import BUDGET, Audit, Explanation, Run
from bench.training_step.record import STEPS
from bench.user_code.report import Report
from bench.user_code.small_gpt import CONFIG

TITLES = {"equal": "micro-batches of equal size", "unequal": "micro-batches of unequal size"}


def report(found: Audit) -> Report:
    """The report of an audit."""
    h = found.given
    return Report(
        found.name,
        "against reference/training/step.py in float64",
        f"{STEPS} steps of a GPT with {CONFIG.n_layer} layers, width {CONFIG.n_embd}; learning rate "
        f"{h.learning_rate:g}, {h.warmup} steps of warm-up, {h.floor:g} after step {h.total}; weight decay "
        f"{h.weight_decay:g}, betas {h.betas}, eps {h.eps:g}, clip {h.clip:g}"
        + (f"; {found.ranks} ranks" if found.ranks > 1 else ""),
        verdict(found),
        found.same,
        lambda width: {
            "First difference": first_difference(found),
            "Likely cause": causes(found),
            "Learning rates": rates(found, width),
        },
        table(found),
        notes=found.notes,
    )


def verdict(found: Audit) -> str:
    """The result in one sentence."""
    if found.same:
        return f"The same training step: {STEPS} updates agree to {digits(max(max(r.errors) for r in found.runs))}."
    wrong = next(run for run in found.runs if not run.same)
    step = wrong.first_wrong
    if step is None:
        return f"Not the same training step: after step {wrong.first_apart} the ranks have different weights."
    only = " where micro-batches differ in size" if wrong is not found.runs[0] else ""
    return (
        f"Not the same training step{only}: the update of step {step} is off by {scientific(wrong.errors[step])}, "
        f"{scientific(wrong.errors[step] / BUDGET)} times its budget."
    )


def table(found: Audit) -> Any:
    """A row for each run."""
    rows = plain_table()
    rows.add_column("updates of the weights", no_wrap=True)
    for name in ("error", "budget", "error/budget"):
        rows.add_column(name, justify="right", no_wrap=True)
    for run in found.runs:
        error = max(run.errors)
        over = error / BUDGET
        words = TITLES[run.title] if len(run.recorded.counts) > 1 else "one batch"
        rows.add_row(
            words,
            scientific(error),
            scientific(BUDGET),
            f"{over:.3g} FAILED" if over > 1.0 or over != over else f"{over:.2g}" + " FAILED" * (not run.same),
            style="" if run.same else "red",
        )
    return rows


def first_difference(found: Audit) -> list[str]:
    """Step and tensor of the first difference."""
    wrong = next((run for run in found.runs if not run.same), None)
    if wrong is None:
        return []
    lines = []
    if wrong.first_wrong is not None:
        lines.append(f"step {wrong.first_wrong}, counted from 0; the largest error is in {wrong.worst}")
    if wrong.first_apart is not None:
        far = scientific((wrong.recorded.apart or [])[wrong.first_apart])
        lines.append(f"after step {wrong.first_apart} the ranks have different weights, by {far} of the update")
    if wrong.never_moved:
        lines.append(f"never updated: {', '.join(wrong.never_moved)}")
    return lines


def explained(found: Audit) -> list[tuple[Run, Explanation]]:
    """The explanations, each once: those of equal micro-batches that hold for unequal ones too come first."""
    kept: dict[tuple[object, ...], tuple[Run, Explanation]] = {}
    wrong = [run for run in found.runs if not run.same]
    for run in wrong:
        for one in run.explanations:
            kept.setdefault((one.mistakes, one.schedule), (run, one))
    everywhere = [
        key for key in kept if all(any((x.mistakes, x.schedule) == key for x in run.explanations) for run in wrong)
    ]
    return [kept[key] for key in everywhere or kept]


def causes(found: Audit) -> list[str]:
    """The lines on causes."""
    if found.same:
        return []
    pairs = explained(found)
    if not pairs:
        return ["no known mistake, nor two at once, explains the difference"]
    lines = []
    for number, (_, one) in enumerate(pairs):
        start = "or: " if number else ""
        words = [f"{mistake.what}" for mistake in one.mistakes]
        words += [one.schedule] if one.schedule else []
        words += [f"{name} is never updated" for name in one.frozen]
        lines.append(start + "; and ".join(words))
        lines.append(f"  the reference step with this change gives all {STEPS} updates, to {scientific(one.error)}")
        lines += [f"  fix: {mistake.remedy}" for mistake in one.mistakes]
    return lines


def rates(found: Audit, width: int) -> list[str]:
    """Learning rates of the first 8 steps, if they are not those of the schedule; as many steps in a row as fit."""
    odd = next((one for _, one in explained(found) if one.schedule), None)
    if odd is None:
        return []
    right = [found.given.rate(step) for step in range(STEPS)]
    head, cell = len("  reference "), len(" 1.00e-03")  # a negative rate is one wider
    fit = max(1, min(8, (width - head) // cell))
    lines = []
    for start in range(0, 8, fit):
        steps = range(start, min(start + fit, 8))
        lines += [
            "step       " + " ".join(f"{step:>8}" for step in steps),
            "yours      " + " ".join(f"{odd.rates[step]:>8.2e}" for step in steps),
            "reference  " + " ".join(f"{right[step]:>8.2e}" for step in steps),
        ]
    return lines
