"""Search the known mistakes, one or several, with which the reference gives a candidate's logits.

A mistake is tried where the candidate first differs. It counts only if a tensor of the candidate then matches that
matched no activation before: a right model also computes the input of its GELU. If the logits still differ, the
mistake stays in the reference, and the next difference is looked for. In the end the reference with all of them must
give the candidate's logits in every probe, in those that passed too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from bench.candidate.known_mistakes import Family, KnownMistake, families, forward_mistakes
from bench.candidate.locate import (
    OUTPUT,
    FirstDifference,
    Readings,
    Runs,
    comparable,
    first_difference,
    readings,
    relative,
    shape_of,
)
from bench.candidate.recorder import Record
from bench.candidate.traced_gpt import Activations, Changes, SameStep, nodes, traced_forward
from reference.config import GPTConfig

MOST = 4  # mistakes at once
MOST_STEPS = 10  # searches for one more mistake
BRANCHES = 3  # mistakes that explain a difference equally well, tried one after the other
MOST_PAIRS = 4000  # pairs of mistakes at one place
FITS = 3  # tensors of the candidate to which a number is fitted
MOST_WORSE = 3  # steps of a fit, one after the other, that do not halve its error

Weights = dict[str, Tensor]
Named = tuple[KnownMistake, frozenset[int] | None]  # with its blocks; None for all
State = tuple[Named, ...]
Known = tuple[int, Mapping[str, Tensor]]  # a block, and activations of which those before it need no computation


@dataclass(frozen=True)
class Probe:
    """Weights and ids on which logits are compared."""

    name: str
    weights: Weights  # canonical
    ids: Tensor  # (B, T)


@dataclass(frozen=True)
class Observed:
    """A candidate's run on a probe."""

    probe: Probe
    logits: Tensor
    records: list[Record]  # empty if its logits are right
    allowed: float  # the largest error of logits
    activation: float  # and of an activation, which may be rounded more


@dataclass(frozen=True)
class Explanation:
    """The mistakes that were found."""

    first: FirstDifference | None  # where the candidate first differs
    states: list[State]  # each explains all logits; equally good
    error: float  # of the logits of the first of them, the largest over the probes
    begun: State = ()  # if there are none: mistakes that explain the first differences
    rest: FirstDifference | None = None  # and the difference that is then the first

    @property
    def changes(self) -> Changes:
        """The mistakes that explain all logits, for `traced_forward`."""
        return changes_of(self.states[0]) if self.states else ()


def changes_of(state: State) -> Changes:
    """The changes of some mistakes, for `traced_forward`."""
    return tuple((mistake.change, blocks) for mistake, blocks in state)


class Reached(Exception):
    """The last activation that is asked for is computed."""


@dataclass(frozen=True)
class Option:
    """One more mistake, or two, and how far it explains a run."""

    added: State
    explained: int  # number of probes
    reach: int  # the place of the next difference in the order of activations
    matched: int  # number of the candidate's tensors that it explains at the first difference

    @property
    def rank(self) -> tuple[int, int, int]:
        """The larger the better."""
        return self.explained, self.reach, -len(self.added)


