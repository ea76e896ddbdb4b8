"""Learning byte pairs: the lesson in plain Python against Hugging Face's tokenizers in Rust.

Nothing may import the lessons, so this one runs in its own process, which times both in turn.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import reference
from bench.suite.component_timing import row_of
from bench.suite.session import LeftOut
from bench.timing.fresh_process import Call
from bench.timing.ratios import ratio

TARGET = f"{reference.__name__}.lessons.bpe_speed:measured"
GROUP = "bpe"
NAMES = {"lesson": f"{GROUP}, lesson", "tokenizers": f"{GROUP}, tokenizers"}
DESCRIPTIONS = {
    "lesson": "reference/lessons/bpe.py, plain Python",
    "tokenizers": "Hugging Face's tokenizers, in Rust, one thread",
}
# The library breaks ties between equally common pairs in another order. So merges differ a little, and the numbers of
# tokens may differ by this share.
ALLOWED = 0.005


def measure() -> dict[str, Any]:
    """Time both in the lesson's process. Raises LeftOut, one line, if it fails."""
    try:
        found: dict[str, Any] = Call(TARGET, None, "learning byte pairs").result(timeout=300.0)
    except RuntimeError as error:
        raise LeftOut(f"{GROUP}: {error}: left out") from None
    return found


def error_of(found: dict[str, Any]) -> float:
    """Relative difference of the numbers of tokens."""
    ours, theirs = found["tokens"]["lesson"], found["tokens"]["tokenizers"]
    return abs(ours - theirs) / theirs


def rows(found: dict[str, Any], workload: str) -> list[dict[str, Any]]:
    """Both as components of bench/suite/result_file.py, with ratios to the lesson."""
    base = found["seconds"]["lesson"]
    return [
        {
            **row_of(
                NAMES[name],
                workload,
                GROUP,
                f"{found['merges']:,} merges: {DESCRIPTIONS[name]}",
                "characters",
                found["characters"],
                seconds,
            ),
            "error": error_of(found),
            "ratios": {NAMES["lesson"]: asdict(ratio(base, seconds))},
        }
        for name, seconds in found["seconds"].items()
    ]
