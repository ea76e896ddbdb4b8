"""TinyGPT is a correct GPT of the stated size, and learns its rhyme."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from reference.data.corpora import load_text
from reference.lessons import tiny_gpt
from reference.lessons.tiny_gpt import BLOCK, HEADS, WIDTH, TinyGPT, Vocabulary


@pytest.fixture(scope="module")
def rhyme():
    text = load_text("nursery")
    vocabulary = Vocabulary(text)
    return vocabulary, torch.tensor(vocabulary.encode(text))


def model_with_seed(seed):
    torch.manual_seed(seed)
    return TinyGPT(35)


@pytest.fixture(scope="module")
def trained(rhyme):
    """The model after the stated 1,500 steps of four windows at 1e-3, with the loss before them."""
    _, ids = rhyme
    model = model_with_seed(1337)
    before = tiny_gpt.loss_on_all(model, ids)
    losses = list(tiny_gpt.train(model, ids, 1500, torch.Generator().manual_seed(1337)))
    return model, before, losses


# ---- What it is ----


def test_the_rhyme_has_the_stated_counts(rhyme):
    vocabulary, ids = rhyme
    text = load_text("nursery")
    assert (text.count("<END>"), len(ids), len(text), len(vocabulary.words)) == (16, 106, 546, 35)
    assert vocabulary.decode(ids[:12].tolist()) == "mary had a little lamb <END> little lamb little lamb <END> mary"


def test_it_has_27_747_parameters():
    count = sum(parameter.numel() for parameter in TinyGPT(35).parameters())
    assert count == 27_747


def test_its_parts_have_the_printed_numbers_of_parameters():
    count = {name: parameter.numel() for name, parameter in TinyGPT(35).named_parameters()}
    assert (count["word.weight"], count["position.weight"]) == (1120, 192)
    # The notebook counts weights alone, and neither biases nor norms nor head.
    weights = {name: n for name, n in count.items() if name.endswith("weight")}
    for block in ("blocks.0.", "blocks.1."):
        attention = {n: c for n, c in weights.items() if n.startswith((f"{block}heads.", f"{block}mix."))}
        assert {c for n, c in attention.items() if "heads" in n} == {512}
        assert sum(attention.values()) == 4096
        assert weights[f"{block}wide.weight"] + weights[f"{block}narrow.weight"] == 8192
    assert sum(c for n, c in weights.items() if not n.startswith("head.")) == 25_888


def torchs(model, ids, scale=None):
    """The logits of the same weights through torch's own layer norm, attention and ReLU."""
    x = F.embedding(ids, model.word.weight) + model.position.weight[: ids.shape[1]]
    for block in model.blocks:
        normal = F.layer_norm(x, (WIDTH,), block.norm_1.gain, block.norm_1.shift)
        results = []
        for head in block.heads:
            q, k, v = (F.linear(normal, layer.weight) for layer in (head.query, head.key, head.value))
            results.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale))
        x = x + F.linear(torch.cat(results, dim=-1), block.mix.weight, block.mix.bias)
        normal = F.layer_norm(x, (WIDTH,), block.norm_2.gain, block.norm_2.shift)
        wide = F.relu(F.linear(normal, block.wide.weight, block.wide.bias))
        x = x + F.linear(wide, block.narrow.weight, block.narrow.bias)
    normal = F.layer_norm(x, (WIDTH,), model.norm.gain, model.norm.shift)
    return F.linear(normal, model.head.weight, model.head.bias)


def sharp(seed):
    """A float64 model whose every parameter is random: initial gains and shifts hide mistakes."""
    model = model_with_seed(seed).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


@pytest.mark.parametrize("T", [1, 2, 5, 6])
def test_logits_and_loss_and_gradients_are_those_of_torchs_parts(T):
    model = sharp(T)
    generator = torch.Generator().manual_seed(0)
    ids, targets = torch.randint(35, (2, 3, T), generator=generator)
    torch.testing.assert_close(model(ids), torchs(model, ids), rtol=1e-12, atol=1e-12)
    ours = model.loss(ids, targets)
    theirs = F.cross_entropy(torchs(model, ids).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    named = dict(model.named_parameters())
    gradients = [torch.autograd.grad(loss, list(named.values())) for loss in (ours, theirs)]
    for name, a, b in zip(named, *gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11, msg=lambda m, name=name: f"gradient of {name}: {m}")


def test_scaling_by_the_width_of_all_heads_would_be_noticed():
    model, ids = sharp(0), torch.arange(BLOCK)[None]
    wrong = torchs(model, ids, scale=1.0 / math.sqrt(WIDTH))
    assert HEADS > 1, "with one head the two widths are the same"
    assert float((model(ids) - wrong).detach().abs().max()) > 0.01


def test_a_later_word_does_not_move_earlier_logits():
    model = sharp(0)
    ids = torch.arange(BLOCK)[None]
    changed = ids.clone()
    changed[:, 4:] = 30
    assert torch.equal(model(ids)[:, :4], model(changed)[:, :4])
    assert not torch.equal(model(ids)[:, 4:], model(changed)[:, 4:])


def test_the_shares_that_are_drawn_are_those_of_the_heads_and_never_of_a_later_word():
    model, ids = sharp(1), torch.arange(BLOCK)
    used = []
    hooks = [head.value.register_forward_hook(lambda m, i, o: used.append(o)) for b in model.blocks for head in b.heads]
    mixed = [block.mix.register_forward_hook(lambda m, i, o: used.append(i[0])) for block in model.blocks]
    with torch.no_grad():
        model(ids[None])
    for hook in (*hooks, *mixed):
        hook.remove()
    values = [v for v in used if v.shape[-1] == WIDTH // HEADS]
    together = [v for v in used if v.shape[-1] == WIDTH]
    drawn = tiny_gpt.shares_at(model, ids)
    assert [name for name, _ in drawn] == [f"block {b}, head {h}" for b in (1, 2) for h in "ab"]
    for shares in (shares for _, shares in drawn):
        assert bool((shares[torch.ones(BLOCK, BLOCK).triu(1).bool()] == 0.0).all())
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(BLOCK, dtype=torch.float64))
    for block in range(2):
        heads = [drawn[2 * block + h][1] @ values[2 * block + h][0] for h in range(HEADS)]
        torch.testing.assert_close(torch.cat(heads, dim=-1), together[block][0])


def test_windows_are_all_stretches_with_the_next_words():
    inputs, targets = tiny_gpt.windows(torch.arange(9))
    assert inputs.tolist() == [[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 7]]
    assert torch.equal(targets, inputs + 1)


# ---- What it learns ----


def test_the_least_loss_is_what_the_rhyme_leaves_open():
    # Three windows of 012340123: after a window's first word, or first two, or three ..., all is certain.
    assert tiny_gpt.least_loss(torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3])) == 0.0
    # Of the two windows of 00000001, one ends in 0 0 0 0 0 0 -> 0 and one in -> 1: one place of twelve is a coin.
    assert tiny_gpt.least_loss(torch.tensor([0] * 7 + [1])) == pytest.approx(math.log(2) * 2 / 12)


