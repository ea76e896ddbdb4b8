"""`--candidate A --against B`: compare two candidates with each other, and each with the reference.

Both hold the same weights, each in its own layout. The comparison with the reference says where and why they part: a
known mistake of A, of B, or of both.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.candidate.adapter import Build, Candidate
from bench.candidate.examination import DROPPED, EXPECTED, SHARP, SPREAD, TRAIN, Examination
from bench.candidate.examine import LEARNING_RATE, SHARPNESS, examine
from bench.candidate.guess_layout import Guess, check_settled, choose_layout
from bench.candidate.report import causes, table, verdict, where
from bench.candidate.validate import built, learned, logits_at
from bench.environment import threads
from bench.formatting import WIDTH, Fitted, broken, terminal
from bench.journal import write
from bench.numerics.errors import Measurement, distance
from bench.numerics.inputs import random_batch, sharp_state_dict
from bench.numerics.outputs import collect_outputs, compare_outputs
from bench.settings import CompareCandidate
from bench.user_code.command import user_code
from bench.user_code.load_function import load_function
from reference.cli.progress import Stages
from reference.config import GPTConfig
from reference.gpt import GPT

BOTH_ROUND = 2.0  # in float32 both sides round; a budget is for one side against float64


class Pair(Examination):
    """Two candidates, measured against each other."""

    def allowed(self, measurement: Measurement) -> float | None:
        """The budget of a measurement."""
        limit = super().allowed(measurement)
        return limit * BOTH_ROUND if limit is not None and self.precision == "float32" else limit


@dataclass
class Versus:
    """Two candidates against each other and against the reference."""

    pair: Pair
    a: Examination
    b: Examination


def compare_with(options: CompareCandidate, build: Build, guess: Guess, settings: dict[str, Any]) -> int:
    """Compare a candidate with another one and print the report.

    Args:
        build, guess: candidate A and its layout
        settings: of `examine`

    Returns 0 for the same function, 1 for a difference. Raises ValueError, one line, if one cannot be tested.
    """
    assert options.against is not None
    with user_code(options.traceback):
        other = build_of(options.against)
        layout = "hf" if options.against == "transformers" else options.against_layout
        second = choose_layout(layout, other, settings["config"])
        with Stages(16) as progress, threads(options.threads):
            found = examine_pair(
                {"A": (options.candidate, build, guess), "B": (options.against, other, second)},
                settings,
                progress.stage,
            )
    print(text(found, terminal().width))
    if options.json is not None:
        write(options.json, to_json(found))
    if found.pair.same:
        return 0
    for side, taken in ((found.a, guess), (found.b, second)):
        check_settled(taken, side.same or bool(side.causes))
    return 1


def build_of(name: str) -> Build:
    """A build function by name: transformers, reference, or FILE.py:FUNCTION."""
    if name == "reference":
        return GPT
    return transformers_model if name == "transformers" else load_function(name, "build", "against")


def transformers_model(config: GPTConfig) -> Any:
    """Hugging Face's own GPT-2, with its attention as a user gets it."""
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError as error:
        raise ValueError("--against transformers: is not installed: pip install transformers") from error
    from reference.checkpoints.huggingface import hf_config

    return GPT2LMHeadModel(GPT2Config(**hf_config(config)))


