"""The labels of a run with the prompts and images that they refer to. Exports are written from this.

Reads only files and the store; no model, no torch.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hero.errors import RunError
from hero.feedback import schema
from hero.run import image_file
from hero.run.finished import FinishedRun
from hero.turns import prompt_of
from hero.types import Answer, Feedback, ImageId

__all__ = ["LabelledRun", "Written"]

Written = tuple[str, int, tuple[ImageId, ...]]
"""(file, number of rows, images that were missing)"""


class LabelledRun:
    """The labels of the run in `folder` with what they speak of.

    Args:
        folder: the run.

    Raises:
        RunError: there is no run in `folder`, or it has no labels.
    """

    def __init__(self, folder: Path) -> None:
        run = FinishedRun(folder)
        self.folder = folder
        self.config = run.config
        store = run.label_store()
        if store is None:
            raise RunError(f"{folder} holds no labels: there is no feedback.db in it")
        self.store = store

    @cached_property
    def rounds(self) -> tuple[int, ...]:
        """Rounds with a mark, ascending."""
        query = sa.select(schema.labels.c.round).distinct().order_by(schema.labels.c.round)
        with self.store.database.transaction(write=False) as connection:
            return tuple(connection.execute(query).scalars())

    @cached_property
    def submissions(self) -> list[dict[str, Any]]:
        """Round, evaluator, seconds and created_at (ISO 8601) of every submission that stands, oldest first."""
        rows = self._rows(schema.submissions)
        standing = {round_: self.store.submitters(round_) for round_ in {row["round"] for row in rows}}
        return [row for row in rows if row["evaluator"] in standing[row["round"]]]

    @cached_property
    def answers(self) -> list[dict[str, Any]]:
        """Round, feedback, evaluators, rule and created_at of the answer to each round."""
        return [
            {**row, "feedback": json.loads(row["feedback"]), "evaluators": json.loads(row["evaluators"])}
            for row in self._rows(schema.answers)
        ]

    def _rows(self, table: sa.Table) -> list[dict[str, Any]]:
        query = sa.select(*(column for column in table.c if column.name != "id")).order_by(table.c.id)
        with self.store.database.transaction(write=False) as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def given(self, round_: int) -> dict[str, Feedback]:
        """Evaluator → their feedback on `round_` in the end, submitted or not."""
        return {p.name: self.store.given(round_, p.name) for p in self.store.progress(round_)}

    def answer(self, round_: int) -> Answer | None:
        """The answer from which the run learnt `round_`."""
        return self.store.answer(round_)

    def prompt(self, image: ImageId) -> str:
        """The prompt that an image was drawn for."""
        return prompt_of(self.config, image)

    def image_file(self, image: ImageId) -> Path:
        """The file of the image in the run; it may no longer exist."""
        return image_file(self.folder, image)

    def close(self) -> None:
        self.store.close()
