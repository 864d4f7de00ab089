"""Every scene family keeps its contract: captions, pure draws, forced outcomes, the mixture, clear errors."""

from __future__ import annotations

import time

import numpy as np
import pytest

from conftest import OWN_TASKS
from hero.tasks import TASKS, Task
from hero.tinyworld.mixture import SUCCESS_SHARE
from hero.tinyworld.scenes import SCENE_FAMILIES, caption_weights, figures, scene_family_of, views

SCENES = 200


def prompts_of(family: str) -> set[str]:
    """The task prompts that `family` draws, those of `modest-figure` that are held out included."""
    prompts = {prompt for name in OWN_TASKS for prompt in TASKS[name].prompts if scene_family_of(prompt) == family}
    return prompts | set(figures.HELD_OUT_PROMPTS) if family == "figures" else prompts


def share_of(task: Task) -> float:
    rng = np.random.default_rng(7)
    family = SCENE_FAMILIES[scene_family_of(task.prompts[0])]
    scenes = [family.draw(task.prompts[i % len(task.prompts)], rng) for i in range(SCENES)]
    return float(np.mean([family.succeeds(task.name, scene.facts) for scene in scenes]))


@pytest.mark.parametrize("name", SCENE_FAMILIES)
def test_captions_are_few_plain_and_led_by_the_tasks_prompts(name: str) -> None:
    captions = SCENE_FAMILIES[name].captions()
    assert 12 <= len(captions) <= 20
    assert min(captions.values()) > 0
    led = sum(weight for caption, weight in captions.items() if caption in prompts_of(name)) / sum(captions.values())
    assert 0.4 <= led <= 0.5 + 1e-9
    assert all(caption == caption.lower() for caption in captions)


@pytest.mark.parametrize("name", SCENE_FAMILIES)
def test_every_caption_is_drawn_fast_and_depends_on_the_generator_alone(name: str) -> None:
    family = SCENE_FAMILIES[name]
    start = time.process_time()
    for caption in family.captions():
        one, two = (family.draw(caption, np.random.default_rng(5)) for _ in range(2))
        assert one.caption == caption
        assert one.image.shape == (64, 64, 3)
        assert one.image.dtype == np.uint8
        assert np.array_equal(one.image, two.image)
        assert one.facts == two.facts
    assert (time.process_time() - start) / (2 * len(family.captions())) < 0.01


@pytest.mark.parametrize("name", SCENE_FAMILIES)
def test_unknown_captions_and_tasks_are_errors(name: str) -> None:
    with pytest.raises(KeyError):
        SCENE_FAMILIES[name].draw("a submarine", np.random.default_rng(0))
    with pytest.raises(ValueError, match="no task"):
        SCENE_FAMILIES[name].succeeds("submarine", {})


@pytest.mark.parametrize("name", [name for name in OWN_TASKS if name != "green-view"])
def test_the_outcome_can_be_forced(name: str) -> None:
    rng = np.random.default_rng(3)
    for prompt in TASKS[name].prompts:
        family = SCENE_FAMILIES[scene_family_of(prompt)]
        for success in (True, False) * 10:
            assert family.succeeds(name, family.draw(prompt, rng, success=success).facts) is success


@pytest.mark.parametrize("name", OWN_TASKS)
def test_the_mixture_draws_the_share_it_says(name: str) -> None:
    spread = (SUCCESS_SHARE[name] * (1 - SUCCESS_SHARE[name]) / SCENES) ** 0.5
    assert share_of(TASKS[name]) == pytest.approx(SUCCESS_SHARE[name], abs=4 * spread)


def test_window_and_green_are_independent() -> None:
    rng = np.random.default_rng(6)
    for window in (True, False):
        for green in (True, False):
            facts = views.draw(TASKS["mountain"].prompts[0], rng, success=window, green=green).facts
            assert views.succeeds("mountain", facts) is window
            assert views.succeeds("green-view", facts) is green


def test_the_weights_of_all_captions_add_up() -> None:
    assert sum(caption_weights().values()) == pytest.approx(1)
