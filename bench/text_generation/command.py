"""`python -m bench compare --generate FILE.py:generate`: test a text generator and print the report."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from functools import partial
from traceback import print_exception
from typing import Any

from bench.candidate.command import traceback_of
from bench.candidate.load_function import load_function
from bench.environment import threads
from bench.formatting import print_report
from bench.journal import write
from bench.settings import CompareGenerate
from bench.text_generation.audit import Audit, audit
from bench.text_generation.report import show, text, verdict
from reference.cli.progress import Stages

STAGES = 5


def compare_generate(options: CompareGenerate) -> int:
    """Test a text generator and print the report.

    Returns 0 for the same generator, 1 for a difference. Raises ValueError, one line, if it cannot be tested.
    """
    options.check()
    with traceback_of(options.traceback):
        with redirect_stdout(sys.stderr):
            generate = load_function(options.generate, "generate", "generate")
        with Stages(STAGES) as progress, threads(options.threads):
            found = audit(generate, name=options.generate, seed=options.seed, tell=progress.stage)
    for one in (found.raises, *found.unjudged) if options.traceback else ():
        if one is not None:
            print_exception(one.error)
    print_report(partial(show, found))
    if options.json is not None:
        write(options.json, result(found))
    if options.html is not None:
        from bench.candidate.page import save, text_page  # Jinja2 takes a tenth of a second

        about = "texts of a small model, against reference/sampling.py in float64"
        save(text_page(found.name, about, verdict(found), found.same, text(found)), options.html)
    return 0 if found.same else 1


def result(found: Audit) -> dict[str, Any]:
    """The result as plain values, for --json."""
    return {
        "kind": "text_generation",
        "generate": found.name,
        "same": found.same,
        "texts": [
            {
                "title": one.probe.title,
                "prompts": one.probe.prompts,
                "new_tokens": one.probe.new,
                "temperature": one.probe.settings.temperature,
                "top_k": one.probe.settings.top_k,
                "top_p": one.probe.settings.top_p,
                "same": one.same,
                "yours": one.rows,
                "reference": one.expected or one.rows,
                "draw": None if one.draw is None else str(one.draw),
                "p_value": one.fits,
            }
            for one in found.outcomes
        ],
        "causes": [
            {
                "mistakes": [mistake.what for mistake in one.mistakes],
                "remedies": [mistake.remedy for mistake in one.mistakes],
                "by_distribution": one.by_distribution,
            }
            for one in found.causes
        ],
        "unjudged": {one.title: one.why for one in found.unjudged},
        "notes": found.notes,
    }
