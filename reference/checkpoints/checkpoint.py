"""A training run on disk: folders `step-NNNNNN`, which transformers can open.

    model.safetensors          weights in Hugging Face's names and orientation
    config.json                their shape, as `GPT2LMHeadModel.from_pretrained` reads it
    optimizer.safetensors      AdamW's moments, in the canonical layout
    paritygpt-tokenizer.json   the tokenizer; transformers would read a `tokenizer.json` as one of its own
    run.json                   the step, and all else to resume: seed, data, settings, versions
    manifest.json              size and SHA-256 of each file, checked before any is parsed

Nothing is pickled, so opening a checkpoint runs no code from it.
"""

from __future__ import annotations

import json
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reference.checkpoints.atomic_folder import (
    REPLACED,
    UNFINISHED,
    remove_abandoned,
    remove_folder,
    settle,
    whole_folder,
)
from reference.checkpoints.huggingface import config_from_hf, from_hf, hf_config, is_mask_buffer, to_hf
from reference.checkpoints.manifest import NAME as MANIFEST
from reference.checkpoints.manifest import Damaged, listed, verify, write_manifest
from reference.config import GPTConfig

MODEL = "model.safetensors"
CONFIG = "config.json"
OPTIMIZER = "optimizer.safetensors"
TOKENIZER = "paritygpt-tokenizer.json"
RUN = "run.json"
FILES = (MODEL, CONFIG, OPTIMIZER, TOKENIZER, RUN)

STEP_FOLDER = re.compile(rf"step-([0-9]{{6,}})({re.escape(REPLACED)})?")


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written: one line with folder, file and reason."""


class Gone(Exception):
    """A folder disappeared: a writer removed it or is replacing it. Try again."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to resume exactly."""

    step: int  # optimizer steps done
    config: GPTConfig
    model: dict[str, Tensor]  # canonical layout, any floating type
    optimizer: dict[str, Tensor]  # `AdamW.state_dict()`; empty if there is none
    tokenizer: dict[str, Any]  # `Tokenizer.to_json()`
    run: dict[str, Any]  # plain JSON: seed, data, settings, versions


def save(run_folder: Path, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write a checkpoint to `run_folder/step-NNNNNN`, then remove old ones.

    The folder appears only when all of it is on disk; an existing one for this step stays until then. Afterwards the
    new one and the `keep - 1` newest before it remain. Checkpoints of later steps, which exist when a run resumed from
    an earlier one, are kept.

    Args:
        run_folder: created if necessary
        checkpoint: what to write
        keep: number of complete checkpoints up to this step to keep, at least 1

    Returns the folder. Raises ValueError, before writing anything, for tensors that do not fit the config and for a
    `run` or `tokenizer` that JSON cannot hold. Raises CheckpointError for a failing disk; existing checkpoints stay.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}: give how many checkpoints to keep, at least 1")
    if isinstance(checkpoint.step, bool) or not isinstance(checkpoint.step, int) or checkpoint.step < 0:
        raise ValueError(f"step = {checkpoint.step!r}: give a whole number of at least 0")
    if "step" in checkpoint.run:
        raise ValueError("run: 'step' is taken from Checkpoint.step, leave it out")
    final = run_folder / f"step-{checkpoint.step:06d}"
    weights = to_hf(checkpoint.model, checkpoint.config)
    check_floating(weights)
    moments = {name: tensor.detach().contiguous() for name, tensor in checkpoint.optimizer.items()}
    dtype = checkpoint.model["wte.weight"].dtype
    texts = {
        CONFIG: to_json("config", hf_config(checkpoint.config, dtype)),
        TOKENIZER: to_json("tokenizer", checkpoint.tokenizer),
        RUN: to_json("run", {"step": checkpoint.step, **checkpoint.run}),
    }
    try:
        settle(run_folder, is_complete)
        with whole_folder(final) as folder:
            for name, text in texts.items():
                (folder / name).write_bytes(text)
            write_tensors(folder / MODEL, weights)
            write_tensors(folder / OPTIMIZER, moments)
            write_manifest(folder, FILES)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{final}: could not be written ({one_line(error)}); complete ones beside it are "
            "unharmed: make room or give another folder, then resume"
        ) from error
    prune(run_folder, checkpoint.step, keep)
    remove_abandoned(run_folder)
    return final


