"""`plot embedding`, `plot histograms`, `plot temperature`: pictures of the inside of a trained model."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from reference.cli.open_model import Trained, open_trained
from reference.cli.options import PlotEmbedding, PlotHistograms, PlotTemperature
from reference.cli.sample import first_ids
from reference.data.datasets import load_dataset
from reference.gpt import GPT
from reference.plots.charts import check_picture, write_picture
from reference.plots.introspection import choices, flattened, streams_and_gradients
from reference.plots.model_charts import embedding_chart, histograms_chart, temperature_chart
from reference.training.devices import choose_device

MOST_TOKENS = 400  # in a map: more cannot be read
UNASKED = 12  # tokens, at most, that a text begins with when no prompt is given
LOOKED_AT = 2000  # tokens of a validation text in which words are looked for
SENTENCE = "The quick brown fox jumps over the lazy dog"  # for published weights, which have no validation text
WORDS = re.compile(r"(?<=\s)[^\W\d_]{2,}\s+[^\W\d_]+")  # two words, the first of them whole
WHOLE = re.compile(r"(.*\S)\s", re.DOTALL)  # everything before the last white space


def checked_and_opened(options: PlotEmbedding | PlotHistograms | PlotTemperature) -> Trained:
    """Check the options, then open their model."""
    options.check()
    if options.out is not None:
        check_picture(options.out)
    return open_trained(options.run, options.init_from)


def readable_model(trained: Trained, device: str) -> GPT:
    """The reference model with these weights."""
    model = GPT(trained.config).to(choose_device(device), trained.weights["wte.weight"].dtype)
    model.load_state_dict(trained.weights)
    return model.eval()


def picture_of(trained: Trained, out: Path | None, name: str) -> Path:
    """The path of the picture: `out`, or `name` in the run's folder."""
    return out or (trained.folder or Path()) / name


def words_to_read(trained: Trained, count: int) -> list[int]:
    """The first words of a run's validation text, or an English sentence for published weights: at most `count` tokens.

    A text without two words in a row is read from its beginning. Raises ValueError, one line, for a model without a
    text whose tokenizer cannot express the sentence.
    """
    if "corpus" not in trained.settings:
        try:
            return trained.tokenizer.encode(SENTENCE)[:count]
        except ValueError:
            raise ValueError(f"{trained.name} has no corpus of its own: give a text by --prompt") from None
    tokens = load_dataset(trained.settings["corpus"], trained.tokenizer).validation[:LOOKED_AT]
    ids = [int(one) for one in tokens.numpy().tolist()]
    text = trained.tokenizer.decode(ids)
    words = WORDS.search(text)
    if words is None:
        return ids[:count]
    ids = trained.tokenizer.encode(text[words.start() :])
    if len(ids) <= count:
        return ids
    whole = WHOLE.match(trained.tokenizer.decode(ids[: count + 1]))
    return ids[:count] if whole is None else trained.tokenizer.encode(whole[1])[:count]


def plot_embedding(options: PlotEmbedding) -> Path:
    """Draw the token embeddings in two dimensions."""
    trained = checked_and_opened(options)
    count = min(trained.tokenizer.vocab_size, trained.config.vocab_size, MOST_TOKENS)
    places, share = flattened(trained.weights["wte.weight"][:count])
    labels = [trained.tokenizer.decode([i]) for i in range(count)]
    chart = embedding_chart(places, labels, share, trained.name)
    return write_picture(chart, picture_of(trained, options.out, "embedding.png"))


def plot_histograms(options: PlotHistograms) -> Path:
    """Draw histograms of the residual stream and of the gradients in it, over windows of the validation text."""
    trained = checked_and_opened(options)
    corpus = options.corpus or trained.settings.get("corpus")
    if corpus is None:
        raise ValueError(f"{trained.name} has no corpus of its own: give one by --corpus")
    tokens = load_dataset(corpus, trained.tokenizer).validation
    T = min(trained.config.block_size, len(tokens) - 1)
    if T < 1:
        raise ValueError(f"the validation split of {corpus!r} has {len(tokens)} tokens: at least 2 are needed")
    rows = min(options.windows, (len(tokens) - 1) // T)
    model = readable_model(trained, options.device)
    text = torch.as_tensor(tokens[: rows * T + 1].numpy().astype("int64"), device=model.wte.weight.device)
    streams, gradients = streams_and_gradients(model, text[:-1].view(rows, T), text[1:].view(rows, T))
    chart = histograms_chart([s.cpu() for s in streams], [g.cpu() for g in gradients], trained.name)
    return write_picture(chart, picture_of(trained, options.out, "histograms.png"))


def plot_temperature(options: PlotTemperature) -> Path:
    """Draw texts generated at several temperatures."""
    trained = checked_and_opened(options)
    if options.prompt is None:
        ids = words_to_read(trained, min(UNASKED, trained.config.block_size))
    else:
        ids = first_ids(trained.tokenizer, options.prompt)
    model = readable_model(trained, options.device)
    samples = {}
    for temperature in options.temperatures:
        generator = torch.Generator().manual_seed(options.seed)  # the same dice for each
        drawn = choices(model, ids, options.tokens, temperature, generator)
        samples[temperature] = [(trained.tokenizer.decode([token]), share) for token, share in drawn]
    chart = temperature_chart(samples, trained.tokenizer.decode(ids), trained.name)
    return write_picture(chart, picture_of(trained, options.out, "temperature.png"))
