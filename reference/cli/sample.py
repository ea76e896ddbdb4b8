"""`sample`: generate text from a trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import nn

from reference.cli.backend import Backend
from reference.cli.open_model import note, open_trained
from reference.cli.options import Sample
from reference.cli.progress import waiting
from reference.data.tokenizers import GPT2Tokenizer, Tokenizer
from reference.sampling import Sampling
from reference.training.loop import derived_seed


def sample(options: Sample, backend: Backend) -> int:
    """Generate and print `options.samples` texts, token by token."""
    options.check()
    with waiting("opening the model"):
        trained = open_trained(options.run, options.init_from)
        prompt = first_ids(trained.tokenizer, options.prompt)
        model = trained.model(backend, options.device)
    if len(prompt) > trained.config.block_size:
        note(
            f"the prompt has {len(prompt)} tokens, of which the model sees the last {trained.config.block_size} "
            f"(its block size)"
        )
    for number in range(options.samples):
        if options.samples > 1:
            print(f"--- sample {number + 1} of {options.samples} ---", flush=True)
        write(
            model,
            trained.tokenizer,
            prompt,
            options.prompt is not None,
            backend.stream,
            tokens=options.tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=derived_seed("sample", options.seed, number),
        )
    return 0


def write(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompt: list[int],
    show_prompt: bool,
    stream: Callable[..., Iterator[torch.Tensor]],
    *,
    tokens: int,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int,
) -> None:
    """Generate one text and print each character as soon as it is complete.

    Args:
        model: in eval mode
        prompt: ids to continue, at least one
        show_prompt: whether to print the prompt first
        stream: as reference.sampling.stream
        seed: of this text's own generator
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    ids = torch.tensor([prompt], device=device)  # (1, T)
    new: Any = stream(model, ids, tokens, Sampling(temperature, top_k, top_p, generator))  # (1, 1) each
    written = (int(one) for one in new)
    for text in tokenizer.decode_stream(chain(prompt, written) if show_prompt else written):
        print(text, end="", flush=True)
    print(flush=True)


def first_ids(tokenizer: Tokenizer, prompt: str | None) -> list[int]:
    """The ids of the prompt.

    Without a prompt: <|endoftext|> for GPT-2's tokenizer, else a line break, else (if the vocabulary has none) id 0. An
    empty prompt is <|endoftext|> for GPT-2, and a ValueError for other tokenizers, which have no start token.
    """
    if not prompt and isinstance(tokenizer, GPT2Tokenizer):
        return [tokenizer.end_of_text]
    if prompt is None:
        return line_break(tokenizer) or [0]
    ids = tokenizer.encode(prompt)
    if not ids:
        raise ValueError(
            f"empty prompt {prompt!r}: a model with the tokenizer {tokenizer.name} needs at least one token to go on "
            f"from; give some text, or leave --prompt out"
        )
    return ids


def line_break(tokenizer: Tokenizer) -> list[int]:
    """The ids of a line break; empty if the tokenizer has none."""
    try:
        return tokenizer.encode("\n")
    except ValueError:
        return []