def load(folder: Path) -> Checkpoint:
    """Read the checkpoint in a folder, after comparing every file with the manifest.

    Raises CheckpointError with the file and the reason, and with the newest complete checkpoint before it, if any.
    """
    folder = folder if folder.name else folder.resolve()  # "." says no name
    replaced = folder.with_name(folder.name + REPLACED)
    while True:
        for candidate in (folder, replaced):
            if not is_folder_or_gone(candidate) or not is_checkpoint(candidate):
                raise CheckpointError(no_checkpoint(folder))
            try:
                return read(candidate)
            except Damaged as error:
                raise CheckpointError(f"{candidate}: {error}{offer(candidate)}") from error
            except Gone:
                continue
        if not folder.exists():  # under neither name, so it is not being replaced
            raise CheckpointError(no_checkpoint(folder))


def load_newest(run_folder: Path) -> tuple[Checkpoint, list[str]]:
    """Read the newest complete checkpoint of a run.

    Returns it, and one line for each newer damaged one: its name, the file, the reason, the checkpoint used instead.
    Raises CheckpointError if the folder is no run, or has no complete checkpoint.
    """
    while True:
        folders = step_folders(run_folder)
        if not folders:
            raise CheckpointError(no_checkpoint(run_folder))
        damaged: list[str] = []
        for folder in folders:
            try:
                checkpoint = read(folder)
            except Gone:
                break  # a writer removed it meanwhile, so there is a newer one: look again
            except Damaged as error:
                damaged.append(f"{folder.name}: {error}")
            else:
                return checkpoint, [f"{line}; using {folder.name}" for line in damaged]
        else:
            raise CheckpointError(f"{run_folder}: no complete checkpoint in this run: {'; '.join(damaged)}")


def open_path(path: Path) -> tuple[Checkpoint, list[str]]:
    """Read a checkpoint (`load`), or the newest one of a run (`load_newest`)."""
    return (load(path), []) if is_checkpoint(path) else load_newest(path)


def read(folder: Path) -> Checkpoint:
    """Verify a folder by its manifest, then parse it. Raises Damaged, or Gone if the folder disappeared."""
    while True:
        before = identity(folder)
        try:
            checkpoint = parse(folder)
        except (Damaged, RuntimeError):  # the latter from safetensors, if a file goes away between its two openings
            if identity(folder) == before:
                raise
        else:
            if identity(folder) == before:
                return checkpoint
        # a writer replaced the folder while its files were being read: start again


def parse(folder: Path) -> Checkpoint:
    """Verify all files of a folder and read them into a checkpoint."""
    verify(folder, FILES)
    with blaming(CONFIG):
        config = config_from_hf(from_json(folder / CONFIG))
    with blaming(MODEL):
        model = read_model(folder / MODEL, config)
    with blaming(OPTIMIZER):
        # copies: what `load_file` returns is the file, mapped, and changes with it
        optimizer = {name: tensor.clone() for name, tensor in load_file(folder / OPTIMIZER).items()}
    with blaming(TOKENIZER):
        tokenizer = from_json(folder / TOKENIZER)
    with blaming(RUN):
        run = from_json(folder / RUN)
        step = run.pop("step", None)
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError(f"the step is {step!r}, not a whole number")
        named = STEP_FOLDER.fullmatch(folder.name)
        if named and int(named[1]) != step:
            raise ValueError(f"is of step {step}, which is not what the folder is named")
    return Checkpoint(step, config, model, optimizer, tokenizer, run)


@contextmanager
def blaming(name: str) -> Iterator[None]:
    """Turn an error while parsing the file `name` into Damaged, with the file's name."""
    try:
        yield
    except (ValueError, TypeError, KeyError, RecursionError, SafetensorError, OSError) as error:
        raise Damaged(f"{name}: {one_line(error)}") from error


def read_model(path: Path, config: GPTConfig) -> dict[str, Tensor]:
    """The weights of a Hugging Face GPT-2 file, as new tensors in the canonical layout; any floating type.

    Raises ValueError (a tensor that does not belong to the config) or SafetensorError (no safetensors file).
    """
    tensors = load_file(path)
    check_floating(tensors)
    return from_hf(tensors, config)


