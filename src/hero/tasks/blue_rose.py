"""The task `blue-rose`: counting. Its neighbours ask for other counts and colours, each with its own judge."""

from __future__ import annotations

from hero.tasks.task import Task
from hero.tinyworld.judges.blue_rose import bouquet_judge, judge

__all__ = ["TASK"]

_NEIGHBOURS = {
    "photo of one red rose in a vase": bouquet_judge(1, "red"),
    "photo of one yellow rose in a vase": bouquet_judge(1, "yellow"),
    "photo of one white rose in a vase": bouquet_judge(1, "white"),
    "photo of one pink rose in a vase": bouquet_judge(1, "pink"),
    "photo of two blue roses in a vase": bouquet_judge(2, "blue"),
    "photo of two red roses in a vase": bouquet_judge(2, "red"),
    "photo of three blue roses in a vase": bouquet_judge(3, "blue"),
}

TASK = Task(
    name="blue-rose",
    title="one blue rose",
    prompts=("photo of one blue rose in a vase",),
    criterion="There is exactly one rose in the vase, and it is blue.",
    judge=judge,
    kind="counting",
    base_success="41 %",
    transfer_prompts=tuple(_NEIGHBOURS),
    transfer_judges=_NEIGHBOURS,
)
