"""Exports the labels and images of a run: JSON lines with every mark, Parquet with an image per row, Pick-a-Pic pairs.

docs/feedback.md describes the formats. Reads only files and the store; no model, no torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hero.errors import ConfigError, nearest
from hero.feedback.foreign import LABELS_FILE, METADATA_FILE
from hero.feedback.labelled import LabelledRun, Written
from hero.feedback.parquet import write_images, write_pairs
from hero.run.output import new_output
from hero.types import ImageId

__all__ = ["FORMATS", "Exported", "export_feedback"]


@dataclass(frozen=True)
class Exported:
    """What an export holds: the file to read, its number of rows, and the images that were missing from the run."""

    file: Path
    rows: int
    missing: tuple[ImageId, ...]


def export_feedback(run: Path, format_: str, out: Path) -> Exported:
    """Writes the labels of `run` into the new folder `out`.

    Raises:
        ConfigError: an unknown format, or pyarrow is needed and not installed.
        RunError: there are no labels, `out` is not empty, or it cannot be written.
    """
    if format_ not in FORMATS:
        raise ConfigError(f"unknown format {format_!r}; {nearest(format_, FORMATS)}")
    labelled = LabelledRun(run)
    try:
        with new_output(out) as partial:
            file, rows, missing = FORMATS[format_](labelled, partial)
    finally:
        labelled.close()
    return Exported(out / file, rows, missing)


def _jsonl(labelled: LabelledRun, folder: Path) -> Written:
    (folder / "images").mkdir()
    missing: dict[ImageId, None] = {}
    rows = 0
    with open(folder / LABELS_FILE, "w", encoding="utf-8") as file:

        def write(row: Mapping[str, Any]) -> None:
            nonlocal rows
            file.write(json.dumps(row) + "\n")  # ASCII: no kind of line break, and half a surrogate pair, too
            rows += 1

        for label in labelled.store.labels():
            for image in filter(None, (label.image_id, label.other)):
                source, target = labelled.image_file(image), folder / "images" / f"{image}.png"
                if not source.is_file():
                    missing[image] = None
                elif not target.exists():
                    shutil.copyfile(source, target)
            gone = label.image_id in missing
            write(
                {
                    **{key: value for key, value in asdict(label).items() if key not in ("id", "created_at")},
                    "created_at": label.created_at.isoformat(timespec="microseconds"),
                    "prompt": labelled.prompt(label.image_id),
                    "image": None if gone else f"images/{label.image_id}.png",
                }
            )
        for submission in labelled.submissions:
            write({"kind": "submission", **submission})
        for answer in labelled.answers:
            write({"kind": "answer", **answer})
    _write_metadata(labelled, folder)
    shutil.copyfile(labelled.folder / "config.toml", folder / "config.toml")
    return LABELS_FILE, rows, tuple(missing)


def _write_metadata(labelled: LabelledRun, folder: Path) -> None:
    """One flat row for each image and evaluator, as the `datasets` library reads it beside images."""
    with open(folder / METADATA_FILE, "w", encoding="utf-8") as file:
        for round_ in labelled.rounds:
            for evaluator, given in labelled.given(round_).items():
                reasons = labelled.store.own(round_, evaluator).asides.reasons
                for image in sorted({*given.verdicts, *given.best, *given.scores}):
                    if (folder / "images" / f"{image}.png").is_file():
                        row = {
                            "file_name": f"images/{image}.png",
                            "image_id": image,
                            "round": round_,
                            "prompt": labelled.prompt(image),
                            "evaluator": evaluator,
                            "verdict": str(given.verdicts[image]) if image in given.verdicts else None,
                            "best": image in given.best,
                            "score": given.scores.get(image),
                            "reason": reasons.get(image),
                        }
                        file.write(json.dumps(row) + "\n")


FORMATS: Mapping[str, Callable[[LabelledRun, Path], Written]] = {
    "jsonl": _jsonl,
    "parquet": write_images,
    "pickapic": write_pairs,
}
"""Names of the formats and what writes them into a folder."""
