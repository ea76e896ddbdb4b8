"""Learning byte pairs: the lesson in plain Python beside Hugging Face's tokenizers in Rust.

Nothing imports the lessons, so this one runs in a process of its own, and takes the times of both in turn.
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
GROUP = "byte pairs"
NAMES = {"lesson": f"{GROUP}, lesson", "tokenizers": f"{GROUP}, tokenizers"}
DESCRIPTIONS = {
    "lesson": "reference/lessons/bpe.py, plain Python",
    "tokenizers": "Hugging Face's tokenizers, in Rust, one thread",
}
# Of pairs that are as common, the library takes another one first: so what is learned differs a little, and the text
# is cut into as many tokens to within this share.
ALLOWED = 0.005


def measure() -> dict[str, Any]:
    """What the lesson says of both. Raises LeftOut, one line, where it cannot say it."""
    try:
        found: dict[str, Any] = Call(TARGET, None, "learning them").result(timeout=300.0)
    except RuntimeError as error:
        raise LeftOut(f"{GROUP}: {error}: left out") from None
    return found


def error_of(found: dict[str, Any]) -> float:
    """How far apart the numbers of tokens are, as a share."""
    ours, theirs = found["tokens"]["lesson"], found["tokens"]["tokenizers"]
    return abs(ours - theirs) / theirs


def rows(found: dict[str, Any], workload: str) -> list[dict[str, Any]]:
    """Both as components, as `bench.suite.result_file` describes them, with how many times as fast as the lesson."""
    base = found["seconds"]["lesson"]
    return [
        {
            **row_of(
                NAMES[who],
                workload,
                GROUP,
                f"{found['merges']:,} merges: {DESCRIPTIONS[who]}",
                "characters",
                found["characters"],
                seconds,
            ),
            "error": error_of(found),
            "ratios": {NAMES["lesson"]: asdict(ratio(base, seconds))},
        }
        for who, seconds in found["seconds"].items()
    ]
