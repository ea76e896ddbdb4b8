"""`python -m bench compare --evaluate FILE.py:evaluate`: test a function that measures the validation loss."""

from __future__ import annotations

from bench.evaluation.audit import audit
from bench.evaluation.completions import audit_choices, chooses
from bench.evaluation.report import report
from bench.settings import CompareEvaluation
from bench.user_code.command import finish, tested
from bench.user_code.load_function import load_function


def compare_evaluation(options: CompareEvaluation) -> int:
    """Test a function that measures the validation loss, and print the report.

    Returns 0 for the same loss, 1 for another. Raises ValueError, one line, if it cannot be tested.
    """
    options.check()
    with tested(options, stages=2) as tell:
        evaluate = load_function(options.evaluate, "evaluate", "evaluation")
        test = audit_choices if chooses(evaluate) else audit
        found = test(evaluate, name=options.evaluate, seed=options.seed, tell=tell)
    return finish(report(found), options, found.to_json())
