"""A user's mistake is one line with the value and what is allowed, status 2, and no file is written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.reference.cli.conftest import TINY, TRAIN, Cli, tree

LONG = "mary had a little lamb"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with invalid files."""
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin1.txt").write_bytes("Grüße".encode("latin-1"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("do not overwrite")
    (tmp_path / "nothing").mkdir()
    np.save(tmp_path / "ids.npy", np.arange(200, 400, dtype=np.uint16))
    return tmp_path


TRAINING = [
    ("--corpus pydoc", "unknown corpus 'pydoc': neither a file nor one of pydocs, nursery, counting"),
    ("--corpus full", "the folder 'full' has no token files"),
    ("--corpus short.txt", "8 tokens are too few for blocks of 8: at least 9 are needed"),
    ("--corpus empty.txt", "the file 'empty.txt' is empty"),
    ("--corpus latin1.txt", "the file 'latin1.txt' is not UTF-8: byte 0xfc at offset 2"),
    (
        "--corpus ids.npy --tokenizer byte",
        "the token files 'ids.npy' have the id 399, the tokenizer byte has the ids 0",
    ),
    ("--tokenizer bpe", "unknown tokenizer 'bpe': choose one of char, char-unk, word, byte, gpt2"),
    ("--size huge", "unknown size 'huge': give one of gpt2, gpt2-medium, gpt2-large, gpt2-xl"),
    ("--device tpu", "unknown device 'tpu': this machine has auto, "),
    ("--device cuda:99", "unknown device 'cuda:99': this machine has auto, "),
    ("--dtype bfloat16", "--dtype bfloat16: give one of float32, float64"),
    ("--heads 3", "n_head = 3 does not divide n_embd = 16: give one of 1, 2, 4, 8, 16"),
    ("--layers 0", "n_layer = 0: give a whole number of at least 1"),
    ("--block 0", "block_size = 0: give a whole number of at least 1"),
    ("--block 600", "tokens are too few for blocks of 600: at least 601 are needed"),
    ("--dropout 1.0", "dropout = 1.0: give a number from 0 up to, not including, 1"),
    ("--steps 0", "--steps 0: give a whole number of at least 1"),
    ("--batch-size 0", "--batch-size 0: give a whole number of at least 1"),
    ("--log-interval 0", "--log-interval 0: give a whole number of at least 1"),
    ("--eval-interval -5", "--eval-interval -5: give a whole number of at least 1"),
    ("--eval-windows 0", "--eval-windows 0: give a whole number of at least 1"),
    ("--checkpoint-interval 0", "--checkpoint-interval 0: give a whole number of at least 1"),
    ("--keep 0", "--keep 0: give a whole number of at least 1"),
    ("--threads 0", "--threads 0: give a whole number of at least 1"),
    ("--seed -1", "--seed -1: give a whole number of at least 0"),
    ("--learning-rate 0", "learning rate 0.0: give a number above 0"),
    ("--learning-rate nan", "learning rate nan: give a number above 0"),
    ("--learning-rate inf", "--learning-rate inf: give a number above 0"),
    ("--lowest-learning-rate 0.5", "lowest learning rate 0.5: give a number from 0 to the learning rate, 0.004"),
    ("--warmup 13", "13 warm-up steps: give a number from 0 to the number of steps, 12"),
    ("--weight-decay -1", "weight decay -1.0: give 0 or more"),
    ("--betas 0.9 1.0", "beta2 = 1.0: give a number from 0 up to, not including, 1"),
    ("--clip 0", "--clip 0.0: give a number above 0; inf switches clipping off"),
    ("--out full", "--out full: is not empty; give a folder that is new or empty"),
    ("--out short.txt", "--out short.txt: is a file; give a folder"),
    ("--out short.txt/run", "cannot make the folder 'short.txt/run': Not a directory"),
    ("--init-from gpt5", "'gpt5' is neither a folder nor a published GPT-2: give one of gpt2, gpt2-medium"),
    ("--init-from gpt2", "'gpt2' could not be downloaded from"),
    ("--resume nothing", "nothing: no checkpoint and no run"),
    ("--resume nowhere", "nowhere: no such folder"),
    ("--resume short.txt", "short.txt: is a file, not a folder"),
]


