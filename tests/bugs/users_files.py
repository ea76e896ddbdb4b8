"""The 43 public bugs in users' files: a model, a training step, a generator, a data loader, an evaluation, checkpoints.

Each file is a right one in which a few words are changed. The command that tests such a file must exit with 1 and name
the bug first.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.batches.mutants import MISTAKES as BATCHES
from tests.bench.candidate.planted_models import PLANTED, Planted, text_with
from tests.bench.evaluation.mutants import CHOICES, MEANS
from tests.bench.evaluation.mutants import RIGHT as EVALUATION
from tests.bench.text_generation.mutants import EDITS as GENERATORS
from tests.bench.training_step.mutants import EDITS as STEPS
from tests.bench.training_step.mutants import ON_RANKS

BUGS = 43
EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL, STEP, GENERATOR = "model", "training step", "generator"
LOADER, EVALUATE, WEIGHTS = "data loader", "evaluation", "checkpoints"
OPTIONS = {
    MODEL: ("--candidate", "build"),
    STEP: ("--step", "build_step"),
    GENERATOR: ("--generate", "generate"),
    LOADER: ("--batches", "build_batches"),
    EVALUATE: ("--evaluate", "evaluate"),
}


@dataclass(frozen=True)
class UsersFile:
    """A user's file that has a bug.

    Args:
        bug: its number
        what: is wrong
        source: the file's text; of checkpoints, a script that writes two, of which the first is wrong
        named: words that name it
        function: of the file, if not the usual one
        options: of the command
    """

    bug: int
    what: str
    kind: str
    source: Callable[[], str]
    named: tuple[str, ...]
    function: str = ""
    options: tuple[str, ...] = ()

    def command(self, folder: Path) -> list[str]:
        """Write the file into a folder; returns the arguments of `python -m bench` that test it."""
        file = folder / f"{self.kind.replace(' ', '_')}.py"
        file.write_text(self.source(), encoding="utf-8")
        if self.kind == WEIGHTS:
            import_file(file).main(folder)
            return ["compare", "--weights", str(folder / "ckpt.pt"), "--against", str(folder / "hf"), *self.options]
        option, usual = OPTIONS[self.kind]
        return ["compare", option, f"{file}:{self.function or usual}", *self.options]

    @property
    def shown(self) -> str:
        """The command without its file, for a table."""
        if self.kind == WEIGHTS:
            return "--weights A --against B"
        return " ".join([OPTIONS[self.kind][0], *self.options])


def import_file(file: Path) -> Any:
    """Import a script."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def said(result: dict[str, Any]) -> list[str]:
    """What a command's result names, the most likely first."""
    match result["kind"]:
        case "candidate":
            causes = [cause["what"] for cause in result["causes"]]
            lowered = [f"it computes in {result['lowering']}"] if result["lowering"] else []
            return [*causes, *lowered, *result["initial_weights"]]
        case "training_step":
            runs = [
                ["; and ".join(filter(None, [*one["mistakes"], one["schedule"]])) for one in run["causes"]]
                for run in result["runs"]
                if not run["same"]
            ]
            found = list(dict.fromkeys(one for run in runs for one in run))
            return [one for one in found if all(one in run for run in runs)] or found  # as in the report
        case "text_generation":
            return ["; and ".join(one["mistakes"]) for one in result["causes"]]
        case "weights":
            return [row["looks"] for row in result["tensors"] if row["looks"]]
        case _:
            return [fault["what"] for fault in result["faults"]]


def changed(source: str, *edits: tuple[str, str]) -> str:
    """A text with some of its words replaced, each of which stands there once."""
    for old, new in edits:
        assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times"
        source = source.replace(old, new)
    return source


# Rows


def model(planted: Planted) -> UsersFile:
    """A bug of the table of causes, in nanoGPT's style."""
    return UsersFile(planted.row, planted.name, MODEL, lambda: text_with("fused", (planted,)), planted.causes)


def of_gpt(bug: int, what: str, named: str, *edits: tuple[str, str], options: tuple[str, ...] = ()) -> UsersFile:
    """A bug in examples/my_gpt.py."""
    return UsersFile(
        bug, what, MODEL, lambda: changed((EXAMPLES / "my_gpt.py").read_text(), *edits), (named,), "", options
    )


