"""Existing labels, read from JSON lines: an export of a run, or a file that somebody wrote by hand.

starting.py decides what a run can learn from them; here they are only read, checked and put into a store.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from glob import escape
from pathlib import Path, PureWindowsPath
from typing import Any

from PIL import Image

from hero.errors import FeedbackError
from hero.feedback import schema
from hero.feedback.marks import Mark, replay
from hero.feedback.store import LabelStore
from hero.feedback.tables import json_lines
from hero.types import Answer, Feedback, ImageId

__all__ = [
    "ImportedLabels",
    "ImportedMark",
    "ImportedPicture",
    "NamesOfImages",
    "find_image",
    "open_picture",
    "read_labels",
    "restore",
]

ImportedPicture = Path | bytes
"""An image's file, or what is in it."""


@dataclass(frozen=True)
class ImportedMark:
    """One line: a mark, who made it and when, and its round."""

    round: int
    evaluator: str
    mark: Mark
    created_at: str


@dataclass(frozen=True)
class ImportedLabels:
    """The contents of a file of labels.

    Attributes:
        marks: in the order of the file.
        submissions: round, evaluator, seconds and created_at of each.
        answers: round → the answer from which the original run learnt.
        images, prompts: image → its picture, and its prompt.
    """

    marks: tuple[ImportedMark, ...]
    submissions: tuple[Mapping[str, Any], ...]
    answers: Mapping[int, Answer]
    images: Mapping[ImageId, ImportedPicture]
    prompts: Mapping[ImageId, str]

    def feedback(self) -> dict[int, Feedback]:
        """Round → its feedback: its answer or, if there is none, what the marks of all evaluators amount to."""
        feedback: dict[int, Feedback] = {}
        for round_ in sorted({mark.round for mark in self.marks}):
            marks = [m.mark for m in self.marks if m.round == round_]
            statements = [(m.image_id, m.kind, m.value, m.other) for m in marks]
            feedback[round_] = self.answers.get(round_) or replay(statements)
        return feedback


def read_labels(file: Path) -> ImportedLabels:
    """Reads JSON lines (docs/feedback.md says which keys a line has).

    Raises:
        FeedbackError: a line is not a JSON object or not a mark, or an image has no prompt or its file is missing; the
            message gives the line.
    """
    marks, submissions = [], []
    answers: dict[int, Answer] = {}
    images: dict[ImageId, Path] = {}
    prompts: dict[ImageId, str] = {}
    names = NamesOfImages()
    for where, row in json_lines(file):
        try:
            kind = row["kind"]
            if kind == "submission":
                submissions.append({key: row[key] for key in ("round", "evaluator", "seconds", "created_at")})
            elif kind == "answer":
                answers[int(row["round"])] = Answer.from_dict(row["feedback"], row["evaluators"], row["rule"])
            else:
                prompt = str(row["prompt"])
                image = names.of(row.get("image_id"), row["image"], prompt)
                given = {key: row.get(key) for key in ("value", "other", "suggested", "seconds")}
                if given["other"] is not None and not row.get("image_id"):
                    given["other"] = names.of(None, given["other"], prompt)
                created_at = row.get("created_at") or datetime.now(UTC).isoformat(timespec="microseconds")
                evaluator = str(row.get("evaluator") or "imported")
                marks.append(ImportedMark(int(row.get("round", 0)), evaluator, Mark(image, kind, **given), created_at))
                if prompts.setdefault(image, prompt) != prompt:
                    raise ValueError(f"{image} has the prompt {prompts[image]!r} in an earlier line")
                if row["image"] is not None:
                    images[image] = find_image(file.parent, str(row["image"]))
        except FeedbackError as error:
            raise FeedbackError(f"{where}: {error}") from None
        except (KeyError, TypeError, ValueError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise FeedbackError(f"{where}: {what}") from None
    if not marks:
        raise FeedbackError(f"{file} holds no mark")
    return ImportedLabels(tuple(marks), tuple(submissions), answers, images, prompts)


class NamesOfImages:
    """Ids for images of a file of one's own, which has none: the file's name, and a number if it has several."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], ImageId] = {}
        self._prompts: dict[str, int] = {}

    def of(self, given: object, image: object, prompt: str) -> ImageId:
        """The id `given`, or one for the file name `image` under `prompt`."""
        if given:
            return str(given)
        name = str(image)
        if (name, prompt) not in self._ids:
            count = self._prompts[name] = self._prompts.get(name, 0) + 1
            self._ids[name, prompt] = name if count == 1 else f"{name} (prompt {count})"
        return self._ids[name, prompt]


def find_image(folder: Path, address: str) -> Path:
    """The file that an address means: from `folder` on, or of that name in it or in one of its folders.

    Raises:
        FeedbackError: there is none.
    """
    ways = [Path(address)]
    if "\\" in address:  # as Windows writes it
        ways.append(Path(PureWindowsPath(address).as_posix()))
    for path in ways:
        for candidate in (folder / path, folder / path.name, *sorted(folder.glob(f"*/{escape(path.name)}"))):
            if candidate.is_file():
                return candidate
    raise FeedbackError(f"there is no image {ways[-1].name} in {folder}")


def open_picture(picture: ImportedPicture) -> Image.Image:
    """The image, not yet decoded.

    Raises:
        OSError and others of Pillow's: it cannot be opened.
    """
    return Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)


def restore(
    store: LabelStore, marks: Iterable[ImportedMark], submissions: Iterable[Mapping[str, Any]], round_: int
) -> None:
    """Puts the marks and submissions of one round into `store` as they were made, with evaluators and times,
    in one transaction.

    Raises:
        FeedbackError: the store already has marks of `round_`.
    """
    if store.count(round_):
        raise FeedbackError(f"round {round_} already has labels; import into a new run")
    rows = [{"round": round_, "evaluator": m.evaluator, **asdict(m.mark), "created_at": m.created_at} for m in marks]
    closed = [{**submission, "round": round_} for submission in submissions]
    with store.database.transaction(write=True) as connection:
        if rows:
            connection.execute(schema.labels.insert(), rows)
        if closed:
            connection.execute(schema.submissions.insert(), closed)
