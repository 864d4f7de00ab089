"""Labels in any file or folder that `hero feedback import` reads: which format it is, told by what is in it.

docs/feedback.md says what each is read as. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hero.errors import FeedbackError
from hero.feedback.collected import Collected, at
from hero.feedback.comparisons import (
    read_better_worse,
    read_pickapic,
    read_preferred,
    read_rank_lists,
    read_ranked_rows,
)
from hero.feedback.importing import ImportedLabels, read_labels
from hero.feedback.label_studio import read_label_studio
from hero.feedback.tables import LabelRow, read_rows
from hero.types import Answer, Feedback, ImageId

__all__ = ["LABELS_FILE", "METADATA_FILE", "read_any"]

LABELS_FILE = "labels.jsonl"
"""The file of a JSON-lines export; its images lie in images/ beside it, the run's settings in config.toml."""

METADATA_FILE = "metadata.jsonl"
"""Beside it: what was said in the end, for programs that read a folder of images."""

_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_VERDICTS = ("good", "bad")


@dataclass(frozen=True)
class _Format:
    """A format of rows.

    Attributes:
        fits: whether a row is of it; the first row of a file is asked.
        read: puts what the rows say into the collection; addresses of images start in the folder.
    """

    fits: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Sequence[LabelRow], Path, Collected], None]


def read_any(path: Path, prompt: str | None = None) -> ImportedLabels:
    """The labels in `path`: a file, or a folder with such files or with `good` and `bad` in it.

    Args:
        prompt: that of images which have none of their own there.

    Raises:
        FeedbackError: it is no format that is known, or a label in it cannot be understood; the message says which.
        ConfigError: an image has no prompt and `prompt` is None, or Parquet cannot be read for want of pyarrow.
    """
    files, folder = [path], path.parent
    if path.is_dir():
        if any((path / verdict).is_dir() for verdict in _VERDICTS):
            return _good_and_bad(path, prompt)
        named = [path / name for name in (LABELS_FILE, METADATA_FILE) if (path / name).is_file()][:1]
        files, folder = named or sorted(path.rglob("*.parquet")), path
        if not files:
            raise FeedbackError(
                f"{path} has no folder good or bad, no {LABELS_FILE} or {METADATA_FILE} and no Parquet file in it"
            )
    rows = [row for file in files for row in read_rows(file)]
    if not rows:
        raise FeedbackError(f"{path} holds no label")
    first = rows[0][1]
    kind = next((kind for kind in _FORMATS if kind.fits(first)), None)
    if "kind" in first or (kind is None and files[0].suffix.lower() == ".jsonl"):
        return read_labels(files[0])
    if kind is None:
        raise FeedbackError(
            f"{path} has columns of no known format ({', '.join(map(str, first))}); see docs/feedback.md"
        )
    found = Collected(prompt)
    kind.read(rows, folder, found)
    labels = found.labels(path)
    return replace(labels, answers=_answers(rows, labels)) if kind is _VOTES else labels


def _good_and_bad(path: Path, prompt: str | None) -> ImportedLabels:
    found = Collected(prompt)
    for verdict in _VERDICTS:
        for file in sorted((path / verdict).glob("*")):
            if file.suffix.lower() in _IMAGES:
                found.mark(found.image(f"{verdict}/{file.name}", path, None), "verdict", verdict)
    return found.labels(path)


def _read_flat(rows: Sequence[LabelRow], folder: Path, found: Collected) -> None:
    """A row for each image and evaluator: `file_name` or `image`, `prompt`, `verdict`, `best`, `score`, `evaluator`."""
    for where, row in rows:
        with at(where):
            cell = next(row[key] for key in ("file_name", "image") if row.get(key) is not None)
            prompt = row.get("prompt") or row.get("caption") or row.get("text")
            image = found.image(cell, folder, prompt, name=row.get("image_id"))
            _say(found, image, row, row.get("evaluator") or None, int(row.get("round") or 0))


def _read_votes(rows: Sequence[LabelRow], folder: Path, found: Collected) -> None:
    """A row for each image, with the `votes` of all evaluators, as an export in Parquet has it; all in one round."""
    for where, row in rows:
        with at(where):
            if row["image"] is None:
                continue  # the file was gone when it was exported
            image = found.image(row["image"], folder, row["prompt"], name=row["image_id"])
            for vote in row["votes"]:
                _say(found, image, vote, vote["evaluator"], 0)


def _say(found: Collected, image: ImageId, said: Mapping[str, Any], evaluator: Any, round_: int) -> None:
    if said.get("verdict"):
        found.mark(image, "verdict", str(said["verdict"]).strip().lower(), evaluator, round_=round_)
    if str(said.get("best")).strip().lower() in ("true", "yes", "1", "1.0"):
        found.mark(image, "best", "yes", evaluator, round_=round_)
    if said.get("score") not in (None, ""):
        found.mark(image, "score", str(said["score"]), evaluator, round_=round_)


def _answers(rows: Sequence[LabelRow], labels: ImportedLabels) -> dict[int, Answer]:
    """What the run learnt, where rows with votes say it: they leave open by which rule it follows from the votes."""
    known = [row for _, row in rows if row["image_id"] in labels.images]
    verdicts = {row["image_id"]: row["verdict"] for row in known if row["verdict"]}
    if not verdicts:
        return {}
    best = [row["image_id"] for row in known if row["best"]]
    return {0: Answer(Feedback(verdicts, best), sorted({mark.evaluator for mark in labels.marks}))}


_VOTES = _Format(lambda row: "votes" in row, _read_votes)
_FORMATS = (
    _Format(lambda row: {"jpg_0", "jpg_1"} <= row.keys(), read_pickapic),
    _Format(lambda row: {"img_better", "img_worse"} <= row.keys(), read_better_worse),
    _Format(lambda row: "human_preference" in row, read_preferred),
    _Format(lambda row: isinstance(row.get("rank", row.get("ranking")), list), read_rank_lists),
    _Format(lambda row: "rank" in row, read_ranked_rows),
    _VOTES,
    _Format(lambda row: "data" in row, read_label_studio),
    _Format(lambda row: bool({"verdict", "best", "score"} & row.keys()), _read_flat),
)
"""The first that fits is taken. Lines with `kind`, as an export in JSON lines has them, are no format of rows."""
