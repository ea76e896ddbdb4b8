"""Compare the logits of two checkpoints on real text, both computed by reference/gpt.py."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.numerics.errors import distance
from bench.weights.recognise import HEAD
from bench.weights.side import Side
from reference.checkpoints.huggingface import canonical_shapes
from reference.data import gpt2_vocabulary
from reference.data.tokenizers import build_tokenizer
from reference.gpt import GPT

TEXT = (
    "The harbour was quiet before dawn. Two fishermen sat on an upturned boat, mending a net and talking about the "
    'price of diesel, while the lighthouse turned its beam over the water. "If the wind drops by six," said the older '
    'one, "we can be back for breakfast; if it does not, we will have to wait until Thursday." In 1987 the catch had '
    "been three times as large, and nobody could say exactly why."
)
LONGEST = 128  # tokens


@dataclass
class LogitsComparison:
    """The distance of two models' logits on the same ids."""

    text: str  # what the ids are
    tokens: int
    error: float  # relative L2, to B
    largest: float
    kl: float  # of A's distribution from B's, in nats, mean over positions
    top1: float  # fraction of positions where both rank the same token first


def compare_logits(a: Side, b: Side) -> LogitsComparison:
    """Compute both models' logits in float32, one after the other, and compare those of the common vocabulary.

    Raises ValueError if one of them is not complete, or not GPT-2's function.
    """
    for side in (a, b):
        if side.missing:
            more = f" and {len(side.missing) - 1} more" if len(side.missing) > 1 else ""
            raise ValueError(f"{side.letter} lacks {side.missing[0]}{more}")
        if side.unlike is not None:
            raise ValueError(f"{side.letter}'s config is of another function: {side.unlike}")
        if not side.heads_known:
            raise ValueError(f"the number of {side.letter}'s heads is not in its file: give it by --heads")
    vocabulary = min(a.config.vocab_size, b.config.vocab_size)
    ids, what = text_ids(vocabulary, min(a.config.block_size, b.config.block_size, LONGEST))
    x, y = (logits_of(side, ids)[..., :vocabulary] for side in (a, b))
    p, q = (logits.double().log_softmax(-1) for logits in (x, y))
    kl = float((p.exp() * (p - q)).sum(-1).mean())
    top1 = float((x.argmax(-1) == y.argmax(-1)).double().mean())
    return LogitsComparison(what, ids.shape[1], *distance(x, y), max(kl, 0.0), top1)


def text_ids(vocabulary: int, longest: int) -> tuple[Tensor, str]:
    """Ids (1, T), and what they are: English text if the vocabulary is GPT-2's and its files are installed."""
    if gpt2_vocabulary.VOCAB_SIZE <= vocabulary < 2 * gpt2_vocabulary.VOCAB_SIZE:
        try:
            for name in gpt2_vocabulary.SHA256:
                gpt2_vocabulary.installed_file(name)  # without them the vocabulary would be downloaded
            ids = build_tokenizer("gpt2", "").encode(TEXT)[:longest]
            return torch.tensor([ids]), f"{len(ids)} tokens of English text"
        except (FileNotFoundError, ValueError) as error:
            why = f", as {error}"
    else:
        why = f", as no text is known for a vocabulary of {vocabulary:,}"
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (1, longest), generator=generator), f"{longest} fixed random ids{why}"


@torch.no_grad()
def logits_of(side: Side, ids: Tensor) -> Tensor:
    """Logits (1, T, V) of a side's weights, in float32; an absent bias is zero."""
    config = replace(side.config, dropout=0.0)
    state = {}
    for name, shape in canonical_shapes(config).items():
        state[name] = side.tensor(name).float() if name in side.sources else torch.zeros(shape)
    with torch.device("meta"):
        model = GPT(config)
    model.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, assign=True)
    model.eval()
    table = side.tensor(HEAD).float() if side.untied else model.wte.weight
    return model.hidden(ids) @ table.T
