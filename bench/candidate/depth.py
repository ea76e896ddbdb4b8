"""Measure every activation of a candidate along the depth: its nearest tensor's distance from the reference's."""

from __future__ import annotations

from bench.candidate.adapter import Candidate
from bench.candidate.diagnose import observe
from bench.candidate.examination import Depth
from bench.candidate.locate import implied
from bench.candidate.search_causes import Probe, Search
from bench.user_code.refused import Refused


def errors_along(candidate: Candidate, probe: Probe, precision: str) -> list[Depth]:
    """The activations in order of execution; none if the candidate raises while it is recorded.

    Args:
        candidate: with the probe's weights
    """
    try:
        seen = observe(candidate, probe, precision, leniency=1.0)
    except Refused:
        return []
    runs = Search(candidate.config, [seen]).runs(seen, ())
    assert runs is not None, "no mistake is applied"
    nearest = {name: next(iter(runs.matches(name)), None) for name in runs.nodes}
    matched = [name for name, match in nearest.items() if match is not None and match.error <= runs.allowed]
    right = implied(matched, runs.nodes)
    found: list[Depth] = []
    differs = False
    for name, node in runs.nodes.items():
        match = nearest[name]
        if name in right:
            state = "agrees" if name in matched else "hidden"
        else:
            state, differs = "differs" if differs else "first", True
        error = None if match is None or state == "hidden" else match.error
        found.append(Depth(name, node.title, error, state))
    return found
