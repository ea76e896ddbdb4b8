"""Is a user's generator the reference's? If not: which mistakes reproduce its texts?

Texts are compared token by token, drawn from the same random stream. A function that draws in another way than
torch.multinomial gets other tokens from it: then some usual ways of drawing are tried, and after them the distribution
of many drawn tokens is tested.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor

from bench.text_generation import probes as given_probes
from bench.text_generation.calling import Function, generated, understand
from bench.text_generation.distribution import p_value
from bench.text_generation.known_mistakes import MISTAKES, OUTSIDE, RAISES, possible
from bench.text_generation.model import CONFIG, FORMS, Calls, Form, UserGPT
from bench.text_generation.probes import Probe, Settings
from bench.text_generation.variant import (
    Draw,
    End,
    Reader,
    Variant,
    greedy_part,
    probabilities,
    text,
)
from bench.user_code.mistake import Mistake, combined, singles_and_pairs
from bench.user_code.refused import Refused, in_library, is_ours

RIGHT_DRAWS = tuple(draw for draw in Draw if draw is not Draw.ARGMAX)
DRAWS = 4000  # tokens for a distribution, drawn in one batch
SINGLE_DRAWS = 1000  # one by one, for a function of one prompt
REJECTED = 1e-6  # a right generator is called different once in a million

Tell = Callable[[str], None]
Rows = list[list[int]]


@dataclass
class Outcome:
    """A probe of the user's function, judged."""

    probe: Probe
    rows: Rows  # new tokens
    expected: Rows  # of the reference generator; empty until it is needed
    same: bool
    draw: Draw | None = None  # the way of drawing that reproduces it, if it samples
    fits: float | None = None  # p-value of its distribution, if its tokens are others

    @property
    def first(self) -> tuple[int, int]:
        """Row and number of the first token that differs."""
        places = [
            (
                next(
                    (n for n, (a, b) in enumerate(zip(row, right, strict=False)) if a != b), min(len(row), len(right))
                ),
                r,
            )
            for r, (row, right) in enumerate(zip(self.rows, self.expected, strict=True))
            if row != right
        ]
        number, row = min(places)
        return row, number


@dataclass(frozen=True)
class Unjudged:
    """A probe in which the function raised."""

    title: str
    why: str  # one line
    error: BaseException
    advice: str = ""


@dataclass(frozen=True)
class Explanation:
    """Mistakes that reproduce every probe, or one that was seen."""

    mistakes: tuple[Mistake, ...]
    by_distribution: bool = False  # sampled tokens only by their distribution
    seen: str = ""  # what was seen, in words; it may be one mistake among others


