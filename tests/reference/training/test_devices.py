"""Devices by name, and their descriptions."""

import pytest
import torch

from reference.cli.progress import Lines, clock, display
from reference.training.devices import available_devices, choose_device, describe, send


def test_auto_is_an_accelerator_if_there_is_one_and_else_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reference.training.devices.available_devices", lambda: ["cpu"])
    assert choose_device("auto") == torch.device("cpu")
    monkeypatch.setattr("reference.training.devices.available_devices", lambda: ["cuda:0", "cuda:1", "cpu"])
    assert choose_device("auto") == torch.device("cuda:0")
    assert choose_device("cuda") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="unknown device 'cuda:2': this machine has auto, cuda:0, cuda:1, cpu"):
        choose_device("cuda:2")


def test_float64_is_not_asked_of_a_device_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reference.training.devices.available_devices", lambda: ["mps", "cpu"])
    assert choose_device("auto") == torch.device("mps")
    assert choose_device("auto", "float64") == torch.device("cpu")
    with pytest.raises(ValueError, match="--dtype float64 on mps: that device has no float64; use --device cpu"):
        choose_device("mps", "float64")


@pytest.mark.parametrize(
    "name, waits", [("cpu", True), ("mps", True), ("xpu", True), ("cuda", False), ("cuda:1", False)]
)
def test_only_to_cuda_is_a_batch_sent_without_waiting(name: str, waits: bool) -> None:
    sent: list[tuple[torch.device, bool]] = []

    class Batch:
        def to(self, device: torch.device, non_blocking: bool) -> None:
            sent.append((device, non_blocking))

    send(Batch(), torch.device(name))  # type: ignore[arg-type]
    assert sent == [(torch.device(name), not waits)]


def test_the_cpu_is_there_and_says_its_threads() -> None:
    assert available_devices()[-1] == "cpu"
    number = torch.get_num_threads()
    assert describe(torch.device("cpu")).startswith(f"cpu with {number} thread")


def test_without_a_terminal_progress_is_plain_lines_with_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    shown = display(done=1000, steps=2000)
    assert isinstance(shown, Lines)
    with shown:
        now[0] += 30.0
        shown.stepped(1250)
        shown.recorded({"step": 1250, "loss": 1.23456, "tokens_per_second": 12345.6})
        shown.recorded({"step": 1250, "validation_loss": 1.5})
    assert capsys.readouterr().out == (
        "step 1,250/2,000  loss 1.2346  12,346 tokens/s  1:30 left\nstep 1,250/2,000  validation loss 1.5000\n"
    )


@pytest.mark.parametrize(
    "seconds, expected", [(0.4, "0:00"), (59.6, "1:00"), (75.4, "1:15"), (3599.6, "1:00:00"), (3675, "1:01:15")]
)
def test_durations_read_as_minutes_or_hours(seconds: float, expected: str) -> None:
    assert clock(seconds) == expected
