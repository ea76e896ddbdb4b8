"""A manifest lists a folder's files with size and SHA-256; `verify` checks a folder against it.

The manifest ends with its own SHA-256, so that damage to the manifest is not reported as damage to a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

NAME = "manifest.json"
FORMAT = "paritygpt-checkpoint"
VERSION = 1


class Damaged(ValueError):
    """A folder differs from its manifest. The message has the file, then the reason."""


def write_manifest(folder: Path, names: Collection[str]) -> None:
    """Write the manifest of these files of a folder."""
    files = {name: {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in sorted(names)}
    (folder / NAME).write_bytes(render(files))


def verify(folder: Path, names: Collection[str], hashes: bool = True) -> None:
    """Raise Damaged unless the folder holds exactly the files `names`, as they were when it was listed.

    Args:
        folder: a folder with a manifest. Ignores names that begin with a dot: no reader opens those, and
            file systems and file managers leave some.
        names: the required files, without the manifest
        hashes: False compares sizes only: fast, and enough to find half written or half deleted folders
    """
    files = read_manifest(folder)
    if files.keys() != set(names):
        raise Damaged(f"{NAME}: lists {listed(files)}; this program needs {listed(names)}")
    try:
        present = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {NAME}
        if files.keys() - present:
            raise Damaged(f"{listed(files.keys() - present)}: missing")
        if present - files.keys():
            raise Damaged(f"{listed(present - files.keys())}: not listed in {NAME}; move it elsewhere")
        for name, entry in files.items():
            if not (folder / name).is_file():
                raise Damaged(f"{name}: is no file")
            size = (folder / name).stat().st_size
            if size != entry["size"]:
                raise Damaged(f"{name}: has {size:,} bytes, {NAME} says {entry['size']:,}")
        for name, entry in files.items() if hashes else ():
            digest = sha256(folder / name)
            if digest != entry["sha256"]:
                raise Damaged(f"{name}: SHA-256 differs ({digest[:12]}..., {NAME} says {entry['sha256'][:12]}...)")
    except OSError as error:
        raise Damaged(f"{Path(error.filename or folder).name}: cannot be read ({error.strerror})") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The `files` of a manifest: name to `size` and `sha256`. Damaged if it is not as it was written."""
    try:
        text = (folder / NAME).read_bytes()
        values = json.loads(text)
    except FileNotFoundError:
        raise Damaged(f"{NAME}: missing") from None
    except OSError as error:
        raise Damaged(f"{NAME}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError):
        raise Damaged(f"{NAME}: is not JSON") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise Damaged(f"{NAME}: does not say that its format is {FORMAT!r}")
    if values.get("version") != VERSION:
        raise Damaged(f"{NAME}: format version {values.get('version')!r}; this program reads {VERSION}")
    files = values.get("files")
    if not isinstance(files, dict) or text != render(files):
        raise Damaged(f"{NAME}: differs from its own SHA-256")
    for name, entry in files.items():
        if not isinstance(entry, dict) or [type(entry.get(key)) for key in ("size", "sha256")] != [int, str]:
            raise Damaged(f"{NAME}: gives no size and SHA-256 for {name}")
    return files


def render(files: dict[str, Any]) -> bytes:
    """The bytes of a manifest over these files."""
    body = {"format": FORMAT, "version": VERSION, "files": files}
    own = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return (json.dumps({**body, "sha256": own}, indent=2) + "\n").encode()


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listed(names: Collection[str]) -> str:
    """Sorted names, separated by commas."""
    return ", ".join(sorted(names))
