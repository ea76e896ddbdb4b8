"""`train`: start a training run, or resume one."""

from __future__ import annotations

import dataclasses
import platform
import shlex
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from reference.checkpoints.checkpoint import Checkpoint, open_path, save
from reference.checkpoints.run_folder import HOME, SETTINGS, Log, check_out, new_run_folder, write_json
from reference.cli import interrupts
from reference.cli.backend import Backend, OptimizingStep
from reference.cli.open_model import note, open_published, run_folder
from reference.cli.options import Train, check_resumable, corpus_key, option
from reference.cli.progress import clock, display, waiting
from reference.cli.sample import first_ids, write
from reference.cli.version import own_version
from reference.config import GPTConfig
from reference.data.batches import Batches, windows
from reference.data.datasets import Dataset, load_dataset, take
from reference.data.tokenizers import tokenizer_from_json
from reference.plots.charts import draw_losses
from reference.training.devices import describe
from reference.training.evaluation import Batch, windows_at_once
from reference.training.loop import NonFiniteError, Plan, Record, derived_seed, initial_weights
from reference.training.loop import train as train_steps
from reference.training.processes import Processes
from reference.training.schedule import learning_rate

SAMPLE_TOKENS, SAMPLE_TEMPERATURE = 300, 0.8  # of the text at the end
STOPPING = "stopping after this step, with a checkpoint; press Ctrl-C again to stop without"


@dataclass(frozen=True)
class Start:
    """The state that a run starts or resumes from: everything known before anything is written."""

    settings: Train  # complete
    config: GPTConfig
    data: Dataset
    weights: dict[str, Tensor]  # canonical
    done: int  # steps taken so far
    optimizer: dict[str, Tensor] | None  # None for a new one
    folder: Path | None  # None for a new one


def saved_settings(run: Path, kind: type[Train]) -> Train:
    """The settings of a run, as defaults of the command line that resumes it."""
    checkpoint, _ = open_path(run)
    if "settings" not in checkpoint.run:
        raise ValueError(f"{str(run)!r} is a checkpoint, but not of a training run: start a new run with --init-from")
    return dataclasses.replace(kind.from_json(checkpoint.run["settings"]), resume=run)


def train(options: Train, backend: Backend) -> int:
    """Train as the options say; returns the exit status, 130 after Ctrl-C."""
    processes = backend.processes
    with processes.agreed():
        options.check()
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        device = processes.device(options.device, options.dtype)
        with waiting("reading the text" if options.resume is None else "opening the run"):
            start = begin(options) if options.resume is None else go_on(options, options.resume)
        batches, validation = training_and_validation(start, processes.world)
    settings = start.settings
    processes.check_same(
        {"text": start.data.fingerprint, "step": start.done, "device": device.type, **shareable(settings)}
    )

    plan = plan_of(settings)
    model, step = build(start, backend, device, plan.learning_rate)
    start = dataclasses.replace(start, weights={}, optimizer=None)  # the model and the optimizer have copies
    folder, log, validated = open_run(start, options.out, processes)
    introduce(folder, start, backend, model, describe(device))

    def save_checkpoint(done: int) -> None:
        if log is not None:
            save(folder, checkpoint_of(start, done, backend.package, model, step), keep=settings.keep)

    began = time.monotonic()
    observer = Observer(log, start.done, settings.steps)
    try:
        with signals_noted(tell=processes.world == 1) as signals, observer.display:
            stop = Stop(signals, processes)
            done = train_steps(
                model,
                step,
                batches,
                validation,
                plan,
                save=save_checkpoint,
                observer=observer,
                done=start.done,
                validated=validated,
                stopping=stop.asked,
                processes=processes,
            )
    except NonFiniteError as error:
        raise NonFiniteError(
            f"{error}; stopped. The last good checkpoint is in {folder}; a lower --learning-rate, a longer --warmup or "
            f"a smaller --clip may help: {backend.program} train --resume {quoted(folder)} --learning-rate "
            f"{settings.peak() / 3:.1g}"
        ) from None
    finally:
        if log is not None:
            log.close()

    if done < settings.steps:
        print(f"stopped after step {done:,}; resume with: {backend.program} train --resume {quoted(folder)}")
        return 128 + stop.signal
    if processes.rank == 0:
        seconds = time.monotonic() - began
        picture = draw_losses([folder], folder / "loss.png")
        print_sample(start, backend, model)
        remark = backend.remark(model)
        conclude(folder, backend.program, done, observer.validation_loss, seconds, picture, remark)
    return 0


