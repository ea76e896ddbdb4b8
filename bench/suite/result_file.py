"""The file that a run of the suite leaves behind, one for each device: enough to show all of it without another one.

JSON, an object with these keys. Times are in seconds, memory in bytes, rates per second. A number that is not known is
null and never 0.

    kind         "suite"
    version      VERSION; a reader refuses another
    started      local time, ISO 8601
    seconds      how long everything took, without the time for which it was stopped
    resumed      local times at which it was gone on with after it had been stopped; mostly empty
    arguments    quick, device, workloads, contenders, threads: what was asked for
    environment  see bench/environment.py; its `identity` names the file, and `diff` compares none of two identities
    roofline     null if nothing was timed; else rates, bandwidths, ceilings by precision and bandwidth, each {measured,
                 data_sheet}, and floors: workload, scenario, task, precision, operations, bytes, seconds_of_operations,
                 seconds_of_bytes, seconds (see bench/roofline/roofline.py)
    parity       a list: size (of bench/workloads/scenarios.py's; "ladder" for the ablation, "scaling..." for the
                 curves), contender, passed, over (largest error / budget by precision), logits (relative L2),
                 shape [B, T], why (what failed, in words; "" if nothing), unlike (of a
                 contender that is known to be another function, why; else "")
    cases        a list, one for each number of a whole model. ONLY for contenders with a parity pass.
      name         workload/scenario/task/contender, unique; each of these also by itself, and the size
      description, precision (what it computes in), batch, time or prompt and new
      tokens       of one call; tokens_per_second (from the median), spread (half the distance between the quartiles, of
                   the median), seconds (every sample; entry i of all that ran together is from round i), rounds (how
                   many of these each launch of the processes has, one after the other), first (a call before the
                   rounds, which allocates, and compiles what no task before it has), compile {graphs, seconds} so far
      flops_per_token, flops_per_second; mfu {measured, data_sheet}: the share of that ceiling
      floor        seconds at best, and the share of them in the median: 1 is the floor; null if not measured
      memory       peak above baseline (interpreter and libraries), method: resident or device
      parity       over, logits, shape: as above
      ratios       by the contender that they are to: how many times as fast: median, low and high of the interval that
                   holds it with this confidence (0.95, less of fewer than six rounds or launches)
    components   a list: name (workload/component, unique), component, workload, group, description, unit, amount (of
                 one call), per_second, spread, seconds (of one call in each sample), calls (in a sample), memory (null
                 in a quick run, and where nothing was seen), error (relative L2 to the readable one; of learned
                 tokenizers: of the number of tokens of a text); ratios, as above, to the first of its group, only if
                 several were timed
    ablation     a list, one for each rung, in ladder order: rung, claim, loses, workload, batch, time, in_full, and for
                 each task alone, leave_one_out, cumulative: contender, ratio, tokens_per_second, spread, rounds,
                 memory, compile (of all at the same time); null where one of the two has no parity pass. And parity:
                 largest error / budget by precision
                   alone          PLAIN with the rung against PLAIN
                   leave_one_out  the best recipe of the device against itself without the rung; one that it lacks is
                                  added to it instead
                   cumulative     the ladder up to it against PLAIN
    scaling      a list of points: axis (time, batch, depth, width, vocabulary), value, contender, batch, time, config,
                 tokens_per_second, spread, memory, seconds, rounds, ratios, parity (largest error / budget by
                 precision)
    aa_test      a contender against itself: contender, workload, task, ratio, and launches: the ratio of each launch;
                 null if not measured
    left_out     lines: what was not measured, and why
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from bench.environment import identity_in_words
from bench.journal import write

KIND, VERSION = "suite", 4
KEYS = {
    *("kind", "version", "started", "seconds", "arguments", "environment", "roofline", "parity", "cases", "components"),
    *("ablation", "scaling", "aa_test", "left_out"),
}
HOME = Path(__file__).parents[1] / "results"  # one file for each device, of a whole run; committed
ELSEWHERE = Path("runs", "bench")  # what is not whole, in the current directory

Result = dict[str, Any]


def slug(environment: dict[str, Any]) -> str:
    """The name of a device's file, without its ending: what kind of device, and its identity."""
    words = f"{environment['device_kind']} {identity_in_words(environment['identity'])}".lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")


def path_for(result: Result, whole: bool) -> Path:
    """Where the result of a run goes: a whole one replaces the file of its device, another one goes elsewhere."""
    name = slug(result["environment"])
    return HOME / f"{name}.json" if whole else elsewhere(result["environment"], result["started"])


def elsewhere(environment: dict[str, Any], started: str) -> Path:
    """Where the result goes of a run that is not whole, or not yet."""
    return ELSEWHERE / f"{slug(environment)}-{re.sub(r'[^0-9]', '', started[:19])}.json"


def save(result: Result, path: Path) -> None:
    """Write a result, whole or not at all. Raises ValueError, one line, if the disk refuses it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, result)
    except OSError as error:
        raise ValueError(f"cannot write {str(path)!r}: {error.strerror}") from None


def read(path: Path) -> Result:
    """Read a result. Raises ValueError, one line, for what is none: cut short, of another kind or version."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        whole = "is cut short or damaged" if os.path.getsize(path) else "is empty"
        raise ValueError(f"{path}: {whole}, not a result of the suite ({error})") from None
    if not isinstance(result, dict) or result.get("kind") != KIND:
        kind = repr(result.get("kind")) if isinstance(result, dict) else "no object"
        raise ValueError(
            f"{path}: is no result of the suite (kind {kind}, not {KIND!r}): make one by nox -s bench in a checkout"
        )
    if result.get("version") != VERSION:
        raise ValueError(
            f"{path}: is of version {result.get('version')!r}, this program reads {VERSION}: "
            "measure again by nox -s bench"
        )
    missing = sorted(KEYS - result.keys())
    if missing:
        raise ValueError(f"{path}: lacks {', '.join(missing)}: measure again by nox -s bench in a checkout")
    return result
