"""Labels and their images out of a run: JSON lines with every mark, Parquet with an image a row, Pick-a-Pic pairs.

docs/feedback.md describes the formats. Reads files and the store alone; no model, no torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hero.config import Config, load_run_config
from hero.errors import ConfigError, RunError, nearest
from hero.feedback import schema
from hero.feedback.store import LabelStore
from hero.ids import index_of, prompt_index_of
from hero.run import image_file
from hero.types import Answer, Feedback, ImageId

__all__ = ["FORMATS", "LABELS_FILE", "Exported", "Labelled", "export_feedback"]

LABELS_FILE = "labels.jsonl"
"""The file of a JSON-lines export; its images lie in images/ beside it, the run's settings in config.toml."""


@dataclass(frozen=True)
class Exported:
    """What an export holds: the file to read, its rows, and the images that were gone from the run."""

    file: Path
    rows: int
    missing: tuple[ImageId, ...]


class Labelled:
    """The labels of the run in `folder` with what they speak of.

    Args:
        folder: the run.

    Raises:
        RunError: there is no run in `folder`, or it has no labels.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "config.toml").is_file():
            raise RunError(f"there is no run in {folder}: it holds no config.toml")
        self.config: Config = load_run_config(folder / "config.toml")
        shared = self.config.evaluator.store
        if not shared and not (folder / "feedback.db").is_file():
            raise RunError(f"{folder} holds no labels: there is no feedback.db in it")
        self.store = LabelStore(shared or folder / "feedback.db")

    @cached_property
    def rounds(self) -> tuple[int, ...]:
        """Rounds with a mark, ascending."""
        query = sa.select(schema.labels.c.round).distinct().order_by(schema.labels.c.round)
        with self.store.database.transaction(write=False) as connection:
            return tuple(connection.execute(query).scalars())

    @cached_property
    def submissions(self) -> list[dict[str, Any]]:
        """Round, evaluator, seconds and created_at (ISO 8601) of every submission, oldest first."""
        return self._rows(schema.submissions)

    @cached_property
    def answers(self) -> list[dict[str, Any]]:
        """Round, feedback, evaluators, rule and created_at of what each round was learnt from."""
        return [
            {**row, "feedback": json.loads(row["feedback"]), "evaluators": json.loads(row["evaluators"])}
            for row in self._rows(schema.answers)
        ]

    def _rows(self, table: sa.Table) -> list[dict[str, Any]]:
        query = sa.select(*(column for column in table.c if column.name != "id")).order_by(table.c.id)
        with self.store.database.transaction(write=False) as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def given(self, round_: int) -> dict[str, Feedback]:
        """Evaluator → what they said of `round_` in the end, submitted or not."""
        return {p.name: self.store.given(round_, p.name) for p in self.store.progress(round_)}

    def answer(self, round_: int) -> Answer | None:
        """What `round_` was learnt from."""
        return self.store.answer(round_)

    def prompt(self, image: ImageId) -> str:
        """The prompt of an image: image i of any round has prompt i modulo the number of prompts."""
        prompts = self.config.task.prompts
        return prompts[prompt_index_of(index_of(image), len(prompts))]

    def image_file(self, image: ImageId) -> Path:
        """Where the image lies in the run; it may be gone."""
        return image_file(self.folder, image)

    def close(self) -> None:
        self.store.close()


def export_feedback(run: Path, format_: str, out: Path) -> Exported:
    """Writes the labels of `run` into the new folder `out`.

    Raises:
        ConfigError: an unknown format, or pyarrow is needed and not installed.
        RunError: there are no labels, `out` holds something, or cannot be written.
    """
    if format_ not in FORMATS:
        raise ConfigError(f"unknown format {format_!r}; {nearest(format_, FORMATS)}")
    labelled = Labelled(run)
    try:
        with _new_folder(out) as partial:
            file, rows, missing = FORMATS[format_](labelled, partial)
    finally:
        labelled.close()
    return Exported(out / file, rows, missing)


Written = tuple[str, int, tuple[ImageId, ...]]
"""(file, rows, images that were gone)"""


def _jsonl(labelled: Labelled, folder: Path) -> Written:
    (folder / "images").mkdir()
    missing: dict[ImageId, None] = {}
    rows = 0
    with open(folder / LABELS_FILE, "w", encoding="utf-8") as file:

        def write(row: Mapping[str, Any]) -> None:
            nonlocal rows
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
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
    shutil.copyfile(labelled.folder / "config.toml", folder / "config.toml")
    return LABELS_FILE, rows, tuple(missing)


def _parquet(labelled: Labelled, folder: Path) -> Written:
    from hero.feedback.parquet import write_images

    return write_images(labelled, folder)


def _pickapic(labelled: Labelled, folder: Path) -> Written:
    from hero.feedback.parquet import write_pairs

    return write_pairs(labelled, folder)


FORMATS: Mapping[str, Callable[[Labelled, Path], Written]] = {
    "jsonl": _jsonl,
    "parquet": _parquet,
    "pickapic": _pickapic,
}
"""Names of the formats and what writes them into a folder."""


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder that takes the place of `out` once it is complete."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists and is not an empty folder; choose another --out")
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.replace(out)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error}; choose another --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
