"""Rows of the files that labels come in: JSON, JSON lines, CSV, Parquet. No torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hero.errors import ConfigError, FeedbackError

__all__ = ["LabelRow", "import_pyarrow", "json_lines", "read_rows"]

LabelRow = tuple[str, Mapping[str, Any]]
"""(where it stands, for messages; its values)"""


def read_rows(path: Path) -> list[LabelRow]:
    """The rows of a file, by its ending: `.json` (a list of objects, or one), `.csv`, `.parquet`, else JSON lines.

    Raises:
        FeedbackError: it cannot be read as such, or a row is not an object; the message says which.
        ConfigError: Parquet needs pyarrow, which is not installed.
    """
    ending = path.suffix.lower()
    if ending == ".parquet":
        return list(_parquet(path))
    if ending not in (".json", ".csv"):
        return list(json_lines(path))
    text = _text(path)
    if ending == ".csv":
        rows = csv.DictReader(io.StringIO(text, newline=""))
        return [(f"{path}, row {number}", row) for number, row in enumerate(rows, start=1)]
    try:
        found = json.loads(text)
    except ValueError as error:
        raise FeedbackError(f"cannot read {path}: {error}") from None
    items = [(f"{path}, item {k}", item) for k, item in enumerate(found if isinstance(found, list) else [found], 1)]
    return [(where, _object(where, item)) for where, item in items]


def json_lines(path: Path) -> Iterator[LabelRow]:
    """The lines of a file that are not empty, as JSON objects.

    Raises:
        FeedbackError: see `read_rows`.
    """
    for number, line in enumerate(_text(path).split("\n"), start=1):  # a prompt may hold other kinds of line breaks
        where = f"{path}, line {number}"
        if line.strip():
            try:
                found = json.loads(line)
            except ValueError as error:
                raise FeedbackError(f"{where}: {error}") from None
            yield where, _object(where, found)


def import_pyarrow() -> Any:
    """pyarrow with its Parquet module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigError(
            "Parquet needs pyarrow, which is not installed: pip install 'hero-diffusion[parquet]'; "
            "JSON lines need no extra package"
        ) from None
    return pyarrow


def _parquet(path: Path) -> Iterator[LabelRow]:
    pa = import_pyarrow()
    try:
        table = pa.parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise FeedbackError(f"cannot read {path}: {error}") from None
    for index, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):  # Python's times have no nanoseconds
            shorter = table.column(index).cast(pa.timestamp("us", tz=field.type.tz), safe=False)
            table = table.set_column(index, field.name, shorter)
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{path}, row {number}", row


def _text(path: Path) -> str:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # Windows editors put a mark at the beginning
            return file.read()
    except OSError as error:
        raise FeedbackError(f"cannot read {path}: {error}") from None
    except UnicodeDecodeError:
        raise FeedbackError(
            f"{path} is not text: give labels.jsonl, a table, a folder with good and bad in it, or Label Studio's JSON"
        ) from None


def _object(where: str, found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise FeedbackError(f"{where}: not a JSON object")
    return found
