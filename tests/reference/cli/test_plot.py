"""`plot`: loss curves and attention maps as pictures."""

import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from reference import GPT, GPTConfig
from reference.plots.attention_maps import attention_maps
from reference.plots.charts import attention_chart, check_picture, draw_attention, loss_chart, visible, write_picture
from tests.quick import quick
from tests.reference.cli.conftest import Cli, random_model

CONFIG = GPTConfig(block_size=12, vocab_size=11, n_layer=3, n_head=2, n_embd=8, dropout=0.5)
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5]])
T = IDS.shape[1]


@pytest.fixture
def sharp_model() -> GPT:
    return random_model(CONFIG)


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def test_attention_maps_are_exactly_zero_above_the_diagonal_and_each_row_sums_to_1(sharp_model: GPT) -> None:
    maps = attention_maps(sharp_model, IDS)
    assert maps.shape == (3, 2, T, T)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    assert (maps[..., future] == 0).all()
    assert (maps[..., ~future] > 0).all(), "the past is hidden too"
    assert (maps.sum(dim=-1) - 1).abs().max() < 1e-12
    flat = 1 / torch.arange(1, T + 1, dtype=torch.float64)
    assert (maps.amax(dim=-1) - flat).abs().max() > 0.1, "every head has equal weights everywhere: the maps are flat"


def test_attention_maps_are_those_with_which_the_model_computes_its_logits(sharp_model: GPT) -> None:
    used: list[torch.Tensor] = []
    for block in sharp_model.h:
        block.attn.attention_dropout.register_forward_hook(  # type: ignore[union-attr]
            lambda module, inputs, output: used.append(output[0])
        )
    sharp_model.eval()
    with torch.no_grad():
        sharp_model(IDS)
    seen = list(used)
    assert torch.equal(attention_maps(sharp_model, IDS), torch.stack(seen))


@pytest.mark.parametrize("training", [True, False])
def test_attention_maps_are_made_without_dropout_and_leave_the_mode_as_it_was(sharp_model: GPT, training: bool) -> None:
    sharp_model.train(training)
    first = attention_maps(sharp_model, IDS)
    assert torch.equal(attention_maps(sharp_model, IDS), first)
    assert all(module.training == training for module in sharp_model.modules())


def test_attention_maps_of_ids_outside_the_vocabulary_are_refused(sharp_model: GPT) -> None:
    with pytest.raises(ValueError, match=r"^token id 11: this model's vocabulary has the ids 0 to 10$"):
        attention_maps(sharp_model, torch.tensor([[3, 11]]))
    with pytest.raises(ValueError, match=r"^a sequence of 13 tokens: this model takes 1 to 12"):
        attention_maps(sharp_model, torch.zeros(1, 13, dtype=torch.int64))


def test_the_attention_picture_has_a_cell_for_each_token_that_may_be_seen_and_none_for_the_future(
    sharp_model: GPT,
) -> None:
    maps = attention_maps(sharp_model, IDS).numpy()
    labels = ["a", " ", "\n", "d", "e", "f", "g", "h", "i"]
    specification: dict[str, Any] = attention_chart(maps, labels, [0, 2], [1], "a model").to_dict()
    (rows,) = specification["datasets"].values() if "datasets" in specification else [specification["data"]["values"]]
    cells = {(row["layer"], row["head"], row["query"], row["key"]): row["weight"] for row in rows}
    expected = {(layer, 1, t, s) for layer in (0, 2) for t in range(T) for s in range(t + 1)}
    assert set(cells) == expected
    for (layer, head, t, s), weight in cells.items():
        assert weight == pytest.approx(maps[layer, head, t, s], abs=1e-4)
    assert "['a', '␣', '↵', 'd'" in json.dumps(specification, ensure_ascii=False)


def test_white_space_and_what_cannot_be_printed_is_visible_in_labels() -> None:
    assert [visible(token) for token in (" the", "\n", "a\tb", "\r", "\x00", "é", "�")] == [
        "␣the",
        "↵",
        "a⇥b",
        "␍",
        "\\u0000",
        "é",
        "�",
    ]


def rows(name: str, losses: Sequence[float]) -> list[dict[str, Any]]:
    return [{"run": name, "step": 10 * n, "loss": loss} for n, loss in enumerate(losses)]


@pytest.mark.parametrize("names", [["one"], ["one", "two"]])
def test_the_loss_picture_holds_every_measured_loss_of_every_run_with_its_kind(names: list[str]) -> None:
    training = [row for name in names for row in rows(name, [3.0, 2.5, 2.25])]
    validation = [row for name in names for row in rows(name, [3.5, 2.75])]
    specification = loss_chart(names, training, validation).to_dict()
    shown = [row for layer in specification["layer"] for row in layer["data"]["values"]]
    expected = [{**r, "kind": "training"} for r in training] + [{**r, "kind": "validation"} for r in validation]
    assert shown == expected
    text = json.dumps(specification)
    assert "loss (nats per token)" in text
    assert '"step"' in text
    assert "validation loss 2.7500 after 10 steps" in text
    assert all(name in text for name in names)