def of_fused(bug: int, what: str, named: str, *edits: tuple[str, str]) -> UsersFile:
    """A bug in the model in nanoGPT's style."""
    return UsersFile(bug, what, MODEL, lambda: changed(text_with("fused", ()), *edits), (named,))


def step(bug: int, what: str, name: str) -> UsersFile:
    """A bug in examples/my_step.py or examples/my_ddp_step.py."""
    edit = {**STEPS, **ON_RANKS}[name]
    assert edit.bug == bug
    return UsersFile(bug, what, STEP, edit.source, edit.cause, "", ("--ranks", "2") if name in ON_RANKS else ())


def generator(bug: int, what: str, name: str) -> UsersFile:
    """A bug in one of the generators."""
    edit = GENERATORS[name]
    assert edit.bug == bug
    return UsersFile(bug, what, GENERATOR, edit.source, (edit.cause,))


def loader(bug: int, what: str, name: str) -> UsersFile:
    """A bug in one of the loaders."""
    source, old, new, words = BATCHES[f"{name} [{bug}]"]
    return UsersFile(bug, what, LOADER, lambda: changed(source, (old, new)), (words,))


def evaluation(bug: int, what: str, named: str, source: Callable[[], str], function: str = "") -> UsersFile:
    """A bug of an evaluation."""
    return UsersFile(bug, what, EVALUATE, source, (named,), function)


def checkpoints(bug: int, what: str, named: str, *edits: tuple[str, str]) -> UsersFile:
    """A bug in the script that writes two checkpoints of one model, examples/checkpoint_pair.py."""
    return UsersFile(
        bug, what, WEIGHTS, lambda: changed((EXAMPLES / "checkpoint_pair.py").read_text(), *edits), (named,)
    )


SDPA = "F.scaled_dot_product_attention(q, k, v, is_causal=True)"
FOLDER_OF = "tensors = {name: "  # of the Hugging Face folder


def fused_changed(where: str, order: str) -> str:
    """Words of the script that put q, k and v of some tensors in another order."""
    changed = f"torch.cat([t.chunk(3)[i] for i in {order}]) if {where} else t"
    return f"weights = {{n: {changed} for n, t in weights.items()}}\n    {FOLDER_OF}"


LATE, LATE_MASK, _ = CHOICES["mask off by one [39]"]

