"""Pretrained weights: the four published GPT-2s, or a folder with a GPT-2."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import urlsplit

from safetensors import SafetensorError
from torch import Tensor

from reference.checkpoints.checkpoint import (
    CONFIG,
    MODEL,
    from_json,
    is_checkpoint,
    one_line,
    open_path,
    read_model,
    step_folders,
)
from reference.checkpoints.huggingface import config_from_hf
from reference.config import GPTConfig

PUBLISHED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
OWNER = "openai-community"  # on the Hugging Face hub
PATIENCE = 10.0  # seconds to wait for the hub's answer

logger = logging.getLogger(__name__)


def load_pretrained(name_or_path: str | Path) -> tuple[dict[str, Tensor], GPTConfig]:
    """Load the weights of a trained GPT-2 and their shape.

    Args:
        name_or_path: `gpt2`, `gpt2-medium`, `gpt2-large` or `gpt2-xl`, downloaded once and then kept in
            Hugging Face's cache; or a folder: a checkpoint or a run of ours, or what `save_pretrained` of
            `GPT2LMHeadModel` wrote. A folder that is named like a published model is given as `./gpt2`.

    Returns new tensors in the canonical layout, in the file's dtype, and the file's config, dropout included. Raises
    ValueError if the weights cannot be loaded or are no GPT-2. Skips and logs damaged newer checkpoints of a run.
    """
    if str(name_or_path) in PUBLISHED:
        name = str(name_or_path)
        return read_pair(*download(name), name)
    folder = Path(name_or_path)
    if not folder.is_dir():
        raise ValueError(
            f"{str(name_or_path)!r} is neither a folder nor a published GPT-2: "
            f"give one of {', '.join(PUBLISHED)}, or a folder with {CONFIG} and {MODEL}"
        )
    if is_checkpoint(folder) or step_folders(folder):
        checkpoint, reports = open_path(folder)
        for report in reports:
            logger.warning("%s: %s", folder, report)
        return checkpoint.model, checkpoint.config
    check_folder(folder)
    return read_pair(folder / CONFIG, folder / MODEL, str(folder))


def read_pair(config_file: Path, model_file: Path, source: str) -> tuple[dict[str, Tensor], GPTConfig]:
    """Read a config and its weights; ValueError with the faulty file and the reason."""
    file = config_file
    try:
        config = config_from_hf(from_json(config_file))
        file = model_file
        return read_model(model_file, config), config
    except (ValueError, TypeError, KeyError, RecursionError, OSError, SafetensorError) as e:
        raise ValueError(f"{source}: {file.name}: {one_line(e)}; give a GPT-2 as transformers saves it") from e


def check_folder(folder: Path) -> None:
    """Raise a ValueError unless config and weights exist, with the missing files and how to get them."""
    missing = [name for name in (CONFIG, MODEL) if not (folder / name).is_file()]
    if not missing:
        return
    how = f"give a folder with {CONFIG} and {MODEL}, or a checkpoint"
    if MODEL in missing and (folder / f"{MODEL}.index.json").exists():
        how = (
            f"the weights are split over several files, and {MODEL} is one: "
            'in transformers, save_pretrained(folder, max_shard_size="100GB") writes it'
        )
    elif pickles := sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth")):
        how = (
            f"{pickles[0]} is a pickle, which can run any code when opened, and stays closed: "
            f"in transformers, save_pretrained(folder) writes {MODEL}"
        )
    raise ValueError(f"{folder}: {' and '.join(missing)} missing; {how}")


def download(name: str, endpoint: str | None = None, cache: Path | None = None) -> tuple[Path, Path]:
    """Download a published GPT-2 from the Hugging Face hub, unless the cache has it unchanged.

    Args:
        name: one of PUBLISHED
        endpoint: another hub's address; None is $HF_ENDPOINT or huggingface.co
        cache: folder to keep files in; None is Hugging Face's own, under $HF_HOME

    Returns config file and weights file. Without a connection, uses the cache; ValueError after at most PATIENCE
    seconds if the cache is empty.
    """
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    except ImportError as error:
        raise ValueError(
            f"{name!r} has to be downloaded, and huggingface_hub is not installed: "
            "pip install huggingface_hub, or give a local folder"
        ) from error
    repository = f"{OWNER}/{name}"
    url = hf_hub_url(repository, CONFIG, endpoint=endpoint)
    # The library raises its HTTP client's errors, and the client has been requests, httpx and httpx2: hence
    # `except Exception` twice, around calls of the library alone.
    unreachable: Exception | None = None
    try:
        # one request first: hf_hub_download retries a silent hub for half a minute and longer
        get_hf_file_metadata(url, token=False, timeout=PATIENCE, endpoint=endpoint)
    except Exception as error:
        unreachable = error
    try:
        config_file, model_file = (
            hf_hub_download(
                repository,
                file,
                endpoint=endpoint,
                cache_dir=cache,
                token=False,  # the files are public, and an expired token gets even those refused
                etag_timeout=PATIENCE,
                local_files_only=unreachable is not None,
            )
            for file in (CONFIG, MODEL)
        )
    except Exception as error:
        hub = urlsplit(url).netloc
        folder = f"the folder ./{name} here" if Path(name).is_dir() else "a local folder"
        raise ValueError(
            f"{name!r} could not be downloaded from {hub} ({cause(unreachable or error)}) and is not in the "
            f"cache: try again with a connection, or give {folder} instead"
        ) from error
    return Path(config_file), Path(model_file)


def cause(error: Exception) -> str:
    """Why a download failed, in a few words."""
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set"
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    return next(iter(str(error).splitlines()), "") or type(error).__name__
