"""`sample` and `eval`: generated texts, and losses of a trained model."""

import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reference import GPT, generate
from reference.checkpoints.checkpoint import load_newest
from reference.cli.open_model import open_trained
from reference.cli.sample import first_ids, write
from reference.data.batches import windows
from reference.data.datasets import load_dataset
from reference.data.tokenizers import build_tokenizer, tokenizer_from_json
from reference.training.evaluation import mean_loss
from reference.training.loop import derived_seed
from tests.reference.cli.conftest import HERE, SHORT, TINY, Cli

PROMPT = "mary "


def model_of(run: Path) -> GPT:
    checkpoint, _ = load_newest(run)
    model = GPT(checkpoint.config)
    model.load_state_dict(checkpoint.model)
    return model.eval()


def test_a_sample_is_the_prompt_and_what_generate_adds_to_it(cli: Cli, trained: Path) -> None:
    options = ["--temperature", "0.7", "--top-k", "9", "--top-p", "0.9", "--tokens", "40", "--seed", "5"]
    result = cli("sample", trained, "--prompt", PROMPT, *options)
    assert result.status == 0
    tokenizer = tokenizer_from_json(load_newest(trained)[0].tokenizer)
    generator = torch.Generator().manual_seed(derived_seed("sample", 5, 0))
    ids = torch.tensor([tokenizer.encode(PROMPT)])
    expected = generate(model_of(trained), ids, 40, 0.7, 9, 0.9, generator)
    assert result.out == tokenizer.decode(expected[0].tolist()) + "\n"


def test_temperature_0_is_greedy_whatever_the_seed(cli: Cli, trained: Path) -> None:
    greedy = [cli("sample", trained, "--prompt", PROMPT, "--temperature", "0", "--seed", s).out for s in (1, 2)]
    tokenizer = tokenizer_from_json(load_newest(trained)[0].tokenizer)
    expected = generate(model_of(trained), torch.tensor([tokenizer.encode(PROMPT)]), 500, temperature=0.0)
    assert greedy == [tokenizer.decode(expected[0].tolist()) + "\n"] * 2


