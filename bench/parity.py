"""The public functions: `compare` measures how far a model is from an oracle, `assert_same` fails beyond a budget.

Measured are logits, loss, every gradient and n AdamW steps. Both models follow the protocol of this project
(`model(ids)`, `model.loss(ids, targets)`, a canonical state dict) and hold the same weights. Errors are relative to the
oracle, usually in float64. Budgets are in `bench.numerics.budgets`.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.candidate.examination import Examination
from bench.candidate.examine import TEST_SIZE, examine
from bench.candidate.guess_layout import check_settled, choose_layout, with_advice, with_help
from bench.candidate.page import page
from bench.candidate.report import text, to_json
from bench.journal import write
from bench.numerics.budgets import BUDGETS, Budget
from bench.numerics.errors import Measurement, Report, distance, measure_all
from bench.numerics.outputs import BuildStep, collect_outputs, compare_outputs
from bench.user_code.load_function import load_function
from bench.user_code.page import save
from reference.ids import check_targets, check_type, check_values
from reference.training.defaults import WEIGHT_DECAY
from reference.training.step import build_step

__all__ = ["Measurement", "Report", "assert_same", "compare", "distance", "measure_all"]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """After the block, restore a model's parameters and mode, and clear its gradients."""
    parameters = list(model.parameters())
    kept = [p.detach().clone() for p in parameters]
    training = model.training
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
                parameter.grad = None
        model.train(training)


def check_same_weights(a: nn.Module, b: nn.Module) -> None:
    """Raise a ValueError unless both models hold exactly the same canonical weights."""
    left, right = a.state_dict(), b.state_dict()
    if left.keys() != right.keys():
        raise ValueError(
            f"the two models have different tensors: {sorted(left.keys() ^ right.keys())} on one side only"
        )
    for name, tensor in left.items():
        other = right[name]
        if tensor.shape != other.shape:
            raise ValueError(
                f"{name!r} has shape {tuple(tensor.shape)} in one model, {tuple(other.shape)} in the other"
            )
        if not torch.equal(tensor.double().cpu(), other.double().cpu()):
            raise ValueError(f"{name!r} differs between the two models: load the same state dict into both first")


def compare(
    candidate: Any,
    oracle: Any,
    ids: Tensor,
    targets: Tensor,
    *,
    steps: int = 20,
    build: BuildStep = build_step,
    oracle_build: BuildStep = build_step,
    learning_rate: float = 1e-4,
    weight_decay: float = WEIGHT_DECAY,
) -> Report:
    """Measure a model against an oracle with the same weights.

    Args:
        candidate, oracle: models of the protocol, each in its own precision and on its own device; compared in eval
            mode, then restored
        ids, targets: (B, T) int64; targets of -1 are ignored
        steps: AdamW steps of both models, each on the batch rolled one further along B and T; 0 skips them
        build, oracle_build: `build_step` of each model
        learning_rate, weight_decay: of those steps

    Raises ValueError for different weights, and for ids or targets outside the vocabulary.
    """
    check_same_weights(candidate, oracle)
    vocab_size = len(oracle.state_dict()["wte.weight"])
    check_type(ids)
    check_values(ids, vocab_size)
    check_targets(targets, ids, vocab_size)
    batch, seen = (ids, targets), []
    for model, builder in ((candidate, build), (oracle, oracle_build)):
        weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
        with untouched(model):
            answers = collect_outputs(
                model,
                builder,
                batch,
                batch,
                steps,
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                weights=weights,
            )
        seen.append(answers)
    return compare_outputs(*seen)


def assert_same(
    candidate: Any,
    oracle: Any = None,
    ids: Tensor | None = None,
    targets: Tensor | None = None,
    budget: Budget | str = "float64",
    **options: Any,
) -> Report:
    """Raise an AssertionError that lists all errors beyond their budget; return the report if there are none.

    With an oracle, `compare` two models of the protocol:

        assert_same(fast, readable, ids, targets)

    Without an oracle, test a GPT against the reference, as `python -m bench compare --candidate` does. The message says
    where it first differs and which known mistake explains the difference:

        assert_same(build)

    Args:
        candidate: a model; without an oracle, a function from a config to a module, or "path/to/file.py:build"
        oracle, ids, targets: see `compare`
        budget: a `Budget`, or a name in `bench.numerics.budgets.BUDGETS`; only with an oracle
        options: see `compare`; without an oracle, `layout` (a name, a function or "path/to/file.py:function"; guessed
            if left out), `html` (the page that is written on failure, with the JSON beside it; default: in the folder
            for temporary files) and the options of `bench.candidate.examine.examine`

    Raises ValueError for models or options that cannot be compared.
    """
    if oracle is None:
        return assert_is_gpt2(candidate, **options)
    if ids is None or targets is None:
        raise ValueError("two models are compared on a batch: give ids and targets")
    allowed = BUDGETS[budget] if isinstance(budget, str) else budget
    report = compare(candidate, oracle, ids, targets, **options)
    failures = report.failures(allowed)
    if failures:
        lines = [
            f"  {m.quantity} {m.name}: error {m.error:.2e}, allowed {allowed.of(m.quantity):.0e}, "
            f"{m.over(allowed):.3g} times the budget, largest difference {m.largest:.2e}"
            for m in failures[:10]
        ]
        more = [f"  and {len(failures) - 10} more"] if len(failures) > 10 else []
        first = f"{len(failures)} of {len(report.measurements)} measurements are beyond their budget:"
        raise AssertionError("\n".join([first, *lines, *more]))
    return report


def assert_is_gpt2(candidate: Any, layout: Any = "auto", html: Path | str | None = None, **options: Any) -> Report:
    """`assert_same` without an oracle."""
    name = candidate if isinstance(candidate, str) else getattr(candidate, "__qualname__", type(candidate).__name__)
    build = load_function(candidate, "build", "candidate") if isinstance(candidate, str) else candidate
    if isinstance(build, nn.Module):
        raise ValueError(
            "a model without an oracle: give the function that builds it from a config, or an oracle, ids and targets"
        )
    config = options.get("config", TEST_SIZE)
    with with_help(), with_advice(layout, build, config):
        guess = choose_layout(layout, build, config)
        seen = examine(build, guess.layout, name=name, layout_name=guess.name, **{"depth": True, **options})
        seen.notes[:0] = guess.notes
        if not seen.same:
            check_settled(guess, bool(seen.causes))
    if not seen.same:
        raise AssertionError(f"{text(seen)}\n\n{kept(seen, html)}")
    return seen.report


def kept(seen: Examination, html: Path | str | None) -> str:
    """Write the page and the JSON of a failure; returns the line that says where."""
    name = re.sub(r"\W+", "-", Path(seen.name.replace(":", "-")).name).strip("-") or "candidate"
    path = Path(tempfile.gettempdir(), "paritygpt", f"{name}-{os.getpid()}.html") if html is None else Path(html)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(page(seen), path)
        write(path.with_suffix(".json"), to_json(seen))
    except (OSError, ValueError) as error:
        return f"the page of this report could not be written: {error}"
    return f"as a page: {path}, as JSON: {path.with_suffix('.json')}"