def test_the_loss_of_the_newest_run_is_drawn_into_its_folder(cli: Cli, trained: Path) -> None:
    import shutil

    shutil.copytree(trained, "runs/mine")
    Path("runs/mine/loss.png").unlink()
    result = cli("plot", "loss")
    assert (result.status, result.out) == (0, "runs/mine/loss.png\n")
    width, height = png_size(Path("runs/mine/loss.png"))
    assert width > 1000
    assert height > 600


def test_several_runs_share_one_picture(cli: Cli, trained: Path) -> None:
    import shutil

    shutil.copytree(trained, "a/run")
    result = cli("plot", "loss", trained, "a/run", "--out", "both.svg")
    assert result.status == 0
    svg = Path("both.svg").read_text()
    assert svg.startswith("<svg")
    for text in ("Loss of 2 runs", str(trained), "a/run", "training", "validation"):
        assert text in svg, text


@pytest.mark.parametrize("suffix", quick([".png", ".svg", ".html"], ".svg"))
def test_attention_is_drawn_in_the_format_that_the_name_ends_in(cli: Cli, trained: Path, suffix: str) -> None:
    out = Path(f"attention{suffix}")
    result = cli("plot", "attention", trained, "--prompt", "a lamb", "--out", out)
    assert (result.status, result.out) == (0, f"{out}\n")
    assert [path.name for path in Path().iterdir()] == [out.name], "something was left beside the picture"
    if suffix == ".png":
        assert min(png_size(out)) > 100
        return
    text = out.read_text(encoding="utf-8")
    if suffix == ".svg":
        assert text.index("head 0") < text.index("head 1")
        assert "␣" in text
        cells = re.findall(r'aria-roledescription="rect mark"', text)
        assert len(cells) == 2 * 21, "two heads, each with the lower triangle of 6 x 6"
    else:
        assert "\\u2423" in text, "no label with a visible space"
        assert not re.findall(r"<script[^>]+src=", text), "the page needs a network"


def test_without_a_prompt_the_model_reads_the_first_words_of_its_validation_text(cli: Cli, trained: Path) -> None:
    from reference.data.corpora import load_text

    text = load_text("nursery")
    unseen = text[int(0.9 * len(text)) :]
    words = re.search(r"(?<=\s)[a-z]{2,} [a-z]+", unseen)
    assert words is not None
    begins = unseen[words.start() :][:8]  # the block has room for 8
    whole = begins if unseen[words.start() + 8] in " \n" else begins.rpartition(" ")[0]
    for arguments in (["--out", "own.svg"], ["--out", "given.svg", "--prompt", whole]):
        assert cli("plot", "attention", trained, *arguments).status == 0
    own, given = (re.sub(r"gradient_\d+", "gradient", Path(f"{name}.svg").read_text()) for name in ("own", "given"))
    assert own == given
    result = cli("plot", "attention", "--init-from", trained)
    assert f"{trained} has no corpus of its own: give a text by --prompt" in result.message


@pytest.mark.parametrize(
    "text,count,expected",
    [
        ("ding of the other day", 12, "of the other"),  # the first word is cut, and so the second begins
        ("ding of the other day", 100, "of the other day"),
        ("7 8 9 10 11", 5, "7 8 9"),  # no words: from the beginning
        ("d\nMary had a little lamb", 20, "Mary had a little"),
    ],
)
def test_a_prompt_of_words_begins_and_ends_with_whole_words(
    text: str, count: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reference.cli import plot_model
    from reference.data.tokenizers import build_tokenizer

    tokenizer = build_tokenizer("char", text)
    dataset = SimpleNamespace(validation=torch.tensor(tokenizer.encode(text)))
    monkeypatch.setattr(plot_model, "load_dataset", lambda corpus, tokenizer: dataset)
    trained: Any = SimpleNamespace(name="a run", settings={"corpus": "any"}, tokenizer=tokenizer)
    assert tokenizer.decode(plot_model.words_to_read(trained, count)) == expected


def test_a_picture_of_too_many_cells_is_refused_and_says_how_to_choose(tmp_path: Path) -> None:
    maps = np.zeros((12, 12, 100, 100))
    with pytest.raises(ValueError, match="12 x 12 maps of 100 tokens are 727,200 cells") as caught:
        draw_attention(maps, ["a"] * 100, range(12), range(12), "big", tmp_path / "big.png")
    assert "--layer and --head" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_that_names_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "loss.svg"

    def full_disk(*paths: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match=r"No space left on device: '.*loss\.svg'$"):
        write_picture(loss_chart(["a"], [], []), path)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_is_refused_before_it_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"give a name that ends in \.png, \.svg, \.html"):
        check_picture(tmp_path / "loss.jpeg")
    with pytest.raises(ValueError, match="there is no folder"):
        check_picture(tmp_path / "none" / "loss.png")
