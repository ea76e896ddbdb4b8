"""What a device can do: the floor of a workload from measured rates, and n/a where nothing is known."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.__main__ import main
from bench.environment import environment, identity_in_words
from bench.formatting import WIDTH, milliseconds, per_second
from bench.report.sections import roofline as roofline_section
from bench.roofline.command import TimeLeft, ceilings_table, planned, rates_table, show
from bench.roofline.datasheets import DATA_SHEETS, data_sheet_bandwidth, data_sheet_rate
from bench.roofline.roofline import (
    Bandwidth,
    Product,
    Roofline,
    attention_flops,
    emulated,
    floors,
    linear_products,
    precisions_of,
    utilisation,
    weights_read,
    with_floors,
)
from bench.workloads.scenarios import SCENARIOS, named
from bench.workloads.workload import Workload
from reference import GPTConfig
from reference.training import cpu
from tests.bench.report.made_up_report import CUDA

CPU = torch.device("cpu")
CONFIG = GPTConfig(block_size=64, vocab_size=100, n_layer=3, n_head=2, n_embd=16)
WORK = Workload("some", CONFIG, batch=2, time=8)
N = CONFIG.parameter_count()
TABLE, ROW = 64 * 16, 16  # weights of all positions, of one
READ = N - TABLE + 8 * ROW  # in a forward pass of WORK


@pytest.fixture(autouse=True)
def computes_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has: where a test is about another one, or about this one, it says so."""
    monkeypatch.setattr("reference.training.cpu.computes_bfloat16", lambda: True)
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


class Accelerator:
    """A device that works while the program goes on: queueing a call and waiting for all of them take time too."""

    def __init__(self, call: float, queueing: float, waiting: float) -> None:
        self.seconds, self.queueing, self.waiting = call, queueing, waiting
        self.now = self.done = 0.0
        self.queued, self.samples = 0, list[int]()  # calls between two waits

    def clock(self) -> float:
        return self.now

    def call(self) -> None:
        self.queued += 1
        self.now += self.queueing
        self.done = max(self.done, self.now) + self.seconds

    def synchronise(self) -> None:
        if self.queued:
            self.samples.append(self.queued)
        self.queued = 0
        self.now = max(self.now, self.done) + self.waiting


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
    [
        ("forward", 1, 4 * READ, 0),
        ("loss_and_gradient", 3, 4 * READ + 4 * (N - TABLE) + 4 * READ, 0),
        ("training_step", 3, 4 * READ + 4 * (N - TABLE) + 4 * READ, 28 * N),
    ],
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
    # fused code splits the head into chunks, so its speed as one product is no floor
    assert made_up(1e6, 1e12, "head", 4.0).floor(WORK, "training_step", "float32", 2).seconds == usual


def test_a_token_reads_every_weight_and_the_cache() -> None:
    roofline = made_up()
    roofline.floor(WORK, "forward", "float32", 2)
    one, eight = (roofline.floor(WORK, "per_token", "float32", rows) for rows in (1, 8))
    cache = 2 * CONFIG.n_layer * CONFIG.n_embd * (32 + 16)  # keys and values of the prompt and half of the new tokens
    weights = N - TABLE + ROW
    assert (one.bytes, eight.bytes) == (4 * (weights + cache), 4 * (weights + 8 * cache))
    assert eight.operations == 8 * one.operations


def test_of_the_position_table_only_the_rows_of_positions_that_are_there_are_read() -> None:
    assert weights_read(CONFIG, 64) == N
    assert weights_read(CONFIG, 63) == N - ROW
    roofline = made_up()
    short, long = (
        roofline.floor(Workload("some", CONFIG, batch=2, time=time), "forward", "float32", 2) for time in (1, 64)
    )
    assert (short.bytes, long.bytes) == (4 * (N - 63 * ROW), 4 * N)
    assert roofline.floor(WORK, "prefill", "float32", 1).bytes == 4 * (N - 32 * ROW), "a prompt of 32 tokens"


def test_bfloat16_moves_half_the_bytes_of_the_weights_but_its_optimizer_as_many() -> None:
    floor = made_up().floor(WORK, "training_step", "bfloat16", 2)
    assert floor.bytes == 2 * READ + 2 * (N - TABLE) + 4 * READ + 28 * N


def test_the_floor_of_one_token_is_asked_for_after_something_was_measured() -> None:
    with pytest.raises(ValueError, match=r"^no product in float32 was measured: compute the floor of a forward pass"):
        made_up().floor(WORK, "per_token", "float32", 1)


