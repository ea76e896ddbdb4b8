"""What a device can do: the floor of a workload from measured rates, and n/a where nothing is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.__main__ import main
from bench.datasheets import DATA_SHEETS, data_sheet_bandwidth, data_sheet_rate
from bench.measure_roofline import per_second
from bench.roofline import Bandwidth, Product, Roofline, attention_flops, floors, linear_products, utilisation
from bench.suite import SITTINGS, named
from bench.workloads import Workload
from reference import GPTConfig

CPU = torch.device("cpu")
CONFIG = GPTConfig(block_size=64, vocab_size=100, n_layer=3, n_head=2, n_embd=16)
WORK = Workload("some", CONFIG, batch=2, time=8)
N = CONFIG.parameter_count()


def made_up(rate: float = 1e9, bandwidth: float = 1e6, slow: str = "", slower: float = 1.0) -> Roofline:
    """A device of a constant rate, but for one product by its name."""
    return Roofline(
        CPU,
        rate=lambda precision, product, direction: rate / (slower if product.name == slow else 1.0),
        bandwidth=lambda block: Bandwidth(block, copy=bandwidth, read=bandwidth / 2),
    )


def test_the_products_and_the_attention_are_all_operations_of_a_forward_pass() -> None:
    products = sum(p.count * p.flops for p in linear_products(CONFIG, WORK.tokens))
    full_square = 4 * CONFIG.n_layer * CONFIG.n_embd * WORK.batch * WORK.time**2
    assert products + full_square == WORK.forward_flops()
    assert full_square / 2 < attention_flops(CONFIG, WORK.batch, WORK.time) < full_square


@pytest.mark.parametrize(
    "task,passes,bytes_of_passes,bytes_after",
    [("forward", 1, 4 * N, 0), ("loss_and_gradient", 3, 12 * N, 0), ("training_step", 3, 12 * N, 28 * N)],
)
def test_a_pass_takes_the_longer_of_operations_and_bytes_and_the_optimizer_comes_after(
    task: str, passes: int, bytes_of_passes: int, bytes_after: int
) -> None:
    operations = passes * (
        sum(p.count * p.flops for p in linear_products(CONFIG, WORK.tokens)) + attention_flops(CONFIG, 2, 8)
    )
    even = bytes_of_passes / operations  # bandwidth over rate at which both take the same
    for rate, bandwidth in ((1e6, 2e6 * even), (1e6, 0.5e6 * even)):  # bound by operations, then by bytes
        floor = made_up(rate, bandwidth).floor(WORK, task, "float32", 2)
        assert floor.operations == operations
        assert floor.bytes == bytes_of_passes + bytes_after
        longer = max(operations / rate, bytes_of_passes / bandwidth)
        assert floor.seconds == pytest.approx(longer + bytes_after / bandwidth)


def test_a_product_counts_at_the_rate_of_its_own_shape_but_head_and_attention_at_the_best() -> None:
    products = {p.name: p for p in linear_products(CONFIG, WORK.tokens)}
    usual = made_up(1e6, 1e12).floor(WORK, "training_step", "float32", 2).seconds
    slow = made_up(1e6, 1e12, "MLP in", 4.0).floor(WORK, "training_step", "float32", 2).seconds
    wide = products["MLP in"]
    assert slow - usual == pytest.approx(3 * 3 * wide.count * wide.flops / 1e6)
    # fused code cuts the head into chunks: how slow it is in one piece is nobody's floor
    assert made_up(1e6, 1e12, "head", 4.0).floor(WORK, "training_step", "float32", 2).seconds == usual


def test_a_token_reads_every_weight_and_the_cache() -> None:
    roofline = made_up()
    roofline.floor(WORK, "forward", "float32", 2)
    one, eight = (roofline.floor(WORK, "per_token", "float32", rows) for rows in (1, 8))
    cache = 2 * CONFIG.n_layer * CONFIG.n_embd * (32 + 16)  # keys and values of the prompt and half of the new tokens
    assert (one.bytes, eight.bytes) == (4 * (N + cache), 4 * (N + 8 * cache))
    assert eight.operations == 8 * one.operations


def test_bfloat16_moves_half_the_bytes_of_the_weights_but_its_optimizer_as_many() -> None:
    floor = made_up().floor(WORK, "training_step", "bfloat16", 2)
    assert floor.bytes == (2 + 2 + 4) * N + 28 * N


def test_the_floor_of_one_token_is_asked_for_after_something_was_measured() -> None:
    with pytest.raises(ValueError, match=r"^no product in float32 was measured: ask for the floor of a forward pass"):
        made_up().floor(WORK, "per_token", "float32", 1)


def test_every_shape_is_measured_once() -> None:
    asked: list[tuple[str, int, int, int, str]] = []

    def rate(precision: str, p: Product, direction: str) -> float:
        asked.append((precision, p.rows, p.inner, p.columns, direction))
        return 1e9

    roofline = Roofline(CPU, rate=rate, bandwidth=lambda block: Bandwidth(block, 1e9, 1e9))
    found = list(floors(roofline, ["smoke"], SITTINGS, lambda _: None))
    assert len(asked) == len(set(asked))
    assert {(f["sitting"], f["task"]) for f in found} == {(s, task) for s, tasks in SITTINGS.items() for task in tasks}
    assert all(f["seconds"] > 0.0 for f in found)


def test_attention_is_reckoned_at_the_best_rate_of_all_workloads_whatever_their_order() -> None:
    def rate(precision: str, p: Product, direction: str) -> float:
        return 1e9 * p.inner

    there, back = (
        {
            (f["workload"], f["task"], f["precision"], f["sitting"]): f["seconds"]
            for f in floors(
                Roofline(CPU, rate=rate, bandwidth=lambda block: Bandwidth(block, 1e12, 1e12)),
                names,
                SITTINGS,
                lambda _: None,
            )
        }
        for names in (["smoke", "mini"], ["mini", "smoke"])
    )
    assert there == back


def test_this_device_is_measured(one_thread: None) -> None:
    roofline = Roofline(CPU, seconds=0.01)
    large, small = Product("large", 256, 256, 256, 1), Product("small", 1, 8, 8, 1)
    rates = {p.name: roofline.rate("float32", p) for p in (large, small)}
    assert 1e8 < rates["large"] < 1e14
    assert rates["large"] > rates["small"], "a call costs more than 128 operations"
    assert roofline.ceiling("float32") == rates["large"]
    assert roofline.ceiling("bfloat16") is None
    bandwidth = roofline.bandwidth(2**24)
    assert 1e8 < bandwidth.best < 1e14


@pytest.mark.parametrize("direction,shape", [("forward", (5, 7)), ("input", (5, 3)), ("weight", (7, 3))])
def test_what_is_multiplied_has_the_shapes_of_a_linear_layer_and_its_backward_pass(
    direction: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    multiply = torch.mm

    def mm(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        seen.append((*a.shape, b.shape[1]))
        assert out.shape == shape
        return multiply(a, b, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    Roofline(CPU, seconds=0.0).rate("float32", Product("", rows=5, inner=3, columns=7, count=1), direction)
    assert {2 * a * b * c for a, b, c in seen} == {2 * 5 * 3 * 7}


def test_what_no_data_sheet_says_is_not_known_and_never_zero() -> None:
    assert data_sheet_rate("AMD EPYC", "bfloat16") is None
    assert data_sheet_rate("NVIDIA H100 NVL", "bfloat16") is None, "not a device whose name begins like it"
    assert data_sheet_bandwidth("AMD EPYC") is None
    assert utilisation(1e9, data_sheet_rate("AMD EPYC", "float32")) is None
    assert per_second(None, "FLOP/s") == "n/a"
    assert data_sheet_rate("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert utilisation(494.5e12, 989e12) == 0.5


@pytest.mark.parametrize("name", DATA_SHEETS)
def test_data_sheets_are_in_operations_and_bytes_per_second(name: str) -> None:
    sheet = DATA_SHEETS[name]
    assert 1e13 < sheet.operations["float32"] < sheet.operations["tf32"] < sheet.operations["bfloat16"] < 1e16
    assert 1e11 < sheet.bandwidth < 1e13


def test_the_command_prints_what_it_measured_and_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    path = tmp_path / "roofline.json"
    assert main(["roofline", "--device", "cpu", "--workloads", "smoke", "--seconds", "0", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "float32 products" in out
    assert "n/a" in out, "nobody promises what a CPU does"
    assert "smoke/training_step" in out
    assert max(map(len, out.splitlines())) <= 100
    written = json.loads(path.read_text())
    assert written["roofline"]["ceilings"]["float32"]["data_sheet"] is None
    assert written["roofline"]["ceilings"]["float32"]["measured"] > 1e8


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--workloads", "gpt5"], "unknown workload 'gpt5': give some of smoke, mini-64, "),
        (["--device", "quantum"], "unknown device 'quantum': this machine has "),
        (["--seconds", "-1"], "--seconds -1.0: give a number of at least 0"),
        (["--threads", "0"], "--threads 0: give a whole number of at least 1"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["roofline", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_the_names_of_the_workloads_are_what_they_say() -> None:
    assert (named("gpt2").config.n_layer, named("gpt2").time) == (12, 1024)
    assert named("gpt2-xl").config.n_embd == 1600
