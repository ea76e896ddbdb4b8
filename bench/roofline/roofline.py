"""Measure a device's FLOP/s in the models' matrix products and its bytes/s, and compute the floor of each task.

The floor of a task is its least time at the measured rates. It is not a physical limit: code that multiplies a shape
faster than torch does, or whose weights stay in a cache, is faster, and uses more than 100 % of the floor.

FLOPs. Every matrix product of the forward pass; for training also the two products of its backward pass. Each counts at
the rate measured for exactly its shape and layout, into allocated memory. Counted at the best rate of any shape: the
causal half of attention and the head, as fused code does not run them as products of that size, and products with one
row per text, which a library may be slow at and the device is not. A large square product is always measured, so that
the best rate hardly depends on the workloads of a run.

Bytes. A forward pass reads every weight once, in the precision of the products, but only the used rows of the position
table. A backward pass reads them again, except positions, and writes a float32 gradient of each that was read; the
gradient of other positions is zero. AdamW reads weight, gradient and two moments, and writes weight and moments: 28
bytes per parameter, all positions included. Generating a token reads the weights, one position, and the cache.
Activations count nothing: at best they stay in the device's caches.

Time. FLOPs and bytes of a pass overlap at best, so it takes the longer of the two. AdamW needs all gradients for
clipping, so its bytes are added. The bandwidth is that of a block as large as the model's weights: a small model is in
the cache, and is read at the cache's rate.

Rates are the best of several samples, not the median: they are ceilings. A sample queues many calls and waits once, as
a pass does, because launch and synchronisation take an accelerator longer than a small product. If queueing a call
takes longer than the call, its rate is that of queueing, and code that runs as a CUDA graph may be faster than the
floor.

A precision without instructions on the device is emulated, many times as slow. Only a small square is measured in it,
to show how slow it is; it has no ceiling and no floors.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bench.environment import device_name
from bench.journal import Keep, without_journal
from bench.roofline.datasheets import data_sheet_bandwidth, data_sheet_rate
from bench.timing.ratios import rounds_within, synchronise, time_calls
from bench.workloads.scenarios import ROWS, named, text_shape
from bench.workloads.workload import Workload
from optimized.hardware import hardware_of
from optimized.precision import tf32_products
from reference.config import GPTConfig

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
WIDTHS = {"float32": 4, "tf32": 4, "bfloat16": 2}
# bytes; a smaller block takes less time than its call, a larger one has the same rate
LEAST_BLOCK, LARGEST_BLOCK = 2**22, 2**29

# seconds of a sample, so that its overhead, about 10 us on an accelerator, does not matter
LEAST_SAMPLE, LEAST_SAMPLE_CPU = 5e-3, 1e-3
MOST_CALLS = 10_000  # in one sample

# Rows, inner and columns: large enough for the best rate, with all samples in 0.3 s on two CPU cores.
SQUARE = "square"
SQUARES, SQUARE_ELSEWHERE = {"cpu": 1024, "cuda": 8192}, 4096
SQUARE_SECONDS = 0.1
SQUARE_EMULATED = 256  # takes hundredths of a second; 1024 takes seconds

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Product:
    """A matrix product of a forward pass: (rows, inner) times (inner, columns), `count` times."""

    name: str
    rows: int
    inner: int
    columns: int
    count: int

    @property
    def flops(self) -> int:
        """FLOPs of one product."""
        return 2 * self.rows * self.inner * self.columns


@dataclass(frozen=True)
class Rate:
    """The measured rate of a product."""

    precision: str
    product: Product
    direction: str  # forward, or in the backward pass: input or weight
    flops_per_second: float


@dataclass(frozen=True)
class Bandwidth:
    """Memory bandwidth for one block size, in bytes per second: read plus written by a copy, and read only."""

    block: int  # bytes
    copy: float
    read: float

    @property
    def best(self) -> float:
        """The larger of the two."""
        return max(self.copy, self.read)


@dataclass(frozen=True)
class Floor:
    """The least time of a task at the measured rates."""

    operations: int
    bytes: int
    seconds_of_operations: float
    seconds_of_bytes: float
    seconds: float  # the least time; the head of this file says what overlaps


def linear_products(config: GPTConfig, rows: int) -> list[Product]:
    """The products with weights of a forward pass over `rows` tokens; the head is last."""
    L, C, V = config.n_layer, config.n_embd, config.vocab_size
    return [
        Product("qkv", rows, C, 3 * C, L),
        Product("attention output", rows, C, C, L),
        Product("MLP in", rows, C, 4 * C, L),
        Product("MLP out", rows, 4 * C, C, L),
        Product("head", rows, C, V, 1),
    ]


def attention_flops(config: GPTConfig, B: int, T: int) -> int:
    """FLOPs of the causal half of attention in a forward pass: 4 C per layer and pair of tokens."""
    return 4 * config.n_layer * config.n_embd * B * (T * (T + 1) // 2)


def weights_read(config: GPTConfig, positions: int) -> int:
    """Number of weights that a forward pass reads: of the position table only the used rows."""
    return config.parameter_count() - (config.block_size - positions) * config.n_embd


def square_product(device: torch.device, precision: str) -> Product:
    """The square product that every run measures: large, or small in an emulated precision."""
    n = SQUARE_EMULATED if precision in emulated(device) else SQUARES.get(device.type, SQUARE_ELSEWHERE)
    return Product(SQUARE, n, n, n, 1)


def precisions_of(device: torch.device) -> list[str]:
    """The precisions in which a device computes products."""
    return ["float32", "tf32", "bfloat16"] if device.type == "cuda" else ["float32", "bfloat16"]


def with_floors(device: torch.device) -> list[str]:
    """The precisions with ceilings and floors: not the emulated ones."""
    return [precision for precision in precisions_of(device) if precision not in emulated(device)]


def emulated(device: torch.device) -> list[str]:
    """The precisions without instructions on the device."""
    return [] if hardware_of(str(device)).bfloat16 or device.type not in ("cpu", "cuda") else ["bfloat16"]


class Roofline:
    """The measured rates of a device; every shape is measured once, at its first use.

    Args:
        device: to measure
        seconds: for each shape and precision, about
        rate: replaces the measurement of a product in tests: (precision, product, direction) -> FLOP/s
        bandwidth: replaces the measurement of a block in tests: bytes -> Bandwidth
        clock: seconds from any zero
        keep: keeps measurements, also from a stopped run; see bench/journal.py
    """

    def __init__(
        self,
        device: torch.device,
        seconds: float = 0.2,
        rate: Callable[[str, Product, str], float] | None = None,
        bandwidth: Callable[[int], Bandwidth] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        keep: Keep = without_journal,
    ) -> None:
        self.device, self.seconds, self.clock, self.keep = device, seconds, clock, keep
        self.measure_rate = rate or self.time_product
        self.measure_bandwidth = bandwidth or self.time_block
        self.rates: dict[tuple[str, int, int, int, str], Rate] = {}
        self.bandwidths: dict[int, Bandwidth] = {}

    def rate(self, precision: str, product: Product, direction: str = "forward") -> float:
        """FLOP/s of a product in a direction."""
        key = (precision, product.rows, product.inner, product.columns, direction)
        if key not in self.rates:
            found = self.keep("rate", list(key), lambda: self.measure_rate(precision, product, direction))
            self.rates[key] = Rate(precision, product, direction, found)
        return self.rates[key].flops_per_second

    def ceiling(self, precision: str) -> float | None:
        """The best rate of all shapes measured so far; None if there is none, or for an emulated precision."""
        if precision in emulated(self.device):
            return None
        return max((r.flops_per_second for r in self.rates.values() if r.precision == precision), default=None)

    def bandwidth(self, block: int) -> Bandwidth:
        """The bandwidth for a block size, clamped to the range in which the size matters."""
        block = min(max(block, LEAST_BLOCK), LARGEST_BLOCK)
        if block not in self.bandwidths:
            found = self.keep("bandwidth", block, lambda: asdict(self.measure_bandwidth(block)))
            self.bandwidths[block] = Bandwidth(**found)
        return self.bandwidths[block]

    def seconds_of(self, precision: str, products: Sequence[Product], directions: Sequence[str]) -> float:
        """Seconds of products at their own rates, summed over directions."""
        return sum(
            product.count * product.flops / self.rate(precision, product, direction)
            for product, direction in itertools.product(products, directions)
        )

    def floor(self, work: Workload, task: str, precision: str, rows: int) -> Floor:
        """The floor of a task.

        Args:
            task: one of `bench.workloads.scenarios.SCENARIOS`
            precision: of the products
            rows: number of texts that are generated in one batch
        """
        config, width = work.config, WIDTHS[precision]
        C, L, N = config.n_embd, config.n_layer, config.parameter_count()
        prompt, new = text_shape(work)
        products: list[Product] = []  # at their own rates
        directions, after = ["forward"], 0  # bytes of AdamW
        if task == "forward":
            *products, head = linear_products(config, work.tokens)
            others = attention_flops(config, work.batch, work.time) + head.flops
            moved = width * weights_read(config, work.time)
        elif task == "prefill":
            *products, head = linear_products(config, rows * prompt)
            others = attention_flops(config, rows, prompt) + head.flops // prompt
            moved = width * weights_read(config, prompt)
        elif task == "per_token":
            context = prompt + new / 2
            others = sum(p.count * p.flops for p in linear_products(config, rows)) + int(4 * L * C * context * rows)
            moved = width * (weights_read(config, 1) + int(2 * L * C * context * rows))
        else:
            *products, head = linear_products(config, work.tokens)
            directions = ["forward", "input", "weight"]
            others = 3 * (attention_flops(config, work.batch, work.time) + head.flops)
            forth, back = weights_read(config, work.time), weights_read(config, 0)
            moved = width * (forth + back) + 4 * forth
            self.seconds_of(precision, [head], directions)  # measured to be shown
            after = 28 * N if task == "training_step" else 0
        own = self.seconds_of(precision, products, directions)
        best = self.ceiling(precision)
        if best is None:
            raise ValueError(f"no product in {precision} was measured: compute the floor of a forward pass first")
        computing = own + others / best
        moving = moved / self.bandwidth(width * N).best
        waiting = after / self.bandwidth(16 * N).best if after else 0.0
        return Floor(
            operations=len(directions) * sum(p.count * p.flops for p in products) + others,
            bytes=moved + after,
            seconds_of_operations=computing,
            seconds_of_bytes=moving + waiting,
            seconds=max(computing, moving) + waiting,
        )

    def time_product(self, precision: str, product: Product, direction: str) -> float:
        """Measure FLOP/s, with operands laid out as in a linear layer and its backward pass."""
        M, K, N = product.rows, product.inner, product.columns
        dtype = DTYPES[precision]

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, device=self.device, dtype=dtype)

        factors = {
            "forward": lambda: (random(M, K), random(N, K).T),
            "input": lambda: (random(M, N), random(N, K)),
            "weight": lambda: (random(M, N).T, random(M, K)),
        }
        left, right = factors[direction]()
        out = left @ right  # so that no allocation is timed
        context = tf32_products if precision == "tf32" else nullcontext
        seconds = max(self.seconds, SQUARE_SECONDS) if product.name == SQUARE else self.seconds
        with context():
            return product.flops / self.best(lambda: torch.mm(left, right, out=out), seconds)

    def time_block(self, block: int) -> Bandwidth:
        """Measure a copy of a block, whose bytes count twice, and reading it."""
        source = torch.ones(max(1, block // 4), device=self.device)
        target = torch.empty_like(source)
        size = 4 * source.numel()
        copying, reading = (self.best(call, self.seconds) for call in (lambda: target.copy_(source), source.sum))
        return Bandwidth(block, 2 * size / copying, size / reading)

    def best(self, call: Callable[[], object], seconds: float) -> float:
        """Seconds of a call in the shortest sample; as many samples as fit into `seconds`, at least three.

        A sample is as many calls as take `LEAST_SAMPLE` together; see the head of this file.
        """
        least = LEAST_SAMPLE_CPU if self.device.type == "cpu" else LEAST_SAMPLE
        number, one = 1, self.sample(call, 1, 1, warmup=1)[0]
        while one < least and number < MOST_CALLS:
            # an accelerator's first time is mostly launch and wait, so measure again
            wanted = math.ceil(1.2 * number * least / max(one, 1e-9))
            number = min(max(2 * number, wanted), MOST_CALLS)
            one = self.sample(call, number, 1)[0]
        rounds = rounds_within(seconds, one, least=2, most=1000)
        return min(one, *self.sample(call, number, rounds)) / number

    def sample(self, call: Callable[[], object], number: int, rounds: int, warmup: int = 0) -> list[float]:
        """Seconds of `number` calls together, in each round."""

        def calls() -> None:
            for _ in range(number):
                call()

        return time_calls({"": calls}, rounds, warmup, synchronise(self.device), self.clock)[""]

    def record(self) -> dict[str, Any]:
        """All measurements as plain values; None for an unknown data sheet."""
        name = device_name(self.device)
        return {
            "rates": [asdict(rate) for rate in self.rates.values()],
            "bandwidths": [asdict(bandwidth) for bandwidth in self.bandwidths.values()],
            "ceilings": {
                precision: {"measured": self.ceiling(precision), "data_sheet": data_sheet_rate(name, precision)}
                for precision in precisions_of(self.device)
            },
            "emulated": emulated(self.device),
            "bandwidth": {
                "measured": max((b.best for b in self.bandwidths.values()), default=None),
                "data_sheet": data_sheet_bandwidth(name),
            },
        }


def utilisation(flops_per_second: float, ceiling: float | None) -> float | None:
    """The used fraction of a ceiling (MFU); None if the ceiling is unknown, never 0."""
    return None if ceiling is None else flops_per_second / ceiling


def floors(
    roofline: Roofline, names: Sequence[str], scenarios: dict[str, tuple[str, ...]], tell: Tell
) -> Iterator[dict[str, Any]]:
    """Yield the floor of every task of the workloads in every precision that is not emulated, as plain values.

    A square product is measured first in every precision, also without workloads.

    Args:
        scenarios: name -> the tasks of it
    """
    every = [(scenario, task) for scenario, tasks in scenarios.items() for task in tasks]

    def floor(name: str, precision: str, scenario: str, task: str) -> Floor:
        work = named(name)
        return roofline.floor(work, task, precision, ROWS.get(scenario, work.batch))

    for precision in precisions_of(roofline.device):
        square = square_product(roofline.device, precision)
        small = precision in emulated(roofline.device)
        tell(f"measuring a {'small' if small else 'large'} square product in {precision}")
        roofline.rate(precision, square)
    both = list(itertools.product(names, with_floors(roofline.device)))
    for name, precision in both:  # attention counts at the best rate: measure all shapes first
        tell(f"measuring the shapes of {name} in {precision}")
        for scenario, task in every:
            floor(name, precision, scenario, task)
    for name, precision in both:
        for scenario, task in every:
            found = asdict(floor(name, precision, scenario, task))
            yield {"workload": name, "scenario": scenario, "task": task, "precision": precision, **found}
