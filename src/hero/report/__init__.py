"""The report of a run: one HTML file that opens without a server, a network or a script.

It reads the run directory alone and never a model. A part whose files are missing becomes a sentence that
says what is missing and how to make it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

import hero
from hero.report.contents import RunContents
from hero.report.words import duration, percent

__all__ = ["write_report"]


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into `run_dir` and returns its path.

    Raises:
        RunError: `run_dir` holds no config.toml, or one of its files cannot be read.
    """
    run = RunContents(Path(run_dir))
    environment = Environment(
        loader=PackageLoader("hero"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, duration=duration)
    page = environment.get_template("report.html.j2").render(
        run=run,
        config=run.config,
        version=hero.__version__,
        written=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0"),
    )
    target = run.folder / "report.html"
    partial = target.with_suffix(".html.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    return target