@pytest.mark.parametrize("options, says", TRAINING, ids=[options for options, _ in TRAINING])
def test_a_mistake_in_training_is_one_line_and_writes_nothing(cli: Cli, here: Path, options: str, says: str) -> None:
    before = tree(here)
    result = cli(*TRAIN, *options.split())
    assert says in result.message
    assert result.status == 2
    assert result.out == "", "something was begun before the mistake was seen"
    assert tree(here) == before
    assert not (here / "runs").exists()


BEYOND = "token id 300: this model's vocabulary has the ids 0 to 255"


@pytest.mark.parametrize("where", ["train", "validation"])
def test_an_id_outside_the_vocabulary_in_the_middle_of_token_files_is_one_line(
    cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Only the ends of large files are checked before a run begins; the rest is checked when it is fetched."""
    monkeypatch.setattr("reference.data.datasets.EDGE", 10)
    tokens = np.full(1000, 7, dtype=np.uint16)
    tokens[slice(400, 410) if where == "train" else slice(950, 960)] = 300  # the last tenth is for validation
    np.save(here / "middle.npy", tokens)
    files = ["--corpus", "middle.npy", "--tokenizer", "byte", "--order", "sequential", "--steps", "20"]
    assert cli(*TRAIN, *files).message == BEYOND


def test_an_id_in_the_middle_of_token_files_is_one_line_in_an_evaluation_too(
    cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reference.data.datasets.EDGE", 10)
    tokens = np.full(1000, 7, dtype=np.uint16)
    np.save(here / "right.npy", tokens)
    tokens[955] = 300
    np.save(here / "wrong.npy", tokens)
    assert cli(*TRAIN, "--corpus", "right.npy", "--tokenizer", "byte", "--steps", "1", "--out", "run").status == 0
    assert cli("eval", "run", "--corpus", "right.npy").status == 0
    assert cli("eval", "run", "--corpus", "wrong.npy").message == BEYOND


USING = [
    (["sample", "RUN", "--temperature", "-0.1"], "temperature -0.1: give 0 (greedy) or more"),
    (["sample", "RUN", "--temperature", "nan"], "temperature nan: give 0 (greedy) or more"),
    (["sample", "RUN", "--top-k", "0"], "top-k 0: give 1 or more, or leave it out"),
    (["sample", "RUN", "--top-p", "0"], "top-p 0.0: give a number above 0, at most 1"),
    (["sample", "RUN", "--top-p", "1.01"], "top-p 1.01: give a number above 0, at most 1"),
    (["sample", "RUN", "--tokens", "0"], "--tokens 0: give a whole number of at least 1"),
    (["sample", "RUN", "--samples", "0"], "--samples 0: give a whole number of at least 1"),
    (["sample", "RUN", "--seed", "-1"], "--seed -1: give a whole number of at least 0"),
    (["sample", "RUN", "--device", "abacus"], "unknown device 'abacus': this machine has auto, "),
    (["sample", "RUN", "--prompt", ""], "empty prompt '': a model with the tokenizer char needs at least one token"),
    (["sample", "RUN", "--prompt", "lämb"], "characters outside the vocabulary: 'ä'; known are ' ', '<', '>'"),
    (["sample", "RUN", "--init-from", "gpt2"], "both the run RUN and --init-from gpt2: give one of them"),
    (["sample", "--init-from", "gpt2"], "'gpt2' could not be downloaded from"),
    (["sample"], "no run in 'runs' of the current directory"),
    (["sample", "nothing"], "nothing: no checkpoint and no run"),
    (["eval"], "no run in 'runs' of the current directory"),
    (["eval", "full"], "full: no checkpoint and no run"),
    (["eval", "RUN", "--corpus", "news"], "unknown corpus 'news'"),
    (["eval", "RUN", "--corpus", "pydocs"], "the text has characters outside the vocabulary"),
    (["eval", "RUN", "--windows", "0"], "--windows 0: give a whole number of at least 1"),
    (["eval", "RUN", "--batch-size", "0"], "--batch-size 0: give a whole number of at least 1"),
    (["plot", "loss"], "no run in 'runs' of the current directory"),
    (["plot", "loss", "nothing"], "'nothing' is not the folder of a training run"),
    (["plot", "loss", "RUN", "RUN"], "is named twice"),
    (["plot", "loss", "RUN", "--out", "loss.pdf"], "picture 'loss.pdf': give a name that ends in .png, .svg, .html"),
    (["plot", "loss", "RUN", "--out", "no/loss.png"], "picture 'no/loss.png': there is no folder 'no'"),
    (["plot", "attention", "nothing"], "nothing: no checkpoint and no run"),
    (
        ["plot", "attention", "RUN", "--prompt", LONG],
        "a sequence of 22 tokens: this model takes 1 to 8 (its block size)",
    ),
    (["plot", "attention", "RUN", "--prompt", ""], "empty prompt '': give some text"),
    (["plot", "attention", "RUN", "--prompt", "mary", "--layer", "1"], "--layer 1: this model has the layers 0 to 0"),
    (["plot", "attention", "RUN", "--prompt", "mary", "--head", "-1"], "--head -1: this model has the heads 0 to 1"),
    (["plot", "attention", "RUN", "--prompt", "mary", "--out", "a.gif"], "picture 'a.gif': give a name that ends in"),
    (["plot", "embedding", "nothing"], "nothing: no checkpoint and no run"),
    (["plot", "embedding", "RUN", "--out", "a.gif"], "picture 'a.gif': give a name that ends in"),
    (["plot", "histograms", "RUN", "--windows", "0"], "--windows 0: give a whole number of at least 1"),
    (["plot", "histograms", "--init-from", "RUN"], "RUN has no corpus of its own: give one by --corpus"),
    (["plot", "histograms", "RUN", "--corpus", "pydocs"], "the text has characters outside the vocabulary"),
    (["plot", "temperature", "RUN", "--tokens", "201"], "--tokens 201: a picture takes at most 200"),
    (["plot", "temperature", "RUN", "--temperatures", "-1"], "temperature -1.0: give 0 (greedy) or more"),
    (["plot", "temperature", "RUN", "--temperatures", "1", "1"], "--temperatures (1.0, 1.0): give 1 to 12, each once"),
    (["plot", "temperature", "RUN", "--prompt", ""], "empty prompt '': a model with the tokenizer char needs at least"),
]


@pytest.mark.parametrize("arguments, says", USING, ids=[" ".join(arguments) for arguments, _ in USING])
def test_a_mistake_in_using_a_run_is_one_line_and_writes_nothing(
    cli: Cli, here: Path, trained: Path, arguments: list[str], says: str
) -> None:
    before = tree(here), tree(trained)
    result = cli(*(trained if argument == "RUN" else argument for argument in arguments))
    assert says.replace("RUN", str(trained)) in result.message
    assert result.status == 2
    assert result.out == ""
    assert (tree(here), tree(trained)) == before


OTHER_RUN = [
    ("--corpus counting", "--corpus counting with --resume: the run has nursery"),
    ("--tokenizer byte", "--tokenizer byte with --resume: the run has char"),
    ("--size tiny", "--size tiny with --resume: the run has small"),
    ("--layers 2", "--layers 2 with --resume: the run has 1"),
    ("--heads 4", "--heads 4 with --resume: the run has 2"),
    ("--width 32", "--width 32 with --resume: the run has 16"),
    ("--block 16", "--block 16 with --resume: the run has 8"),
    ("--bias False", "--bias False with --resume: the run has True"),
    ("--seed 1", "--seed 1 with --resume: the run has 1337"),
    ("--batch-size 8", "--batch-size 8 with --resume: the run has 4"),
    ("--order sequential", "--order sequential with --resume: the run has random"),
    ("--dtype float64", "--dtype float64 with --resume: the run has float32"),
    ("--init-from gpt2", "--init-from gpt2 with --resume: the run has None"),
    ("--out elsewhere", "--out elsewhere with --resume: a resumed run goes on in its own folder"),
    ("", "has its 12 steps done: give a larger number by --steps"),
    ("--steps 5", "has its 12 steps done: give a larger number by --steps"),
]


@pytest.mark.parametrize("options, says", OTHER_RUN, ids=[options or "finished" for options, _ in OTHER_RUN])
def test_a_resumed_run_cannot_become_another_run(cli: Cli, trained: Path, options: str, says: str) -> None:
    before = tree(trained)
    more = [] if options in ("", "--steps 5") else ["--steps", "24"]
    result = cli("train", "--resume", trained, *more, *options.split())
    assert says in result.message
    assert result.status == 2
    assert tree(trained) == before


def cut_weights(run: Path) -> None:
    for weights in run.glob("step-*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1])


def no_steps(run: Path) -> None:
    for step in run.glob("step-*"):
        shutil.rmtree(step)


def spoil_log(run: Path) -> None:
    (run / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\nnot json\n')


@pytest.mark.parametrize(
    "damage, arguments, says",
    [
        (cut_weights, ["sample", "RUN"], "no complete checkpoint in this run: step-000012: model.safetensors"),
        (cut_weights, ["sample", "RUN/step-000012"], "model.safetensors"),
        (no_steps, ["eval", "RUN"], "no checkpoint and no run"),
        (no_steps, ["train", "--resume", "RUN"], "no checkpoint and no run"),
        (spoil_log, ["plot", "loss", "RUN"], "line 2: is not a record of a training log"),
    ],
)
def test_a_damaged_run_is_refused_by_file_and_reason(
    cli: Cli,
    tmp_path: Path,
    trained: Path,
    damage: Callable[[Path], None],
    arguments: list[str],
    says: str,
) -> None:
    run = tmp_path / "damaged"
    shutil.copytree(trained, run)
    damage(run)
    before = tree(run)
    result = cli(*(argument.replace("RUN", str(run)) for argument in arguments))
    assert says in result.message
    assert result.status == 2
    assert tree(run) == before


def test_a_run_is_never_overwritten(cli: Cli, trained: Path) -> None:
    before = tree(trained)
    result = cli(*TRAIN, "--out", trained)
    assert f"--out {trained}: is not empty" in result.message
    assert f"resume it by --resume {trained}" in result.message
    assert result.status == 2
    assert tree(trained) == before


def test_an_older_checkpoint_of_a_run_is_not_resumed_over_newer_ones(cli: Cli, trained: Path) -> None:
    result = cli("train", "--resume", trained / "step-000008", "--steps", "24")
    assert "is not the newest checkpoint of its run, which has step-000012: resume" in result.message
    assert result.status == 2


@pytest.mark.parametrize("options", ["--size tiny", "--layers 3", "--heads 4", "--width 8", "--bias False"])
def test_published_weights_fix_the_shape(cli: Cli, trained: Path, options: str) -> None:
    result = cli("train", "--corpus", "nursery", "--init-from", trained, *options.split())
    assert f"{options} with --init-from {trained}: the weights fix" in result.message
    assert result.status == 2


def test_published_weights_cannot_see_further_than_their_positions(cli: Cli, trained: Path) -> None:
    result = cli("train", "--corpus", "nursery", "--init-from", trained, "--block", "9")
    assert "--block 9 with --init-from" in result.message
    assert "the weights have 8 positions; give at most that" in result.message


def test_an_option_that_cannot_be_read_ends_with_status_2(cli: Cli) -> None:
    for arguments in (["train", "--steps", "many"], ["train", "--stepps", "3"], ["trian"], [], ["plot"]):
        result = cli(*arguments)
        assert result.status == 2, arguments
        assert result.out == "", arguments
        assert result.err, arguments


def test_a_run_is_not_resumed_on_another_text(cli: Cli, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("abcd" * 50)
    run = tmp_path / "run"
    options = [*TINY[2:], "--corpus", "text.txt", "--steps", "2", "--device", "cpu"]
    assert cli("train", *options, "--out", run).status == 0
    text.write_text("abdc" * 50)
    result = cli("train", "--resume", run, "--steps", "4")
    assert f"the text '{text}' is not the one that '{run}' was trained on" in result.message
    assert result.status == 2
