"""The release of this project, which pyproject.toml alone says: read from there, or from what was installed from it."""

from __future__ import annotations

from pathlib import Path

NAME = "paritygpt"


def own_version() -> str:
    """The version in pyproject.toml of a checkout; else of the installation; "unknown" for a folder without either."""
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    if pyproject.is_file():
        import tomllib

        project = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == NAME:
            return str(project["version"])
    from importlib import metadata

    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return "unknown"
