"""Read the tensors of a checkpoint, file or folder, without running anything that it holds.

    a file                .pt, .pth, .bin, .ckpt by torch.load(weights_only=True); .safetensors
    a Hugging Face folder config.json with model.safetensors or pytorch_model.bin, whole or in shards
    a folder of ours      a checkpoint step-NNNNNN, verified by its manifest, or a run: its newest complete one

Tensors are the file, mapped into memory where the format allows it: what is not looked at is not read.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bench.formatting import one_line
from bench.weights.names import plain
from reference.checkpoints.checkpoint import CONFIG, FILES, MODEL, from_json, is_checkpoint, is_complete, step_folders
from reference.checkpoints.manifest import Damaged, verify

PICKLE = "pytorch_model.bin"
INDEX = ".index.json"  # after the name of a file that is split into shards
STATES = ("model", "state_dict", "model_state_dict", "module", "weights")  # keys of a checkpoint's state dict
SETTINGS = ("model_args", "config", "model_config", "args", "hparams")  # keys of its config


@dataclass
class WeightsFile:
    """The tensors of a checkpoint.

    Args:
        name: as given
        kind: in words
        tensors: by their own names, without what torch.compile and DistributedDataParallel put before them
        settings: its config, if it has one
    """

    name: str
    kind: str
    tensors: dict[str, Tensor]
    settings: dict[str, Any]


def read_weights(path: Path, option: str) -> WeightsFile:
    """Read a checkpoint. Raises ValueError, one line, that begins with the option."""
    who = f"{option} {path}"
    try:
        if path.is_dir():
            return of_folder(path, who)
        if path.is_file():
            return of_file(path, who)
    except OSError as error:
        raise ValueError(f"{who}: cannot be read: {error.strerror or error}") from error
    raise ValueError(f"{who}: there is no such file or folder")


def of_folder(folder: Path, who: str) -> WeightsFile:
    """The weights of a folder."""
    if not is_checkpoint(folder) and (steps := step_folders(folder)):
        complete = next((step for step in steps if is_complete(step)), None)
        if complete is None:
            raise ValueError(f"{who}: no complete checkpoint in this run")
        return of_folder(complete, who)
    if is_checkpoint(folder):
        try:
            verify(folder, FILES)
        except Damaged as error:
            raise ValueError(f"{who}: {error}") from error
        kind = "checkpoint of this project"
    else:
        kind = "Hugging Face folder"
    for name in (MODEL, PICKLE):
        if (folder / name).is_file():
            tensors = open_file(folder / name, who)
        elif (folder / f"{name}{INDEX}").is_file():
            tensors = of_shards(folder, f"{name}{INDEX}", who)
        else:
            continue
        return WeightsFile(folder.name, kind, named(tensors, who), settings_of(folder, who))
    others = sorted(file.name for file in folder.iterdir() if file.suffix in (".pt", ".pth", ".ckpt"))
    how = f"give the file {folder / others[-1]}" if others else "give a folder with one of them, or a file"
    raise ValueError(f"{who}: has no {MODEL} and no {PICKLE}: {how}")


def settings_of(folder: Path, who: str) -> dict[str, Any]:
    """The values of config.json; empty if there is none."""
    if not (folder / CONFIG).is_file():
        return {}
    try:
        return from_json(folder / CONFIG)
    except ValueError as error:
        raise ValueError(f"{who}: {CONFIG} {one_line(error)}") from error


def of_shards(folder: Path, index: str, who: str) -> dict[str, Any]:
    """The tensors of all shards."""
    try:
        files = sorted(set(from_json(folder / index)["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{who}: {index} does not list files: {one_line(error)}") from error
    out: dict[str, Any] = {}
    for file in files:
        if Path(file).name != file or not (folder / file).is_file():
            raise ValueError(f"{who}: {file}, which {index} lists, is missing")
        out |= open_file(folder / file, who)
    return out


def of_file(path: Path, who: str) -> WeightsFile:
    """The weights of a file; of a checkpoint, its state dict and config."""
    content = open_file(path, who)
    settings: dict[str, Any] = {}
    if not any(isinstance(value, Tensor) for value in content.values()):
        for key in SETTINGS:
            if isinstance(content.get(key), Mapping):
                settings = dict(content[key]) | settings
        state = next((content[key] for key in STATES if isinstance(content.get(key), Mapping)), None)
        if state is None:
            keys = ", ".join(map(repr, list(content)[:6])) or "nothing"
            raise ValueError(
                f"{who}: holds {keys}: give a state dict, or a dict with one under {' or '.join(STATES[:3])}"
            )
        kind = "checkpoint with model_args" if "model_args" in content else "checkpoint"
        return WeightsFile(path.name, kind, named(state, who), settings)
    beside = path.parent if path.name in (MODEL, PICKLE) else None  # of a Hugging Face folder
    return WeightsFile(path.name, "state dict", named(content, who), settings_of(beside, who) if beside else {})


def open_file(path: Path, who: str) -> dict[str, Any]:
    """The dict in a file. Runs nothing: a pickle that needs it is refused."""
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{who}: {path.name} is no safetensors file: {one_line(error)}") from error
    try:
        content = load(path)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)|(?:type|class) (\S+) ", str(error))
        what = f"it holds {(found[1] or found[2]).rstrip('.,')}" if found else "it is no plain state dict"
        raise ValueError(
            f"{who}: stays closed, as opening {path.name} would run code ({what}): where you trust it, write its state "
            "dict alone, torch.save(model.state_dict(), FILE)"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise ValueError(f"{who}: {path.name} is no file of torch.save: {one_line(error)}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{who}: holds a {type(content).__name__}: give a state dict, or a dict with one")
    return dict(content)


def load(path: Path) -> Any:
    """torch.load without execution, mapped if the format can be; the format before torch 1.6 cannot."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def named(state: Mapping[Any, Any], who: str) -> dict[str, Tensor]:
    """The floating-point tensors of a state dict, by their names without wrappers; others are constants."""
    tensors = {
        plain(str(name)): value
        for name, value in state.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided
    }
    if not tensors:
        raise ValueError(f"{who}: has no floating-point tensors")
    return tensors
