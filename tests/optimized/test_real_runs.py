"""Training on real text to a known loss, by the fast package, whose steps are those of the readable one."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimized.__main__ import PACKAGE
from reference.checkpoints.run_folder import read_log
from reference.cli.main import main

SHAKESPEARE = Path(__file__).parents[3] / "shared" / "data" / "tinyshakespeare.txt"


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason=f"needs a copy of tiny Shakespeare at {SHAKESPEARE}")
@pytest.mark.usefixtures("one_thread")
def test_the_cpu_settings_of_nanogpt_reach_its_published_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITYGPT_SHAKESPEARE", str(SHAKESPEARE))
    model = ["--layers", "4", "--heads", "4", "--width", "128", "--block", "64", "--dropout", "0"]
    # nanoGPT takes 2,000 steps
    amount = ["--batch-size", "12", "--steps", "1400", "--eval-interval", "1400"]
    here = ["--device", "cpu", "--without", "compile", "--out", str(tmp_path / "run")]
    assert main(PACKAGE, ["train", "--corpus", "shakespeare", *model, *amount, *here]) == 0
    loss = [record["validation_loss"] for record in read_log(tmp_path / "run") if "validation_loss" in record][-1]
    assert loss <= 1.88, f"validation loss {loss:.4f} over the whole split; nanoGPT publishes 1.88"
