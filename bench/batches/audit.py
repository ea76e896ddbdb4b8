"""Find what is wrong with a data loader: targets, coverage of an epoch, seeds, ranks, resuming.

Every fault is read from the batches, whose tokens are positions in the text: none is a guess.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.batches.record import Batch, Loader
from bench.user_code.fault import Fault
from bench.user_code.refused import Refused

BATCH, BLOCK = 3, 8
TOKENS = BATCH * BLOCK * 12 + 5  # 12 whole batches in an epoch, and a tail
SHARED = BATCH * BLOCK * 13 + 5  # of the text for several processes
WORLDS = (2, 3)
DRAWS = 400  # batches of random windows of a short text: a start is missed once in 10^13
SPARE = 4  # the starts of a text of BLOCK + SPARE tokens: 0 to SPARE - 1

Tell = Callable[[str], None]


@dataclass
class Audit:
    """The result of testing a data loader."""

    name: str
    takes: set[str]
    kind: str = ""  # "epochs": each window once, then again; "random": windows from anywhere
    batches: int = 0  # of an epoch, if there are epochs
    seen: int = 0  # batches that were looked at
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """The result as plain values, for --json."""
        return {
            "kind": "batches",
            "loader": self.name,
            "right": self.right,
            "takes": sorted(self.takes),
            "order": self.kind,
            "batches_per_epoch": self.batches or None,
            "faults": [asdict(one) for one in self.faults],
            "notes": self.notes,
        }


def audit(build: Callable[..., Any], *, name: str = "the loader", tell: Tell = lambda what: None) -> Audit:
    """Test a data loader.

    Args:
        build: see `bench.batches.record.Loader`

    Raises ValueError, one line, for a loader that cannot be run.
    """
    loader = Loader(build, BATCH, BLOCK)
    found = Audit(name, loader.takes)
    tell("targets")
    stream = loader.take(TOKENS, 3 * TOKENS // (BATCH * BLOCK))
    found.seen = len(stream)
    if not stream:
        found.faults.append(Fault("there is no batch", f"a text of {TOKENS} tokens", "yield (inputs, targets)"))
        return found
    found.faults += [*sizes(stream), *targets(stream)]
    if found.faults:
        found.notes.append("coverage, seeds, ranks and resuming were not tested: fix the targets first")
        return found
    found.batches = epoch(stream)
    found.kind = "epochs" if found.batches else "random"
    if not found.batches and in_order(stream):
        found.faults.append(overlap(stream))
        return found
    tell("coverage")
    if found.batches:
        found.faults += coverage(stream[: found.batches])
    else:
        try:
            found.faults += starts(loader)
        except Refused as error:
            found.notes.append(f"starts of windows were not tested: {error}")
    tell("seeds")
    found.faults += seeds(loader, stream)
    if {"rank", "world_size"} <= loader.takes and not found.faults:
        tell("ranks")
        found.faults += next(filter(None, (list(ranks(loader, world, bool(found.batches))) for world in WORLDS)), [])
    elif not {"rank", "world_size"} <= loader.takes:
        found.notes.append("the loader takes no rank and world_size: several processes were not tested")
    if "start" in loader.takes:
        tell("resuming")
        found.faults += resumed(loader, stream, found.batches)
    else:
        found.notes.append("the loader takes no start: resuming was not tested")
    if found.batches and len(stream) >= 2 * found.batches:
        found.notes += same_order(stream, found.batches)
    return found


def sizes(stream: Sequence[Batch]) -> Iterator[Fault]:
    """(B, T) of every batch but the last of an epoch."""
    wanted = (BATCH, BLOCK)
    shapes = Counter(tuple(batch.inputs.shape) for batch in stream)
    (usual, _), *_ = shapes.most_common(1)
    if usual != wanted:
        yield Fault(
            f"batches have shape {usual}, not {wanted}",
            f"{shapes[usual]} of {len(stream)} batches",
            "batch_size rows of block_size tokens; the targets are one further on in the text",
        )


SHIFTS = {
    0: ("targets are the inputs: not shifted", "targets = tokens[i + 1 : i + 1 + block_size]"),
    2: ("targets are shifted twice: the token after the next", "shift either in the data or in the loss"),
    -1: ("targets are shifted backwards: the token before", "targets = tokens[i + 1 : i + 1 + block_size]"),
}


def targets(stream: Sequence[Batch]) -> Iterator[Fault]:
    """Rows are contiguous, and each target is the next token."""
    inputs, wanted = (torch.cat(list(part)) for part in zip(*((b.inputs, b.targets) for b in stream), strict=True))
    broken = (inputs[:, 1:] - inputs[:, :-1] != 1).any(1)
    if bool(broken.any()):
        row = int(broken.nonzero()[0])
        yield Fault(
            "rows are no contiguous pieces of the text",
            f"{int(broken.sum())} of {len(inputs)} rows, such as positions {inputs[row].tolist()}",
            "inputs = tokens[i : i + block_size]",
        )
        return
    shift = wanted - inputs
    wrong = shift != 1
    if not bool(wrong.any()):
        return
    columns = wrong.any(0).nonzero().flatten().tolist()
    if columns == [inputs.shape[1] - 1]:
        yield last_target(inputs, wanted, wrong[:, -1])
        return
    (usual, count), *_ = Counter(shift[wrong].tolist()).most_common(1)
    what, remedy = SHIFTS.get(usual, ("targets are not the next tokens", SHIFTS[0][1]))
    share = count if usual in SHIFTS else int(wrong.sum())
    row = int(wrong.any(1).nonzero()[0])
    shown = f"positions {inputs[row].tolist()} have targets {wanted[row].tolist()}"
    yield Fault(what, f"{share} of {wrong.numel()} targets; {shown}", remedy)


def last_target(inputs: Tensor, wanted: Tensor, wrong: Tensor) -> Fault:
    """What is wrong if only the last target of rows is."""
    last, first = wanted[wrong, -1], inputs[wrong, 0]
    count = f"{int(wrong.sum())} of {len(wrong)} rows"
    remedy = "read block_size + 1 tokens: inputs without the last, targets without the first"
    if bool((last == first).all()):
        return Fault("the last target of a row is its first input (torch.roll)", count, remedy)
    if bool((last < 0).all()):
        return Fault("the last token of a row has no target", f"{count}: target {int(last[0])}", remedy)
    return Fault("the last target of a row is not the next token", f"{count}: target {int(last[0])}", remedy)


def epoch(stream: Sequence[Batch]) -> int:
    """Batches of the first epoch: up to the first target that was seen before; 0 if windows are drawn at random.

    Random windows meet each other soon. Those of an epoch do not before most of the text was seen; or, if the epoch is
    too short, they are the same again in the next.
    """
    own = [set(batch.targets.flatten().tolist()) for batch in stream]
    seen: set[int] = set()
    for number, (batch, targets) in enumerate(zip(stream, own, strict=True)):
        if seen & targets or len(targets) < batch.targets.numel():
            again = set().union(*own[number : 2 * number])
            return number if len(seen) > TOKENS // 2 or (number > 1 and again == seen) else 0
        seen |= targets
    return len(stream)


def in_order(stream: Sequence[Batch]) -> bool:
    """Whether the windows of the first batches come in the order of the text."""
    begin = torch.cat([batch.inputs[:, 0] for batch in stream[:2]])
    return len(begin) > 1 and bool((begin[1:] > begin[:-1]).all())


def overlap(stream: Sequence[Batch]) -> Fault:
    """Windows in the order of the text that share targets."""
    begin = torch.cat([batch.inputs[:, 0] for batch in stream])[:4].tolist()
    return Fault(
        "windows overlap: an epoch has targets twice",
        f"windows of {BLOCK} tokens begin at {', '.join(map(str, begin))}, ...",
        "windows begin block_size apart",
    )


def coverage(first: Sequence[Batch]) -> Iterator[Fault]:
    """An epoch has every target once; less than a batch, and less than a block, may be missing at the end."""
    seen = torch.cat([batch.targets.flatten() for batch in first])
    missing = sorted(set(range(1, TOKENS)) - set(seen.tolist()))
    inner = [place for place in missing if place < int(seen.max())]
    gaps = [place for place in inner if place - 1 not in missing and place + 1 not in missing]
    if len(gaps) > TOKENS // (2 * BLOCK):
        yield Fault(
            "one target in each window's distance is never trained on",
            f"{len(gaps)} targets in an epoch, such as {gaps[:4]}",
            "windows begin block_size apart, not block_size + 1: each reads the first token of the next as its target",
        )
    elif len(missing) > BATCH * BLOCK + BLOCK:
        yield Fault(
            "an epoch leaves out a part of the text",
            f"{len(missing)} of {TOKENS - 1} targets; first {missing[0]}, last {missing[-1]}",
            "steps per epoch = (len(tokens) - 1) // (batch_size * block_size)",
        )


def starts(loader: Loader) -> Iterator[Fault]:
    """Random windows begin at every place, the last possible one too."""
    drawn = loader.take(BLOCK + SPARE, DRAWS)
    seen = set(torch.cat([batch.inputs[:, 0] for batch in drawn]).tolist())
    missing = sorted(set(range(SPARE)) - seen)
    if missing:
        never = f"start{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
        yield Fault(
            "some windows are never drawn",
            f"in {len(drawn)} batches of a text of {BLOCK + SPARE} tokens, {never} of 0 to {SPARE - 1}",
            "torch.randint(len(tokens) - block_size, (batch_size,)): its upper end is excluded",
        )


def seeds(loader: Loader, stream: Sequence[Batch]) -> Iterator[Fault]:
    """The same seed gives the same batches; another seed others, if they are not in the order of the text."""
    again = loader.take(TOKENS, len(stream), **({"seed": 0} if "seed" in loader.takes else {}))
    if "seed" in loader.takes:
        first = loader.take(TOKENS, len(stream), seed=0)
        if not equal(first, again):
            yield Fault(
                "the same seed gives other batches",
                f"batch {different(first, again)} of two streams with seed 0",
                "draw from a torch.Generator of your own, seeded with the seed",
            )
            return
        if not in_order(first) and equal(first, loader.take(TOKENS, len(stream), seed=1)):
            yield Fault("the seed changes nothing", "seeds 0 and 1 give the same batches", "seed the generator with it")


def ranks(loader: Loader, world: int, epochs: bool) -> Iterator[Fault]:
    """The processes share an epoch: no target twice, none left out, and all have the same number of batches.

    The number of batches in the text is no multiple of the number of processes.
    """
    alone = loader.take(SHARED, 3 * SHARED // (BATCH * BLOCK))
    streams = [loader.take(SHARED, len(alone), rank=rank, world_size=world) for rank in range(world)]
    of = f"with world_size {world}"
    if equal(streams[0], streams[1]):
        yield Fault(
            "every rank gets the same batches", f"{of}, ranks 0 and 1", "take rows rank, rank + world_size, ..."
        )
        return
    if not epochs:
        return
    if len({len(stream) for stream in streams}) > 1:
        numbers = ", ".join(str(len(stream)) for stream in streams)
        yield Fault(
            "ranks have different numbers of batches",
            f"{of}: {numbers}",
            "give each rank the same number: the ranks that have a batch more wait in their all-reduce for the others",
        )
        return
    most = epoch(alone) // world
    own = [set(torch.cat([b.targets.flatten() for b in stream[:most]]).tolist()) for stream in streams]
    together = set().union(*own)
    twice, missing = sum(map(len, own)) - len(together), SHARED - 1 - len(together)
    if twice:
        yield Fault(
            "ranks overlap: they see the same targets in one epoch",
            f"{of}: {twice} targets are seen by more than one rank",
            "one order for all ranks, from the same seed; each takes its own part of it",
        )
    elif missing > world * BATCH * BLOCK + BLOCK:
        yield Fault(
            "the ranks together leave out a part of the text",
            f"{of}: {missing} of {SHARED - 1} targets in an epoch",
            "rows of batch i of a rank: (i * world_size + rank) * batch_size and on",
        )


def resumed(loader: Loader, stream: Sequence[Batch], per_epoch: int) -> Iterator[Fault]:
    """Started at batch n, the loader gives what it would have given from there, also in a later epoch."""
    whole = loader.take(TOKENS, len(stream), start=0)
    if not equal(whole, stream):
        yield Fault("start 0 is not the beginning", f"batch {different(whole, stream)}", "start counts from 0")
        return
    places = [2, 5, *([per_epoch - 1, per_epoch, per_epoch + 2] if 0 < per_epoch < len(stream) - 3 else [])]
    for place in places:
        rest = loader.take(TOKENS, len(stream) - place, start=place)
        if equal(rest, whole[place:]):
            continue
        remedy = "start is the number of batches already taken: compute epoch, order and row from it"
        if equal(rest, whole[: len(rest)]):
            yield Fault("a resumed run begins at the first batch again", f"start {place}", remedy)
        elif equal(rest[: len(whole) - place + 1], whole[place - 1 :][: len(rest)]):
            yield Fault("a resumed run repeats the last batch", f"start {place}", remedy)
        elif equal(rest[: len(whole) - place - 1], whole[place + 1 :]):
            yield Fault("a resumed run skips a batch", f"start {place}", remedy)
        elif (other := place_of(rest, whole)) is not None:
            shown = f"start {place}: it gives batch {other} and those after it"
            yield Fault("a resumed run goes on at the wrong place", shown, remedy)
        else:
            number = place + different(rest, whole[place:])
            later = f", in epoch {number // per_epoch}" if per_epoch else ""
            yield Fault("a resumed run has other batches", f"start {place}: the first is batch {number}{later}", remedy)
        return


def place_of(rest: Sequence[Batch], whole: Sequence[Batch]) -> int | None:
    """The batch of a whole stream where the rest begins, and goes on as that does; None if there is none."""
    for place in range(len(whole) - 1):
        both = min(len(rest), len(whole) - place)
        if both > 1 and equal(rest[:both], whole[place : place + both]):
            return place
    return None


def same_order(stream: Sequence[Batch], per_epoch: int) -> list[str]:
    """A note, if the second epoch is shuffled as the first."""
    first, second = stream[:per_epoch], stream[per_epoch : 2 * per_epoch]
    return ["every epoch has the same order"] if not in_order(first) and equal(first, second) else []


def equal(a: Sequence[Batch], b: Sequence[Batch]) -> bool:
    """Whether two streams are the same."""
    return len(a) == len(b) and different(a, b) == len(a)


def different(a: Sequence[Batch], b: Sequence[Batch]) -> int:
    """The first batch in which two streams differ; the length of the shorter if none."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((n for n, (x, y) in pairs if not torch.equal(x.inputs, y.inputs)), min(len(a), len(b)))
