"""The task `green-view`: personalisation. The prompt of `mountain`, judged by someone who wants it green;
the transfer prompts leave the colour of the land open as well."""

from __future__ import annotations

from hero.tasks.task import Task
from hero.tinyworld.judges.green_view import judge

__all__ = ["TASK"]

TASK = Task(
    name="green-view",
    title="a view that is green",
    prompts=("beautiful mountains viewed from a train window",),
    criterion="The landscape is green: not brown, grey or under snow.",
    judge=judge,
    kind="personalisation",
    base_success="28 %",
    transfer_prompts=(
        "mountains viewed from a car window",
        "hills viewed from a train window",
        "a lake viewed from a train window",
        "a quiet lake",
        "beautiful mountains",
    ),
)