def test_the_same_seed_writes_the_same_texts_and_another_seed_others(cli: Cli, trained: Path) -> None:
    texts = [cli("sample", trained, "--samples", "2", "--tokens", "50", "--seed", s).out for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_each_sample_has_randomness_of_its_own_from_the_first_token_on(cli: Cli, trained: Path) -> None:
    result = cli("sample", trained, "--samples", "20", "--tokens", "1", "--prompt", PROMPT)
    texts = re.findall(r"--- sample \d+ of 20 ---\n(.*)\n", result.out)
    assert len(texts) == 20
    first_tokens = {text.removeprefix(PROMPT) for text in texts}
    assert len(first_tokens) > 5, f"only these first tokens: {first_tokens}"
    several = cli("sample", trained, "--samples", "3", "--tokens", "30", "--prompt", PROMPT).out
    alone = cli("sample", trained, "--tokens", "30", "--prompt", PROMPT).out
    assert alone in several, "the first sample depends on how many there are"


def test_text_is_written_while_the_model_is_still_at_work(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = build_tokenizer("byte", "")
    seen: list[str] = []

    def stream(model: Any, ids: Tensor, *rest: Any) -> Iterator[Tensor]:
        for byte in "aé€".encode():
            yield torch.tensor([[byte]])
            seen.append(capsys.readouterr().out)

    write(model_of(trained), tokenizer, [65], True, stream, tokens=6, temperature=1.0, seed=0)
    assert seen == ["Aa", "", "é", "", "", "€"], "a character is due with its last byte, not before and not later"
    assert capsys.readouterr().out == "\n"


def test_a_prompt_longer_than_the_block_is_allowed_and_said_to_be_cut(cli: Cli, trained: Path) -> None:
    long = "mary had a little lamb"
    result = cli("sample", trained, "--prompt", long, "--temperature", "0", "--tokens", "5")
    assert result.status == 0
    assert result.err == "note: the prompt has 22 tokens, of which the model sees the last 8 (its block size)\n"
    short = cli("sample", trained, "--prompt", long[-8:], "--temperature", "0", "--tokens", "5")
    assert result.out == long[:-8] + short.out


def test_without_a_prompt_a_text_begins_where_texts_begin() -> None:
    assert first_ids(build_tokenizer("gpt2", ""), None) == [50256]
    assert first_ids(build_tokenizer("gpt2", ""), "") == [50256]
    assert first_ids(build_tokenizer("char", "ab\n"), None) == [0]
    assert first_ids(build_tokenizer("char", "b\ta"), None) == [0], "without a line break, the first of the vocabulary"
    assert first_ids(build_tokenizer("word", "b a"), None) == [0]
    assert first_ids(build_tokenizer("byte", ""), None) == [10]
    for name in ("char", "char-unk", "word", "byte"):
        with pytest.raises(ValueError, match=f"empty prompt '': a model with the tokenizer {name} needs"):
            first_ids(build_tokenizer(name, "a b"), "")
    with pytest.raises(ValueError, match="empty prompt ' '"):
        first_ids(build_tokenizer("word", "a b"), " ")


def test_the_newest_run_is_the_one_that_logged_last(cli: Cli, trained: Path) -> None:
    for name, age in (("a", 0), ("b", 1000), ("c", 2000)):
        shutil.copytree(trained, f"runs/{name}")
        log = Path(f"runs/{name}/log.jsonl")
        os.utime(log, (log.stat().st_atime, log.stat().st_mtime - age))
    Path("runs/notes").mkdir()
    assert cli("eval").out.startswith("runs/a, step 12\n")
    log = Path("runs/b/log.jsonl")
    os.utime(log)
    assert cli("eval").out.startswith("runs/b, step 12\n")
    assert cli("eval", "runs/c/step-000008").out.startswith("runs/c/step-000008, step 8\n")


def test_published_weights_can_be_used_without_a_run(cli: Cli, trained: Path) -> None:
    sampled = cli("sample", "--init-from", trained, "--prompt", PROMPT)
    assert sampled.out == cli("sample", trained, "--prompt", PROMPT).out
    result = cli("eval", "--init-from", trained)
    assert "has no corpus of its own: give one by --corpus" in result.message
    assert cli("eval", "--init-from", trained, "--corpus", "nursery").status == 0


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(cli: Cli, trained: Path) -> None:
    shutil.copytree(trained, "run")
    Path("run/step-000012/model.safetensors").write_bytes(b"")
    result = cli("eval", "run")
    assert result.status == 0
    assert result.out.startswith("run, step 8\n")
    assert result.err.startswith("note: step-000012: model.safetensors")
    assert "using step-000008" in result.err


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_eval_weighs_every_token_of_the_whole_split_once(cli: Cli, trained: Path, batch_size: int) -> None:
    result = cli("eval", trained, "--split", "both", "--batch-size", batch_size)
    trained_model, tokenizer = model_of(trained), open_trained(trained, None).tokenizer
    data = load_dataset("nursery", tokenizer)
    lines = result.out.splitlines()[1:]
    assert len(lines) == 2
    for line, name, tokens in zip(lines, ("validation", "train"), (data.validation, data.train), strict=True):
        loss, count = mean_loss(trained_model, windows(tokens, 8, 1))
        assert count == len(tokens) - 1
        assert line == (
            f"nursery, {name}: loss {loss:.4f} per token, perplexity {math.exp(loss):,.2f}, "
            f"{loss / math.log(2):.4f} bits per character, {loss / math.log(2):.4f} bits per byte; {count} tokens"
        )


def test_eval_gives_the_loss_that_training_ended_with(cli: Cli, trained: Path) -> None:
    from reference.checkpoints.run_folder import read_log

    last = [r["validation_loss"] for r in read_log(trained) if "validation_loss" in r][-1]
    assert f"loss {last:.4f} per token" in cli("eval", trained).out


def test_eval_may_read_part_of_a_split_or_another_text(cli: Cli, trained: Path) -> None:
    assert cli("eval", trained, "--windows", "2").out.endswith("; 16 tokens\n")
    Path("other.txt").write_text("little lamb was sure " * 20)
    result = cli("eval", trained, "--corpus", "other.txt")
    assert result.status == 0
    assert "other.txt, validation: loss " in result.out


def test_bits_count_characters_and_bytes_of_the_text_and_not_tokens(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("äöü " * 200, encoding="utf-8")
    cli("train", "--corpus", "text.txt", "--tokenizer", "byte", *TINY[2:], *SHORT, *HERE)
    line = cli("eval").out.splitlines()[1]
    loss, per_character, per_byte = (
        float(number)
        for number in re.findall(r"loss ([\d.]+) .* ([\d.]+) bits per char.* ([\d.]+) bits per byte", line)[0]
    )
    assert per_byte == pytest.approx(loss / math.log(2), rel=2e-2)  # a first half of a character is not counted
    assert per_character == pytest.approx(per_byte * 7 / 4, rel=2e-2)
