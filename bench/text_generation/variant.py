"""A generator with each choice that people make differently: what the model sees, which logits, which draw.

Of each kind of choice, the first is the reference generator's; the words of the others are those of a known mistake.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum

import torch
from torch import Tensor

from bench.text_generation.calling import OTHER_SEED, PAD, alone
from bench.text_generation.model import CONFIG, Keys, UserGPT
from bench.text_generation.probes import Probe, Settings
from reference.functional import softmax
from reference.sampling import keep_top_k, keep_top_p

BLOCK = CONFIG.block_size


class Context(StrEnum):
    """The tokens that the model sees."""

    LAST = "the last tokens, as many as the block has"
    FIRST = "a long text is cropped at the wrong end: the model sees its beginning"
    ONE_FEWER = "a long text is cropped to one token fewer than the block"
    HALF = "the model sees half a block"
    PROMPT = "new tokens are not appended to what the model sees"
    NEW = "after the first token the model sees new tokens alone, not the prompt"
    NEWEST = "the model sees the newest token alone: the cache is not passed on"
    TWICE = "the prompt's last token is read twice: it is in the cache already"
    SLIDING = "beyond the block, the cache is kept and positions stay at the last"
    ROLLING = "beyond the block, the cache is kept and positions begin at 0 again"


class Positions(StrEnum):
    """The positions of new tokens while the text fits into the block."""

    RIGHT = "their places in the text"
    ZERO = "with the cache, every new token has position 0"
    STEP = "with the cache, positions of new tokens do not count the prompt"
    LATE = "with the cache, positions of new tokens are one too many"
    EARLY = "with the cache, positions of new tokens are one too few"
    STUCK = "with the cache, every new token has the first one's position"
    ALL_LATE = "positions begin at 1"


class Attends(StrEnum):
    """What new tokens attend to while the text fits into the block."""

    ALL = "all tokens up to themselves"
    FIRST = "with the cache, new tokens attend to the first token alone: is_causal with fewer queries than keys"
    EMPTY = "with the cache, new tokens attend to empty slots too"
    UNWRITTEN = "new tokens are not written to the cache: its slots stay zero"
    OLDER = "with the cache, new tokens do not attend to themselves"


class Padding(StrEnum):
    """What is done about padding at the left."""

    MASKED = "masked and not counted"
    IGNORED = "padding is neither masked nor left out of positions"
    COUNTED = "positions count the padding"
    SEEN = "padding is not masked"
    SEEN_LATER = "new tokens attend to the padding"
    COUNTED_LATER = "positions of new tokens count the padding"


class Place(StrEnum):
    """The position whose logits are taken."""

    LAST = "the last"
    BEFORE_LAST = "the logits are those of the position before the last"
    FIRST = "the logits are those of the first position"
    PROMPT_END = "the logits are those of the prompt's last position, for every token"


class Temperature(StrEnum):
    """What the temperature does."""

    DIVIDES = "divides the logits"
    NOTHING = "the temperature has no effect: it is ignored, or divides probabilities"
    MULTIPLIES = "the temperature multiplies"
    TWICE = "the temperature divides twice"
    LAST = "the temperature comes after top-p"
    PROBABILITIES = "the temperature divides probabilities, of which a second softmax is taken"


class SecondSoftmax(StrEnum):
    """Where softmax is taken once more."""

    NOWHERE = "nowhere"
    BEFORE = "softmax is taken twice: the logits are probabilities already"
    AFTER = "softmax is taken twice: of the distribution to draw from"


class TopK(StrEnum):
    """What top-k does."""

    KEEPS = "keeps the k largest and ties with the k-th"
    NOTHING = "top-k has no effect"
    MORE = "top-k keeps k + 1 tokens"
    FEWER = "top-k keeps k - 1 tokens"
    NOT_KTH = "top-k drops the k-th token: <= in place of <"
    SMALLEST = "top-k keeps the smallest"
    ZEROS = "top-k sets other logits to 0, not to -inf"
    FIRST_ROW = "top-k takes the first row's limit for every row"
    NO_TIES = "top-k drops tokens that tie with the k-th"
    AFTER_TOP_P = "top-k comes after top-p"
    AT_TEMPERATURE_1 = "top-k has no effect unless the temperature is 1"


class TopP(StrEnum):
    """What top-p does."""

    KEEPS = "keeps the most probable tokens until they reach p"
    NOTHING = "top-p has no effect"
    SHORT = "top-p drops the token that reaches p"
    MORE = "top-p keeps one token too many"
    COMPLEMENT = "top-p keeps tokens up to 1 - p"
    UNSORTED = "top-p sums in the order of the vocabulary, not of probability"
    LEAST = "top-p keeps the least probable tokens"
    BEFORE_TOP_K = "top-p sums probabilities from before top-k"


class Draw(StrEnum):
    """How a token is drawn; all but the last are right."""

    MULTINOMIAL = "torch.multinomial of all tokens"
    SORTED = "torch.multinomial of the sorted tokens"
    SUBSET = "torch.multinomial of the k largest"
    PER_ROW = "torch.multinomial for each row"
    EXPONENTIAL = "the largest probability over an exponential random number"
    GUMBEL = "the largest logit plus Gumbel noise"
    INVERSE = "one uniform random number for each row, searched among summed probabilities"
    ARGMAX = "the most probable token is taken where one should be drawn"


class Sharing(StrEnum):
    """What the rows of a batch share."""

    NOTHING = "nothing"
    FIRST_TOKEN = "all rows share their first drawn token"
    TOKENS = "all rows get the first row's drawn tokens"
    ALL = "all rows get the first row's tokens"
    NUMBERS = "all rows share their random numbers"


class Stream(StrEnum):
    """Where random numbers come from."""

    GIVEN = "the generator that was given, or else torch's global one"
    GLOBAL = "the generator that was given is not used"


class End(StrEnum):
    """What an end-of-text token does."""

    ROW = "ends its row"
    ANY = "all rows end where one of them ends"
    FIRST_ROW = "all rows end where the first one ends"


@dataclass(frozen=True)
class Variant:
    """One way to generate text; the defaults are the reference's."""

    context: Context = Context.LAST
    positions: Positions = Positions.RIGHT
    attends: Attends = Attends.ALL
    padding: Padding = Padding.MASKED
    place: Place = Place.LAST
    dropout: bool = False
    temperature: Temperature = Temperature.DIVIDES
    second_softmax: SecondSoftmax = SecondSoftmax.NOWHERE
    top_k: TopK = TopK.KEEPS
    top_p: TopP = TopP.KEEPS
    draw: Draw = Draw.MULTINOMIAL
    samples_greedy: bool = False  # at temperature 0 it draws at temperature 1
    sharing: Sharing = Sharing.NOTHING
    stream: Stream = Stream.GIVEN
    own_seed: int | None = None  # set before the first token
    reseeds: bool = False  # before every token
    more: int = 0  # tokens more than were asked for
    counts_prompt: bool = False  # the number asked for includes the prompt
    repeats_prompt: bool = False  # the result has the prompt twice
    end: End = End.ROW

    def of_probe(self, probe: Probe) -> Variant:
        """This variant for one probe; without a cache, mistakes of the cache are switched off."""
        if probe.cached is not False:
            return self
        changes: dict[str, object] = {}
        if self.context in (Context.TWICE, Context.SLIDING, Context.ROLLING):
            changes["context"] = Context.LAST
        if self.positions not in (Positions.RIGHT, Positions.ALL_LATE):
            changes["positions"] = Positions.RIGHT
        if self.attends is not Attends.ALL:
            changes["attends"] = Attends.ALL
        if self.padding in (Padding.SEEN_LATER, Padding.COUNTED_LATER):
            changes["padding"] = Padding.MASKED
        return replace(self, **changes) if changes else self  # type: ignore[arg-type]

    def length(self, probe: Probe) -> int:
        """The number of tokens that are generated."""
        asked = probe.new - probe.width if self.counts_prompt else probe.new
        return max(0, asked + self.more)