@pytest.mark.slow
def test_it_learns_most_of_the_rhyme_in_a_tenth_of_the_steps(rhyme):
    _, ids = rhyme
    model = model_with_seed(1337)
    before = tiny_gpt.loss_on_all(model, ids)
    losses = list(tiny_gpt.train(model, ids, 150, torch.Generator().manual_seed(1337)))
    after = tiny_gpt.loss_on_all(model, ids)
    assert 3.6 < before < 3.9, f"loss {before:.4f} before training, about 3.77 expected"
    assert len(losses) == 150
    assert tiny_gpt.least_loss(ids) < after < 1.5, f"loss {after:.4f} over the whole rhyme"


@pytest.mark.slow
def test_training_takes_the_loss_from_3_7_to_a_quarter_and_not_below_the_least(rhyme, trained):
    _, ids = rhyme
    model, before, losses = trained
    after, least = tiny_gpt.loss_on_all(model, ids), tiny_gpt.least_loss(ids)
    last = sum(losses[-100:]) / 100
    assert least == pytest.approx(0.2150, abs=1e-4)
    assert 3.6 < before < 3.9, f"loss {before:.4f} before training, about 3.77 expected"
    assert len(losses) == 1500
    assert least < after < 0.29, f"loss {after:.4f} over the whole rhyme, at least {least:.4f} is possible"
    assert 0.20 < last < 0.31, f"mean of the last 100 batches {last:.4f}, about 0.25 expected"


@pytest.mark.slow
def test_the_trained_model_knows_how_lines_go_on(rhyme, trained):
    vocabulary, _ = rhyme
    model, _, _ = trained
    lines = {
        "mary had a little": "lamb",
        "its fleece was white as": "snow",
        "it followed her to school": "one",
        "which was against the": "rules",
        "it made the children laugh": "and",
        "to see a lamb at": "school",
    }
    for line, word in lines.items():
        scores = model(torch.tensor([vocabulary.encode(line)]))[0, -1]
        said = vocabulary.words[int(scores.argmax())]
        assert said == word, f"after {line!r} it says {said!r}, not {word!r}"


@pytest.mark.slow
@pytest.mark.parametrize("start", ["mary", "the", "it", "little", "lamb"])
def test_what_it_says_is_made_of_pairs_of_the_rhyme(rhyme, trained, start):
    vocabulary, ids = rhyme
    model, _, _ = trained
    known = set(itertools.pairwise(ids.tolist()))
    said = tiny_gpt.go_on(model, vocabulary.encode(start), 60, torch.Generator().manual_seed(1))
    assert len(said) == 61
    assert vocabulary.words[said[0]] == start
    pairs = list(itertools.pairwise(said))
    strange = [vocabulary.decode(list(pair)) for pair in pairs if pair not in known]
    assert len(strange) <= 6, f"{len(strange)} of {len(pairs)} pairs are not in the rhyme: {strange}"


def test_the_untrained_model_does_not_know_the_rhyme(rhyme):
    vocabulary, ids = rhyme
    known = set(itertools.pairwise(ids.tolist()))
    said = tiny_gpt.go_on(model_with_seed(1337), vocabulary.encode("mary"), 60, torch.Generator().manual_seed(1))
    assert sum(pair not in known for pair in itertools.pairwise(said)) > 30


# ---- The lesson as a person meets it ----


def test_an_unknown_start_word_is_answered_with_the_known_ones(refused, rhyme):
    vocabulary, _ = rhyme
    line = refused("reference.lessons.tiny_gpt", "wolf")
    assert line == f"error: the word 'wolf' is unknown: the rhyme has only {', '.join(vocabulary.words)}"
    assert line.count(",") == 34


def test_the_lesson_tells_what_it_does(capsys, tmp_path):
    tiny_gpt.main("little lamb", steps=20, folder=tmp_path)
    said = capsys.readouterr().out
    for part in ("106 words, 35 different", "27,747 numbers", "After training its loss is", "\n    > little lamb "):
        assert part in said, f"{part!r} is not in what the lesson printed"
