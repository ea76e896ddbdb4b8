"""One-line mistakes in examples/my_step.py, and words of the cause that the tool must name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RIGHT = Path(__file__).parents[3] / "examples" / "my_step.py"

SHARE = "loss = loss * targets.numel() / count"
GROUPS = '[{"params": matrices, "weight_decay": h.weight_decay}, {"params": vectors, "weight_decay": 0.0}]'
BUILT = "torch.optim.AdamW(groups, lr=h.learning_rate, betas=h.betas, eps=h.eps)"
CLIP = "        torch.nn.utils.clip_grad_norm_(model.parameters(), h.clip)\n"
BACKWARD = "            loss.backward()\n"
UPDATE = "        optimizer.step()\n"
CLEAR = "        optimizer.zero_grad()\n"
MATRICES = "p.dim() >= 2"
NAMED = "[p for p in model.parameters() if p.dim() >= 2]"
OTHERS = "[p for p in model.parameters() if p.dim() < 2]"


ADAMW = '''import torch


class AdamW:
    """AdamW by hand."""

    def __init__(self, groups, lr, betas, eps):
        self.param_groups, self.betas, self.eps, self.t = groups, betas, eps, 0
        self.state = {p: (torch.zeros_like(p), torch.zeros_like(p)) for group in groups for p in group["params"]}

    def zero_grad(self):
        for p in self.state:
            p.grad = None

    @torch.no_grad()
    def step(self):
        self.t += 1
        for group in self.param_groups:
            for p in group["params"]:
                m, v = self.state[p]
                p.mul_(1 - group["lr"] * group["weight_decay"])
                m.lerp_(p.grad, 1 - self.betas[0])
                v.lerp_(p.grad**2, 1 - self.betas[1])
                first, second = 1 - self.betas[0] ** self.t, 1 - self.betas[1] ** self.t
                p -= group["lr"] * (m / first) / ((v / second).sqrt() + self.eps)
'''


@dataclass(frozen=True)
class Edit:
    """A change of the right file."""

    edits: tuple[tuple[str, str], ...]
    cause: tuple[str, ...]  # words of the mistakes, or of the schedule, in any order
    bug: int | None = None  # number in BUGS.md
    right: Path = RIGHT

    def source(self) -> str:
        """The file with the mistake."""
        text = self.right.read_text()
        for old, new in self.edits:
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {self.right.name}"
            text = text.replace(old, new)
        return text

    def lines(self) -> set[int]:
        """Numbers of the lines of the right file that it changes."""
        text = self.right.read_text()
        spans = [(text.index(old), old) for old, _ in self.edits if old in text]
        return {n for at, old in spans for n in range(text.count("\n", 0, at), text.count("\n", 0, at + len(old)) + 1)}


def edit(old: str, new: str, *cause: str, bug: int | None = None) -> Edit:
    """One replacement."""
    return Edit(((old, new),), cause, bug)


def by_hand(old: str, new: str, *cause: str, bug: int | None = None) -> Edit:
    """One replacement in an AdamW that is written in the file."""
    return Edit((("import torch\n", ADAMW), ("torch.optim.AdamW(", "AdamW("), (old, new)), cause, bug)


DIRECTION = "(m / first) / ((v / second).sqrt() + self.eps)"

EDITS: dict[str, Edit] = {
    "mean_of_means": edit(SHARE, "loss = loss / len(micro_batches)", "mean of means", bug=20),
    "not_divided": edit(SHARE, "pass", "not divided by the number", bug=21),
    "divided_twice": edit(SHARE, "loss = loss / len(micro_batches) ** 2", "divided twice"),
    "cleared_each": edit(
        BACKWARD, f"            optimizer.zero_grad()\n{BACKWARD}", "cleared before every micro-batch", bug=22
    ),
    "short_dropped": edit(
        "            _, loss = model",
        "            if targets.numel() < micro_batches[0][1].numel() and targets is micro_batches[-1][1]:\n"
        "                break\n            _, loss = model",
        "the last micro-batch is dropped",
        bug=23,
    ),
    "sum_of_losses": edit(SHARE, "loss = loss * targets.numel()", "sum over targets"),
    "never_cleared": edit(CLEAR, "", "never cleared"),
    "not_clipped": edit(CLIP, "", "not clipped"),
    "clipped_after": Edit(((CLIP, ""), (UPDATE, UPDATE + CLIP)), ("not clipped",)),
    "clipped_each": Edit(((CLIP, ""), (BACKWARD, BACKWARD + "    " + CLIP)), ("after each micro-batch",)),
    "clipped_each_and_at_the_end": edit(BACKWARD, BACKWARD + "    " + CLIP, "after each micro-batch, and once more"),
    "clipped_by_tensor": edit(
        "torch.nn.utils.clip_grad_norm_(model.parameters(), h.clip)",
        "[torch.nn.utils.clip_grad_norm_([p], h.clip) for p in model.parameters()]",
        "its own norm",
    ),
    "clipped_by_value": edit("clip_grad_norm_", "clip_grad_value_", "each value"),
    "clipped_undivided": Edit(
        (
            (SHARE, "loss = loss * targets.numel() * len(micro_batches) / count"),
            (CLIP, CLIP + "        for p in model.parameters():\n            p.grad /= len(micro_batches)\n"),
        ),
        ("before they are divided",),
    ),
    "clipped_scaled": Edit(
        (
            (SHARE, "loss = loss * targets.numel() / count * 65536"),
            (CLIP, CLIP + "        for p in model.parameters():\n            p.grad /= 65536\n"),
        ),
        ("loss scale",),
        bug=26,
    ),
    "decays_all": Edit(
        ((GROUPS, '[{"params": matrices + vectors, "weight_decay": h.weight_decay}]'),), ("every tensor decays",), 31
    ),
    "decays_nothing": edit('"weight_decay": h.weight_decay}', '"weight_decay": 0.0}', "nothing decays"),
    "decays_exchanged": Edit(
        (
            ('"params": matrices, "weight_decay": h.weight_decay', '"params": matrices, "weight_decay": 0.0'),
            ('"params": vectors, "weight_decay": 0.0', '"params": vectors, "weight_decay": h.weight_decay'),
        ),
        ("groups are exchanged",),
    ),
    "decays_norms": Edit(
        (
            (NAMED, "[p for n, p in model.named_parameters() if not n.endswith('bias')]"),
            (OTHERS, "[p for n, p in model.named_parameters() if n.endswith('bias')]"),
        ),
        ("norm gains decay",),
        bug=31,
    ),
    "decays_biases": Edit(
        (
            (NAMED, "[p for n, p in model.named_parameters() if 'ln_' not in n]"),
            (OTHERS, "[p for n, p in model.named_parameters() if 'ln_' in n]"),
        ),
        ("biases of linear layers decay",),
    ),
    "spares_embeddings": Edit(
        (
            (NAMED, "[p for n, p in model.named_parameters() if p.dim() >= 2 and n[0] == 'h']"),
            (OTHERS, "[p for n, p in model.named_parameters() if p.dim() < 2 or n[0] != 'h']"),
        ),
        ("embeddings do not decay",),
    ),
    "l2": edit("torch.optim.AdamW(", "torch.optim.Adam(", "L2", bug=30),
    "usual_decay": edit('"weight_decay": h.weight_decay}', '"weight_decay": 0.01}', "weight decay is 0.01"),
    "usual_betas": edit("betas=h.betas, ", "", "(0.9, 0.999)"),
    "usual_eps": edit("eps=h.eps", "eps=1e-6", "eps is 1e-06"),
    "amsgrad": edit("eps=h.eps)", "eps=h.eps, amsgrad=True)", "AMSGrad"),
    "sgd": edit(BUILT, "torch.optim.SGD(groups, lr=h.learning_rate)", "gradient descent"),
    "tied_twice": edit(CLIP, f"        model.wte.weight.grad *= 2\n{CLIP}", "token table counts twice", bug=25),
    "no_correction": by_hand(DIRECTION, "m / (v.sqrt() + self.eps)", "no bias correction", bug=29),
    "eps_before_correction": by_hand(
        DIRECTION, "(m / first) * second**0.5 / (v.sqrt() + self.eps)", "eps is added before", bug=28
    ),
    "eps_inside": by_hand(DIRECTION, "(m / first) / (v / second + self.eps).sqrt()", "eps is inside"),
    "second_step_first": by_hand("self.t = groups, betas, eps, 0", "self.t = groups, betas, eps, 1", "at t = 2"),
    "decay_unscaled": by_hand('1 - group["lr"] * group["weight_decay"]', '1 - group["weight_decay"]', "not multiplied"),
    "ahead": edit("learning_rate(done)", "learning_rate(done + 1)", "one step ahead"),
    "behind": edit("learning_rate(done)", "learning_rate(max(0, done - 1))", "one step behind"),
    "zero_first": edit("(step + 1) / h.warmup", "step / h.warmup", "step 0 has learning rate 0", bug=32),
    "long_warmup": edit("(step + 1) / h.warmup", "(step + 1) / (h.warmup + 1)", "(warmup + 1)"),
    "no_warmup": edit("h.learning_rate * (step + 1) / h.warmup", "h.learning_rate", "no warm-up"),
    "constant": edit('group["lr"] = learning_rate(done)', 'group["lr"] = h.learning_rate', "constant"),
    "linear": edit("0.5 * (1.0 + math.cos(math.pi * share))", "(1.0 - share)", "straight line"),
    "to_zero": Edit(
        (
            (
                "h.floor + 0.5 * (1.0 + math.cos(math.pi * share)) * (h.learning_rate - h.floor)",
                "0.5 * (1.0 + math.cos(math.pi * share)) * h.learning_rate",
            ),
            ("return h.floor\n", "return 0.0\n"),
        ),
        ("to 0, not",),
    ),
    "forgets_positions": Edit(
        ((NAMED, "[p for n, p in model.named_parameters() if p.dim() >= 2 and n != 'wpe.weight']"),),
        ("wpe.weight is never updated",),
    ),
    "every_micro_batch": edit("learning_rate(done)", "learning_rate(done * len(micro_batches))", "every micro-batch"),
    "tenth": edit('group["lr"] = learning_rate(done)', 'group["lr"] = 0.1 * learning_rate(done)', "0.1 times"),
}

# of the step for several processes
DDP = RIGHT.with_name("my_ddp_step.py")
SYNC = "            model.require_backward_grad_sync = number == len(micro_batches) - 1\n"
EXCHANGE = """\
        for p in model.parameters():
            torch.distributed.all_reduce(p.grad)
            p.grad /= torch.distributed.get_world_size()
"""
ON_RANKS: dict[str, Edit] = {
    "clipped_per_rank": Edit(
        ((SYNC, "            model.require_backward_grad_sync = False\n"), (CLIP, CLIP + EXCHANGE)),
        ("each rank clips its own gradient",),
        27,
        DDP,
    ),
    "flag_after_the_forward": Edit(
        ((SYNC, ""), (f"{BACKWARD}", f"{SYNC}{BACKWARD}")),
        ("the first micro-batch alone: whether they do is set after the forward pass",),
        33,
        DDP,
    ),
    "never_exchanged": Edit(
        (("_, loss = model(ids", "_, loss = model.module(ids"),), ("ranks do not exchange gradients",), None, DDP
    ),
    "summed": Edit(
        (
            (SYNC, "            model.require_backward_grad_sync = False\n"),
            (CLIP, EXCHANGE.rpartition("            ")[0] + CLIP),
        ),
        ("summed over ranks",),
        None,
        DDP,
    ),
}
