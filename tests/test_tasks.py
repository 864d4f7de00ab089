"""The task registry: every task can be trained on, judged and explained to a person."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hero.config import TaskConfig
from hero.errors import ConfigError
from hero.tasks import TASKS, Task, get_task
from hero.tinyworld.scenes import caption_weights, draw

PROMPTS = {
    "hand": ("1 hand",),
    "blue-rose": ("photo of one blue rose in a vase",),
    "black-cat": ("a black cat sitting inside a cardboard box",),
    "narcissus": ("narcissus by a quiet spring and its reflection in the water",),
    "mountain": ("beautiful mountains viewed from a train window",),
    "green-view": ("beautiful mountains viewed from a train window",),
}

each_task = pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))


def test_the_registry_holds_the_published_tasks() -> None:
    assert list(TASKS) == [*PROMPTS, "modest-figure"]
    assert {name: TASKS[name].prompts for name in PROMPTS} == PROMPTS
    assert [task.name for task in TASKS.values() if task.sensitive] == ["modest-figure"]
    assert all(get_task(name) is task for name, task in TASKS.items())


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown task 'blue_rose'; did you mean 'blue-rose'"):
        get_task("blue_rose")


@each_task
def test_a_task_fits_the_configuration_and_the_grammar(task: Task) -> None:
    TaskConfig(name=task.name, prompts=task.prompts, criterion=task.criterion)
    known = caption_weights()
    assert all(prompt in known for prompt in task.prompts + task.transfer_prompts)
    assert not set(task.prompts) & set(task.transfer_prompts)
    assert len(set(task.transfer_prompts)) == len(task.transfer_prompts)
    assert all((task.title, task.criterion, task.kind, task.base_success))
    assert task.judge_model == "tinyworld"


@each_task
def test_every_prompt_can_turn_out_both_ways_for_the_judge(task: Task) -> None:
    """Else there is nothing to learn on a prompt, or nothing to transfer."""
    assert task.judge is not None
    for number, prompt in enumerate(task.prompts + task.transfer_prompts):
        outcomes = set()
        for seed in range(400):  # some succeed once in twenty scenes
            scene = draw(prompt, np.random.default_rng([number, seed]))
            judgement = task.judge(Image.fromarray(scene.image))
            assert 0 <= judgement.quality <= 1
            outcomes.add(judgement.success)
            if len(outcomes) == 2:
                break
        assert outcomes == {True, False}, prompt


def test_listing_tasks_loads_no_torch() -> None:
    program = "import sys, hero.tasks; print('torch' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert finished.stdout.strip() == "False"
