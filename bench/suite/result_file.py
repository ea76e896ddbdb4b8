"""The result file of `nox -s bench`, one per device, and of `nox -s compare`: everything that was measured.

A JSON object with these keys. Times are in seconds, memory in bytes, rates per second. An unknown number is null, never
0.

    kind         "suite" or "compare"
    version      VERSION; a reader refuses any other
    started      local time, ISO 8601
    seconds      of the run, without the time while it was stopped
    resumed      local times at which a stopped run continued; usually empty
    arguments    of the suite: quick, device, workloads, contenders, threads; of compare: all its options
    workloads    a list: name, size, config, parameters, batch, time, precision (that was asked for)
    environment  see bench/environment.py; `identity` names the file, and `diff` refuses results of two identities
    roofline     null if no model was timed; else rates, bandwidths, ceilings by precision and bandwidth (each
                 {measured, data_sheet}), and floors: workload, scenario, task, precision, operations, bytes,
                 seconds_of_operations, seconds_of_bytes, seconds (see bench/roofline/roofline.py)
    parity       a list: size (a model's size; "ladder" for the ablation, "scaling..." for the curves), contender,
                 passed, over (largest error / budget by precision), logits (relative L2), shape [B, T], why (what
                 failed, in words; else ""), unlike (why it is another function, if that is known; else "")
      checks     a list (empty in a result that was converted from version 4): question, precision, weights, shape and
                 gradient_shape [B, T], steps, oracle; top1 (share of positions with the oracle's most probable token),
                 over (largest error / budget)
        worst    for each quantity (logits, loss, gradient, trajectory, update) the measurement with the largest error /
                 budget: quantity, name, error (relative L2), largest (absolute difference), allowed (null: no budget)
        failures measurements over their budget, largest error / budget first, as in worst
    cases        a list, one for each number of a whole model. ONLY for contenders with a parity pass.
      name         workload/scenario/task/contender, unique; also each of these by itself, and the size
      description, precision (of the contender), batch, time or prompt and new
      tokens       per call; tokens_per_second (from the median), spread (half the interquartile range / median),
                   seconds (all samples; entry i of all that ran together is from round i), rounds (in each launch;
                   seconds has the launches one after the other), first (the first call, which allocates, and compiles
                   what earlier tasks have not), compile {graphs, seconds} so far
      flops_per_token, flops_per_second; mfu {measured, data_sheet}: the share of that ceiling; null if not measured
      floor        seconds, the least time; share, that / the median: 1 is the floor; null if not measured
      memory       peak above baseline (interpreter and libraries), method: resident or device
      parity       over, logits, shape: as above
      ratios       by base: time of the base / time of the contender, above 1 is faster: median, and low and high of its
                   interval, with confidence (0.95, less with fewer than six rounds or launches)
    components   a list: name (workload/component, unique), component, workload, group, description, unit, amount (per
                 call), per_second, spread, seconds (per call, for each sample), calls (in a sample), memory (null in a
                 quick run, or if none was measured), error (relative L2 to the readable one; for learned tokenizers,
                 the relative difference of the numbers of tokens); ratios, as above, to the group's first component,
                 only if several were timed
    ablation     a list, one for each rung, in ladder order: rung, claim, loses, workload, batch, time, in_full, in_best
                 and parity (largest error / budget by precision); tasks: for each task alone, leave_one_out,
                 cumulative: contender, ratio, tokens_per_second, spread, rounds, memory, compile; null if one of the
                 two recipes has no parity pass
                   alone          PLAIN with the rung against PLAIN
                   leave_one_out  the best recipe of the device with the rung against the same without it
                   cumulative     the ladder up to the rung against PLAIN
    scaling      a list of points: axis (time, batch, depth, width, vocabulary), value, contender, batch, time, config,
                 tokens_per_second, spread, memory, seconds, rounds, ratios, parity (largest error / budget by
                 precision)
    aa_test      a contender timed twice: contender, workload, task, ratio, and launches: the ratio of each launch; null
                 if not measured
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

KINDS = {"suite": "bench", "compare": "compare"}  # the nox session that makes each
VERSION = 5
KEYS = {
    *("kind", "version", "started", "seconds", "arguments", "environment", "workloads", "roofline", "parity", "cases"),
    *("components", "ablation", "scaling", "aa_test", "left_out"),
}
HOME = Path(__file__).parents[1] / "results"  # complete runs, one file per device; committed
ELSEWHERE = Path("runs", "bench")  # incomplete runs, in the current directory

Result = dict[str, Any]


def slug(environment: dict[str, Any]) -> str:
    """The name of a device's file without suffix: its kind and identity."""
    words = f"{environment['device_kind']} {identity_in_words(environment['identity'])}".lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")


def path_for(result: Result, whole: bool) -> Path:
    """The path of a run of the suite. A complete run replaces its device's file; another goes elsewhere."""
    name = slug(result["environment"])
    return HOME / f"{name}.json" if whole else elsewhere(result["environment"], result["started"])


def elsewhere(environment: dict[str, Any], started: str) -> Path:
    """The path of an incomplete run's result."""
    return ELSEWHERE / f"{slug(environment)}-{re.sub(r'[^0-9]', '', started[:19])}.json"


def make_folder(path: Path) -> None:
    """Make a result's folder before any work is done. Raises ValueError, one line, if it cannot be made or written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot make the folder {str(path.parent)!r}: {error.strerror}: give another --json"
        ) from None
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"cannot write into the folder {str(path.parent)!r}: give another --json")


def save(result: Result, path: Path) -> None:
    """Write a result atomically. Raises ValueError, one line, if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write {str(path)!r}: {error.strerror}") from None
    write(path, result)


def read(path: Path) -> Result:
    """Read a result. Raises ValueError, one line, for a damaged file or one of another kind or version."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        whole = "is cut short or damaged" if os.path.getsize(path) else "is empty"
        raise ValueError(f"{path}: {whole}, not a result ({error})") from None
    kind = result.get("kind") if isinstance(result, dict) else None
    if kind not in KINDS:
        raise ValueError(
            f"{path}: is no result of the suite or of compare (kind {kind!r}): make one by nox -s bench in a checkout"
        )
    remedy = f"measure again by nox -s {KINDS[kind]}"
    if result.get("version") != VERSION:
        raise ValueError(f"{path}: is of version {result.get('version')!r}, this program reads {VERSION}: {remedy}")
    missing = sorted(KEYS - result.keys())
    if missing:
        raise ValueError(f"{path}: lacks {', '.join(missing)}: {remedy} in a checkout")
    return result
