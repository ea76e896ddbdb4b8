"""`train`: a run from its first step, or on from where it stopped."""

from __future__ import annotations

import dataclasses
import platform
import shlex
import signal
import time
from collections.abc import Collection, Iterator
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
from reference.cli.backend import Backend
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
from reference.training.evaluation import windows_at_once
from reference.training.loop import NonFiniteError, Plan, Record, derived_seed, initial_weights
from reference.training.loop import train as train_steps
from reference.training.processes import Processes
from reference.training.schedule import learning_rate

SAMPLE_TOKENS, SAMPLE_TEMPERATURE = 300, 0.8  # of the text at the end
STOPPING = "stopping after this step, with a checkpoint; once more to stop without"


@dataclass(frozen=True)
class Start:
    """Where a run begins or goes on: everything that is known before anything is written."""

    settings: Train  # complete
    config: GPTConfig
    data: Dataset
    weights: dict[str, Tensor]  # canonical
    done: int  # steps behind
    optimizer: dict[str, Tensor] | None  # None for a new one
    folder: Path | None  # None for a new one


def saved_settings(run: Path, kind: type[Train]) -> Train:
    """The settings of a run that is to be resumed, as the defaults of the next command line."""
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
        settings, config, data = start.settings, start.config, start.data
        V, T = config.vocab_size, config.block_size
        batches = Batches(data.train, T, settings.batch_size, settings.seed, settings.order, V)
        judged = take(data.validation, settings.eval_windows, T)
        at_once = max(settings.batch_size // processes.world, windows_at_once(T, V))
        validation = partial(windows, judged, T, at_once, V)
        validation()  # complains now about a split that is too short, and not after the first steps
    processes.check_same({"text": data.fingerprint, "step": start.done, "device": device.type, **shareable(settings)})

    rate = partial(
        learning_rate,
        peak=settings.peak(),
        warmup=settings.warmup_steps(),
        total=settings.steps,
        floor=settings.floor(),
    )
    with processes.agreed(), waiting("building the model"):
        model = backend.build_model(config, start.weights, device, getattr(torch, settings.dtype))
    with processes.agreed():
        step = backend.build_step(model, rate, settings.weight_decay, settings.betas, settings.clip)
        if start.optimizer is not None:
            step.optimizer.load_state_dict(start.optimizer)
    start = dataclasses.replace(start, weights={}, optimizer=None)  # the model and the optimizer have copies
    folder, log, validated = open_run(start, options.out, processes)
    introduce(folder, start, backend, model, describe(device))

    def save_checkpoint(done: int) -> None:
        if log is None:
            return
        run = {
            "package": backend.package,
            "settings": settings.to_json(),
            "data": data.fingerprint,
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "paritygpt": own_version()},
        }
        state = Checkpoint(
            step=done,
            config=config,
            model=model.state_dict(),
            optimizer=step.optimizer.state_dict(),
            tokenizer=data.tokenizer.to_json(),
            run=run,
        )
        save(folder, state, keep=settings.keep)

    plan = Plan(
        steps=settings.steps,
        learning_rate=rate,
        seed=settings.seed,
        eval_interval=settings.eval_interval,
        log_interval=settings.log_interval,
        checkpoint_interval=settings.checkpoint_interval,
    )
    struck = 0  # the signal that ends the run, whichever process it came to

    def stopped(signals: list[int]) -> int:
        nonlocal struck
        if not struck:
            struck = processes.largest(signals[0] if signals else 0)
            if struck and processes.world > 1:
                note(STOPPING)  # now that all know: a launcher sends signals to those whose neighbour has failed, too
        return struck

    began = time.monotonic()
    observer = Observer(log, start.done, settings.steps)
    try:
        with signals_noted(tell=processes.world == 1) as signals, observer.display:
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
                stopping=lambda: bool(stopped(signals)),
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
        print(f"stopped after step {done:,}; go on with: {backend.program} train --resume {quoted(folder)}")
        return 128 + struck
    if processes.rank > 0:
        return 0
    seconds = time.monotonic() - began
    picture = draw_losses([folder], folder / "loss.png")
    print(f"\na sample, temperature {SAMPLE_TEMPERATURE}:")
    write(
        model.eval(),
        data.tokenizer,
        first_ids(data.tokenizer, None),
        False,
        backend.stream,
        tokens=SAMPLE_TOKENS,
        temperature=SAMPLE_TEMPERATURE,
        seed=derived_seed("sample", settings.seed),
    )
    conclude(folder, backend.program, done, observer.validation_loss, seconds, picture, backend.remark(model))
    return 0


def begin(options: Train) -> Start:
    """A new run: fresh weights for the text's vocabulary, or published ones with theirs."""
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
    """The shape of published weights with what may be changed about it: dropout, and a shorter block."""
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
    """A run from its newest complete checkpoint."""
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
            f"{str(run)!r} has its {checkpoint.step} steps behind it: give more than that by --steps to go on"
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
    """The run's folder, its log in the process that writes, and the steps whose validation loss is known."""
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
    """Sends what the loop reports to the log and to the screen."""

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


@contextmanager
def signals_noted(tell: bool) -> Iterator[list[int]]:
    """Inside, Ctrl-C and a polite kill are only written down, in the list; a second one has its usual effect.

    Args:
        tell: whether to tell the user at once; if not, somebody else does, and the process is one of several. Their
            launcher sends signals to those whose neighbour has failed, and so one that an error ends ignores SIGTERM.
    """
    noted: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) for kind in kinds}
    # by another thread, as Python calls the handler only when the operation of torch that runs is over
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
            if not tell:  # of several, each must live to say why it ends; the launcher has its own way to insist
                before[signal.SIGTERM] = signal.SIG_IGN
            raise
        finally:
            for kind in kinds:
                signal.signal(kind, before[kind])


def shareable(settings: Train) -> dict[str, object]:
    """What processes that share a run have to be told alike; folders and threads are each machine's own."""
    own = ("corpus", "init_from", "device", "threads")
    return {option(name): value for name, value in settings.to_json().items() if name not in own}


def introduce(folder: Path, start: Start, backend: Backend, model: nn.Module, device: str) -> None:
    """Say what is trained, on what, where."""
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
    """Say how it ended, where things are, and what to type next."""
    where = "" if folder.parent == HOME else f" {quoted(folder)}"
    print(
        f"\nvalidation loss {loss:.4f} after {done:,} steps, {clock(seconds)} minutes. In {folder}: "
        f"{picture.name}, log.jsonl, {SETTINGS} and the checkpoint step-{done:06d}."
    )
    if remark:
        print(remark)
    print(f"Next: {program} sample{where}   or   {program} plot attention{where}")


def quoted(path: Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))
