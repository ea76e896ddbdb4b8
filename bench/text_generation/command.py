"""`python -m bench compare --generate FILE.py:generate`: test a text generator and print the report."""

from __future__ import annotations

from traceback import print_exception

from bench.settings import CompareGenerate
from bench.text_generation.audit import audit
from bench.text_generation.report import report
from bench.user_code.command import finish, tested
from bench.user_code.load_function import load_function


def compare_generate(options: CompareGenerate) -> int:
    """Test a text generator and print the report.

    Returns 0 for the same generator, 1 for a difference. Raises ValueError, one line, if it cannot be tested.
    """
    options.check()
    with tested(options, stages=5) as tell:
        generate = load_function(options.generate, "generate", "generate")
        found = audit(generate, name=options.generate, seed=options.seed, tell=tell)
    for one in (found.raises, *found.unjudged) if options.traceback else ():
        if one is not None:
            print_exception(one.error)
    return finish(report(found), options, found.to_json())
