"""Tiny Shakespeare: 1,115,394 characters of plays, from a copy on this machine or downloaded; verified.

The file is the one of https://github.com/karpathy/char-rnn, which nanoGPT's character examples train on.
"""

from __future__ import annotations

import hashlib
import os
import textwrap
from pathlib import Path

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

COPY_VARIABLE = "PARITYGPT_SHAKESPEARE"  # the path of a copy of the file
DATA_VARIABLE = "PARITYGPT_DATA"  # the folder that downloads go to
FILE_NAME = "tinyshakespeare.txt"


def shakespeare(copy: str | Path | None = None, data_dir: str | Path | None = None, url: str = URL) -> str:
    """Return the text, from the first of these that exists: `copy`, the file named by the environment variable
    PARITYGPT_SHAKESPEARE, the data folder, the download (kept in the data folder).

    The data folder is `data_dir`, else PARITYGPT_DATA, else pooch's cache folder for "paritygpt". The file must have
    the SHA-256 above; a download that differs or breaks off leaves no file.

    Raises:
        ValueError: the copy is missing or differs, or the download failed.
    """
    copy = copy or os.environ.get(COPY_VARIABLE)
    if copy:
        return _verified(Path(copy))
    try:
        import pooch  # type: ignore[import-untyped]
    except ImportError:
        raise ValueError(
            "the corpus 'shakespeare' is downloaded with the package pooch, which is not installed: "
            f"run `pip install pooch`, or let {COPY_VARIABLE} name a copy of the file"
        ) from None
    data_dir = Path(data_dir or os.environ.get(DATA_VARIABLE) or pooch.os_cache("paritygpt"))
    pooch.get_logger().setLevel("WARNING")  # a failure is reported once, below
    try:
        # pooch downloads to a temporary file and moves it into place once the hash is right.
        path = pooch.retrieve(
            url,
            known_hash=f"sha256:{SHA256}",
            fname=FILE_NAME,
            path=data_dir,
            downloader=pooch.HTTPDownloader(timeout=30),
        )
    except (OSError, ValueError) as error:  # every error of requests is an OSError, a wrong hash a ValueError
        failed = textwrap.shorten(f"{type(error).__name__}: {error}", width=240, placeholder=" ...")
        raise ValueError(
            f"the corpus 'shakespeare' could not be fetched from {url} to {data_dir} ({failed}); "
            f"try again, or let {COPY_VARIABLE} name a copy of the file"
        ) from error
    return _verified(Path(path))


def _verified(path: Path) -> str:
    """Return the text of a file that has the right SHA-256; ValueError for any other."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the copy of tiny Shakespeare at {path}: {error.strerror}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"{path} is not tiny Shakespeare: its SHA-256 is {found}, expected {SHA256}; "
            "get the file again, or pass it as the path of a text file to use it as it is"
        )
    return content.decode("utf-8")
