"""No parity pass, no number: who may be timed at a size, and how far from the oracle they are.

The proofs are those of bench/contenders/verify.py: logits and loss on the whole batch, gradients and two AdamW steps on
the shape that `Workload.proof_shape` gives; one more for text: the most probable tokens after two prompts have to be
those that the oracle picks in float64. Where something is computed in bfloat16, two tokens that the oracle finds closer
to each other than twice the largest error of the logits may change places.

Everything is proven once for a size and shape, that which is timed, and remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bench.contenders import Weights, build_in, find, import_what_is_needed, own_precision
from bench.contenders.verify import Check, Verdict, asked_of, checks_of, prove, weights_of
from bench.formatting import NOT_THE_SAME
from bench.journal import Keep, without_journal
from bench.numerics.inputs import random_batch
from bench.workloads.scenarios import text_shape
from bench.workloads.workload import Workload

STEPS = 2
NEW = 8  # tokens of the proven texts


@dataclass(frozen=True)
class GateResult:
    """The outcome for one contender at one size."""

    passed: bool
    over: dict[str, float]  # the largest error / budget, by the precision of the proof
    logits: float | None  # relative L2, in the precision it computes in; None if it could not be asked
    shape: tuple[int, int]  # (B, T) it was proven on
    why: str  # what failed, in words; "" if nothing
    unlike: str = ""  # why it is another function, if it is known to be one and failed


Place = tuple[str, int, int, str]  # size, batch, time, contender


def place(work: Workload, name: str) -> Place:
    """What a proof is of."""
    return work.size, work.batch, work.time, name


class ParityGate:
    """Proofs as they are needed.

    Args:
        device: of the contenders
        tell: told what is being proven
        seed: of weights and batches
        keep: keeps what was found, or knows it from a run that was stopped
    """

    def __init__(
        self, device: torch.device, tell: Callable[[str], None], seed: int = 0, keep: Keep = without_journal
    ) -> None:
        self.device, self.tell, self.seed, self.keep = device, tell, seed, keep
        self.found: dict[Place, GateResult] = {}

    def of(self, work: Workload, names: Sequence[str], texts: bool = True) -> dict[str, GateResult]:
        """The results of contenders at a workload's size and shape, proven now if they have not been.

        Args:
            texts: whether they will be asked for text too
        """
        missing = [name for name in names if place(work, name) not in self.found]
        possible: list[str] = []
        for name in missing:
            try:
                import_what_is_needed(name)
                possible.append(name)
            except ValueError as error:
                self.found[place(work, name)] = GateResult(False, {}, None, (work.batch, work.time), str(error))
        if possible:
            found = self.keep("proof", [asdict(work), possible, texts], lambda: self.prove(work, possible, texts))
            for name, values in found.items():
                self.found[place(work, name)] = GateResult(**{**values, "shape": tuple(values["shape"])})
        return {name: self.found[place(work, name)] for name in names}

    def prove(self, work: Workload, names: list[str], texts: bool) -> dict[str, dict[str, Any]]:
        """Put all proofs to contenders. Returns their results by name, as plain values."""
        rounding = any(find(name).rounds(work.config, self.device) for name in names)
        verdicts: dict[str, list[Verdict]] = {name: [] for name in names}
        for check, weights in weights_of(checks_of(work, "float32", STEPS, rounding), work.config, self.seed):
            for name, verdict in prove(
                check,
                work.config,
                weights,
                asked_of(check, "float32", names, work.config, self.device),
                self.device,
                self.seed,
                lambda what: self.tell(f"proving at {work.size}: {what}"),
            ):
                verdicts[name].append(verdict)
            if texts:
                self.prove_texts(check, work, weights, verdicts)
        found = {}
        for name in names:
            text, unlike = self.found.get(place(work, name)), find(name).unlike(work.config)
            found[name] = asdict(outcome(verdicts[name], text, work, unlike))
        return found

    def prove_texts(self, check: Check, work: Workload, weights: Weights, verdicts: dict[str, list[Verdict]]) -> None:
        """Have contenders write; what is wrong is kept until `outcome`."""
        prompt = random_batch(work.config, 2, min(16, text_shape(work)[0]), self.seed)[0]
        new = min(NEW, work.config.block_size - prompt.shape[1])
        where = self.device if self.device.type == "cuda" else torch.device("cpu")
        oracle = build_in("float64", "reference", work.config, weights, where).eval()
        # who computes in bfloat16 is never asked for a text in float32
        precise = [
            n for n in verdicts if check.question != "function" or precision_of(n, work, self.device) != "bfloat16"
        ]
        for name in asked_of(check, "float32", precise, work.config, self.device):
            self.tell(f"proving at {work.size}: text of {name} in {check.precision}")
            model = build_in(check.precision, name, work.config, weights, self.device).eval()
            text = find(name).generate(model, prompt.to(self.device), new).to(where)
            slack = 0.0 if check.question == "function" else 2 * verdicts[name][-1].report.worst("logits").largest
            worst = short_of_best(oracle, text, prompt.shape[1])
            right = torch.equal(text[:, : prompt.shape[1]].cpu(), prompt) and text.shape[1] == prompt.shape[1] + new
            if not right or worst > slack:
                why = f"text: a token in {check.precision} is {worst:.1e} below the oracle's best, allowed {slack:.1e}"
                self.found[place(work, name)] = GateResult(False, {}, None, (work.batch, work.time), why)


@torch.no_grad()
def short_of_best(oracle: torch.nn.Module, text: Tensor, start: int) -> float:
    """By how much, at most, a token of a text from `start` on has less than the largest of the oracle's logits there.

    Args:
        oracle: in float64
        text: (B, T)
    """
    logits = oracle(text)[:, start - 1 : -1]  # (B, new, V), of the next token
    chosen = logits.gather(-1, text[:, start:, None]).squeeze(-1)
    return float((logits.amax(dim=-1) - chosen).max())


def outcome(verdicts: list[Verdict], text: GateResult | None, work: Workload, unlike: str = "") -> GateResult:
    """What the verdicts of one contender and its text come to.

    Args:
        unlike: why it is known to be another function, which is said if a proof failed
    """
    failures = [(v.over(f), v, f) for v in verdicts for f in v.failures()]
    last = verdicts[-1]  # of the precision it computes in
    why = "" if text is None else text.why
    if failures:
        # of another function the logits tell most
        telling = [found for found in failures if unlike and found[2].quantity == "logits"]
        over, verdict, failure = max(telling or failures, key=lambda found: found[0])
        name = f" {failure.name}" if failure.name != failure.quantity else ""
        what, allowed = f"{failure.quantity}{name} in {verdict.check.precision}", verdict.allowed(failure)
        why = f"{what}: {over:.3g} times the error that is allowed"
        if unlike:
            assert allowed is not None
            why = f"{NOT_THE_SAME}: {unlike} ({what}: error {failure.error:.1e} against a budget of {allowed:.1e})"
    return GateResult(
        passed=not why,
        over={v.check.precision: v.worst_over() for v in verdicts},
        logits=last.report.worst("logits").error,
        shape=(work.batch, work.time),
        why=why,
        unlike=unlike if failures else "",
    )


def precision_of(name: str, work: Workload, device: torch.device) -> str:
    """What a contender of the suite computes in: float32, unless it rounds by nature."""
    return own_precision("float32", name, work.config, device)
