"""docs/candidate.md, from the reports of the examples: `python -m tests.bench.candidate.candidate_page`."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import torch

from bench.candidate.examine import Examination, examine
from bench.candidate.layouts import layout_of
from bench.candidate.load_function import find
from bench.candidate.report import text

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "candidate.md"
EXAMPLES = {
    "my_gpt": "A GPT-2 as people write it. It is right.",
    "erf_gelu": "With `nn.GELU()` as it comes, the exact form. In bfloat16, or at a tolerance of 1e-3, nobody sees it.",
    "detached_keys": "With keys that are cut off from training. Every logit is right; only gradients show it.",
}
HEAD = """\
# A GPT of your own

    python -m bench compare --candidate path/to/file.py:build --layout nanogpt

holds any GPT-2 in PyTorch against [reference/gpt.py](../reference/gpt.py): is it the same function, to how many digits;
which gradients differ; what do 20 AdamW steps do; and if it differs, where first, and why? It takes some seconds on one
core. It exits with 0 if the two are the same, 1 if they differ, and 2, with one line, if that cannot be judged.

- `build(config)` returns a `torch.nn.Module`. `config` has the fields of `reference.GPTConfig`: block_size, vocab_size,
  n_layer, n_head, n_embd, dropout, bias. A call with ids (B, T) gives logits (B, T, V), or (logits, loss), or an object
  with `.logits`. A forward with an argument `targets`, as nanoGPT's, gets them, and its loss is judged; so is that of a
  method `loss(ids, targets)`. Targets of -1 do not count.
- `--layout` says how the weights get into it: `canonical` (the names of reference/gpt.py), `hf` (transformers' GPT-2),
  `nanogpt` (its names, `nn.Linear` orientation), or `FILE.py:FUNCTION`, a function from our state dict (and the config,
  if it takes two arguments) to yours. It renames, transposes, splits and joins in torch operations: gradients come back
  through it.
- Both sides hold the same random weights, biases and gains included: GPT-2's initialisation hides too much. Logits are
  compared for one token and for the whole block as well, and with q and k 40 times as large, which lets the future
  through a mask that is not low enough.
- The judgement is in float64. A model that cannot compute in it is judged in float32, and the report lists the known
  mistakes that float32 would not have shown.
- Where first: every operation of the candidate is watched, and each activation of the reference is looked for among
  what it computed, in whatever shape (heads before or behind the time, a tensor for each head). No names are needed.
- Why: the reference is run again with each of about a hundred known mistakes (bench/candidate/known_mistakes.py). One
  that gives the candidate's logits, or its gradients, to the last digits is the cause.

In a test file of your own, with the report as its message:

    from paritygpt import assert_same

    def test_my_gpt_is_gpt2():
        assert_same("path/to/file.py:build", layout="nanogpt")

Below are the reports on the three files in [examples/](../examples). This page is written by
`python -m tests.bench.candidate.candidate_page`.
"""


@cache
def examined(name: str) -> Examination:
    """What the command finds out about an example."""
    file = f"examples/{name}.py:build"
    return examine(find(file, "build", "candidate"), layout_of("nanogpt"), name=file, layout_name="nanogpt")


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, sentence in EXAMPLES.items():
        command = f"$ python -m bench compare --candidate examples/{name}.py:build --layout nanogpt"
        lines = [command, "", *text(examined(name)).splitlines()]
        block = "\n".join(f"    {line}".rstrip() for line in lines)
        parts.append(f"## [examples/{name}.py](../examples/{name}.py)\n\n{sentence}\n\n{block}\n")
    return "\n".join(parts)


def main() -> None:
    """Write the page."""
    os.chdir(ROOT)
    torch.set_num_threads(1)
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