def test_every_shape_is_measured_once() -> None:
    asked: list[tuple[str, int, int, int, str]] = []

    def rate(precision: str, p: Product, direction: str) -> float:
        asked.append((precision, p.rows, p.inner, p.columns, direction))
        return 1e9

    roofline = Roofline(CPU, rate=rate, bandwidth=lambda block: Bandwidth(block, 1e9, 1e9))
    found = list(floors(roofline, ["smoke"], SCENARIOS, lambda _: None))
    assert len(asked) == len(set(asked))
    assert {(f["scenario"], f["task"]) for f in found} == {
        (s, task) for s, tasks in SCENARIOS.items() for task in tasks
    }
    assert all(f["seconds"] > 0.0 for f in found)


def test_attention_counts_at_the_best_rate_of_all_workloads_whatever_their_order() -> None:
    def rate(precision: str, p: Product, direction: str) -> float:
        return 1e9 * p.inner

    there, back = (
        {
            (f["workload"], f["task"], f["precision"], f["scenario"]): f["seconds"]
            for f in floors(
                Roofline(CPU, rate=rate, bandwidth=lambda block: Bandwidth(block, 1e12, 1e12)),
                names,
                SCENARIOS,
                lambda _: None,
            )
        }
        for names in (["smoke", "mini"], ["mini", "smoke"])
    )
    assert there == back


@pytest.mark.parametrize("names", [[], ["smoke"], ["mini", "smoke"]])
def test_a_large_square_product_is_in_every_ceiling_whatever_the_workloads(names: list[str]) -> None:
    for device in (CPU, torch.device("cuda")):

        def rate(precision: str, p: Product, direction: str) -> float:
            return 1e9 * min(p.rows, p.inner, p.columns)  # small shapes are slow

        roofline = Roofline(device, rate=rate, bandwidth=lambda block: Bandwidth(block, 1e9, 1e9))
        told: list[str] = []
        list(floors(roofline, names, SCENARIOS, told.append))
        size = {"cpu": 1024, "cuda": 8192}[device.type]
        assert {p: roofline.ceiling(p) for p in precisions_of(device)} == dict.fromkeys(
            precisions_of(device), 1e9 * size
        )
        assert told[0] == "measuring a large square product in float32"
        assert len(told) == (1 + len(names)) * len(precisions_of(device))


def test_of_a_precision_that_is_emulated_only_a_small_square_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reference.training.cpu.computes_bfloat16", lambda: False)
    asked: list[tuple[str, Product]] = []

    def rate(precision: str, product: Product, direction: str) -> float:
        asked.append((precision, product))
        return 1e9

    roofline = Roofline(CPU, rate=rate, bandwidth=lambda block: Bandwidth(block, 1e9, 1e9))
    told: list[str] = []
    found = list(floors(roofline, ["smoke"], SCENARIOS, told.append))
    assert [product for precision, product in asked if precision == "bfloat16"] == [Product("square", 256, 256, 256, 1)]
    assert {floor["precision"] for floor in found} == {"float32"}
    assert told == [
        "measuring a large square product in float32",
        "measuring a small square product in bfloat16",
        "measuring the shapes of smoke in float32",
    ]
    record = roofline.record()
    assert record["emulated"] == ["bfloat16"]
    assert record["ceilings"]["bfloat16"]["measured"] is None, "an emulated precision has no ceiling"
    assert record["ceilings"]["float32"]["measured"] == 1e9


def test_that_a_precision_is_emulated_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("reference.training.cpu.computes_bfloat16", lambda: False)
    roofline = made_up(2e9)
    found = {**roofline.record(), "floors": list(floors(roofline, ["smoke"], SCENARIOS, lambda _: None))}
    show({"environment": environment(CPU), "roofline": {**found, **roofline.record()}})
    out = capsys.readouterr().out
    assert "bfloat16 is emulated, as this device has no instructions for it: a small square, no floors." in out
    assert re.search(r"bfloat16 products, emulated +n/a +n/a\n +square of 256 +2 GFLOP/s", out)


def test_a_device_that_computes_in_it_emulates_nothing() -> None:
    assert emulated(CPU) == []
    assert emulated(torch.device("cuda")) == []
    assert with_floors(torch.device("cuda")) == ["float32", "tf32", "bfloat16"]


# --- how long it takes ---


