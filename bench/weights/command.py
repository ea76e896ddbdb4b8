"""`python -m bench compare --weights A --against B`: are the weights of two checkpoints the same?"""

from __future__ import annotations

from functools import partial

from bench.environment import threads
from bench.formatting import print_report
from bench.journal import write
from bench.settings import CompareWeights
from bench.weights.compare_logits import compare_logits
from bench.weights.compare_tensors import compare_tensors
from bench.weights.read_weights import read_weights
from bench.weights.report import Result, show, to_json
from bench.weights.side import side_of
from reference.cli.progress import Stages


def compare_weights(options: CompareWeights) -> int:
    """Compare two checkpoints and print the report.

    Returns 0 for the same weights, 1 for different ones, 2 if a config is of another function. Raises ValueError, one
    line, for a file that cannot be read or is no GPT-2.
    """
    options.check()
    with Stages(3) as progress, threads(options.threads):
        progress.stage("reading")
        given = {"A": (options.weights, "--weights"), "B": (options.against, "--against")}
        files = {letter: read_weights(path, option) for letter, (path, option) in given.items()}
        a, b = (side_of(files[letter], letter, given[letter][1], options.heads) for letter in "AB")
        notes = []
        for one, other in ((a, b), (b, a)):
            if other.heads_known and not one.heads_known and one.config.n_embd % other.config.n_head == 0:
                again = side_of(one.file, one.letter, given[one.letter][1], other.config.n_head)
                a, b = (again, b) if one is a else (a, again)
                notes.append(f"{one.letter} does not say its number of heads: {other.letter}'s is taken")
        progress.stage("comparing tensors")
        result = Result(a, b, compare_tensors(a, b, progress.within), notes=notes)
        progress.stage("comparing logits")
        add_logits(result)
    print_report(partial(show, result))
    if options.json is not None:
        write(options.json, to_json(result))
    return result.status


def add_logits(result: Result) -> None:
    """Compare the logits, or note why not."""
    try:
        result.logits = compare_logits(result.a, result.b)
    except ValueError as error:
        result.notes.append(f"logits not compared: {error}")
    if any("model_args" in side.file.kind for side in (result.a, result.b)):
        result.notes.append("logits are computed by reference/gpt.py: nanoGPT itself has another GELU, the erf form")
