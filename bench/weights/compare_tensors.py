"""Compare two checkpoints tensor by tensor: how far apart they are, and what a difference looks like."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.numerics.errors import distance, pieces
from bench.weights.recognise import HEAD
from bench.weights.rules import Rule, canonical_tensor
from bench.weights.side import Side

CLOSE = 5e-3  # relative L2: above what rounding to bfloat16 costs, 2e-3, and far below another tensor
SAMPLE = 4096  # entries by which two tensors are first compared


@dataclass
class Row:
    """The comparison of one tensor."""

    name: str  # ours
    a: str  # its own names, "-" if there is none
    b: str
    error: float  # relative L2, infinite for tensors of different shapes
    largest: float
    looks: str = ""  # what the difference looks like

    @property
    def same(self) -> bool:
        """Whether all numbers are equal."""
        return self.error == 0.0


@dataclass
class Comparison:
    """The comparison of all tensors."""

    rows: list[Row]
    only: list[str] = field(default_factory=list)  # tensors of one side that are no part of a GPT-2
    notes: list[str] = field(default_factory=list)  # what is no difference: padding, tying, absent biases, names

    @property
    def different(self) -> list[Row]:
        """Rows that differ, in our order."""
        return [row for row in self.rows if not row.same]


def compare_tensors(a: Side, b: Side, tell: Callable[[str], None] = lambda what: None) -> Comparison:
    """Compare all tensors of two checkpoints; errors are relative to B."""
    found = Comparison([])
    reading(a, b, found.notes)
    names = dict.fromkeys([*a.names, *b.names])
    order = [*(n for n in names if n != HEAD), *(n for n in names if n == HEAD)]
    for name in order:
        tell(name)
        row = compared(name, a, b, found.notes)
        if row is not None:
            found.rows.append(row)
    tell("what the differences look like")
    look(found.different, a, b)
    renamed(a, b, found)
    found.notes += tied(a, b)
    return found


def reading(a: Side, b: Side, notes: list[str]) -> None:
    """Take the order of q, k and v, and of square matrices, that makes the most tensors of the first layer equal.

    Only where neither names nor shapes say it: the names of a known scheme do.
    """
    probes = [f"h.0.attn.{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "c_proj")]
    probes += [f"h.0.ln_{number}.{kind}" for number in (1, 2) for kind in ("weight", "bias")]

    def equal(names: Iterable[str]) -> int:
        """How many tensors are equal."""
        both = [n for n in names if n in a.sources and n in b.sources]
        return sum(near(a.tensor(n), b.tensor(n)) for n in both)

    before = equal(probes)
    if before == len(probes):
        return
    best: tuple[int, Side, list[Rule]] | None = None
    for side in (a, b):
        usual = side.layout.rules
        for rules in side.layout.alternatives if side.layout.scheme is None else ():
            side.read_as(rules)
            count = equal(probes)
            if count > (before if best is None else best[0]):
                best = count, side, rules
        side.read_as(usual)
    if best is not None:
        _, side, rules = best
        usual = side.layout.rules
        side.read_as(rules)
        changed = next(new for old, new in zip(usual, rules, strict=True) if old != new)
        notes.append(
            f"{side.letter}'s {changed.own.replace('{i}', '*')} is read as {changed.axes}, with which more tensors are "
            "equal than in the usual order"
        )


def compared(name: str, a: Side, b: Side, notes: list[str]) -> Row | None:
    """The row of a tensor; None for a bias that one side lacks and that is zero on the other."""
    has_a, has_b = (name in side.names for side in (a, b))
    if name == HEAD and not (has_a and has_b):  # a tied head is the token table
        one, other = (a, b) if has_a else (b, a)
        x, y = (side.tensor(HEAD if side is one else "wte.weight") for side in (a, b))
        row = measured(name, x, y, a, b, notes)
        row.looks = f"{one.letter}'s head is a table of its own, {other.letter}'s is its token table"
        return row
    if has_a and has_b:
        return measured(name, a.tensor(name), b.tensor(name), a, b, notes)
    side, lacking = (a, b) if has_a else (b, a)
    if name.endswith("bias"):
        if not side.tensor(name).any():
            note = f"{lacking.letter} has no {kind_of(name)} biases, {side.letter}'s are zero: the same function"
            if note not in notes:
                notes.append(note)
            return None
        largest = float(side.tensor(name).abs().max())
        return Row(name, a.own_name(name), b.own_name(name), math.inf, largest, f"missing in {lacking.letter}, so zero")
    return Row(name, a.own_name(name), b.own_name(name), math.inf, math.inf, f"missing in {lacking.letter}")


def kind_of(name: str) -> str:
    """Where a bias belongs: norm, attention or MLP."""
    return "norm" if "ln_" in name else "attention" if ".attn." in name else "MLP"


def measured(name: str, x: Tensor, y: Tensor, a: Side, b: Side, notes: list[str]) -> Row:
    """The distance of two tensors; of tables with more rows on one side, that of the common rows."""
    owns = a.own_name(name), b.own_name(name)
    if x.shape == y.shape:
        return Row(name, *owns, *apart(x, y))
    if name in ("wte.weight", "wpe.weight", HEAD) and x.shape[1:] == y.shape[1:]:
        rows = min(len(x), len(y))
        longer, side = (x, a) if len(x) > rows else (y, b)
        rest = longer[rows:].float()
        if name == "wpe.weight":
            what = f"{side.letter} has {len(longer)} positions, the other {rows}: only those are compared"
        else:
            zero = "are zero" if not rest.any() else f"are not zero, up to {float(rest.abs().max()):.2g}"
            table = name.removesuffix(".weight")
            what = (
                f"{side.letter}'s vocabulary is padded from {rows:,} to {len(longer):,} tokens: its {len(rest)} more "
                f"rows of {table} {zero}; unless its code cuts their logits, its softmax counts them"
            )
        notes.append(what)
        return Row(name, *owns, *apart(x[:rows], y[:rows]))
    shapes = f"shapes {tuple(x.shape)} and {tuple(y.shape)}"
    return Row(name, *owns, math.inf, math.inf, shapes)


def apart(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Relative L2 distance and largest difference. The same memory is no difference."""
    if x.data_ptr() == y.data_ptr():
        return 0.0, 0.0
    return distance(x, y)


