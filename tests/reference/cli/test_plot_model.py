"""`plot embedding`, `plot histograms`, `plot temperature` show the model's own values."""

import re
from pathlib import Path

import pytest
import torch

from reference import GPT, GPTConfig, generate
from reference.plots.introspection import choices, flattened, streams_and_gradients
from reference.plots.model_charts import BINS, embedding_chart, histogram, histograms_chart, kind_of, temperature_chart
from tests.reference.cli.conftest import Cli, random_model

CONFIG = GPTConfig(block_size=8, vocab_size=11, n_layer=3, n_head=2, n_embd=6, dropout=0.5)


@pytest.fixture
def sharp_model() -> GPT:
    return random_model(CONFIG)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# ---- Embedding ----


def test_points_of_a_plane_keep_their_distances_when_they_are_flattened() -> None:
    plane = random(20, 2)
    turned, _ = torch.linalg.qr(random(7, 2))
    places, share = flattened(plane @ turned.T + 5.0)
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(plane, plane), rtol=1e-9, atol=1e-9)
    assert share == pytest.approx(1.0)


def test_the_directions_are_those_of_the_largest_variance_and_the_share_is_theirs() -> None:
    table = random(50, 5) * torch.tensor([1.0, 9.0, 0.5, 4.0, 2.0])
    places, share = flattened(table)
    values = torch.linalg.eigvalsh(table.T.cov())
    torch.testing.assert_close(places.var(dim=0), values.flip(0)[:2])
    assert share == pytest.approx(float(values[-2:].sum() / values.sum()))


def test_the_sign_of_a_direction_is_fixed() -> None:
    table = random(9, 4)
    torch.testing.assert_close(flattened(table)[0], flattened(table.flip(1))[0], rtol=1e-9, atol=1e-9)


def test_a_table_that_has_no_plane_is_refused() -> None:
    with pytest.raises(ValueError, match="a table of 1 x 4: two of each are needed for a plane"):
        flattened(random(1, 4))


def test_the_map_has_every_token_with_its_kind() -> None:
    tokens = ["a", "b", "B", "7", " ", "\n", "?", " the", "E"]
    chart = embedding_chart(random(9, 2), tokens, 0.5, "a model").to_dict()
    kinds = {row["token"]: row["kind"] for row in chart["data"]["values"]}
    assert kinds == {
        "a": "vowels", "b": "letters and words", "B": "capitals", "7": "numbers", "␣": "white space",
        "↵": "white space", "?": "signs", "␣the": "letters and words", "E": "capitals",
    }  # fmt: skip
    assert kind_of("") == "white space"


# ---- Histograms ----