def test_everything_that_is_planned_is_measured_and_nothing_else() -> None:
    done: list[tuple[str, object]] = []

    def keep(what: str, key: object, measure: Callable[[], object]) -> object:
        done.append((what, key))
        return measure()

    roofline = made_up()
    roofline.keep = keep
    scenarios = {name: SCENARIOS[name] for name in ("training", "text")}
    list(floors(roofline, ["mini", "smoke"], scenarios, lambda _: None))
    assert planned(CPU, ["mini", "smoke"], scenarios) == done
    assert {what for what, _ in done} == {"rate", "bandwidth"}


def test_the_time_left_is_reckoned_from_what_the_square_took() -> None:
    now = [0.0]

    def measure(seconds: float, rate: float) -> Callable[[], float]:
        def run() -> float:
            now[0] += seconds
            return rate

        return run

    square, small, large = (("rate", ["float32", n, n, n, "forward"]) for n in (1000, 10, 10_000))
    left = TimeLeft([square, small, large, ("bandwidth", 2**22)], seconds=0.1, clock=lambda: now[0])
    assert left.seconds() is None
    left.learn(*square, left.timed(*square, measure(0.2, 1e11)))
    # it took 0.2 s and not 0.1; the large one is five calls of 2e12 operations at 1e11, a block is copied and read
    assert left.seconds() == pytest.approx(0.2 / 0.1 * (0.1 + 5 * 20.0 + 2 * 0.1))
    left.learn(*large, 1e11)  # which a run that was stopped has measured
    assert left.seconds() == pytest.approx(0.2 / 0.1 * (0.1 + 2 * 0.1))


def test_the_time_left_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Roofline, "time_product", lambda *_: 1e9)
    assert main(["roofline", "--device", "cpu", "--workloads", "smoke", "--seconds", "0"]) == 0
    stages = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert re.fullmatch(r"1/4 measuring a large square product in float32 \(\d+ s\)", stages[0])
    assert all(re.fullmatch(r"\d/4 measuring .* \(\d+ s, \d+:\d\d left\)", line) for line in stages[1:]), stages


def test_the_square_is_named_in_every_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.roofline.roofline.device_name", lambda device: "NVIDIA H100 80GB HBM3")
    roofline = made_up(2e9)
    list(floors(roofline, [], SCENARIOS, lambda _: None))
    found = roofline.record()
    for table in (ceilings_table(found), rates_table(found["rates"])):
        console = pytest.importorskip("rich.console").Console(width=WIDTH)
        with console.capture() as captured:
            console.print(table)
        assert "square" in captured.get()
    rows = roofline_section.ceilings_table(found).rows
    assert rows[:2] == (
        ("float32 products", "2 GFLOP/s", "67 TFLOP/s"),
        ("float32, a square of 1,024 alone", "2 GFLOP/s", ""),
    )
    assert rows[3][0] == "bfloat16, a square of 1,024 alone"


def test_three_precisions_fit_into_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    roofline = Roofline(
        torch.device("cuda"),
        rate=lambda precision, product, direction: 7.7e14,
        bandwidth=lambda block: Bandwidth(block, 3.1e12, 2.9e12),
    )
    found = list(floors(roofline, ["gpt2"], {"training": SCENARIOS["training"]}, lambda _: None))
    roofline.device = CPU  # whose name can be asked for
    ceiling = {"measured": 7.7e14, "data_sheet": None}
    ceilings = dict.fromkeys(("float32", "tf32", "bfloat16"), ceiling)
    where = {"identity": CUDA["identity"], "device_kind": "cuda", "packages": {"torch": "2.13.0"}}
    show({"environment": where, "roofline": {**roofline.record(), "ceilings": ceilings, "floors": found}})
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= WIDTH
    assert "…" not in out
    assert out.count("770,000") == 3 * (1 + 3 * 5), "the square and five products in three directions"