def training_and_validation(start: Start, world: int) -> tuple[Batches, Callable[[], Iterator[Batch]]]:
    """Training batches, and a function that starts a pass over the validation batches of one of `world` processes.

    Raises ValueError for a split that is too short.
    """
    settings, data = start.settings, start.data
    V, T = start.config.vocab_size, start.config.block_size
    batches = Batches(data.train, T, settings.batch_size, settings.seed, settings.order, V)
    judged = take(data.validation, settings.eval_windows, T)
    at_once = max(settings.batch_size // world, windows_at_once(T, V))
    validation = partial(windows, judged, T, at_once, V)
    validation()  # raises its ValueError now, and not after the first steps
    return batches, validation


def plan_of(settings: Train) -> Plan:
    """The intervals and the learning-rate schedule of complete settings."""
    return Plan(
        steps=settings.steps,
        learning_rate=partial(
            learning_rate,
            peak=settings.peak(),
            warmup=settings.warmup_steps(),
            total=settings.steps,
            floor=settings.floor(),
        ),
        seed=settings.seed,
        eval_interval=settings.eval_interval,
        log_interval=settings.log_interval,
        checkpoint_interval=settings.checkpoint_interval,
    )


def build(
    start: Start, backend: Backend, device: torch.device, rate: Callable[[int], float]
) -> tuple[nn.Module, OptimizingStep]:
    """The model with its weights, and its training step with the optimizer's state."""
    settings, agreed = start.settings, backend.processes.agreed
    with agreed(), waiting("building the model"):
        model = backend.build_model(start.config, start.weights, device, getattr(torch, settings.dtype))
    with agreed():
        step = backend.build_step(
            model,
            learning_rate=rate,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
            clip=settings.clip,
        )
        if start.optimizer is not None:
            step.optimizer.load_state_dict(start.optimizer)
    return model, step


def checkpoint_of(start: Start, done: int, package: str, model: nn.Module, step: OptimizingStep) -> Checkpoint:
    """Everything that a run needs to resume after `done` steps."""
    return Checkpoint(
        step=done,
        config=start.config,
        model=model.state_dict(),
        optimizer=step.optimizer.state_dict(),
        tokenizer=start.data.tokenizer.to_json(),
        run={
            "package": package,
            "settings": start.settings.to_json(),
            "data": start.data.fingerprint,
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "paritygpt": own_version()},
        },
    )


def print_sample(start: Start, backend: Backend, model: nn.Module) -> None:
    """Generate a short text with the trained model."""
    print(f"\na sample, temperature {SAMPLE_TEMPERATURE}:")
    tokenizer = start.data.tokenizer
    write(
        model.eval(),
        tokenizer,
        first_ids(tokenizer, None),
        False,
        backend.stream,
        tokens=SAMPLE_TOKENS,
        temperature=SAMPLE_TEMPERATURE,
        seed=derived_seed("sample", start.settings.seed),
    )


def begin(options: Train) -> Start:
    """Start a new run, from scratch or from pretrained weights."""
    check_out(options.out)
    if options.init_from is None:
        data = load_dataset(options.corpus, options.tokenizer)
        config = options.shape(data.tokenizer.vocab_size)
        weights = initial_weights(config, options.seed)
    else:
        published = open_published(options.init_from, options.tokenizer)
        config = published_shape(options, published.config)
        data = load_dataset(options.corpus, published.tokenizer)
        rows = published.weights["wpe.weight"][: config.block_size].clone()
        weights = {**published.weights, "wpe.weight": rows}
    return Start(options.completed(config, data.tokenizer.name), config, data, weights, 0, None, None)