FILES: tuple[UsersFile, ...] = tuple(
    sorted(
        (
            *(model(planted) for planted in PLANTED if planted.row <= BUGS and planted.row != 41),
            of_gpt(2, "the fast attention path has a scale of its own", "scores not scaled",
                   (SDPA, SDPA.replace("=True", "=True, scale=1.0"))),
            of_gpt(3, "erf GELU, nn.GELU's default", "GELU in its exact erf form", ('approximate="tanh"', "")),
            of_gpt(5, "the fast path is causal in eval mode alone", "another function in train mode",
                   ("is_causal=True", "is_causal=not self.training")),
            of_gpt(17, "residual projections are not drawn narrower", "initial residual projections",
                   ("return GPT(config)", "return GPT(config).apply(initialise)\n\n\n" + """\
def initialise(module):
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
"""), options=("--initial-weights",)),
            checkpoints(9, "k stands before q in the written folder", "swapped with h.0.attn.k_proj",
                        (FOLDER_OF, fused_changed('"c_attn" in n', "(1, 0, 2)"))),
            checkpoints(10, "the square c_proj is not transposed", "transpose",
                        ('("c_attn.weight", "c_proj.weight", "c_fc.weight")',
                         '("c_attn.weight", "mlp.c_proj.weight", "c_fc.weight")')),
            checkpoints(43, "biases of q and v are swapped in the written folder", "swapped with h.0.attn.v_proj",
                        (FOLDER_OF, fused_changed('"c_attn.bias" in n', "(2, 1, 0)"))),
            generator(13, "is_causal with one new query and a cache", "mask_at_the_left"),
            generator(14, "positions are not offset by the cache's length", "own_positions"),
            generator(14, "new tokens have position 0", "no_offset"),
            generator(14, "positions of new tokens do not count the prompt", "offset_of_new"),
            generator(15, "empty slots of the cache take part", "empty_slots"),
            generator(15, "new tokens are not written to the cache", "never_written"),
            generator(15, "a new token is not yet in the cache when it attends", "one_slot_late"),
            generator(16, "the generator leaves dropout on", "dropout"),
            evaluation(16, "the evaluation leaves dropout on", "train mode",
                       lambda: changed(EVALUATION, ("    model.eval()\n", ""))),
            loader(18, "targets are not shifted", "not shifted"),
            loader(18, "targets are shifted twice in the data", "shifted twice"),
            step(20, "unequal micro-batches weigh the same", "mean_of_means"),
            step(21, "the loss is not divided by the number of micro-batches", "not_divided"),
            step(22, "gradients are cleared with every micro-batch", "cleared_each"),
            step(23, "a last micro-batch that is short is dropped", "short_dropped"),
            step(25, "the tied table's gradient counts twice", "tied_twice"),
            step(26, "gradients are clipped while they are multiplied by the loss scale", "clipped_scaled"),
            step(27, "each rank clips before the exchange", "clipped_per_rank"),
            step(28, "eps is added before the bias correction", "eps_before_correction"),
            step(29, "no bias correction", "no_correction"),
            step(30, "Adam's decay in place of AdamW's", "l2"),
            step(31, "LayerNorms and biases decay too", "decays_all"),
            step(31, "norm gains decay", "decays_norms"),
            step(32, "the first step has learning rate 0", "zero_first"),
            step(33, "the gradient-sync flag is set after the forward pass", "flag_after_the_forward"),
            loader(34, "each rank shuffles with a seed of its own", "ranks shuffle alone"),
            loader(35, "a resumed run begins with the first tokens again", "starts anew"),
            loader(35, "a resumed run repeats its last batch", "repeats its tail"),
            loader(35, "a resumed run goes on in the first shard", "another shard"),
            generator(36, "top-k drops ties of the k-th token", "ties"),
            generator(36, "top-p keeps one token too many", "one_p_more"),
            generator(37, "temperature 0 divides by zero", "divides_by_0"),
            generator(37, "padded ids are sampled", "padded_ids"),
            generator(38, "all rows share their first token", "shared_first"),
            evaluation(39, "the mask of completions is off by one", "the mask is one token late",
                       lambda: changed(EVALUATION, (LATE, LATE_MASK)), "most_likely"),
            evaluation(40, "the mean of the batches' means", "the mean of the batches' means", lambda: MEANS),
            of_fused(41, "logits of a table that is padded to a multiple of 64 go into the loss",
                     "padding in the softmax: columns",
                     ("(logits.view(-1, logits.size(-1)),",
                      "(F.pad(logits, (0, -logits.size(-1) % 64)).flatten(0, 1),")),
            loader(42, "a resumed run draws the first windows again", "reseeds at random"),
        ),
        key=lambda one: one.bug,
    )
)  # fmt: skip

RIGHT: tuple[UsersFile, ...] = (
    UsersFile(0, "nothing", MODEL, lambda: text_with("fused", ()), ()),
    UsersFile(0, "nothing", MODEL, (EXAMPLES / "my_gpt.py").read_text, ()),
    UsersFile(0, "nothing", STEP, (EXAMPLES / "my_step.py").read_text, ()),
    UsersFile(0, "nothing", STEP, (EXAMPLES / "my_ddp_step.py").read_text, (), "", ("--ranks", "2")),
    UsersFile(0, "nothing", GENERATOR, (EXAMPLES / "my_generate.py").read_text, ()),
    UsersFile(0, "nothing", LOADER, (EXAMPLES / "my_batches.py").read_text, ()),
    UsersFile(0, "nothing", EVALUATE, (EXAMPLES / "my_evaluate.py").read_text, ()),
    UsersFile(0, "nothing", EVALUATE, (EXAMPLES / "my_evaluate.py").read_text, (), "most_likely"),
    UsersFile(0, "nothing", WEIGHTS, (EXAMPLES / "checkpoint_pair.py").read_text, ()),
)
