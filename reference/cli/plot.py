"""`plot`: pictures of runs and of trained models."""

from __future__ import annotations

from pathlib import Path

import torch

from reference.checkpoints.run_folder import is_run, newest_run
from reference.cli.backend import Backend
from reference.cli.open_model import Trained, open_trained
from reference.cli.options import Plot, PlotAttention, PlotEmbedding, PlotHistograms, PlotLoss, PlotTemperature
from reference.cli.plot_model import plot_embedding, plot_histograms, plot_temperature, words_to_read
from reference.cli.progress import waiting
from reference.gpt import GPT
from reference.plots.attention_maps import attention_maps
from reference.plots.charts import check_picture, draw_attention, draw_losses
from reference.training.devices import choose_device

UNASKED = 24  # tokens, at most, that are read when no prompt is given


def plot(options: Plot, backend: Backend) -> int:
    """Draw a picture and print its path."""
    with waiting("drawing"):
        picture = drawn(options.picture)
    print(picture)
    return 0


def drawn(options: PlotLoss | PlotAttention | PlotEmbedding | PlotHistograms | PlotTemperature) -> Path:
    """Draw a picture; returns its file."""
    match options:
        case PlotLoss():
            return plot_loss(options)
        case PlotAttention():
            return plot_attention(options)
        case PlotEmbedding():
            return plot_embedding(options)
        case PlotHistograms():
            return plot_histograms(options)
        case PlotTemperature():
            return plot_temperature(options)


def plot_loss(options: PlotLoss) -> Path:
    """Draw the loss of runs, by default of the newest one."""
    runs = list(options.runs) or [newest_run()]
    for run in runs:
        if not is_run(run):
            raise ValueError(f"{str(run)!r} is not the folder of a training run: it has no settings.json")
    out = options.out or (runs[0] / "loss.png" if len(runs) == 1 else Path("loss.png"))
    return draw_losses(runs, out)


def plot_attention(options: PlotAttention) -> Path:
    """Draw the attention weights of a model over a prompt.

    Always uses the reference model: only it computes the attention matrix.
    """
    options.check()
    if options.out is not None:
        check_picture(options.out)
    trained = open_trained(options.run, options.init_from)
    config = trained.config
    for flag, value, count in (("layer", options.layer, config.n_layer), ("head", options.head, config.n_head)):
        if value is not None and not 0 <= value < count:
            raise ValueError(f"--{flag} {value}: this model has the {flag}s 0 to {count - 1}")
    ids = prompt_ids(options.prompt, trained)
    dtype = trained.weights["wte.weight"].dtype
    model = GPT(config).to(choose_device(options.device), dtype)
    model.load_state_dict(trained.weights)
    maps = attention_maps(model, torch.tensor([ids], device=model.wte.weight.device)).cpu()
    layers = range(config.n_layer) if options.layer is None else [options.layer]
    heads = range(config.n_head) if options.head is None else [options.head]
    out = options.out or (trained.folder or Path()) / "attention.png"
    labels = [trained.tokenizer.decode([one]) for one in ids]
    return draw_attention(maps.double().numpy(), labels, layers, heads, trained.name, out)


def prompt_ids(prompt: str | None, trained: Trained) -> list[int]:
    """The tokens of the prompt; without one, the first words of the run's validation text."""
    if prompt is not None:
        ids = trained.tokenizer.encode(prompt)
        if not ids:
            raise ValueError(f"empty prompt {prompt!r}: give some text whose tokens look at each other")
        return ids
    return words_to_read(trained, min(UNASKED, trained.config.block_size))
