"""Make an HTML page from a template that extends base.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def rendered(template: Path, *folders: Path, **values: Any) -> str:
    """A template as text, with our style; values are escaped unless the template says `safe`.

    Args:
        folders: where the templates that it extends are, beside its own folder and this one
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # takes a tenth of a second

    environment = Environment(
        loader=FileSystemLoader([template.parent, *folders, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (HERE / "style.css").read_text(encoding="utf-8")
    return environment.get_template(template.name).render(style=style, **values)