@pytest.mark.parametrize("seconds", [1e-6, 2e-6, 1e-4, 2e-3, 5e-2])
def test_queueing_and_waiting_are_not_in_the_time_of_a_call(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Accelerator(call=seconds, queueing=0.9e-6, waiting=10e-6)
    monkeypatch.setattr("bench.roofline.roofline.synchronise", lambda _: device.synchronise)
    roofline = Roofline(torch.device("cuda"), clock=device.clock)
    assert roofline.best(device.call, 0.1) == pytest.approx(seconds, rel=0.01)
    assert device.samples[-1] * seconds >= 0.99 * 5e-3
    assert device.now < 0.1 + 0.02 + 5 * seconds, "no longer than asked for, but for the first samples"


def test_a_sample_of_a_cpu_takes_a_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Accelerator(call=0.0, queueing=3e-6, waiting=1e-7)
    monkeypatch.setattr("bench.roofline.roofline.synchronise", lambda _: device.synchronise)
    assert Roofline(CPU, clock=device.clock).best(device.call, 0.02) == pytest.approx(3e-6, rel=0.01)
    assert 1e-3 <= 3e-6 * device.samples[-1] <= 2e-3
    assert device.now < 0.03


def test_a_call_that_takes_no_time_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Accelerator(call=0.0, queueing=0.0, waiting=1e-5)
    monkeypatch.setattr("bench.roofline.roofline.synchronise", lambda _: device.synchronise)
    assert Roofline(torch.device("cuda"), clock=device.clock).best(device.call, 0.0) > 0.0
    assert max(device.samples) == 10_000


def test_copies_are_timed_as_products_are(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = []

    def best(self: Roofline, call: object, seconds: float) -> float:
        timed.append(seconds)
        return 0.5 if len(timed) == 1 else 0.25

    monkeypatch.setattr(Roofline, "best", best)
    roofline = Roofline(CPU, seconds=0.02)
    assert roofline.bandwidth(2**22) == Bandwidth(2**22, copy=2 * 2**22 / 0.5, read=2**22 / 0.25)
    assert timed == [0.02, 0.02]


def test_the_square_is_measured_as_long_in_a_quick_run(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = []

    def best(self: Roofline, call: object, seconds: float) -> float:
        timed.append(seconds)
        return 1.0

    monkeypatch.setattr(Roofline, "best", best)
    for seconds in (0.02, 0.5):
        roofline = Roofline(CPU, seconds=seconds)
        for product in (Product("qkv", 4, 4, 4, 1), Product("square", 4, 4, 4, 1)):
            roofline.rate("float32", product)
            roofline.rates.clear()
    assert timed == [0.02, 0.1, 0.5, 0.5]


@pytest.mark.gpu
def test_a_small_product_is_not_timed_with_its_wait() -> None:
    device = torch.device("cuda")
    product = Product("attention output", 1024, 768, 768, 1)
    left, right = (torch.randn(shape, device=device, dtype=torch.bfloat16) for shape in ((1024, 768), (768, 768)))
    times = []
    for _ in range(20):
        torch.cuda.synchronize()
        start = time.perf_counter()
        torch.mm(left, right)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    assert Roofline(device).rate("bfloat16", product) > product.flops / min(times)


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
    assert per_second(None, "FLOP") == "n/a"
    assert data_sheet_rate("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert utilisation(494.5e12, 989e12) == 0.5


def test_rates_and_times_are_written_in_one_way() -> None:
    assert [per_second(rate, "FLOP") for rate in (2.5e3, 1.2345e12, 3.3519e9)] == [
        *("2.5 kFLOP/s", "1.234 TFLOP/s", "3.352 GFLOP/s")
    ]
    assert [milliseconds(seconds) for seconds in (1.234, 0.0123, 2.5e-6)] == ["1,234 ms", "12.30 ms", "0.0025 ms"]


@pytest.mark.parametrize("name", DATA_SHEETS)
def test_data_sheets_are_in_operations_and_bytes_per_second(name: str) -> None:
    sheet = DATA_SHEETS[name]
    assert 1e13 < sheet.operations["float32"] < sheet.operations["tf32"] < sheet.operations["bfloat16"] < 1e16
    assert 1e11 < sheet.bandwidth < 1e13


def test_the_command_prints_what_it_measured_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    monkeypatch.setattr("reference.training.cpu.computes_bfloat16", cpu.computes_bfloat16)  # of this one
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "roofline.json"
    assert main(["roofline", "--device", "cpu", "--workloads", "smoke", "--seconds", "0", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "float32 products" in out
    assert "n/a" in out, "CPUs have no data sheet"
    assert "smoke/training_step" in out
    assert "square" in out
    assert "1024 x 1024 x 1024" in out
    assert max(map(len, out.splitlines())) <= 100
    written = json.loads(path.read_text())
    assert written["roofline"]["ceilings"]["float32"]["data_sheet"] is None
    assert written["roofline"]["ceilings"]["float32"]["measured"] > 1e8
    names = [(rate["product"]["name"], rate["precision"]) for rate in written["roofline"]["rates"]]
    assert names[:2] == [("square", "float32"), ("square", "bfloat16")]
    assert identity_in_words(written["environment"]["identity"]) in out
    assert {"lowest_after_work", "highest_after_work"} <= written["environment"]["clocks"].keys()


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
