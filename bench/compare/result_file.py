"""The result file of a comparison.

A JSON object with these keys. Times are in seconds, memory in bytes, errors relative (see bench/contenders/verify.py).
NaN and infinity are null, as JSON has neither.

    kind            "compare"
    version         VERSION; a reader refuses any other
    started         local time, ISO 8601
    seconds         of the whole command
    arguments       all options of the command
    environment     see bench/environment.py; `identity` distinguishes kinds of machines
    workload        size, config, parameters, batch, time, precision, device, new_tokens,
                    flops: of the matrix products of one {forward, training_step}
    proof           a list of checks: question, precision, weights, shape [B, T], gradient_shape [B, T], steps, oracle
    contenders      a list, in order of timing:
      name, description, precision (bfloat16 if it computes in that even for float32),
      unlike (why it is another function, if that is known; else "")
      proof         passed; checks: a list like `proof` above, null if the check does not apply, of
                      top1      share of positions with the oracle's most probable token
                      over      largest error / budget
                      worst     for each measured quantity (logits, loss, gradient, trajectory, update) the measurement
                                with the largest error / budget:
                                name, error, largest (absolute difference), allowed (null: no budget)
                      failures  measurements over their budget, largest error / budget first: quantity, name, error,
                                largest, allowed
      speed         ONLY if the proof passed: for each of forward, training_step and generation
                      first (seconds of the first call, which compiles and allocates), and as in
                      bench/suite/result_file.py tokens_per_second, spread, seconds, rounds and ratios
      memory        ONLY with speed: peak of the process, above baseline (interpreter and libraries), method: resident
                    or device
    left_out        lines: contenders left out because a package is missing, and rungs left out of `optimized`
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
    """The path of a result: --json, or a file named by the time.

    Makes the folder before any work is done. Raises ValueError, one line, if the folder cannot be made or written to.
    """
    path = HOME / f"{started:%Y%m%d-%H%M%S}.json" if asked is None else asked
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {str(path.parent)!r}: {error.strerror}") from None
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"cannot write into the folder {str(path.parent)!r}: give another --json")
    return path
