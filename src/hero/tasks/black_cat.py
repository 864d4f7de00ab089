"""The task `black-cat`: spatial reasoning."""

from __future__ import annotations

from hero.tasks.task import Task
from hero.tinyworld.judges.black_cat import judge

__all__ = ["TASK"]

TASK = Task(
    name="black-cat",
    title="a black cat inside a box",
    prompts=("a black cat sitting inside a cardboard box",),
    criterion="A black cat sits inside an open cardboard box: not beside, on or behind it.",
    judge=judge,
    kind="spatial reasoning",
    base_success="45 %",
)
