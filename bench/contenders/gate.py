"""No parity pass, no number: which contenders may be timed at a size, and their distance from the oracle.

The proofs are the checks of bench/contenders/verify.py: logits and loss on the whole batch, gradients and AdamW steps
on `Workload.proof_shape`. One more checks generation: after two prompts, each greedy token must be the float64
oracle's. In bfloat16 its logit may fall short of the oracle's best by twice the largest error of the logits.

Each contender is proven once per size and shape, the timed ones, and the result is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.contenders import Weights, build_in, find, import_what_is_needed, own_precision
from bench.contenders.verify import ROUNDING_BASE, Check, Verdict, checks_of, prove, weights_of
from bench.formatting import NOT_THE_SAME
from bench.journal import Keep, without_journal
from bench.numerics.inputs import random_batch
from bench.workloads.scenarios import text_shape
from bench.workloads.workload import Workload

STEPS = 2  # of AdamW in the suite's proofs
NEW = 8  # tokens of the proven texts


@dataclass(frozen=True)
class GateResult:
    """The outcome for one contender at one size."""

    passed: bool
    over: dict[str, float]  # the largest error / budget, by the precision of the proof
    logits: float | None  # relative L2, in the contender's precision; None if it could not run
    shape: tuple[int, int]  # (B, T) of the proof
    why: str  # what failed, in words; "" if nothing
    unlike: str = ""  # why it is another function, if that is known and it failed
    checks: list[dict[str, Any]] = field(default_factory=list)  # see `Verdict.record`


ProofKey = tuple[str, int, int, str]  # size, batch, time, contender


def proof_key(work: Workload, name: str) -> ProofKey:
    """The key of a proof."""
    return work.size, work.batch, work.time, name


class ParityGate:
    """Proves contenders on demand.

    Args:
        device: of the contenders
        tell: called with a line for each step
        seed: of weights and batches
        keep: stores results, or returns them if a stopped run has measured them
        precision: of the contenders that do not choose their own
        steps: see `checks_of`
    """

    def __init__(
        self,
        device: torch.device,
        tell: Callable[[str], None],
        seed: int = 0,
        keep: Keep = without_journal,
        precision: str = "float32",
        steps: int | None = STEPS,
    ) -> None:
        self.device, self.tell, self.seed, self.keep = device, tell, seed, keep
        self.precision, self.steps = precision, steps
        self.found: dict[ProofKey, GateResult] = {}

    def of(self, work: Workload, names: Sequence[str], texts: bool = True) -> dict[str, GateResult]:
        """Results of contenders at a workload's size and shape; proves those that are not proven yet.

        Args:
            texts: whether to prove generation too
        """
        missing = [name for name in names if proof_key(work, name) not in self.found]
        possible: list[str] = []
        for name in missing:
            try:
                import_what_is_needed(name)
                possible.append(name)
            except ValueError as error:
                self.found[proof_key(work, name)] = GateResult(False, {}, None, (work.batch, work.time), str(error))
        if possible:
            found = self.keep("proof", [asdict(work), possible, texts], lambda: self.prove(work, possible, texts))
            for name, values in found.items():
                self.found[proof_key(work, name)] = GateResult(**{**values, "shape": tuple(values["shape"])})
        return {name: self.found[proof_key(work, name)] for name in names}

    def checks(self, work: Workload, names: Sequence[str]) -> list[Check]:
        """The checks that contenders take."""
        rounding = any(find(name).uses_bfloat16(work.config, self.device) for name in names)
        return checks_of(work, self.precision, self.steps, rounding)

    def precision_of(self, name: str, work: Workload) -> str:
        """The precision that a contender computes in."""
        return own_precision(self.precision, name, work.config, self.device)

    def takers(self, check: Check, work: Workload, names: Sequence[str]) -> list[str]:
        """The contenders that a check applies to: rounding applies only to those that compute in bfloat16."""
        return [n for n in names if check.question == "function" or self.precision_of(n, work) == "bfloat16"]

    def writers(self, check: Check, work: Workload, names: Sequence[str]) -> list[str]:
        """The contenders whose texts are proven with a check: they generate in its precision."""
        return [n for n in names if self.precision_of(n, work) == check.precision]

    def lines(self, work: Workload, names: Sequence[str], texts: bool = True) -> int:
        """Number of lines that a proof of contenders reports."""
        found = 0
        for check in self.checks(work, names):
            plain = {ROUNDING_BASE} if check.question == "rounding" else set()
            found += len({"the oracle", *plain, *self.takers(check, work, names)})
            found += len(self.writers(check, work, names)) if texts else 0
        return found

    def prove(self, work: Workload, names: list[str], texts: bool) -> dict[str, dict[str, Any]]:
        """Run all checks on contenders. Returns their results by name, as plain values."""

        def tell(what: str) -> None:
            self.tell(f"proving at {work.size}: {what}")

        verdicts: dict[str, list[Verdict]] = {name: [] for name in names}
        for check, weights in weights_of(self.checks(work, names), work.config, self.seed):
            takers = self.takers(check, work, names)
            for name, verdict in prove(check, work.config, weights, takers, self.device, self.seed, tell):
                verdicts[name].append(verdict)
            if texts:
                self.prove_texts(check, work, weights, verdicts)
        found = {}
        for name in names:
            text, unlike = self.found.get(proof_key(work, name)), find(name).unlike(work.config)
            found[name] = asdict(outcome(verdicts[name], text, work, unlike))
        return found

    def prove_texts(self, check: Check, work: Workload, weights: Weights, verdicts: dict[str, list[Verdict]]) -> None:
        """Prove generation; a failure is kept for `outcome`."""
        writers = self.writers(check, work, list(verdicts))
        if not writers:
            return
        prompt = random_batch(work.config, 2, min(16, text_shape(work)[0]), self.seed)[0]
        new = min(NEW, work.config.block_size - prompt.shape[1])
        where = self.device if self.device.type == "cuda" else torch.device("cpu")
        oracle = build_in("float64", "reference", work.config, weights, where).eval()
        for name in writers:
            self.tell(f"proving at {work.size}: text of {name} in {check.precision}")
            model = build_in(check.precision, name, work.config, weights, self.device).eval()
            text = find(name).generate(model, prompt.to(self.device), new).to(where)
            slack = 0.0 if check.question == "function" else 2 * verdicts[name][-1].report.worst("logits").largest
            worst = short_of_best(oracle, text, prompt.shape[1])
            right = torch.equal(text[:, : prompt.shape[1]].cpu(), prompt) and text.shape[1] == prompt.shape[1] + new
            if not right or worst > slack:
                why = f"text: a token in {check.precision} is {worst:.1e} below the oracle's best, allowed {slack:.1e}"
                self.found[proof_key(work, name)] = GateResult(False, {}, None, (work.batch, work.time), why)


@torch.no_grad()
def short_of_best(oracle: torch.nn.Module, text: Tensor, start: int) -> float:
    """The largest gap between the oracle's best logit and its logit of the text's token, from position `start` on.

    Args:
        oracle: in float64
        text: (B, T)
    """
    logits = oracle(text)[:, start - 1 : -1]  # (B, new, V), of the next token
    chosen = logits.gather(-1, text[:, start:, None]).squeeze(-1)
    return float((logits.amax(dim=-1) - chosen).max())


def outcome(verdicts: list[Verdict], text: GateResult | None, work: Workload, unlike: str = "") -> GateResult:
    """Combine one contender's verdicts and text into a result.

    Args:
        unlike: why it is another function, if known; shown if a proof failed
    """
    failures = [(v.over(f), v, f) for v in verdicts for f in v.failures()]
    last = verdicts[-1]  # in the contender's precision
    why = "" if text is None else text.why
    if failures:
        # for another function, the error of the logits is the clearest
        telling = [found for found in failures if unlike and found[2].quantity == "logits"]
        over, verdict, failure = max(telling or failures, key=lambda found: found[0])
        name = f" {failure.name}" if failure.name != failure.quantity else ""
        what, allowed = f"{failure.quantity}{name} in {verdict.check.precision}", verdict.allowed(failure)
        why = f"{what}: {over:.3g} times its budget"
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
        checks=[v.record() for v in verdicts],
    )
