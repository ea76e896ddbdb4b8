"""`eval`: loss, perplexity and bits of a trained model on a text."""

from __future__ import annotations

from math import ceil

from reference.cli.backend import Backend
from reference.cli.open_model import open_trained
from reference.cli.options import Eval
from reference.cli.progress import waiting, watched
from reference.data.batches import windows
from reference.data.datasets import load_dataset, take
from reference.training.evaluation import Score, mean_loss, windows_at_once


def evaluate(options: Eval, backend: Backend) -> int:
    """Print loss, perplexity and bits of each chosen split."""
    options.check()
    with waiting("opening the model"):
        trained = open_trained(options.run, options.init_from)
    corpus = options.corpus or trained.settings.get("corpus")
    if corpus is None:
        raise ValueError(f"{trained.name} has no corpus of its own: give one by --corpus")
    with waiting(f"reading the text {corpus}"):
        data = load_dataset(corpus, trained.tokenizer)
    splits = {"validation": data.validation, "train": data.train}
    chosen = splits if options.split == "both" else {options.split: splits[options.split]}
    block, vocabulary = trained.config.block_size, trained.config.vocab_size
    at_once = options.batch_size or windows_at_once(block, vocabulary)
    passes = {  # before the model: a split that is too short raises an error here
        name: (tokens := take(whole, options.windows, block), windows(tokens, block, at_once, vocabulary))
        for name, whole in chosen.items()
    }
    with waiting("building the model"):
        model = trained.model(backend, options.device)
    print(trained.name, flush=True)
    for name, (tokens, batches) in passes.items():
        number = ceil(ceil((len(tokens) - 1) / block) / at_once)
        loss, count = mean_loss(model, watched(batches, number, name))
        text = trained.tokenizer.decode(tokens[1:].numpy())  # the first token is given, not predicted
        score = Score(loss, count, len(text), len(text.encode(errors="surrogatepass")))
        print(
            f"{corpus}, {name}: loss {score.loss:.4f} per token, perplexity {score.perplexity:,.2f}, "
            f"{score.bits_per_character:.4f} bits per character, {score.bits_per_byte:.4f} bits per byte; "
            f"{score.tokens:,} tokens"
        )
    return 0