def examine_pair(sides: dict[str, tuple[str, Build, Guess]], settings: dict[str, Any], tell: Any) -> Versus:
    """Test both candidates against the reference, then against each other, in the lower precision of the two."""
    seen = {}
    for letter, (name, build, guess) in sides.items():
        seen[letter] = examine(
            build,
            guess.layout,
            name=name,
            layout_name=guess.name,
            tell=lambda what, letter=letter: tell(f"{letter}: {what}"),  # type: ignore[misc]
            **settings,
        )
        seen[letter].notes[:0] = guess.notes
    precision = "float64" if all(one.precision == "float64" for one in seen.values()) else "float32"
    tell("A against B")
    config, batch, time, steps, seed = (settings[key] for key in ("config", "batch", "time", "steps", "seed"))
    weights, ids_and_targets = sharp_state_dict(config, seed), random_batch(config, batch, time, seed)
    models, outputs = [], []
    for _, build, guess in sides.values():
        model = built(build, guess.layout, config, weights, torch.device(settings["device"]), precision)
        model = learned(model, ids_and_targets)
        outputs.append(
            collect_outputs(
                model,
                Candidate.build_step,
                ids_and_targets,
                ids_and_targets,
                steps,
                weights=weights,
                learning_rate=LEARNING_RATE,
            )
        )
        models.append(model)
    report = compare_outputs(*outputs)
    for name, held, ids in probes(weights, config, time, seed, precision):
        for model in models:
            model.load(held)
        ours, theirs = (logits_at(model, ids) for model in models)
        report.measurements.append(Measurement("logits", name, *distance(ours, theirs)))
    # with dropout and in train mode each was compared with the reference: where one alone fails, the two differ
    for mode in (TRAIN, DROPPED, EXPECTED, SPREAD):
        failed = [measured for one in seen.values() for measured in one.failures if measured.name == mode]
        report.measurements += failed if len(failed) == 1 else []
    a = seen["A"]
    pair = Pair(
        name=a.name,
        layout=a.layout,
        config=config,
        batch=batch,
        time=time,
        steps=steps,
        device=a.device,
        precision=precision,
        report=report,
    )
    return Versus(pair, a, seen["B"])


def probes(
    weights: dict[str, Tensor], config: GPTConfig, time: int, seed: int, precision: str
) -> Iterator[tuple[str, dict[str, Tensor], Tensor]]:
    """Name, weights and ids of further calls: one token, the whole block, and in float64 scores of 1e4."""
    yield "logits of 1 token", weights, random_batch(config, 2, 1, seed + 1)[0]
    if config.block_size > 1:
        T = config.block_size
        yield f"logits of {T} tokens", weights, random_batch(config, 2, T, seed + 2)[0]
    if precision == "float64":
        sharp = {n: t * SHARPNESS if "q_proj" in n or "k_proj" in n else t for n, t in weights.items()}
        yield SHARP, sharp, random_batch(config, 3, time, seed + 3)[0]


def text(found: Versus, width: int = WIDTH) -> str:
    """The report as plain text, at most `width` columns wide."""
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False, color_system=None)

    def say(line: str, indent: str = "") -> None:
        for piece in broken(f"{indent}{line}", width, f"{indent}    "):
            print(piece, file=file)

    c, pair = found.pair.config, found.pair
    say(f"A  {found.a.name}, layout {found.a.layout}")
    say(f"B  {found.b.name}, layout {found.b.layout}")
    say(
        f"{c.n_layer} layers, {c.n_head} heads, width {c.n_embd}, vocabulary {c.vocab_size}, block {c.block_size}; "
        f"batch {pair.batch} x time {pair.time}; the same random weights; {pair.device}"
    )
    say("")
    say(verdict(pair))
    say("")
    console.print(Fitted(table(pair)))
    for letter, seen in (("A", found.a), ("B", found.b)):
        say("")
        say(f"{letter} against the reference: {verdict(seen)}")
        for title, lines in (("First difference", where(seen)), ("Likely cause", causes(seen))):
            if lines and not seen.same:
                say(title, "  ")
                for line in lines:
                    say(line, "    ")
        for note in seen.notes:
            say(f"- {note}", "  ")
    return "\n".join(line.rstrip() for line in file.getvalue().strip("\n").splitlines())


def to_json(found: Versus) -> dict[str, Any]:
    """The result as plain values."""

    def plain(seen: Examination) -> dict[str, Any]:
        return {
            "name": seen.name,
            "layout": seen.layout,
            "same": seen.same,
            "precision": seen.precision,
            "measurements": [{**dataclasses.asdict(m), "allowed": seen.allowed(m)} for m in seen.report.measurements],
            "causes": [dataclasses.asdict(cause) for cause in seen.causes],
            "notes": seen.notes,
        }

    sides = {"pair": plain(found.pair), "a": plain(found.a), "b": plain(found.b)}
    return {"kind": "candidates", "same": found.pair.same, **sides}