@dataclass
class Search:
    """The search on the runs of one candidate."""

    config: GPTConfig
    observed: Sequence[Observed]  # those whose logits are wrong first
    steps: int = MOST_STEPS
    best: tuple[int, State] = (-1, ())
    known_mistakes: list[KnownMistake] = field(default_factory=lambda: list(forward_mistakes()))

    def __post_init__(self) -> None:
        self.nodes = nodes(self.config)
        self.order = {name: number for number, name in enumerate(self.nodes)}
        self.read = {
            one.probe.name: Readings(one.records, shape_of(self.config, one.probe.ids)) for one in self.observed
        }
        self.errors: dict[tuple[str, State], float] = {}

    def explanation(self) -> Explanation:
        """Search; the first of `observed` has wrong logits."""
        first = self.difference(self.observed[0], ())
        states = [self.least(state) for state in self.solve((), 0)]
        if states:
            errors = [max(self.error(one, state) for one in self.observed) for state in states]
            ranked = sorted(zip(errors, range(len(states)), strict=True))
            good = [states[n] for error, n in ranked if error <= max(100.0 * ranked[0][0], 1e-14)]
            return Explanation(first, good, ranked[0][0])
        begun = self.best[1]
        rest = None
        if begun:
            wrong = next((one for one in self.observed if not self.explains(one, begun)), self.observed[0])
            rest = self.difference(wrong, begun)
        return Explanation(first, [], math.inf, begun, rest)

    # One state

    def activations(
        self,
        one: Observed,
        state: State,
        last: str | None = None,
        before: Callable[[str, Tensor], bool] | None = None,
        known: Known | None = None,
    ) -> dict[str, Tensor] | None:
        """The reference's activations with some mistakes, up to `last`; None if the mistakes do not fit.

        Args:
            before: whether an activation can be right; None is returned if one is not
            known: a block, and activations of which those before this block are not computed again
        """
        kept, begin = Activations(), None
        if known is not None:
            block, activations = known
            start = self.order["ln_f" if block == self.config.n_layer else f"h.{block}.ln_1"]
            kept.kept.update((name, x) for name, x in activations.items() if self.order[name] < start)
            begin = block, activations["embedding" if block == 0 else f"h.{block - 1}.residual_2"]

        def watch(name: str, x: Tensor) -> Tensor:
            if before is not None and not before(name, x):
                raise KeyError(name)
            kept(name, x)
            if name == last:
                raise Reached
            return x

        try:
            with torch.no_grad():
                traced_forward(
                    self.config, one.probe.weights, one.probe.ids, changes_of(state), watch=watch, begin=begin
                )
        except Reached:
            pass
        except (KeyError, RuntimeError, SameStep):  # a mistake needs a bias, another shape, or the same step
            return None
        return kept.kept

    def error(self, one: Observed, state: State) -> float:
        """The relative error of the logits with some mistakes."""
        key = one.probe.name, state
        if key not in self.errors:
            kept = self.activations(one, state, "logits")
            self.errors[key] = math.inf if kept is None else relative(one.logits, kept["logits"])
        return self.errors[key]

    def explains(self, one: Observed, state: State) -> bool:
        """Whether the reference with some mistakes gives the candidate's logits."""
        return self.error(one, state) <= one.allowed

    def runs(self, one: Observed, state: State, known: Known | None = None) -> Runs | None:
        """A run of the candidate and one of the reference with some mistakes."""
        kept = self.activations(one, state, known=known)
        if kept is None:
            return None
        read = self.read[one.probe.name]
        return Runs(kept, self.nodes, one.records, read.shape, one.activation, read)

    def difference(self, one: Observed, state: State) -> FirstDifference | None:
        """The first difference that some mistakes leave."""
        runs = self.runs(one, state)
        return None if runs is None else first_difference(runs, one.logits)

    def least(self, state: State) -> State:
        """Without the mistakes that explain nothing."""
        for one in state:
            rest = tuple(other for other in state if other is not one)
            if rest and all(self.explains(seen, rest) for seen in self.observed):
                return self.least(rest)
        return state

    # One more mistake

    def solve(self, state: State, depth: int) -> list[State]:
        """The states that explain every probe, each with the mistakes of `state`."""
        wrong = next((one for one in self.observed if not self.explains(one, state)), None)
        if wrong is None:
            return [state]
        if depth == MOST or self.steps <= 0:
            return []
        self.steps -= 1
        options = sorted(self.options(wrong, state), key=lambda option: option.rank, reverse=True)
        whole = [state + option.added for option in options if option.explained == len(self.observed)]
        if whole:
            return whole
        for option in options:
            if option.matched > 1 and option.reach + 1000 * option.explained > self.best[0]:
                self.best = option.reach + 1000 * option.explained, state + option.added
        for option in options[:BRANCHES]:
            found = self.solve(state + option.added, depth + len(option.added))
            if found:
                return found
        return []

    def options(self, one: Observed, state: State) -> list[Option]:
        """The mistakes that explain the first difference of a run, or all of its logits."""
        runs = self.runs(one, state)
        assert runs is not None
        first = first_difference(runs, one.logits) if one.records else None
        if first is None or first.name == OUTPUT:
            everywhere = [((mistake, None),) for mistake in self.known_mistakes]
            found = self.tested(one, state, everywhere, math.inf)
            return found or self.tested(one, state, self.fitted_to_logits(one, state), math.inf)
        known = {record.number for of in runs.matching.values() for match in of for record in match.records}
        block = block_of(first.name, self.config)
        end = f"h.{block or 0}.residual_2"
        last = "logits" if block == self.config.n_layer else end
        if first.name == end:  # it may become what another activation is: then the next one shows it
            last = list(self.nodes)[self.order[end] + 1]
        region = [name for name in self.nodes if self.order[first.name] <= self.order[name] <= self.order[last]]
        here = None if block is None else frozenset({block})
        moving: list[State] = []  # those that change the activation of the first difference, but not to what it is
        start = self.order[first.name]

        def agrees(name: str, x: Tensor) -> list[Record]:
            """The last record of each of the candidate's tensors that match."""
            found = runs.read.matching(x, self.nodes[name].form, runs.allowed)
            return [match.records[-1] for match in found]

        met = {name for name, of in runs.matching.items() if of}

        def still_right(name: str, x: Tensor) -> bool:
            """Whether an activation that matched before the first difference still matches."""
            if name not in met or self.order[name] >= start or torch.equal(x, runs.activations[name]):
                return True
            return bool(agrees(name, x))

        tried_before: dict[tuple[str, ...], tuple[int, bool]] = {}

        def matched(added: State, upto: str = last) -> int:
            # in block 0 alone or in all blocks, a mistake changes the same activations up to the end of block 0
            key = (upto, *(mistake.cause for mistake, _ in added))
            if block != 0 or last != end or key not in tried_before:
                tried_before[key] = tensors_matched(added, upto)
            number, moves = tried_before[key]
            if moves and upto == last:
                moving.append(added)
            return number

        def tensors_matched(added: State, upto: str) -> tuple[int, bool]:
            """The number of the candidate's tensors that only match with a mistake; whether it changes the first."""
            kept = self.activations(one, state + added, upto, still_right, since(added))
            if kept is None:
                return 0, False
            before = runs.activations.get(first.name)
            moves = before is not None and first.name in kept and relative(kept[first.name], before) > runs.allowed
            numbers = set()
            for name in region:
                if name not in kept or (name in runs.activations and torch.equal(kept[name], runs.activations[name])):
                    continue
                new = [record.number for record in agrees(name, kept[name]) if record.number not in known]
                numbers.update(new[:1])
            return len(numbers), moves

        def since(added: State) -> Known | None:
            """What need not be computed again: the blocks before the one in which all mistakes are."""
            only_here = block is not None and all(blocks == here for _, blocks in added)
            return (block, runs.activations) if block is not None and only_here else None

        everywhere = [((mistake, None),) for mistake in self.known_mistakes]
        local = [((mistake, here),) for mistake in self.known_mistakes if here is not None and not mistake.everywhere]
        for tried in (everywhere, local):
            found = self.tested(one, state, tried, start, matched, since)
            if found:
                return found
        fitting = []
        for family in families():
            added = ((family.member(family.starts[0]), here),)
            if self.activations(one, state + added, first.name, still_right, since(added)):
                fitting.append(family)
        for blocks in (None, here) if block else (None,):
            numbers = [self.fitted(one, state, family, blocks, runs, known, first.name, since) for family in fitting]
            fits = [mistake for mistake in numbers if mistake is not None]
            for place_in in dict.fromkeys((blocks, here)):
                found = self.tested(one, state, [((mistake, place_in),) for mistake in fits], start, matched, since)
                if found:
                    return found
        for blocks in dict.fromkeys((None, here)):
            alone = [added for added in list(moving) if added[0][1] == blocks]
            pairs = [a + b for a, b in combinations(alone, 2)][:MOST_PAIRS]
            seen = [added for added in pairs if matched(added, first.name)]
            found = self.tested(one, state, seen, start, matched, since)
            if found:
                return found
        return []

    def tested(
        self,
        one: Observed,
        state: State,
        tried: Iterable[State],
        place: float,
        matched: Callable[[State], int] | None = None,
        since: Callable[[State], Known | None] = lambda added: None,
    ) -> list[Option]:
        """Of some mistakes, those that explain a difference.

        Args:
            place: the order of that difference; a mistake must explain more than that, or all logits
            matched: number of tensors of the candidate that a mistake explains
            since: what need not be computed again for a mistake
        """
        found = []
        for added in tried:
            tensors = 1 if matched is None else matched(added)
            if not tensors:
                continue
            runs = self.runs(one, state + added, since(added))
            if runs is None:
                continue
            explained = relative(one.logits, runs.activations["logits"]) <= one.allowed
            if explained:
                number = sum(self.explains(other, state + added) for other in self.observed)
                found.append(Option(added, number, len(self.order) + 1, tensors))
            elif matched is not None:
                later = first_difference(runs, one.logits)
                reach = -1 if later is None else self.order.get(later.name, len(self.order))
                if reach > place:
                    found.append(Option(added, 0, reach, tensors))
        return found

    # A number

    def fitted(
        self,
        one: Observed,
        state: State,
        family: Family,
        blocks: frozenset[int] | None,
        runs: Runs,
        known: set[int],
        name: str,
        since: Callable[[State], Known | None],
    ) -> KnownMistake | None:
        """The member of a family that gives the candidate's tensor at the first difference."""
        form = self.nodes[name].form

        def value(number: float) -> Tensor | None:
            added = ((family.member(number), blocks),)
            kept = self.activations(one, state + added, name, known=since(added))
            return None if kept is None else comparable(kept[name], form)

        wanted = [
            x
            for match in runs.matches(name)
            if len(match.records) == 1 and match.records[0].number not in known
            for x in readings(match.records[0].value, form, runs.shape)
        ][:FITS]
        start, other = value(family.starts[0]), value(family.starts[0] * 1.01)
        estimating = family.estimate is not None and name.endswith(".weights")
        if start is None or other is None or (relative(other, start) <= runs.allowed and not estimating):
            return None  # it changes this activation not at all
        for target in wanted:
            starts = list(family.starts)
            if family.estimate is not None and estimating:
                scores = self.activations(one, state, name.replace("weights", "scores"))
                assert scores is not None
                starts[:0] = family.estimate(scores[name.replace("weights", "scores")], target)
            number = fit(value, comparable(target, form), starts, runs.allowed)
            if number is not None and not right(number, family):
                return family.member(number)
        return None

    def fitted_to_logits(self, one: Observed, state: State) -> Iterator[State]:
        """Members of families that give the candidate's logits."""
        for family in families():
            if not family.everywhere:
                continue

            def value(number: float, family: Family = family) -> Tensor | None:
                kept = self.activations(one, (*state, (family.member(number), None)))
                return None if kept is None else kept["logits"]

            number = fit(value, one.logits, family.starts, one.allowed)
            if number is not None and not right(number, family):
                yield ((family.member(number), None),)