def published_shape(options: Train, config: GPTConfig) -> GPTConfig:
    """The shape of pretrained weights with the options applied: dropout, and a shorter context."""
    changes = options.shape_changes()
    if options.size is not None:
        raise ValueError(f"--size {options.size} with --init-from {options.init_from}: the weights fix the size")
    for name, flag in (("n_layer", "layers"), ("n_head", "heads"), ("n_embd", "width"), ("bias", "bias")):
        if name in changes:
            raise ValueError(
                f"--{flag} {changes[name]} with --init-from {options.init_from}: the weights fix it at "
                f"{getattr(config, name)}; leave --{flag} out"
            )
    if changes.get("block_size", 1) > config.block_size:
        raise ValueError(
            f"--block {changes['block_size']} with --init-from {options.init_from}: the weights have "
            f"{config.block_size} positions; give at most that"
        )
    return dataclasses.replace(config, **changes)


def go_on(options: Train, run: Path) -> Start:
    """Resume a run from its newest complete checkpoint."""
    checkpoint, problems = open_path(run)
    saved = saved_settings(run, type(options))
    check_resumable(saved, options)
    settings = dataclasses.replace(options, corpus=corpus_key(options.corpus), resume=None)
    folder = run_folder(run)
    later = [other.name for other in sorted(folder.glob("step-*")) if step_number(other) > checkpoint.step]
    if folder != run and later:
        raise ValueError(
            f"{str(run)!r} is not the newest checkpoint of its run, which has {', '.join(later)}: resume "
            f"{str(folder)!r}, or start a new run with --init-from {run}"
        )
    if checkpoint.step >= settings.steps:
        raise ValueError(
            f"{str(run)!r} has its {checkpoint.step} steps done: give a larger number by --steps to resume it"
        )
    data = load_dataset(settings.corpus, tokenizer_from_json(checkpoint.tokenizer))
    if data.fingerprint != checkpoint.run.get("data"):
        raise ValueError(
            f"the text {settings.corpus!r} is not the one that {str(run)!r} was trained on (pydocs differs between "
            f"releases of Python): start a new run with --init-from {run}"
        )
    note(*problems)
    assert settings.dropout is not None  # saved settings are complete
    config = dataclasses.replace(checkpoint.config, dropout=settings.dropout)
    return Start(settings, config, data, checkpoint.model, checkpoint.step, checkpoint.optimizer, folder)


def open_run(start: Start, out: Path | None, processes: Processes) -> tuple[Path, Log | None, Collection[int]]:
    """The run's folder, its log (in the first process, which writes), and the steps validated so far."""
    log, folder = None, start.folder
    with processes.agreed():
        if processes.rank == 0:
            folder = folder or new_run_folder(start.settings.corpus, out)
            write_json(folder / SETTINGS, start.settings.to_json())
            log = Log(folder, start.done)
    shared: tuple[Path, Collection[int]] = processes.of_first((folder or Path(), log.validated if log else ()))
    return shared[0], log, shared[1]


def step_number(folder: Path) -> int:
    """The step of a checkpoint's folder, -1 for anything else."""
    number = folder.name.removeprefix("step-")
    return int(number) if number.isdecimal() else -1


class Observer:
    """Sends the loop's reports to the log and to the screen."""

    def __init__(self, log: Log | None, done: int, steps: int) -> None:
        self.log, self.display = log, display(done, steps)
        self.validation_loss = float("nan")

    def stepped(self, done: int) -> None:
        self.display.stepped(done)

    def recorded(self, record: Record) -> None:
        if self.log is not None:
            self.log.append(record)
        self.display.recorded(record)
        self.validation_loss = record.get("validation_loss", self.validation_loss)