def check_floating(tensors: dict[str, Tensor]) -> None:
    """Raise a ValueError naming the first weight that is not of a floating type."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() and not is_mask_buffer(name):
            raise ValueError(f"{name!r} is {tensor.dtype}; weights are floating-point numbers")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file with config.json's permissions."""
    save_file(tensors, path, metadata={"format": "pt"})  # required by transformers
    shutil.copymode(path.with_name(CONFIG), path)  # safetensors 0.8 makes files readable by their owner alone


def prune(run_folder: Path, step: int, keep: int) -> None:
    """Remove the checkpoints before `step` that are not among the `keep` newest complete ones up to it."""
    kept = 0
    for folder in step_folders(run_folder):
        if step_of(folder) > step:
            continue
        if kept >= keep:
            remove_folder(folder)
        elif is_complete(folder, hashes=False):
            kept += 1


def is_checkpoint(path: Path) -> bool:
    """Whether this looks like a checkpoint, damaged or not, and not like a run."""
    return STEP_FOLDER.fullmatch(path.name) is not None or (path / MANIFEST).exists()


def is_complete(folder: Path, hashes: bool = True) -> bool:
    """Whether every file matches the manifest; without hashes, only by size."""
    try:
        verify(folder, FILES, hashes)
    except Damaged:
        return False
    return True


def step_folders(run_folder: Path) -> list[Path]:
    """The checkpoints of a run, newest first, complete or not; of one step, the one being replaced last.

    Includes one that a writer is moving away: without it, the one before would seem to be the newest.
    """
    try:
        paths = [p for p in run_folder.iterdir() if STEP_FOLDER.fullmatch(p.name) and is_folder_or_gone(p)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(f"{run_folder}: cannot be looked into ({one_line(error)})") from error
    return sorted(paths, key=lambda folder: (-step_of(folder), folder.name))


def step_of(folder: Path) -> int:
    """The step in the name of a checkpoint folder."""
    return int(folder.name.removesuffix(REPLACED).removeprefix("step-"))


def offer(folder: Path) -> str:
    """The end of a message that offers the newest complete checkpoint before a damaged one, if there is one."""
    if STEP_FOLDER.fullmatch(folder.name):
        for other in step_folders(folder.parent):
            if step_of(other) < step_of(folder) and is_complete(other):
                return f"; {other} is complete, use that"
    return ""


def no_checkpoint(path: Path) -> str:
    """The message for a path without a checkpoint."""
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "no such folder"
    elif list(path.glob(f"{UNFINISHED}*")):
        what = "a run that has not finished writing its first checkpoint"
    elif folders := step_folders(path):
        what = f"a run, not a checkpoint of it such as {folders[0]}"
    else:
        what = "no checkpoint and no run"
    files = listed((*FILES, MANIFEST))
    return f"{path}: {what}; a checkpoint is a folder step-NNNNNN with {files}; a run is a folder of those"


def identity(folder: Path) -> tuple[int, int]:
    """Device and inode of a folder, which differ from another one of the same name. Gone if there is none."""
    try:
        status = folder.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Gone(folder) from error
    except OSError as error:
        raise Damaged(one_line(error)) from error
    return status.st_dev, status.st_ino


def is_folder_or_gone(path: Path) -> bool:
    """Whether this is a folder, or was one until a writer moved it away; False for a file or a broken link.

    One `stat` decides: between two of them the name may disappear and come back.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return not path.is_symlink()


def to_json(what: str, values: dict[str, Any]) -> bytes:
    """The bytes of a JSON file; ValueError for values that JSON cannot hold, such as nan and infinity."""
    try:
        return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()
    except (ValueError, TypeError, RecursionError) as e:
        raise ValueError(f"{what}: JSON cannot say this ({e}); use numbers, text, lists, dicts") from e


def from_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError for any other content."""
    values = json.loads(path.read_bytes())
    if not isinstance(values, dict):
        raise ValueError("is JSON, but no object")
    return values


def one_line(error: Exception) -> str:
    """An exception's message on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"unknown {error}"
    return " ".join(str(error).split())
