"""The task `hand`: anomaly correction. The transfer prompts leave the number of fingers open as well."""

from __future__ import annotations

from hero.tasks.task import Task
from hero.tinyworld.judges.hand import judge

__all__ = ["TASK"]

TASK = Task(
    name="hand",
    title="a hand with five fingers",
    prompts=("1 hand",),
    criterion="The hand has exactly five whole fingers, and no finger is torn off.",
    judge=judge,
    kind="anomaly correction",
    base_success="23 %",
    transfer_prompts=(
        "a hand in front of a red wall",
        "a hand in front of a blue wall",
        "a hand in front of a green wall",
        "a hand in front of a white wall",
        "a hand at night",
    ),
)