class Stop:
    """The signal that ends a run, agreed by its processes.

    Args:
        signals: those that this process got so far, in order
    """

    def __init__(self, signals: list[int], processes: Processes) -> None:
        self.signals, self.processes = signals, processes
        self.signal = 0  # none yet

    def asked(self) -> bool:
        """Whether any process got a signal; called by all of them after the same step."""
        if not self.signal:
            self.signal = self.processes.largest(self.signals[0] if self.signals else 0)
            if self.signal and self.processes.world > 1:
                note(STOPPING)  # only now: a launcher also signals the processes whose neighbour has failed
        return bool(self.signal)


@contextmanager
def signals_noted(tell: bool) -> Iterator[list[int]]:
    """Inside, append Ctrl-C and SIGTERM to the list that is yielded; a second signal has its usual effect.

    Args:
        tell: whether to tell the user at once. False for one of several processes: `Stop` tells the user, and after an
            error the process ignores SIGTERM, which the launcher sends as soon as one process has failed.
    """
    noted: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) for kind in kinds}
    # from another thread: Python calls the handler only after the current torch operation
    telling = interrupts.expected(lambda: note(STOPPING)) if tell else nullcontext(False)

    def handle(kind: int, frame: FrameType | None) -> None:
        noted.append(kind)
        for each in kinds:
            signal.signal(each, before[each])
        if tell and not told:
            note(STOPPING)

    with telling as told:
        for kind in kinds:
            signal.signal(kind, handle)
        try:
            yield noted
        except BaseException:
            if not tell:  # live long enough to report the error; the launcher can still send SIGKILL
                before[signal.SIGTERM] = signal.SIG_IGN
            raise
        finally:
            for kind in kinds:
                signal.signal(kind, before[kind])


def shareable(settings: Train) -> dict[str, object]:
    """Options that must be equal in all processes of a run; folders and threads may differ between machines."""
    own = ("corpus", "init_from", "device", "threads")
    return {option(name): value for name, value in settings.to_json().items() if name not in own}


def introduce(folder: Path, start: Start, backend: Backend, model: nn.Module, device: str) -> None:
    """Print the model, the text, the steps and the run's folder."""
    config, data, settings, world = start.config, start.data, start.settings, backend.processes.world
    print(
        f"model  {config.n_layer} layers, {config.n_head} heads, width {config.n_embd}, block {config.block_size}, "
        f"{config.parameter_count():,} parameters"
    )
    print(
        f"text   {settings.corpus}: {len(data.train):,} tokens to train on, {len(data.validation):,} to validate on, "
        f"vocabulary {config.vocab_size:,} ({data.tokenizer.name})"
    )
    print(
        f"steps  {settings.steps:,} of {settings.batch_size} x {config.block_size} = "
        f"{settings.batch_size * config.block_size:,} tokens, on {device}, {backend.precision(model)}"
        + (f"; {world} processes with {settings.batch_size // world} each" if world > 1 else "")
    )
    for line in backend.summary(model):
        print(line)
    print(f"run    {folder}" + ("" if start.folder is None else f", going on after step {start.done:,}"), flush=True)


def conclude(folder: Path, program: str, done: int, loss: float, seconds: float, picture: Path, remark: str) -> None:
    """Print the final loss, the files written, and the next commands to type."""
    where = "" if folder.parent == HOME else f" {quoted(folder)}"
    print(
        f"\nvalidation loss {loss:.4f} after {done:,} steps, {clock(seconds)} minutes. In {folder}: "
        f"{picture.name}, log.jsonl, {SETTINGS} and the checkpoint step-{done:06d}."
    )
    if remark:
        print(remark)
    print(f"Next: {program} sample{where}   or   {program} plot attention{where}")


def quoted(path: Path) -> str:
    """A path, quoted for a shell."""
    return shlex.quote(str(path))
