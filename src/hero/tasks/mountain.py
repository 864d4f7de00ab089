"""The task `mountain`: viewpoint. Its neighbours are framed views already: no transfer prompts."""

from __future__ import annotations

from hero.tasks.task import Task
from hero.tinyworld.judges.mountain import judge

__all__ = ["TASK"]

TASK = Task(
    name="mountain",
    title="mountains through a train window",
    prompts=("beautiful mountains viewed from a train window",),
    criterion="Mountains are seen through a train window from inside: behind its frame, and no seat outside.",
    judge=judge,
    kind="viewpoint",
    base_success="40 %",
)
