"""The report of a run: one HTML file that opens without a server, a network or a script.

It reads the run directory alone and never a model. A part whose files are missing becomes a sentence that
says what is missing and how to make it.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

import hero
from hero.errors import RunError
from hero.report.contents import RunContents
from hero.report.words import duration, percent
from hero.run.directory import REPORT_FILE

__all__ = ["write_report"]


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Writes the report of `run_dir` to the file `out`, by default its `report.html`; returns the path.

    Raises:
        RunError: `run_dir` holds no config.toml, one of its files cannot be read, or the report cannot be written.
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
    target = run.folder / REPORT_FILE if out is None else Path(os.path.abspath(out))  # of a name even for `.`
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"cannot write {target}: {error.strerror or error}; name another file with --out") from error
    return target if out is None else Path(out)
