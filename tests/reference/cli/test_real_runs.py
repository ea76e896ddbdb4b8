"""Training on real text, as a user would: the run without options. That of nanoGPT is in tests/optimized."""

import re
import struct
from pathlib import Path

import pytest
import torch

from reference import generate
from reference.checkpoints.run_folder import read_log
from reference.cli.backend import reference_backend
from reference.cli.open_model import open_trained
from tests.reference.cli.conftest import Cli

pytestmark = pytest.mark.usefixtures("whole_end")


def last_validation(run: Path) -> float:
    return float([r["validation_loss"] for r in read_log(run) if "validation_loss" in r][-1])


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_training_without_options_learns_to_write_something_like_the_text(cli: Cli) -> None:
    result = cli("train", "--device", "cpu")
    assert result.status == 0, result.err
    (run,) = Path("runs").iterdir()
    assert last_validation(run) < 1.5, "of 4.6 for guessing and about 2.4 for pairs of characters"
    width, height = struct.unpack(">II", (run / "loss.png").read_bytes()[16:24])
    assert width > 1000
    assert height > 600
    sample = result.out.split("a sample, temperature 0.8:\n")[1]
    words = re.findall(r"[a-z]+", sample)
    assert len(words) > 20
    assert {"the", "of", "a", "is", "to", "and"} & set(words), sample

    trained = open_trained(run, None)
    prompt = torch.tensor([trained.tokenizer.encode("The value of th")])
    model = trained.model(reference_backend(None), "cpu")
    assert trained.tokenizer.decode(generate(model, prompt, 1, temperature=0.0)[0, -1:].tolist()) == "e"


@pytest.mark.gpu
def test_on_a_gpu_a_run_is_repeatable_resumes_and_disturbs_no_random_numbers(cli: Cli) -> None:
    tiny = ["--corpus", "nursery", "--layers", "1", "--heads", "2", "--width", "16", "--block", "8", "--dropout", "0.2"]
    train = ["train", *tiny, "--device", "cuda", "--log-interval", "1", "--steps"]
    torch.cuda.manual_seed(1)
    before = torch.cuda.get_rng_state()
    for out in ("a", "b"):
        result = cli(*train, "6", "--out", out)
        assert result.status == 0, result.err
    assert torch.equal(torch.cuda.get_rng_state(), before)
    losses = {out: [r["loss"] for r in read_log(Path(out)) if "loss" in r] for out in ("a", "b")}
    assert losses["a"] == pytest.approx(losses["b"], rel=1e-5)
    assert cli("train", "--resume", "a", "--steps", "9").status == 0
    assert cli("sample", "a", "--device", "cuda", "--tokens", "5").status == 0
    assert cli("eval", "a", "--device", "cpu").status == 0
