"""The task `blue-rose`: counting. Its neighbours ask for other counts or colours: no transfer prompts."""

from __future__ import annotations

from hero.tasks.task import Task
from hero.tinyworld.judges.blue_rose import judge

__all__ = ["TASK"]

TASK = Task(
    name="blue-rose",
    title="one blue rose",
    prompts=("photo of one blue rose in a vase",),
    criterion="There is exactly one rose in the vase, and it is blue.",
    judge=judge,
    kind="counting",
    base_success=".354",
)
