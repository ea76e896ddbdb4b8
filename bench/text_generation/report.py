"""The result of testing a generator."""

from __future__ import annotations

from typing import Any

from bench.formatting import plain_table
from bench.text_generation.audit import Audit, Outcome
from bench.text_generation.known_mistakes import RAISES
from bench.text_generation.model import CONFIG
from bench.user_code.report import Report

MOST = 4  # causes that are listed


def report(found: Audit) -> Report:
    """The report of an audit."""
    return Report(
        found.name,
        "against reference/sampling.py in float64",
        f"a GPT with {CONFIG.n_layer} layers, width {CONFIG.n_embd}, block {CONFIG.block_size}, vocabulary "
        f"{CONFIG.vocab_size}; random weights",
        verdict(found),
        found.same,
        lambda width: {
            "First difference": first_difference(found),
            "Likely cause": causes(found),
            "Not judged": unjudged(found),
        },
        table(found),
        notes=found.notes,
    )


def tokens(outcomes: list[Outcome]) -> int:
    """The number of tokens in some probes."""
    return sum(len(row) for one in outcomes for row in one.rows)


def verdict(found: Audit) -> str:
    """The result in one sentence."""
    besides = f" Not judged: {'; '.join(one.title for one in found.unjudged)}." if found.unjudged else ""
    if found.raises is not None and found.same_texts:
        equal = sum(one.fits is None for one in found.outcomes)
        return f"Not the same generator: it raises at temperature 0; {equal} other texts are equal.{besides}"
    if found.raises is not None:
        besides = f" It raises at temperature 0.{besides}"
    if found.same:
        by_token = [one for one in found.outcomes if one.fits is None]
        drawn = "" if len(by_token) == len(found.outcomes) else "; drawn tokens by their distribution"
        return f"The same generator: {tokens(by_token)} tokens in {len(by_token)} texts are equal{drawn}.{besides}"
    if not found.wrong:
        return f"Not the same generator: two seeds give the same text.{besides}"
    titles = list(dict.fromkeys(one.probe.title for one in found.wrong))
    if len(found.wrong) == len(found.outcomes):
        return f"Not the same generator: every text differs.{besides}"
    others = f"; {len(titles) - 1} more" if len(titles) > 1 else ""
    share = f"{len(found.wrong)} of {len(found.outcomes)}"
    return f"Not the same generator: {share} texts differ: {titles[0]}{others}.{besides}"


def table(found: Audit) -> Any:
    """A row for each probe; those of one title share one."""
    rows = plain_table()
    for name in ("text", "prompts", "new tokens", "result"):
        rows.add_column(name, no_wrap=True, justify="right" if name == "new tokens" else "left")
    titles = dict.fromkeys(one.probe.title for one in found.outcomes)
    for title in titles:
        group = [one for one in found.outcomes if one.probe.title == title]
        right = all(one.same for one in group)
        lengths = sorted({len(prompt) for prompt in group[0].probe.prompts})
        span = str(lengths[0]) if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        rows.add_row(
            title,
            f"{sum(len(one.probe.prompts) for one in group)} of {span}",
            str(group[0].probe.new),
            result(group),
            style="" if right else "red",
        )
    return rows


def result(group: list[Outcome]) -> str:
    """What became of some probes."""
    if all(one.same for one in group):
        fits = [one.fits for one in group if one.fits is not None]
        return f"distribution fits (p {min(fits):.2g})" if fits else "equal"
    fits = [one.fits for one in group if one.fits is not None]
    return f"distribution DIFFERS (p {min(fits):.0e})" if fits and min(fits) < 1e-6 else "DIFFERS"


def first_difference(found: Audit) -> list[str]:
    """Probe, row and number of the first token that differs, and the rows."""
    if not found.wrong:
        return []
    one = found.wrong[0]
    row, number = one.first
    yours, right = one.rows[row], one.expected[row]
    where = f"{one.probe.title}: new token {number} of row {row}, both counted from 0"
    if number >= min(len(yours), len(right)):
        where = f"{one.probe.title}: row {row} has {len(yours)} new tokens, not {len(right)}"
    return [where, f"yours      {listed(yours)}", f"reference  {listed(right)}"]


def listed(row: list[int]) -> str:
    """The first tokens of a row."""
    return " ".join(f"{token:>2}" for token in row[:16]) + (" ..." if len(row) > 16 else "")


def causes(found: Audit) -> list[str]:
    """The lines on causes."""
    if found.same:
        return []
    lines = []
    if found.raises is not None:
        lines += [RAISES.what, f"  it raises {found.raises.why}", f"  fix: {RAISES.remedy}"]
    if found.same_texts:
        return lines
    if not found.explanations:
        seed = ["it seeds its random numbers itself: two seeds give the same text"] if found.constant else []
        return lines + (seed or ["no known mistake, nor two at once, explains the difference"])
    for number, one in enumerate(found.explanations[:MOST]):
        start = "or: " if number else ""
        lines.append(start + "; and ".join(mistake.what for mistake in one.mistakes))
        lines.append(f"  {one.seen or evidence(found, one.by_distribution)}")
        lines += [f"  fix: {mistake.remedy}" for mistake in one.mistakes]
    if len(found.explanations) > MOST:
        lines.append(f"and {len(found.explanations) - MOST} more, which these texts do not tell apart")
    return lines


def evidence(found: Audit, by_distribution: bool) -> str:
    """Why a cause is believed."""
    change = "the reference generator with this change gives"
    if by_distribution:
        return f"{change} every greedy text, and the distribution of drawn tokens"
    return f"{change} all {tokens(found.outcomes)} tokens of {len(found.outcomes)} texts"


def unjudged(found: Audit) -> list[str]:
    """The lines on probes in which the function raised."""
    lines = []
    for one in found.unjudged:
        lines.append(f"{one.title}: {one.why}")
        if one.advice:
            lines.append(f"  {one.advice}")
    return lines