def right(number: float, family: Family) -> bool:
    """Whether a number of a family is that of GPT-2."""
    return family.right is not None and abs(number - family.right) <= 1e-9


def fit(
    value: Callable[[float], Tensor | None], target: Tensor, starts: Sequence[float], allowed: float
) -> float | None:
    """Solve value(x) = target by Gauss-Newton; a round x is preferred if it fits as well. None if nothing fits."""
    target = target.double()
    for number in starts:
        best, worse = math.inf, 0
        for _ in range(12):
            width = 1e-6 * max(abs(number), 1e-6)
            here, above, below = value(number), value(number + width), value(number - width)
            if here is None or above is None or below is None:
                break
            error = relative(here, target)
            if error <= allowed:
                return rounded(number, value, target, allowed)
            worse = 0 if error < 0.5 * best else worse + 1
            if worse == MOST_WORSE:
                break
            best = min(best, error)
            slope = (above - below).flatten() / (2.0 * width)
            square = float(slope @ slope)
            step = float((target - here).flatten() @ slope) / square if square > 0.0 else math.nan
            if not math.isfinite(step):
                break
            number += step
    return None


def rounded(number: float, value: Callable[[float], Tensor | None], target: Tensor, allowed: float) -> float:
    """The number with the fewest digits that does as well."""
    for digits in range(1, 10):
        short = float(f"{number:.{digits}g}")
        found = value(short) if abs(short - number) <= 1e-4 * abs(number) else None
        if found is not None and relative(found, target) <= allowed:
            return short
    return number


def block_of(name: str, config: GPTConfig) -> int | None:
    """The block of an activation: n_layer after the last, None before the first."""
    if name.startswith("h."):
        return int(name.split(".")[1])
    return config.n_layer if name in ("ln_f", "logits") else None


def place(blocks: Iterable[int] | None, config: GPTConfig) -> str:
    """Blocks in words; "" for all."""
    if blocks is None:
        return ""
    parts = [f"block {block}" if block < config.n_layer else "the last norm" for block in sorted(blocks)]
    return f" in {' and '.join(parts)} only"


def merged(state: State) -> State:
    """A mistake that was found in several blocks as one."""
    together: dict[str, Named] = {}
    for mistake, blocks in state:
        _, before = together.get(mistake.cause, (mistake, frozenset()))
        whole = None if blocks is None or before is None else blocks | before
        together[mistake.cause] = mistake, whole
    return tuple(together.values())