@dataclass
class Audit:
    """The result of testing a generator."""

    name: str
    form: Form
    outcomes: list[Outcome] = field(default_factory=list)
    unjudged: list[Unjudged] = field(default_factory=list)
    explanations: list[Explanation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    constant: bool = False  # two seeds give the same text
    raises: Unjudged | None = None  # at temperature 0

    @property
    def causes(self) -> list[Explanation]:
        """All explanations: first that it raises at temperature 0, then those of the texts."""
        raises = [Explanation((RAISES,), seen=f"it raises {self.raises.why}")] if self.raises is not None else []
        return [*raises, *self.explanations]

    @property
    def same(self) -> bool:
        """Whether every judged probe is the reference generator's, and temperature 0 is possible."""
        return self.same_texts and self.raises is None

    @property
    def same_texts(self) -> bool:
        """Whether every judged probe is the reference generator's."""
        return not self.wrong and not self.constant

    @property
    def wrong(self) -> list[Outcome]:
        """Probes that differ."""
        return [one for one in self.outcomes if not one.same]

    def to_json(self) -> dict[str, Any]:
        """The result as plain values, for --json."""
        return {
            "kind": "text_generation",
            "generate": self.name,
            "same": self.same,
            "texts": [
                {
                    "title": one.probe.title,
                    "prompts": one.probe.prompts,
                    "new_tokens": one.probe.new,
                    "temperature": one.probe.settings.temperature,
                    "top_k": one.probe.settings.top_k,
                    "top_p": one.probe.settings.top_p,
                    "same": one.same,
                    "yours": one.rows,
                    "reference": one.expected or one.rows,
                    "draw": None if one.draw is None else str(one.draw),
                    "p_value": one.fits,
                }
                for one in self.outcomes
            ],
            "causes": [
                {
                    "mistakes": [mistake.what for mistake in one.mistakes],
                    "remedies": [mistake.remedy for mistake in one.mistakes],
                    "by_distribution": one.by_distribution,
                }
                for one in self.causes
            ],
            "unjudged": {one.title: one.why for one in self.unjudged},
            "notes": self.notes,
        }


class Auditor:
    """Runs a user's function, and variants of the reference generator beside it."""

    def __init__(self, function: Function, seed: int, tell: Tell) -> None:
        self.function, self.tell, self.seed = function, tell, seed
        self.reader = Reader(seed)
        self.form = FORMS[0]
        self.single = False  # it takes one prompt at a time
        self.calls = Calls()
        self.unjudged: list[Unjudged] = []
        self.notes: list[str] = []
        self.raises: Unjudged | None = None
        self.agreed: dict[tuple[Variant, Probe], bool] = {}  # of greedy probes
        self.counts: dict[Settings, Tensor | None] = {}

    # Running the user's function

    def call(self, probe: Probe) -> Rows:
        """The user's new tokens. Raises Refused."""
        model = UserGPT(self.seed, probe.tied)
        model.form = self.form.name
        try:
            return generated(self.function, model, probe)
        finally:
            if model.training and not probe.train:
                self.note("it leaves a model of eval mode in train mode: restore the mode")
            if probe.train and not model.training:
                self.note("it leaves a model of train mode in eval mode, without dropout: restore the mode")
            self.calls.with_gradients |= model.calls.with_gradients
            self.calls.one_token += model.calls.one_token
            self.calls.dropout |= model.calls.dropout and not probe.train
            self.calls.over_block = model.calls.over_block

    def note(self, line: str) -> None:
        """Add a note, once."""
        if line not in self.notes:
            self.notes.append(line)

    def choose_form(self, first: Probe) -> None:
        """Find what the function wants a call of the model to return. Raises Refused if it runs with nothing."""
        errors: list[Refused] = []
        for probe in (first, replace(first, prompts=first.prompts[:1])):
            for self.form in FORMS:
                try:
                    self.call(probe)
                    if self.function.takes("use_cache"):
                        self.call(replace(probe, cached=False))
                except Refused as error:
                    errors.append(error)
                    continue
                self.single = probe is not first
                if self.single:
                    self.note(
                        f"it takes one prompt at a time: a batch of {len(first.prompts)} raised {why_of(errors[0])}"
                    )
                if self.form is not FORMS[0]:
                    self.note(f"the model returns {self.form.words}")
                return
        raise next((e for e in errors if not of_form(e)), errors[0])

    def outcome(self, probe: Probe) -> Outcome | None:
        """Run and judge a probe; None if the function raises."""
        probe = replace(probe, prompts=probe.prompts[:1]) if self.single else probe
        if probe.eos is not None:
            probe = replace(probe, eos=self.expected(replace(probe, eos=None))[0][2])
        try:
            rows = self.call(probe)
        except Refused as error:
            advice = ""
            if self.calls.over_block:
                advice = "it does not crop the text to the block: logits = model(ids[:, -block_size:])"
            if probe.title not in [one.title for one in self.unjudged]:
                self.unjudged.append(Unjudged(probe.title, why_of(error), error, advice))
            return None
        draw = self.draw_of(Variant(), probe, rows)
        return Outcome(probe, rows, self.expected(probe) if draw is None else [], draw is not None, draw)

    def expected(self, probe: Probe) -> Rows:
        """The reference generator's new tokens, up to the end-of-text token."""
        found: Rows = [[] for _ in probe.prompts]
        for tokens in text(Variant(), self.reader, probe, self.function.takes("generator")):
            for row, token in zip(found, tokens, strict=True):
                if probe.eos is None or probe.eos not in row:
                    row.append(token)
        return found

    # Comparing with variants

    def draw_of(self, variant: Variant, probe: Probe, rows: Rows) -> Draw | None:
        """The way of drawing with which a variant gives these rows; None if there is none."""
        if probe.settings.greedy and not variant.samples_greedy:
            return variant.draw if self.agrees_greedily(variant, probe, rows) else None
        if variant.draw is not Draw.MULTINOMIAL:
            return variant.draw if self.agrees(variant, probe, rows) else None
        for draw in RIGHT_DRAWS:
            if self.agrees(replace(variant, draw=draw), probe, rows):
                return draw
        return None

    def agrees_greedily(self, variant: Variant, probe: Probe, rows: Rows) -> bool:
        """`agrees` for greedy text, which many variants share."""
        if variant.dropout:
            return self.agrees(variant, probe, rows)
        key = greedy_part(variant), probe
        if key not in self.agreed:
            self.agreed[key] = self.agrees(key[0], probe, rows)
        return self.agreed[key]

    def agrees(self, variant: Variant, probe: Probe, rows: Rows) -> bool:
        """Whether a variant gives these rows; stops at the first other token."""
        if variant.repeats_prompt:
            if any(row[: len(p)] != list(p) for row, p in zip(rows, probe.prompts, strict=True)):
                return False
            rows = [row[len(p) :] for row, p in zip(rows, probe.prompts, strict=True)]
        done, length = [False] * len(rows), 0
        try:
            for tokens in text(variant, self.reader, probe, self.function.takes("generator")):
                for b, (row, token) in enumerate(zip(rows, tokens, strict=True)):
                    if done[b]:
                        continue
                    ends = token == probe.eos
                    left_out = ends and len(row) == length  # the end-of-text token may be
                    if not left_out and (len(row) <= length or row[length] != token):
                        return False
                    done[b] = ends
                length += 1
                if all(done) or (variant.end is End.ANY and any(done)) or (variant.end is End.FIRST_ROW and done[0]):
                    break
        except (RuntimeError, IndexError, ValueError):  # the variant cannot continue
            return False
        return all(end or len(row) == length for row, end in zip(rows, done, strict=True))

    def explains(self, mistakes: tuple[Mistake, ...], outcomes: list[Outcome], by_distribution: bool) -> bool:
        """Whether mistakes reproduce every probe; those that differ first, as they decide soonest."""
        variant = combined(Variant(), mistakes)
        for one in sorted(outcomes, key=lambda one: one.same):
            if by_distribution and not one.probe.settings.greedy and not one.same:
                if not self.fits(variant, one.probe.settings) >= REJECTED:
                    return False
            elif one.fits is not None and one.same:
                continue  # its tokens come from another stream
            elif self.draw_of(variant, one.probe, one.rows) is None:
                return False
        return True

    def explanations(
        self, outcomes: list[Outcome], candidates: Iterator[tuple[Mistake, ...]], by_distribution: bool = False
    ) -> list[Explanation]:
        """The fewest of these mistakes that reproduce every probe."""
        found: list[Explanation] = []
        for mistakes in candidates:
            if found and len(mistakes) > len(found[0].mistakes):
                break
            if self.explains(mistakes, outcomes, by_distribution):
                found.append(Explanation(mistakes, by_distribution))
        return found

    # Distributions

    @property
    def draws(self) -> int:
        """The number of tokens for a distribution."""
        return SINGLE_DRAWS if self.single or self.function.lists else DRAWS  # lists are usually read one by one

    def counted(self, settings: Settings) -> Tensor | None:
        """How often the function draws each token after a prompt, (V,); None if it raises."""
        if settings not in self.counts:
            self.counts[settings] = self.count(settings)
        return self.counts[settings]

    def count(self, settings: Settings) -> Tensor | None:
        """`counted`, measured."""
        prompt = given_probes.SHORT[0]
        batch, calls = (1, SINGLE_DRAWS) if self.single else (self.draws, 1)
        drawn: list[int] = []
        for number in range(calls):
            probe = Probe(f"many tokens, {settings}", (prompt,) * batch, 1, settings, seed=100 + number)
            try:
                drawn += [row[0] for row in self.call(probe) if row]
            except Refused:
                return None
        legal = torch.tensor([token for token in drawn if 0 <= token < CONFIG.vocab_size], dtype=torch.int64)
        return torch.bincount(legal, minlength=CONFIG.vocab_size) if len(legal) == len(drawn) > 0 else None

    def fits(self, variant: Variant, settings: Settings) -> float:
        """The p-value of the function's distribution under a variant; 0 if it is unknown."""
        counts = self.counted(settings)
        if counts is None:
            return 0.0
        probe = Probe("", (given_probes.SHORT[0],), 1, settings)
        ids = torch.tensor(probe.prompts)
        try:
            logits = self.reader.logits(replace(variant, dropout=False), probe, ids, torch.zeros(1, dtype=torch.int64))
            p = probabilities(variant, logits, settings)[0]
        except (RuntimeError, IndexError):
            return 0.0
        if variant.draw is Draw.ARGMAX:
            return 0.0  # its tokens are compared
        return p_value(counts, p) if bool(p.isfinite().all()) else 0.0


def audit(
    generate: Callable[..., Any],
    *,
    name: str = "the generator",
    seed: int = 0,
    tell: Tell = lambda what: None,
) -> Audit:
    """Test a text generator against the reference.

    Args:
        generate: see `bench.text_generation.calling.understand`
        seed: of weights

    Raises ValueError, one line, for a function that cannot be called.
    """
    function = understand(generate)
    auditor = Auditor(function, seed, tell)
    tell("what it takes")
    sampled = given_probes.SAMPLED_PROBES
    auditor.choose_form(sampled[0])
    tell("greedy and sampled text")
    found = Audit(name, auditor.form, unjudged=auditor.unjudged, notes=auditor.notes)
    chosen = list(chosen_probes(auditor))
    found.outcomes = [one for one in map(auditor.outcome, chosen) if one is not None]
    if not found.outcomes:
        raise found.unjudged[0].error
    found.raises = auditor.raises
    remarks(auditor, found)
    if not found.same_texts:
        explain(auditor, found)
    return found


def chosen_probes(auditor: Auditor) -> Iterator[Probe]:
    """The probes that fit the function's arguments."""
    function, sampled = auditor.function, given_probes.SAMPLED_PROBES
    if function.can_be_greedy:
        check_zero(auditor)
        greedy = given_probes.GREEDY_PROBES
        yield from greedy
        if function.takes("use_cache"):
            yield from map(given_probes.without_cache, (*greedy, sampled[0]))
    only_greedy = not function.can_be_greedy and constant(auditor)
    if only_greedy:
        auditor.note("it takes no temperature, and two seeds give one text: tested as a greedy generator")
        yield from given_probes.GREEDY_PROBES
    elif not function.can_be_greedy:
        auditor.note("it takes no temperature: tested at temperature 1")
        yield from (replace(p, settings=Settings(), title=p.title.replace("greedy", "sampled")) for p in GREEDY[1:])
    if not only_greedy:
        yield from (p for p in sampled if not (auditor.single and p.prompts == given_probes.ALIKE))
        for needed, some in given_probes.SETTINGS_PROBES.items():
            if function.takes(*needed):
                yield from some
        if function.takes("top_k"):
            yield from given_probes.ties(greedy=False)
    if function.takes_padding and not auditor.single:
        yield from (p for p in given_probes.PADDED_PROBES if p.settings.greedy or not only_greedy)
    if function.takes("eos") and (function.can_be_greedy or only_greedy):
        yield from given_probes.EOS_PROBES[: 1 if auditor.single else None]


GREEDY = given_probes.GREEDY_PROBES


def check_zero(auditor: Auditor) -> None:
    """Find a function that raises at temperature 0; it is then given a temperature near 0.

    One with a line of its own that raises refuses it on purpose: that is no mistake.
    """
    function = auditor.function
    if not function.takes("temperature") or function.takes("do_sample") or function.takes("greedy"):
        return
    probe = replace(GREEDY[0], prompts=GREEDY[0].prompts[:1]) if auditor.single else GREEDY[0]
    try:
        auditor.call(probe)
    except Refused as error:
        function.nearly_zero = True
        try:
            auditor.call(probe)
        except Refused:
            function.nearly_zero = False
            return
        if on_purpose(error):
            auditor.unjudged.append(Unjudged("temperature 0", why_of(error), error, "it is refused by a line of yours"))
        else:
            auditor.raises = Unjudged("temperature 0", why_of(error), error)
        auditor.note("greedy text was asked for by temperature 1e-6")


def on_purpose(error: Refused) -> bool:
    """Whether an exception was raised by a statement of the user's, to refuse a value."""
    if error.__cause__ is None:
        return False
    (*_, (frame, number)) = walk_tb(error.__cause__.__traceback__)
    file = frame.f_code.co_filename
    own = not in_library(file) and not is_ours(file)
    return own and re.search(r"\b(raise|assert)\b", linecache.getline(file, number)) is not None


def constant(auditor: Auditor) -> bool:
    """Whether two seeds give the same text."""
    probe = given_probes.SAMPLED_PROBES[0]
    probe = replace(probe, prompts=probe.prompts[:1]) if auditor.single else probe
    return auditor.call(probe) == auditor.call(replace(probe, seed=probe.seed + 50))


def remarks(auditor: Auditor, found: Audit) -> None:
    """Notes on what moves no token."""
    function = auditor.function
    if function.new_only:
        auditor.note("it returns the new tokens without the prompt")
    if function.changes_prompt:
        auditor.note("it changes the prompt that it was given, in place")
    if auditor.calls.one_token:
        auditor.note("it reads one token at a time from a cache")
    if auditor.calls.with_gradients:
        auditor.note("the model is called with gradients: decorate the function with @torch.no_grad()")
    if function.left_out:
        auditor.note(f"arguments left at their defaults: {', '.join(function.left_out)}")
    draws = {one.draw for one in found.outcomes if one.draw is not None and not one.probe.settings.greedy}
    for draw in RIGHT_DRAWS[1:]:
        if draw in draws:
            auditor.note(f"it draws by {draw}: the same distribution, other tokens from the same random numbers")
    for one in found.outcomes:
        if one.same and one.probe.eos is not None:
            of_end(auditor, one)
    in_train_mode(auditor)


def of_end(auditor: Auditor, one: Outcome) -> None:
    """Notes on what it does at an end-of-text token."""
    row, eos = one.rows[0], one.probe.eos
    if eos not in row:
        auditor.note("it leaves the end-of-text token out")
    elif len(one.rows) == 1 and len(set(row[row.index(eos) + 1 :])) > 1:
        auditor.note("it continues after the end-of-text token")


def in_train_mode(auditor: Auditor) -> None:
    """Note a model that stays in eval mode."""
    probe = replace(given_probes.SAMPLED_PROBES[0], train=True)
    with suppress(Refused):
        auditor.call(replace(probe, prompts=probe.prompts[:1]) if auditor.single else probe)


def explain(auditor: Auditor, found: Audit) -> None:
    """Look for mistakes that reproduce every probe; sampled tokens by their distribution if no token agrees."""
    auditor.tell("known mistakes")
    if auditor.calls.dropout:
        mistake = next(one for one in MISTAKES if "dropout" in one.fields)
        found.explanations = [Explanation((mistake,), seen="the model was given in eval mode and called in train mode")]
        return
    mistakes, outcomes = possible(auditor.function), found.outcomes
    ids = [token for one in outcomes for row in one.rows for token in row]
    if max(ids, default=0) >= CONFIG.vocab_size:
        seen = f"it gives id {max(ids)}; the vocabulary has ids 0 to {CONFIG.vocab_size - 1}"
        found.explanations = [Explanation((OUTSIDE,), seen=seen)]
        return
    found.explanations = auditor.explanations(outcomes, ((one,) for one in mistakes))
    if found.explanations:
        return
    drawn = [one for one in found.wrong if not one.probe.settings.greedy]
    wrong = [one for one in drawn if not one.probe.tied and not one.probe.padded]
    sampled = [one for one in outcomes if not one.probe.settings.greedy]
    # some tokens of the same stream agree: then it is no other way of drawing
    other_stream = bool(wrong) and not any(one.same for one in sampled if one.probe.settings.top_k != 1)
    if other_stream:
        auditor.tell("distribution of drawn tokens")
        found.constant = constant(auditor)
        for one in wrong:
            one.fits = auditor.fits(Variant(), one.probe.settings)
            one.same = one.fits >= REJECTED and not found.constant
        if all(one.same for one in wrong):
            # padded and tied texts are judged by their tokens alone
            found.outcomes = [one for one in outcomes if one.same or one.probe.settings.greedy]
            auditor.note(
                "it uses the random stream in another way, so tokens cannot be compared: "
                f"{auditor.draws} draws after one prompt fit the reference's distribution "
                f"at every setting (smallest p-value {min(one.fits or 0.0 for one in wrong):.2g})"
            )
            outcomes = found.outcomes
        if found.same_texts:
            return
        found.explanations = auditor.explanations(outcomes, ((one,) for one in mistakes), by_distribution=True)
        if found.explanations:
            return
    auditor.tell("two known mistakes at once")
    found.explanations = auditor.explanations(outcomes, singles_and_pairs(mistakes))
    if not found.explanations and other_stream:
        found.explanations = auditor.explanations(outcomes, singles_and_pairs(mistakes), by_distribution=True)


def of_form(error: Refused) -> bool:
    """Whether an exception may come from what the model returns."""
    words = ("unpack", "tuple", "has no attribute 'logits'", "indices", "Output")
    return any(word in str(error) for word in words)


def why_of(error: Refused) -> str:
    """What a function raised, and where."""
    return str(error).removeprefix("generate: ").split(" raised ", 1)[-1]
