"""Labels that other programs or folders hold, as the labels of an import: good and bad images, Label Studio.

docs/feedback.md says what each is read as. No torch.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hero.errors import ConfigError, FeedbackError
from hero.feedback.importing import ImportedLabels, ImportedMark, read_labels, text_of
from hero.feedback.marks import Mark, MarkKind
from hero.types import ImageId

__all__ = ["GOOD_RATING", "read_any"]

_Statement = tuple[MarkKind, str]

_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_VERDICTS = ("good", "bad")
_PROMPT_KEYS = ("prompt", "caption", "text")
GOOD_RATING = 4
"""Stars from which on a rating counts as good."""


def read_any(path: Path, prompt: str | None = None) -> ImportedLabels:
    """The labels in `path`: JSON lines, a folder with `good` and `bad` in it, or a JSON export of Label Studio.

    Args:
        prompt: that of images which have none of their own there.

    Raises:
        FeedbackError: it is none of these, or a label in it cannot be understood; the message says which.
        ConfigError: an image has no prompt, and `prompt` is None.
    """
    if path.is_dir():
        return _folder(path, prompt)
    if path.suffix.lower() == ".json":
        return _label_studio(path, prompt)
    return read_labels(path)


class _Collected:
    """Marks and images as they are found."""

    def __init__(self, prompt: str | None) -> None:
        self._prompt = prompt
        self._marks: list[ImportedMark] = []
        self._images: dict[ImageId, Path] = {}
        self._prompts: dict[ImageId, str] = {}
        self._now = datetime.now(UTC).isoformat(timespec="microseconds")

    def add(self, name: ImageId, file: Path, prompt: str | None, evaluator: str, *statements: _Statement) -> None:
        """Each statement is a kind of mark and its value."""
        prompt = prompt or self._prompt
        if prompt is None:
            raise ConfigError(f"{file} has no prompt of its own; give --prompt TEXT")
        self._images[name], self._prompts[name] = file, prompt
        self._marks += [ImportedMark(0, evaluator, Mark(name, kind, value), self._now) for kind, value in statements]

    def labels(self, source: Path) -> ImportedLabels:
        if not self._marks:
            raise FeedbackError(f"{source} holds no label")
        return ImportedLabels(tuple(self._marks), (), {}, self._images, self._prompts)


def _folder(path: Path, prompt: str | None) -> ImportedLabels:
    found = _Collected(prompt)
    if not any((path / verdict).is_dir() for verdict in _VERDICTS):
        raise FeedbackError(f"{path} has no folder good or bad in it")
    for verdict in _VERDICTS:
        for file in sorted((path / verdict).glob("*")):
            if file.suffix.lower() in _IMAGES:
                found.add(f"{verdict}/{file.name}", file, None, "imported", ("verdict", verdict))
    return found.labels(path)


def _label_studio(path: Path, prompt: str | None) -> ImportedLabels:
    try:
        tasks = json.loads(text_of(path))
    except ValueError as error:
        raise FeedbackError(f"cannot read {path}: {error}") from None
    found = _Collected(prompt)
    for number, task in enumerate(tasks if isinstance(tasks, list) else [tasks], start=1):
        where = f"{path}, task {number}"
        try:
            data, annotations = task["data"], task["annotations"]
            own = next((str(data[key]) for key in _PROMPT_KEYS if data.get(key)), None)
            file = _image_of(path.parent, str(data["image"]), where)
            for annotation in annotations:
                if annotation.get("was_cancelled"):
                    continue
                said = [statement for result in annotation["result"] for statement in _statements(result, where)]
                found.add(f"{number}", file, own, _evaluator(annotation.get("completed_by")), *said)
        except (KeyError, TypeError, AttributeError) as error:
            raise FeedbackError(f"{where}: not as Label Studio writes it ({error!r})") from None
    return found.labels(path)


def _statements(result: dict[str, Any], where: str) -> list[_Statement]:
    """(kind, value) of each thing that one result says."""
    if result["type"] == "rating":
        stars = result["value"]["rating"]
        return [("score", str(float(stars))), ("verdict", "good" if stars >= GOOD_RATING else "bad")]
    if result["type"] != "choices":
        return []
    words = [str(word).strip().lower() for word in result["value"]["choices"]]
    if unknown := set(words) - {*_VERDICTS, "best"}:
        raise FeedbackError(f"{where}: the choice {min(unknown)!r} is none of good, bad and best")
    return [("best", "yes") if word == "best" else ("verdict", word) for word in words]


def _evaluator(by: Any) -> str:
    name = by.get("email") or by.get("id") if isinstance(by, dict) else by
    return "imported" if name is None else str(name)


def _image_of(folder: Path, address: str, where: str) -> Path:
    """The file beside the export that an address of Label Studio's means: its uploads have a random beginning."""
    asked = parse_qs(urlsplit(address).query).get("d", [urlsplit(address).path])[0]
    path = Path(PureWindowsPath(asked.lstrip("/\\")).as_posix())
    plain = path.name.partition("-")[2] or path.name
    for candidate in (folder / path, folder / path.name, folder / "images" / path.name, folder / plain):
        if candidate.is_file():
            return candidate
    raise FeedbackError(f"{where}: there is no image {path.name} in {folder}")