def near(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are equal up to the rounding of half precision; a sample is compared first."""
    if x.shape != y.shape:
        return False
    return alike(sample(x), sample(y)) and apart(x, y)[0] <= CLOSE


def sample(x: Tensor) -> Tensor:
    """Some entries, in float64."""
    return x.flatten()[:: max(1, x.numel() // SAMPLE)].double()


def alike(x: Tensor, y: Tensor) -> bool:
    """Whether two samples are equal up to the rounding of half precision; zeros are like nothing."""
    size = float(y.norm())
    return x.shape == y.shape and size > 0.0 and float((x - y).norm()) <= CLOSE * size


def look(rows: list[Row], a: Side, b: Side) -> None:
    """Say what each difference looks like."""
    samples = {name: sample(b.tensor(name)) for name in b.names} if rows else {}
    for row in rows:
        if row.looks or row.name not in a.names or row.name not in b.names:
            continue
        x, y = a.tensor(row.name), b.tensor(row.name)
        row.looks = alone(x, y) or reordered(row.name, a, b) or other(row.name, x, b, samples) or few(x, y)
    looks = {row.name: row.looks for row in rows}
    for row in rows:
        partner = looks[row.name].removeprefix("is B's ")
        if looks.get(partner) == f"is B's {row.name}":
            row.looks = f"swapped with {partner}"


def reordered(name: str, a: Side, b: Side) -> str:
    """Whether q, k and v are equal if one side's joined tensor is read in another order."""
    for side, partner in ((a, b), (b, a)):
        for rules in side.layout.alternatives:
            if ".attn." not in name or name not in side.sources:
                continue
            used, i = side.sources[name]
            changed = next((r for r in rules if r.own == used.own and r.axes != used.axes), None)
            if changed is None or len(changed.ours) != 3:
                continue
            ours = next(one for one in changed.ours if one.format(i=i) == name)
            tensor = canonical_tensor(changed, ours, side.file.tensors, side.config, i)
            if near(tensor, partner.tensor(name)):
                way = "interleaved" if "(s" not in changed.axes else "one after the other"
                return f"equal if {side.letter}'s {used.own.rsplit('.', 2)[-2]} is read {way}, as {changed.axes}"
    return ""


def alone(x: Tensor, y: Tensor) -> str:
    """What a difference looks like from the two tensors alone; empty if like nothing known."""
    x, y = x[: len(y)], y[: len(x)]
    for letter, one, two in (("A", x, y), ("B", y, x)):
        dtype = one.dtype
        if dtype.itemsize < two.dtype.itemsize and torch.equal(two.to(dtype), one):
            return f"{letter}'s is the other's rounded to {str(dtype).removeprefix('torch.')}"
    if not x.isfinite().all() or not y.isfinite().all():
        side = "A" if not x.isfinite().all() else "B"
        return f"{side}'s has NaN or infinity"
    if x.dim() == 2 and x.shape[0] == x.shape[1] and near(x.T, y):
        return "transposed"
    for letter, one in (("A", x), ("B", y)):
        if not one.any():
            return f"{letter}'s is zero"
    factor = common_factor(x, y)
    return "" if factor is None else f"{factor:.6g} times B's"


def common_factor(x: Tensor, y: Tensor) -> float | None:
    """The factor f of x = f y; None if there is none."""
    xx = xy = yy = 0.0
    for p, q in zip(pieces(x), pieces(y), strict=True):
        xx, xy, yy = xx + float(torch.dot(p, p)), xy + float(torch.dot(p, q)), yy + float(torch.dot(q, q))
    rest = xx - xy * xy / yy  # squared length of what is left of x
    return xy / yy if rest <= 1e-10 * xx else None


def other(name: str, x: Tensor, b: Side, samples: Mapping[str, Tensor]) -> str:
    """Whether a tensor of A equals another tensor of B, as it is or transposed."""
    ways = {"": x} | ({", transposed": x.T} if x.dim() == 2 else {})
    for way, turned in ways.items():
        own = sample(turned)
        for candidate, theirs in samples.items():
            if candidate != name and alike(own, theirs) and near(turned, b.tensor(candidate)):
                return f"is B's {candidate}{way}"
    return ""


def few(x: Tensor, y: Tensor) -> str:
    """How many rows or entries differ, if it is less than one in fifty."""
    x, y = x[: len(y)], y[: len(x)]
    differ = x != y
    if differ.dim() == 2 and (rows := int(differ.any(-1).sum())) * 50 < len(differ):
        return f"in {rows} of {len(differ):,} rows"
    count = int(differ.sum())
    return f"in {count} of {differ.numel():,} entries" if count * 50 < differ.numel() else ""


def renamed(a: Side, b: Side, found: Comparison) -> None:
    """Match tensors without a place in a GPT-2 with those that their side lacks; name the others."""
    for side, partner in ((a, b), (b, a)):
        for own in side.unknown:
            tensor = side.file.tensors[own]
            lost = [row for row in found.rows if row.looks == f"missing in {side.letter}"]
            twin = next((row for row in lost if same_numbers(tensor, partner.tensor(row.name))), None)
            if twin is not None:
                found.rows.remove(twin)
                found.notes.append(
                    f"renamed: {side.letter}'s {own} is {partner.letter}'s {partner.own_name(twin.name)}"
                )
            elif (same := partner.file.tensors.get(own)) is not None and same_numbers(tensor, same):
                if side is a:
                    found.notes.append(f"both have {own}, equal, which is no part of a GPT-2")
            else:
                found.only.append(f"only in {side.letter}: {own} {tuple(tensor.shape)}, which is no part of a GPT-2")


def same_numbers(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are equal, as they are or transposed."""
    return near(x, y) or (x.dim() == 2 and near(x.T, y))


def tied(a: Side, b: Side) -> list[str]:
    """Whether the heads are the token tables."""
    if a.untied == b.untied:
        return ["both heads are tables of their own: they are compared too"] if a.untied else []
    one, two = (a, b) if a.untied else (b, a)
    return [f"{one.letter}'s head is untied from its token table, {two.letter}'s is tied"]
