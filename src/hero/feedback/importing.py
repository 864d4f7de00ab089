"""Existing labels, read from JSON lines: an export of a run, or a file that somebody wrote by hand.

starting.py decides what a run can learn from them; here they are only read, checked and put into a store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PureWindowsPath
from typing import Any

from hero.errors import FeedbackError
from hero.feedback import schema
from hero.feedback.marks import Mark, replay
from hero.feedback.store import LabelStore
from hero.types import Answer, Feedback, ImageId

__all__ = ["ImportedLabels", "ImportedMark", "read_labels", "restore", "text_of"]


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
        images, prompts: image → its file, and its prompt.
    """

    marks: tuple[ImportedMark, ...]
    submissions: tuple[Mapping[str, Any], ...]
    answers: Mapping[int, Answer]
    images: Mapping[ImageId, Path]
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
    names = _Names()
    for number, row in _rows(file):
        where = f"{file}, line {number}"
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
                    images[image] = _beside(file, str(row["image"]))
        except (KeyError, TypeError, ValueError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise FeedbackError(f"{where}: {what}") from None
        if kind not in ("submission", "answer") and image in images and not images[image].is_file():
            raise FeedbackError(f"{where}: there is no image {images[image]}")
    if not marks:
        raise FeedbackError(f"{file} holds no mark")
    return ImportedLabels(tuple(marks), tuple(submissions), answers, images, prompts)


class _Names:
    """Ids for images of a file of one's own, which has none: the file's name, and a number if it has several."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], ImageId] = {}
        self._prompts: dict[str, int] = {}

    def of(self, given: object, image: object, prompt: str) -> ImageId:
        if given:
            return str(given)
        name = str(image)
        if (name, prompt) not in self._ids:
            count = self._prompts[name] = self._prompts.get(name, 0) + 1
            self._ids[name, prompt] = name if count == 1 else f"{name} (prompt {count})"
        return self._ids[name, prompt]


def _beside(file: Path, image: str) -> Path:
    """The image that a line names, relative to the file; with `\\` between folders, as Windows writes it, too."""
    path = file.parent / image
    return path if path.is_file() or "\\" not in image else file.parent / PureWindowsPath(image).as_posix()


def _rows(file: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text_of(file).split("\n"), start=1):  # a prompt may hold other kinds of line breaks
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise FeedbackError(f"{file}, line {number}: {error}") from None
        if not isinstance(row, dict):
            raise FeedbackError(f"{file}, line {number}: not a JSON object")
        yield number, row


def text_of(file: Path) -> str:
    """The contents of a file of labels.

    Raises:
        FeedbackError: it cannot be read, or is no text.
    """
    try:
        return file.read_text(encoding="utf-8-sig")  # Windows editors put a mark at the beginning
    except OSError as error:
        raise FeedbackError(f"cannot read {file}: {error}") from None
    except UnicodeDecodeError:
        raise FeedbackError(
            f"{file} is not text: give labels.jsonl, a folder with good and bad in it, or Label Studio's JSON export"
        ) from None


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
