"""A report as one HTML page: the verdict, what the test found, the environment. No scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.environment import environment
from bench.pages.render import rendered
from bench.user_code.report import Report

HERE = Path(__file__).parent
KNOWN = ("device", "cpu", "threads", "system", "python", "commit")


def report_page(template: Path, report: Report, **values: Any) -> str:
    """A template that extends report_page.html, with what it shows beside the report. All text is escaped."""
    return rendered(template, HERE, title=report.name, report=report, environment=facts(), **values)


def text_page(report: Report) -> str:
    """A report's text as a page."""
    return report_page(HERE / "text_page.html", report, text=report.text())


def save(text: str, path: Path) -> None:
    """Write a page. Raises ValueError, one line, if that fails."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--html {path}: cannot be written ({error.strerror})") from None


def facts() -> list[tuple[str, str]]:
    """Machine and software."""
    here = environment(torch.device("cpu"))
    packages = [(name, str(version)) for name, version in here["packages"].items() if version is not None]
    return [*((name, "n/a" if here[name] is None else str(here[name])) for name in KNOWN), *packages]
