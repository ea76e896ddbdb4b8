"""The version of this project: from pyproject.toml, or from the metadata of the installation."""

from __future__ import annotations

from pathlib import Path

NAME = "paritygpt"


def own_version() -> str:
    """The version of a checkout by its pyproject.toml, else of the installation, else "unknown"."""
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
