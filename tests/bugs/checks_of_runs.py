"""Checks of a run: its data, evaluation, resume and checkpoints."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from reference import GPTConfig
from reference.checkpoints.checkpoint import Checkpoint, load, save
from reference.data.batches import Batches, windows
from reference.data.shards import TokenSequence, open_tokens, write_shard
from reference.training.evaluation import Batch, mean_loss, shared
from reference.training.loop import Plan, step_randomness, train
from tests.bugs import oracle
from tests.bugs.checks import CONFIG, Outcome, check, count, near, sharp, worst
from tests.bugs.ranks import Meeting, Several, together
from tests.bugs.sides import Side


@check("D", "targets", "is each target the token after its input, in training and in validation, and each just once?")
def targets(side: Side, seed: int) -> Outcome:
    """Tokens are their own positions, so that a target is its input plus one."""
    tokens = torch.arange(41 + seed)
    outcomes = []
    for order in ("random", "sequential"):
        ids, wanted = Batches(tokens, 4, 6, seed, order).at(seed)
        outcomes.append(count(f"{order} targets", int((wanted != ids + 1).sum())))
    seen: Counter[int] = Counter()
    for ids, wanted in windows(tokens, 4, 3):
        counted = wanted != -1
        outcomes.append(count("validation targets", int((wanted != ids + 1)[counted].sum())))
        seen.update(wanted[counted].tolist())
    once = sum(seen[token] != 1 for token in range(1, len(tokens)))
    outcomes.append(count("tokens not judged just once", once + seen[0]))
    return worst(outcomes)


@check("D", "coverage", "do the ranks together see what one would, each block once an epoch, and any start at random?")
def coverage(side: Side, seed: int) -> Outcome:
    T, B, world = 4, 6, 2
    tokens = torch.arange(12 * T + 1)
    sequential = Batches(tokens, T, B, seed, "sequential")
    starts = Counter(
        int(row[0])
        for step in range(seed, seed + 2)
        for rank in range(world)
        for row in sequential.at(step, rank, world)[0]
    )
    missed = sum(starts[block * T] != 1 for block in range(12))
    outcomes = [count("blocks not seen just once in an epoch", missed)]
    at_random = Batches(tokens, T, B, seed)
    for step in range(3):
        alone = at_random.at(step)[0]
        joined = torch.cat([at_random.at(step, rank, world)[0] for rank in range(world)])
        outcomes.append(count("rows that differ from one rank's", int((alone != joined).any(1).sum())))
    few = Batches(torch.arange(9), T, 300, seed)  # five starts
    found = set(few.at(0)[0][:, 0].tolist())
    outcomes.append(count("starts that are never drawn", len(set(range(5)) ^ found)))
    again = sum(torch.equal(at_random.at(step)[0], at_random.at(step + 1)[0]) for step in range(5))
    outcomes.append(count("steps that repeat the one before", again))
    return worst(outcomes)


@check("D", "shards", "are token files read as one long text, in the order of their names, across their ends?")
def shards(side: Side, seed: int) -> Outcome:
    tokens = np.random.default_rng(seed).integers(0, 1000, 45)
    with tempfile.TemporaryDirectory() as folder:
        for number in (2, 0, 1):  # written out of order
            write_shard(Path(folder) / f"part-{number}.bin", tokens[15 * number : 15 * number + 15])
        sequence = open_tokens(folder)
        read = [*(sequence[a : a + 7].numpy() for a in range(39)), np.array([sequence[i] for i in range(45)])]
    expected = [*(tokens[a : a + 7] for a in range(39)), tokens]
    return count("pieces that differ", sum(not np.array_equal(a, b) for a, b in zip(read, expected, strict=True)))


class Judge(nn.Module):
    """A model whose loss at a position is the target there: its mean over a text can be added up by hand.

    In train mode it is another.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        return targets[targets != -1].double().mean() + (100.0 if self.training else 0.0)


@check(
    "E", "evaluation", "is the validation loss the mean over all targets, by hand, with short batches and two ranks?"
)
def evaluation(side: Side, seed: int) -> Outcome:
    """12 tokens in windows of 4, two at a time: 4 + 4 targets, then 3 and one that is none."""
    tokens = torch.randint(1, 50, (12,), generator=torch.Generator().manual_seed(seed))
    expected = torch.tensor(sum(tokens[1:].tolist()) / 11, dtype=torch.float64)
    judge = Judge().train()
    loss, number = mean_loss(judge, windows(tokens, 4, 2))
    outcomes = [
        near("mean", torch.tensor(loss, dtype=torch.float64), expected, 1e-14),
        count("targets too many or too few", abs(number - 11)),
        count("left in another mode", int(not judge.training)),
    ]

    def rank(number: int, meeting: Meeting) -> tuple[float, int]:
        several: Any = Several(number, meeting)
        return mean_loss(Judge(), shared(windows(tokens, 4, 1), several), several)

    for loss, number in together(rank):
        outcomes.append(near("mean of two ranks", torch.tensor(loss, dtype=torch.float64), expected, 1e-14))
        outcomes.append(count("targets of two ranks", abs(number - 11)))
    return worst(outcomes)


@check("R", "randomness", "does dropout differ between steps and ranks, and is it the same again for the same ones?")
def randomness(side: Side, seed: int) -> Outcome:
    def drawn(step: int, rank: int, of: int = seed) -> Tensor:
        with step_randomness(of, step, torch.device("cpu"), rank):
            return torch.rand(8)

    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        cases = [drawn(step, rank) for step in (0, 1, 2, 10**6) for rank in (0, 1, 2)]
        again = [drawn(step, rank) for step in (0, 1, 2, 10**6) for rank in (0, 1, 2)]
        other = drawn(0, 0, of=seed + 1)
        disturbed = not torch.equal(before, torch.get_rng_state())
    pairs = sum(torch.equal(a, b) for number, a in enumerate(cases) for b in [*cases[:number], other])
    return worst(
        [
            count("steps and ranks that share their dropout", pairs),
            count("draws that do not repeat", sum(not torch.equal(a, b) for a, b in zip(cases, again, strict=True))),
            count("torch's generator is not as it was", int(disturbed)),
        ]
    )


