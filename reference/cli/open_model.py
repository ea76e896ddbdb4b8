"""Open a trained model: the newest run, a given run or checkpoint, or pretrained weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reference.checkpoints.checkpoint import is_checkpoint, open_path, step_folders
from reference.checkpoints.pretrained import load_pretrained
from reference.checkpoints.run_folder import newest_run
from reference.cli.backend import Backend
from reference.config import GPTConfig
from reference.data.tokenizers import Tokenizer, build_tokenizer, tokenizer_from_json
from reference.training.devices import choose_device


@dataclass(frozen=True)
class Trained:
    """Weights with all that is needed to use them."""

    name: str  # for people
    folder: Path | None  # of the run, None for published weights
    config: GPTConfig
    weights: dict[str, Tensor]  # canonical
    tokenizer: Tokenizer
    settings: dict[str, Any]  # of the run; empty for published weights

    def model(self, backend: Backend, device: str) -> nn.Module:
        """The backend's model with these weights, in their precision, in eval mode."""
        dtype = self.weights["wte.weight"].dtype
        where = choose_device(device, str(dtype).removeprefix("torch."))
        model = backend.build_model(self.config, self.weights, where, dtype).eval()
        note(*backend.notes(model))
        return model


def open_trained(run: Path | None, init_from: str | None) -> Trained:
    """Open a run or checkpoint, or pretrained weights; with neither, the newest run in the current directory.

    Names damaged newer checkpoints on standard error. Raises ValueError if there is no model.
    """
    if init_from is not None:
        return open_published(init_from)
    run = newest_run() if run is None else run
    checkpoint, problems = open_path(run)
    note(*problems)
    return Trained(
        name=f"{run}, step {checkpoint.step:,}",
        folder=run_folder(run),
        config=checkpoint.config,
        weights=checkpoint.model,
        tokenizer=tokenizer_from_json(checkpoint.tokenizer),
        settings=checkpoint.run.get("settings", {}),
    )


def open_published(name: str, tokenizer: str | None = None) -> Trained:
    """Open pretrained weights: a name of the Hugging Face hub, a folder in its format, or a run of this project.

    Args:
        tokenizer: name of the weights' tokenizer, if known
    """
    path = Path(name)
    if is_checkpoint(path) or step_folders(path):
        checkpoint, problems = open_path(path)
        note(*problems)
        own = tokenizer_from_json(checkpoint.tokenizer)
        if tokenizer not in (None, own.name):
            raise ValueError(
                f"--tokenizer {tokenizer} with --init-from {name}: those weights were trained with the tokenizer "
                f"{own.name}; leave --tokenizer out"
            )
        return Trained(name, None, checkpoint.config, checkpoint.model, own, {})
    weights, config = load_pretrained(name)
    known = build_tokenizer(tokenizer or "gpt2", text="")
    if known.vocab_size != config.vocab_size:
        raise ValueError(
            f"--init-from {name}: those weights have a vocabulary of {config.vocab_size}, the tokenizer {known.name} "
            f"has {known.vocab_size}; give the one they were trained with by --tokenizer"
        )
    return Trained(name, None, config, weights, known, {})


def run_folder(path: Path) -> Path:
    """The run folder of a run or of one of its checkpoints."""
    return path.parent if is_checkpoint(path) else path


def note(*lines: str) -> None:
    """Print notes on standard error."""
    for line in lines:
        print(f"note: {line}", file=sys.stderr)
