"""The registry of built-in tasks: prompt set, criterion in words, and a judge that names its model.

A new task is one file in this folder and one entry in `TASKS`. Imports no torch, so that listing is quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hero.errors import ConfigError, nearest
from hero.tasks import black_cat, blue_rose, green_view, hand, modest_figure, mountain, narcissus
from hero.tasks.task import Task
from hero.types import Judge

__all__ = ["TASKS", "Task", "get_task", "judge_for", "judged_tasks"]

TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            hand.TASK,
            blue_rose.TASK,
            black_cat.TASK,
            narcissus.TASK,
            mountain.TASK,
            green_view.TASK,
            modest_figure.TASK,
        )
    }
)
"""Name → task, in the order they are listed."""


def get_task(name: str) -> Task:
    """The built-in task `name`.

    Raises:
        ConfigError: there is no such task; names the nearest one.
    """
    if name not in TASKS:
        raise ConfigError(f"unknown task {name!r}; {nearest(name, TASKS)}")
    return TASKS[name]


def judged_tasks(model: str) -> dict[str, Task]:
    """The tasks with a judge that was made for `model`; the others' judges mean nothing on its images."""
    return {name: task for name, task in TASKS.items() if judge_for(name, model) is not None}


def judge_for(name: str, model: str) -> Judge | None:
    """The judge of task `name`, if there is one made for `model`; on other models it means nothing."""
    task = TASKS.get(name)
    return task.judge if task is not None and task.judge_model == model else None