DROPPING = dataclasses.replace(CONFIG, block_size=8, dropout=0.2)
STEPS, STOP = 5, 3  # of four blocks each, of which an epoch has 11: the third step ends it and begins the next


class Run:
    """A run in memory, with what it saw and what it would have saved."""

    def __init__(self, side: Side, tokens: Any, seed: int, weights: dict[str, Tensor]) -> None:
        self.seen: list[Tensor] = []
        self.losses: list[float] = []
        self.saved: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
        self.batches, self.side, self.seed = Batches(tokens, 8, 4, seed, "sequential"), side, seed
        self.model = side.model(weights, DROPPING)
        self.step = side.step(self.model, learning_rate=lambda step: 1e-2 / (step + 1))

    def at(self, step: int, rank: int, world: int) -> Batch:
        ids, targets = self.batches.at(step, rank, world)
        self.seen.append(ids)
        return ids, targets

    def save(self, done: int) -> None:
        states = self.model.state_dict(), self.step.optimizer.state_dict()
        self.saved[done] = tuple({name: t.clone() for name, t in state.items()} for state in states)  # type: ignore

    def stepped(self, done: int) -> None:
        pass

    def recorded(self, record: dict[str, Any]) -> None:
        if "loss" in record:
            self.losses.append(record["loss"])

    def validation(self) -> Iterable[Batch]:
        return windows(torch.arange(20) % CONFIG.vocab_size, 8, 2)

    def go(self, stop: int, done: int = 0) -> Run:
        plan = Plan(
            stop, self.seed, lambda step: 1e-2 / (step + 1), eval_interval=2, log_interval=1, checkpoint_interval=2
        )
        train(self.model, self.step, self, self.validation, plan, save=self.save, observer=self, done=done)
        return self


@check("R", "resume", "does a resumed run equal an uninterrupted one bit for bit, in data, dropout and weights?")
def resume(side: Side, seed: int) -> Outcome:
    """An epoch ends before the stop, and a shard just before and just after it."""
    tokens = torch.randint(CONFIG.vocab_size, (90,), generator=torch.Generator().manual_seed(seed))
    sequence = TokenSequence([part.numpy().astype(np.uint16) for part in tokens.split(30)])
    weights = {**sharp(seed), "wpe.weight": sharp(seed)["wpe.weight"][:8]}
    whole = Run(side, sequence, seed, weights).go(STEPS)
    stopped = Run(side, sequence, seed, weights).go(STOP)
    state, moments = stopped.saved[STOP]
    resumed = Run(side, sequence, seed, state)
    resumed.step.optimizer.load_state_dict(moments)
    resumed.go(STEPS, done=STOP)
    blocks = [tokens[8 * block : 8 * block + 8] for block in range(11)]
    order = [torch.stack([blocks[(4 * step + row) % 11] for row in range(4)]) for step in range(STEPS)]
    outcomes = []
    for what, seen in (("without a stop", whole.seen), ("with a stop", stopped.seen + resumed.seen)):
        wrong = sum(not torch.equal(a, b) for a, b in zip(seen, order, strict=True))
        outcomes.append(count(f"batches, {what}", wrong))
    losses = zip(stopped.losses + resumed.losses, whole.losses, strict=True)
    outcomes.append(count("loss of a step", 0, max(abs(a - b) for a, b in losses)))
    for what, a, b in zip(("weight", "moment"), resumed.saved[STEPS], whole.saved[STEPS], strict=True):
        off = max(float((a[name].double() - b[name].double()).abs().max()) for name in b)
        outcomes.append(count(f"{what} after {STEPS} steps", 0, off))
    return worst(outcomes)


@check("R", "checkpoint", "does a checkpoint give back step, weights and moments, to the last bit, in HF's layout?")
def checkpoint(side: Side, seed: int) -> Outcome:
    model = side.model(sharp(seed), CONFIG)
    step = side.step(model)
    step.optimizer.load_state_dict(
        {
            "step": torch.tensor(5),
            **{f"exp_avg/{name}": t for name, t in sharp(seed + 1).items()},
            **{f"exp_avg_sq/{name}": t.square() for name, t in sharp(seed + 2).items()},
        }
    )
    moments = step.optimizer.state_dict()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for number in (6, 7):
            kept = Checkpoint(number, CONFIG, model.state_dict(), moments, {"name": "byte"}, {"seed": seed})
            written = save(Path(folder), kept, keep=1)
        found = load(written)
        layout = load_file(written / "model.safetensors")
        left = sorted(path.name for path in Path(folder).iterdir())
    outcomes.append(count("folders that are kept", len(set(left) ^ {"step-000007"})))
    outcomes.append(count("step", abs(found.step - 7)))
    outcomes.append(count("config", int(found.config != CONFIG or not isinstance(found.config, GPTConfig))))
    for what, a, b in (
        ("weights", found.model, sharp(seed)),
        ("moments", found.optimizer, moments),
        ("weights in the file", layout, oracle.hugging_face(sharp(seed))),
    ):
        differing = [n for n, t in b.items() if n not in a or a[n].dtype != t.dtype or not torch.equal(a[n], t)]
        outcomes.append(count(f"{what} that differ", len(differing)))
    assert not math.isnan(outcomes[0].error)
    return worst(outcomes)
