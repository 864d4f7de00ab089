"""The task `narcissus`: reasoning about a reflection."""

from __future__ import annotations

from hero.tasks.task import Task
from hero.tinyworld.judges.narcissus import judge

__all__ = ["TASK"]

TASK = Task(
    name="narcissus",
    title="a narcissus and its reflection",
    prompts=("narcissus by a quiet spring and its reflection in the water",),
    criterion="A narcissus stands by the water, and the water mirrors that same flower below it.",
    judge=judge,
    kind="reasoning",
    base_success="48 %",
)
