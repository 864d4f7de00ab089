"""The task registry: every task can be trained on, judged and explained to a person."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hero
from conftest import OWN_TASKS
from hero.config import TaskConfig
from hero.errors import ConfigError
from hero.methods import configure
from hero.tasks import TASKS, Task, get_task, judge_for, judged_tasks
from hero.tinyworld.judges.blue_rose import bouquet_judge
from hero.tinyworld.scenes import caption_weights, draw_scene

PACKAGE = Path(hero.__file__).parent
PROMPTS = {
    "hand": ("1 hand",),
    "blue-rose": ("photo of one blue rose in a vase",),
    "black-cat": ("a black cat sitting inside a cardboard box",),
    "narcissus": ("narcissus by a quiet spring and its reflection in the water",),
    "mountain": ("beautiful mountains viewed from a train window",),
    "green-view": ("beautiful mountains viewed from a train window",),
}

each_task = pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
each_own_task = pytest.mark.parametrize("task", [TASKS[name] for name in OWN_TASKS], ids=OWN_TASKS)


def test_the_registry_holds_the_published_tasks() -> None:
    assert list(OWN_TASKS) == [*PROMPTS, "modest-figure"]
    assert set(TASKS) >= set(OWN_TASKS)
    assert {name: TASKS[name].prompts for name in PROMPTS} == PROMPTS
    assert [name for name in OWN_TASKS if TASKS[name].sensitive] == ["modest-figure"]
    assert all(get_task(name) is task for name, task in TASKS.items())


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown task 'blue_rose'; did you mean 'blue-rose'"):
        get_task("blue_rose")


def check_task(task: Task) -> None:
    """What holds for every task, the tiny world's own or not."""
    TaskConfig(name=task.name, prompts=task.prompts, criterion=task.criterion)
    assert not set(task.prompts) & set(task.transfer_prompts)
    assert len(set(task.transfer_prompts)) == len(task.transfer_prompts)
    assert all((task.title, task.criterion, task.kind, task.base_success))
    if task.judge is not None:
        judgement = task.judge(Image.new("RGB", (64, 64), "red"))
        assert isinstance(judgement.success, bool)
        assert 0 <= judgement.quality <= 1


@each_task
def test_a_task_fits_the_configuration(task: Task) -> None:
    check_task(task)
    assert get_task(task.name) is task


@each_own_task
def test_the_prompts_of_an_own_task_are_of_the_grammar(task: Task) -> None:
    known = caption_weights()
    assert all(prompt in known for prompt in task.prompts + task.transfer_prompts)
    assert task.judge_model == "tinyworld"


def test_the_documented_task_can_be_added_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered beside the others, it passes what a task must, and benchmarks take it in."""
    page = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
    block = re.search(r"red_glove\.py`:\n\n```python\n(.*?)^```", page, re.S | re.M)
    assert block is not None
    names: dict[str, Any] = {"__name__": "red_glove"}
    exec(compile(block[1], "red_glove.py", "exec"), names)
    task = names["TASK"]
    check_task(task)
    assert task.judge(Image.new("RGB", (64, 64), (200, 30, 30))).success
    assert not task.judge(Image.new("RGB", (64, 64), (30, 200, 30))).success
    monkeypatch.setattr("hero.tasks.TASKS", {**TASKS, task.name: task})
    assert configure(task.name).task.prompts == ("1 hand",)
    assert task.name in judged_tasks("tinyworld")


def test_only_judges_of_a_model_are_asked_about_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = replace(get_task("hand"), name="foreign", judge_model="some/model")
    silent = replace(get_task("hand"), name="silent", judge=None)
    monkeypatch.setattr("hero.tasks.TASKS", {**TASKS, "foreign": foreign, "silent": silent})
    assert list(judged_tasks("tinyworld")) == list(TASKS)
    assert list(judged_tasks("some/model")) == ["foreign"]
    assert judge_for("foreign", "tinyworld") is None
    for file in (PACKAGE / "bench").glob("*.py"):  # else a benchmark chooses by whether there is a judge at all
        assert not re.search(r"judge is (not )?None(\)|\W*continue|\})", file.read_text()), file


@each_own_task
def test_every_prompt_can_turn_out_both_ways_for_the_judge(task: Task) -> None:
    """Else there is nothing to learn on a prompt, or nothing to transfer."""
    assert task.judge is not None
    shared = [prompt for prompt in task.prompts + task.transfer_prompts if prompt not in task.transfer_judges]
    for number, prompt in enumerate(shared):
        outcomes = set()
        for seed in range(400):  # some succeed once in twenty scenes
            scene = draw_scene(prompt, np.random.default_rng([number, seed]))
            judgement = task.judge(Image.fromarray(scene.image))
            assert 0 <= judgement.quality <= 1
            outcomes.add(judgement.success)
            if len(outcomes) == 2:
                break
        assert outcomes == {True, False}, prompt


def test_a_neighbour_with_its_own_judge_is_told_from_every_other_bouquet() -> None:
    """What blue-rose's neighbours ask for, their scenes show always: the judge of each knows its own among all."""
    task, rng = TASKS["blue-rose"], np.random.default_rng(3)
    counts = {"one": 1, "two": 2, "three": 3}
    for caption in [name for name in caption_weights() if " in a vase" in name]:
        for _ in range(25):
            scene = draw_scene(caption, rng)
            colours = str(scene.facts["colours"]).split(",")
            for prompt, judge in task.transfer_judges.items():
                _, _, count, colour, *_ = prompt.split()
                truth = colours == [colour] * counts[count]
                assert judge(Image.fromarray(scene.image)).success == truth, (prompt, scene.facts)


def test_a_bouquet_of_an_unknown_colour_is_refused_at_once() -> None:
    with pytest.raises(KeyError, match="mauve"):
        bouquet_judge(1, "mauve")


def test_a_prompt_finds_its_judge() -> None:
    task = TASKS["blue-rose"]
    assert task.judge_of("photo of one blue rose in a vase") is task.judge
    assert task.judge_of("photo of two red roses in a vase") is not task.judge
    assert TASKS["green-view"].judge_of("a quiet lake") is TASKS["green-view"].judge
    assert task.judge_of("a quiet lake") is None


def test_listing_tasks_loads_no_torch() -> None:
    program = "import sys, hero.tasks; print('torch' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert finished.stdout.strip() == "False"


def test_the_shares_before_training_are_the_measured_ones() -> None:
    """Those of docs/results/base, which docs/tinyworld.md gives, too."""
    table = (Path(__file__).parents[1] / "docs" / "results" / "base" / "results.md").read_text(encoding="utf-8")
    measured = dict(re.findall(r"\| `([a-z-]+)` \| ([0-9.]+) \|", table))
    assert {name: task.base_success for name, task in TASKS.items()} == {
        name: f"{round(100 * float(share))} %" for name, share in measured.items()
    }
