"""Label Studio's JSON export as labels: choices and ratings. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hero.errors import FeedbackError
from hero.feedback.collected import Collected, at
from hero.feedback.importing import find_image
from hero.feedback.marks import MarkKind
from hero.feedback.tables import LabelRow

__all__ = ["GOOD_RATING", "read_label_studio"]

_PROMPT_KEYS = ("prompt", "caption", "text")
GOOD_RATING = 4
"""Stars from which on a rating counts as good."""


def read_label_studio(rows: Sequence[LabelRow], folder: Path, found: Collected) -> None:
    """A task a row: `data` with the image's address and perhaps its prompt, and the `annotations`."""
    for number, (where, task) in enumerate(rows, start=1):
        with at(where):
            data = task["data"]
            prompt = next((data[key] for key in _PROMPT_KEYS if data.get(key)), None)
            image = found.image(str(_file_of(folder, str(data["image"]))), folder, prompt, name=number)
            for annotation in task["annotations"]:
                if annotation.get("was_cancelled"):
                    continue
                by = annotation.get("completed_by")
                evaluator = by.get("email") or by.get("id") if isinstance(by, dict) else by
                for result in annotation["result"]:
                    for kind, value in _statements(result):
                        found.mark(image, kind, value, evaluator)


def _statements(result: dict[str, Any]) -> list[tuple[MarkKind, str]]:
    """(kind, value) of each thing that one result says."""
    if result["type"] == "rating":
        stars = result["value"]["rating"]
        return [("score", str(float(stars))), ("verdict", "good" if stars >= GOOD_RATING else "bad")]
    if result["type"] != "choices":
        return []
    words = [str(word).strip().lower() for word in result["value"]["choices"]]
    if unknown := set(words) - {"good", "bad", "best"}:
        raise FeedbackError(f"the choice {min(unknown)!r} is none of good, bad and best")
    return [("best", "yes") if word == "best" else ("verdict", word) for word in words]


def _file_of(folder: Path, address: str) -> Path:
    """The file beside the export that an address of Label Studio's means: its uploads have a random beginning."""
    parts = urlsplit(address)
    asked = parse_qs(parts.query).get("d", [parts.path])[0].lstrip("/\\")
    name = PureWindowsPath(asked).name
    try:
        return find_image(folder, asked)
    except FeedbackError:
        return find_image(folder, name.partition("-")[2] or name)