# fields that change nothing in greedy text
OF_DRAWING = ("temperature", "second_softmax", "top_k", "top_p", "draw", "stream", "own_seed", "reseeds")
USUAL = {one.name: one.default for one in fields(Variant)}


def greedy_part(variant: Variant) -> Variant:
    """A variant with the usual way of drawing."""
    return replace(variant, **{name: USUAL[name] for name in OF_DRAWING})  # type: ignore[arg-type]


@dataclass
class Reader:
    """The model, whose logits are kept: hundreds of variants ask for the same ones."""

    seed: int = 0
    kept: dict[tuple[object, ...], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.models = {tied: UserGPT(self.seed, tied) for tied in (False, True)}

    @torch.no_grad()
    def logits(self, variant: Variant, probe: Probe, ids: Tensor, lead: Tensor) -> Tensor:
        """The logits (B, V) from which a variant draws the next token.

        Args:
            ids: (B, W), padded at the left
            lead: (B,) number of padding tokens
        """
        seen = (variant.context, variant.positions, variant.attends, variant.padding, variant.place)
        key = (*seen, probe.tied, probe.width, tuple(lead.tolist()), ids.shape, ids.numpy().tobytes())
        if variant.dropout or key not in self.kept:
            found = self.read(variant, probe, ids, lead)
            if variant.dropout:
                return found
            self.kept[key] = found
        return self.kept[key]

    def read(self, variant: Variant, probe: Probe, ids: Tensor, lead: Tensor) -> Tensor:
        """`logits`, computed."""
        model, prompt = self.models[probe.tied], probe.width
        ids, columns = seen_by(variant.context, ids, prompt)  # (B, W), (W): the tokens' columns in the text
        W = ids.shape[1]
        lead = (lead - columns[0]).clamp(min=0)
        new = columns >= prompt if variant.context is not Context.TWICE else torch.arange(W) >= prompt
        fits = int(columns[-1]) < BLOCK
        positions, mask = placed(variant, W, new, lead, fits)
        slots = None
        if fits and variant.attends is not Attends.ALL:
            mask, slots = attended(variant.attends, mask, new, model)
        model.train(variant.dropout)
        found, _ = model.read(ids, positions, mask, slots)
        match variant.place:
            case Place.LAST:
                return found[:, -1]
            case Place.BEFORE_LAST:
                return found[:, -2]
            case Place.FIRST:
                return found[:, 0]
            case Place.PROMPT_END:
                return found[:, min(prompt, W) - 1]


def seen_by(context: Context, ids: Tensor, prompt: int) -> tuple[Tensor, Tensor]:
    """The tokens that the model sees, (B, W), and their columns in the text, (W)."""
    columns = torch.arange(ids.shape[1])
    match context:
        case Context.LAST:
            chosen = columns[-BLOCK:]
        case Context.FIRST:
            chosen = columns[:BLOCK]
        case Context.ONE_FEWER:
            chosen = columns[-(BLOCK - 1) :]
        case Context.HALF:
            chosen = columns[-(BLOCK // 2) :]
        case Context.PROMPT:
            chosen = columns[:prompt][-BLOCK:]
        case Context.NEW:
            chosen = (columns[prompt:] if len(columns) > prompt else columns)[-BLOCK:]
        case Context.NEWEST:
            fits = prompt < len(columns) <= BLOCK
            chosen = columns[-1:] if fits else columns[-BLOCK:]
        case Context.TWICE:
            fits = len(columns) + 1 <= BLOCK
            chosen = torch.cat([columns[:prompt], columns[prompt - 1 :]]) if fits else columns[-BLOCK:]
        case Context.SLIDING | Context.ROLLING:
            chosen = columns[max(0, prompt - BLOCK) :]
    return ids[:, chosen], chosen


def placed(variant: Variant, W: int, new: Tensor, lead: Tensor, fits: bool) -> tuple[Tensor, Tensor]:
    """Positions (B, W) and mask (B, 1, W, W) of W tokens.

    Args:
        new: (W) bool, which tokens are new
        lead: (B,) padding tokens
        fits: whether the text fits into the block
    """
    columns = torch.arange(W)
    uncounted = lead[:, None].expand(-1, W)
    if variant.padding in (Padding.IGNORED, Padding.COUNTED):
        uncounted = torch.zeros_like(uncounted)
    if variant.padding is Padding.COUNTED_LATER:
        uncounted = uncounted * ~new
    positions = (columns - uncounted).clamp(min=0)
    number = new.cumsum(dim=0) - 1
    if fits:
        match variant.positions:
            case Positions.ZERO:
                positions = positions.masked_fill(new, 0)
            case Positions.STEP:
                positions = torch.where(new, number, positions)
            case Positions.LATE:
                positions = positions + new
            case Positions.EARLY:
                positions = positions - new.long()
            case Positions.STUCK:
                positions = positions - new * number
            case Positions.ALL_LATE:
                positions = positions + 1
            case Positions.RIGHT:
                pass
    mask = (columns <= columns[:, None]).expand(len(lead), 1, W, W)
    if variant.context in (Context.SLIDING, Context.ROLLING):
        positions = positions.clamp(max=BLOCK - 1) if variant.context is Context.SLIDING else positions % BLOCK
        mask = mask & (columns > columns[:, None] - BLOCK)
    if variant.padding in (Padding.MASKED, Padding.COUNTED, Padding.COUNTED_LATER, Padding.SEEN_LATER):
        real = (columns >= lead[:, None])[:, None, None]  # (B, 1, 1, W)
        if variant.padding is Padding.SEEN_LATER:
            real = real | new[:, None]
        mask = mask & real | (columns == columns[:, None])
    return positions, mask


def attended(way: Attends, mask: Tensor, new: Tensor, model: UserGPT) -> tuple[Tensor, Keys | None]:
    """The mask for a way in which new tokens attend, and the empty slots before the tokens, or None.

    Args:
        mask: (B, 1, W, W) of the right way
        new: (W) bool, which tokens are new
    """
    W = len(new)
    columns = torch.arange(W)
    match way:
        case Attends.FIRST:
            return torch.where(new[:, None], columns == 0, mask), None
        case Attends.OLDER:
            return mask & ~(new[:, None] & (columns == columns[:, None])), None
        case Attends.UNWRITTEN:
            mask = mask & ~(new[:, None] & new)
            empty = new.cumsum(dim=0)  # (W) slots of new tokens up to each one
        case _:
            empty = BLOCK - 1 - columns
    seen = (torch.arange(BLOCK) < empty[:, None]) & new[:, None]  # (W, BLOCK)
    heads, width = model.config.n_head, model.config.n_embd // model.config.n_head
    zeros = torch.zeros(len(mask), heads, BLOCK, width, dtype=torch.float64)
    return torch.cat([seen.expand(len(mask), 1, W, BLOCK), mask], dim=-1), ((zeros, zeros),) * model.config.n_layer


def probabilities(variant: Variant, logits: Tensor, settings: Settings) -> Tensor:
    """The distribution from which a variant draws, (B, V); not normalised."""
    if settings.greedy:
        settings = Settings()
    t, k, p = settings.temperature, settings.top_k, settings.top_p
    x = softmax(logits) if variant.second_softmax is SecondSoftmax.BEFORE else logits
    match variant.temperature:
        case Temperature.DIVIDES:
            x = x / t
        case Temperature.MULTIPLIES:
            x = x * t
        case Temperature.TWICE:
            x = x / t / t
        case Temperature.PROBABILITIES:
            x = softmax(x) / t if t != 1.0 else x
        case Temperature.NOTHING | Temperature.LAST:
            pass
    first_p = variant.top_k is TopK.AFTER_TOP_P
    if p is not None and first_p:
        x = limited_p(variant.top_p, x, x, p)
    before = x
    if k is not None and not (variant.top_k is TopK.AT_TEMPERATURE_1 and t != 1.0):
        x = limited_k(variant.top_k, x, k)
    if p is not None and not first_p:
        x = limited_p(variant.top_p, x, before, p)
    p_of = softmax(x / t if variant.temperature is Temperature.LAST else x)
    return softmax(p_of) if variant.second_softmax is SecondSoftmax.AFTER else p_of


def limited_k(way: TopK, x: Tensor, k: int) -> Tensor:
    """Logits (B, V) after a variant's top-k."""
    V = x.shape[-1]
    k = min(k, V)
    match way:
        case TopK.NOTHING:
            return x
        case TopK.MORE:
            return keep_top_k(x, min(k + 1, V))
        case TopK.FEWER:
            return keep_top_k(x, max(1, k - 1))
        case TopK.NOT_KTH:
            return x.masked_fill(x <= x.topk(k).values[:, -1:], -math.inf)
        case TopK.SMALLEST:
            return -keep_top_k(-x, k).nan_to_num(neginf=math.inf) if k < V else x
        case TopK.ZEROS:
            return x.masked_fill(keep_top_k(x, k) == -math.inf, 0.0)
        case TopK.FIRST_ROW:
            return x.masked_fill(x < x[:1].topk(k).values[:, -1:], -math.inf)
        case TopK.NO_TIES:
            values, places = x.topk(k)
            return torch.full_like(x, -math.inf).scatter(-1, places, values)
        case TopK.KEEPS | TopK.AFTER_TOP_P | TopK.AT_TEMPERATURE_1:
            return keep_top_k(x, k)


def limited_p(way: TopP, x: Tensor, before: Tensor, p: float) -> Tensor:
    """Logits (B, V) after a variant's top-p.

    Args:
        before: the logits before top-k
    """
    descending, order = softmax(x).sort(dim=-1, descending=True)
    sums = descending.cumsum(dim=-1)
    match way:
        case TopP.NOTHING:
            return x
        case TopP.KEEPS:
            return keep_top_p(x, p)
        case TopP.COMPLEMENT:
            return keep_top_p(x, 1.0 - p)
        case TopP.SHORT:
            dropped = sums > p
            dropped[:, 0] = False
        case TopP.MORE:
            dropped = sums - descending > p
            dropped = torch.cat([torch.zeros_like(dropped[:, :1]), dropped[:, :-1]], dim=-1)
        case TopP.LEAST:
            dropped = sums <= 1.0 - p
            dropped[:, -1] = False
        case TopP.UNSORTED:
            summed = softmax(x).cumsum(dim=-1)
            removed = summed > p
            removed[:, 1:] = removed[:, :-1].clone()
            removed[:, 0] = False
            return x.masked_fill(removed, -math.inf)
        case TopP.BEFORE_TOP_K:
            return x.masked_fill(keep_top_p(before, p) == -math.inf, -math.inf)
    return x.masked_fill(dropped.scatter(-1, order, dropped), -math.inf)


def drawn(variant: Variant, p: Tensor, settings: Settings, generator: torch.Generator | None) -> Tensor:
    """Draw a token for each row: probabilities (B, V) -> ids (B, 1). Raises RuntimeError for no probability at all."""

    def multinomial(p: Tensor) -> Tensor:
        return torch.multinomial(p, 1, generator=generator)

    match variant.draw:
        case Draw.MULTINOMIAL:
            return multinomial(p)
        case Draw.SORTED:
            values, order = p.sort(dim=-1, descending=True)
            return order.gather(-1, multinomial(values))
        case Draw.SUBSET:
            values, order = p.topk(min(settings.top_k or p.shape[-1], p.shape[-1]))
            return order.gather(-1, multinomial(values))
        case Draw.PER_ROW:
            return torch.stack([multinomial(row) for row in p])
        case Draw.EXPONENTIAL:
            return (p / torch.empty_like(p).exponential_(generator=generator)).argmax(dim=-1, keepdim=True)
        case Draw.GUMBEL:
            uniform = torch.rand(p.shape, generator=generator, dtype=p.dtype)
            return (p.log() - torch.log(-torch.log(uniform))).argmax(dim=-1, keepdim=True)
        case Draw.INVERSE:
            uniform = torch.rand(len(p), 1, generator=generator)
            sums = p.cumsum(dim=-1)
            return torch.searchsorted(sums, uniform * sums[:, -1:]).clamp(max=p.shape[-1] - 1)
        case Draw.ARGMAX:
            return p.argmax(dim=-1, keepdim=True)


def text(variant: Variant, reader: Reader, probe: Probe, given: bool) -> Iterator[list[int]]:
    """Yield the next token of each row.

    Args:
        given: whether the function takes a generator

    Raises RuntimeError or IndexError where the variant cannot continue.
    """
    variant = variant.of_probe(probe)
    width = probe.width
    ids = torch.tensor([[PAD] * (width - len(prompt)) + list(prompt) for prompt in probe.prompts])
    lead = torch.tensor([width - len(prompt) for prompt in probe.prompts])
    global_seed = probe.seed + (OTHER_SEED if given else 0)
    seed = probe.seed if variant.stream is Stream.GIVEN else global_seed
    with ExitStack() as stack:
        if variant.dropout:
            stack.enter_context(alone(global_seed if variant.own_seed is None else variant.own_seed))
        shared = variant.dropout and seed == global_seed  # dropout and drawing take turns in one stream
        generator = None if shared else torch.Generator()
        start = seed if variant.own_seed is None else variant.own_seed
        if generator is not None:
            generator.manual_seed(start)
        for number in range(variant.length(probe)):
            if variant.reseeds and generator is not None:
                generator.manual_seed(start)
            logits = reader.logits(variant, probe, ids, lead)
            new = next_of(variant, logits, probe.settings, generator, number)
            ids = torch.cat([ids, new], dim=1)
            yield new[:, 0].tolist()


def next_of(
    variant: Variant, logits: Tensor, settings: Settings, generator: torch.Generator | None, number: int
) -> Tensor:
    """The next token of each row, (B, 1), from logits (B, V)."""
    B = len(logits)
    greedy = settings.greedy and not variant.samples_greedy
    drawn_together = variant.sharing is Sharing.TOKENS or (variant.sharing is Sharing.FIRST_TOKEN and number == 0)
    if variant.sharing is Sharing.ALL or (drawn_together and not greedy):
        logits = logits[:1]
    if greedy:
        new = logits.argmax(dim=-1, keepdim=True)
    elif variant.sharing is Sharing.NUMBERS:
        p = probabilities(variant, logits, settings)
        noise = torch.empty_like(p[:1]).exponential_(generator=generator)
        new = (p / noise).argmax(dim=-1, keepdim=True)
    else:
        new = drawn(variant, probabilities(variant, logits, settings), settings, generator)
    return new.expand(B, 1)