def test_the_streams_and_their_gradients_are_those_of_the_model_put_together_by_hand(sharp_model: GPT) -> None:
    sharp_model.train()
    ids, targets = torch.randint(11, (2, 3, 8), generator=torch.Generator().manual_seed(2))
    streams, gradients = streams_and_gradients(sharp_model, ids, targets)
    assert all(parameter.grad is None for parameter in sharp_model.parameters())
    assert all(module.training for module in sharp_model.modules()), "the mode has changed"
    sharp_model.eval()
    x = sharp_model.wte(ids) + sharp_model.wpe(torch.arange(8))
    expected = [x]
    for block in sharp_model.h:
        expected.append(block(expected[-1]))
    logits = sharp_model.ln_f(expected[-1]) @ sharp_model.wte.weight.T
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    slopes = torch.autograd.grad(loss, expected)
    assert len(streams) == len(gradients) == 4
    for a, b, c, d in zip(streams, expected, gradients, slopes, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(c, d, rtol=1e-9, atol=1e-12)
    assert not sharp_model.h[0]._forward_hooks, "a hook was left behind"
    assert not sharp_model.h[0]._forward_pre_hooks, "a hook was left behind"


def test_streams_of_ids_and_targets_outside_the_vocabulary_are_refused(sharp_model: GPT) -> None:
    good = torch.tensor([[3, 1]])
    with pytest.raises(ValueError, match=r"^token id 11: this model's vocabulary has the ids 0 to 10$"):
        streams_and_gradients(sharp_model, torch.tensor([[3, 11]]), good)
    with pytest.raises(ValueError, match=r"^target 11: this model's vocabulary has the ids 0 to 10, and -1 means"):
        streams_and_gradients(sharp_model, good, torch.tensor([[3, 11]]))


def test_a_histogram_has_the_shares_of_all_values() -> None:
    shares = histogram(torch.tensor([0.0, 0.0, 0.99, 5.0]), 1.0)
    assert len(shares) == BINS
    assert [(round(x, 2), share) for x, share in shares if share] == [(0.0, 0.5), (0.98, 0.25)]


def test_the_histograms_have_a_row_for_the_embedding_and_for_each_block() -> None:
    chart = histograms_chart([random(2, 3, 4)] * 3, [random(2, 3, 4)] * 3, "a model").to_dict()
    rows = chart["data"]["values"]
    panels = {(row["kind"], row["place"]) for row in rows}
    assert panels == {(k, p) for k in ("activations", "gradients") for p in ("embedding", "block 0", "block 1")}
    assert len(rows) == 6 * BINS


# ---- Temperature ----


def test_at_temperature_0_the_choices_are_those_of_greedy_generation_and_certain(sharp_model: GPT) -> None:
    drawn = choices(sharp_model, [3, 1], 12, 0.0, torch.Generator().manual_seed(0))
    sharp_model.eval()
    greedy = generate(sharp_model, torch.tensor([[3, 1]]), max_new_tokens=12, temperature=0.0)[0, 2:]
    assert [token for token, _ in drawn] == greedy.tolist()
    assert [share for _, share in drawn] == [1.0] * 12


def test_choices_after_ids_outside_the_vocabulary_are_refused(sharp_model: GPT) -> None:
    with pytest.raises(ValueError, match=r"^token id 11: this model's vocabulary has the ids 0 to 10$"):
        choices(sharp_model, [3, 11], 2, 0.0, torch.Generator())


def test_the_shares_are_those_with_which_the_tokens_were_drawn(sharp_model: GPT) -> None:
    drawn = choices(sharp_model, [3, 1], 9, 1.5, torch.Generator().manual_seed(0))
    assert drawn == choices(sharp_model, [3, 1], 9, 1.5, torch.Generator().manual_seed(0))
    sharp_model.eval()
    seen = [3, 1]
    for token, share in drawn:
        with torch.no_grad():
            scores = sharp_model(torch.tensor([seen[-8:]]))[0, -1] / 1.5
        assert share == pytest.approx(float(scores.softmax(dim=0)[token]), rel=1e-9)
        seen.append(token)


def test_the_picture_has_a_line_for_each_temperature_in_order() -> None:
    chart = temperature_chart({1.5: [("a", 0.25)], 0.5: [("\n", 1.0)]}, "x", "a model").to_dict()
    assert chart["layer"][0]["encoding"]["y"]["sort"] == ["1.5", "0.5"]
    text = str(chart)
    assert "'token': '↵'" in text
    assert "'probability': 0.25" in text


# ---- As a person meets them ----


@pytest.mark.parametrize("picture, more", [("embedding", []), ("histograms", []), ("temperature", ["--tokens", "9"])])
def test_the_command_writes_the_picture_and_says_where(cli: Cli, trained: Path, picture: str, more: list[str]) -> None:
    result = cli("plot", picture, trained, *more, "--out", f"{picture}.svg")
    assert (result.status, result.out) == (0, f"{picture}.svg\n")
    assert [path.name for path in Path().iterdir()] == [f"{picture}.svg"]
    svg = Path(f"{picture}.svg").read_text(encoding="utf-8")
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    assert any("step 12" in text for text in texts), "whose picture it is"
    if picture == "temperature":
        assert {"0", "0.5", "1", "1.5"} <= set(texts)
    if picture == "histograms":
        assert {"embedding", "block 0", "activations", "gradients"} <= set(texts)
    if picture == "embedding":
        assert {"␣", "a", "m"} <= set(texts)


def test_a_folder_of_weights_is_read_too(cli: Cli, trained: Path) -> None:
    arguments = ("--init-from", trained, "--corpus", "nursery", "--device", "cpu", "--out", "h.svg")
    assert cli("plot", "histograms", *arguments).status == 0
