"""The file that a comparison leaves behind.

JSON, an object with these keys. Times are in seconds, memory in bytes, errors relative (see
bench/contenders/verify.py). A number that is not finite is null, so that any reader of JSON can read it.

    kind            "compare"
    version         VERSION; a reader refuses another
    started         local time, ISO 8601
    seconds         how long everything took
    arguments       the command's options, complete
    environment     see bench/environment.py; its `identity` is what tells kinds of machines apart
    workload        size, config, parameters, batch, time, precision, device, new_tokens,
                    flops: of the matrix products of one {forward, training_step}
    proof           a list of checks: question, precision, weights, shape [B, T], gradient_shape [B, T], steps, oracle
    contenders      a list, in the order they were timed:
      name, description, precision (bfloat16 for one that computes in it although float32 is asked for),
      unlike (why it is known to be another function, in words; "" if it is the same, or should be)
      proof         passed; checks: a list like the one above, null where the check was not asked of it, of
                      top1      share of positions where the most probable token is the oracle's
                      over      largest error / budget
                      worst     for each quantity (logits, loss, gradient, trajectory, update) that was measured, the
                                measurement furthest beyond or nearest to its budget:
                                name, error, largest (absolute difference), allowed (null: not judged)
                      failures  what is beyond its budget, furthest first: quantity, name, error, largest, allowed
      speed         ONLY for a contender whose proof passed: for each of forward, training_step and generation
                      first (seconds of a call before the rounds, which compiles and allocates), and as in
                      bench/suite/result_file.py tokens_per_second, spread, seconds, rounds and ratios
      memory        ONLY with speed: peak of its process above baseline (interpreter and libraries), method: resident
                    or device
    left_out        lines: who was not there, for want of a package
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

VERSION = 4
HOME = Path("runs", "compare")  # in the current directory

Result = dict[str, Any]


def path_for(started: datetime, asked: Path | None) -> Path:
    """Where a result goes: where the user wants it, or to a file named by its time.

    Makes the folder before any work is done. Raises ValueError, one line, if it cannot be made or written to.
    """
    path = HOME / f"{started:%Y%m%d-%H%M%S}.json" if asked is None else asked
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {str(path.parent)!r}: {error.strerror}") from None
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"cannot write into the folder {str(path.parent)!r}: give another --json")
    return path
