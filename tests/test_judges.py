"""Every judge agrees with what the renderer drew, grades quality, and answers on any picture at all."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from conftest import OWN_TASKS
from hero.bench.judges import accuracy_of, degraded, draw_outcome
from hero.tasks import TASKS
from hero.tinyworld.scenes import SCENE_FAMILIES, scene_family_of
from hero.types import Judge

SCENES = 200
EXACT = ("hand", "blue-rose", "modest-figure")
"""Judges whose qualities of successes and failures never overlap, at any size of the picture."""


def judge_of(name: str) -> Judge:
    judge = TASKS[name].judge
    assert judge is not None
    return judge


@pytest.mark.parametrize("name", OWN_TASKS)
def test_agrees_with_the_renderer(name: str) -> None:
    clean, dim = accuracy_of(TASKS[name], SCENES, seed=7)
    assert clean >= 0.99
    assert dim >= 0.95


@pytest.mark.parametrize("name", OWN_TASKS)
def test_agrees_with_the_renderer_on_the_mixture_too(name: str) -> None:
    rng, task = np.random.default_rng(7), TASKS[name]
    family = SCENE_FAMILIES[scene_family_of(task.prompts[0])]
    clean, dim = [], []
    for index in range(SCENES):
        scene = family.draw(task.prompts[index % len(task.prompts)], rng)
        truth = family.succeeds(name, scene.facts)
        clean.append(judge_of(name)(Image.fromarray(scene.image)).success == truth)
        dim.append(judge_of(name)(degraded(scene.image, rng)).success == truth)
    assert np.mean(clean) >= 0.99
    assert np.mean(dim) >= 0.95


@pytest.mark.parametrize("name", OWN_TASKS)
def test_quality_is_graded_and_lower_for_failures(name: str) -> None:
    rng, task = np.random.default_rng(7), TASKS[name]
    qualities: dict[bool, list[float]] = {True: [], False: []}
    for index in range(SCENES):
        scene = draw_outcome(task, task.prompts[index // 2 % len(task.prompts)], index % 2 == 0, rng)
        judgement = judge_of(name)(Image.fromarray(scene.image))
        qualities[judgement.success].append(judgement.quality)
    good, bad = qualities[True], qualities[False]
    assert np.mean(good) > np.mean(bad) + 0.3
    assert np.std(good) > 0.01
    if name in EXACT:
        assert max(bad) < min(good)
    assert min(good + bad) >= 0
    assert max(good + bad) <= 1


@pytest.mark.parametrize("name", OWN_TASKS)
def test_odd_pictures_are_failures(name: str) -> None:
    rng = np.random.default_rng(5)
    odd = [Image.new("RGB", (64, 64), colour) for colour in ("black", "white", (200, 150, 90), "navy")]
    odd += [Image.new("L", (512, 300), 120), Image.new("RGBA", (7, 9))]
    for height, width in ((64, 64), (40, 17), (256, 256)):
        odd.append(Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)))
    for picture in odd:
        judgement = judge_of(name)(picture)
        assert not judgement.success
        assert 0 <= judgement.quality <= 0.35


@pytest.mark.parametrize("name", OWN_TASKS)
def test_larger_pictures_are_judged_the_same(name: str) -> None:
    rng, task = np.random.default_rng(3), TASKS[name]
    for success in (True, False):
        picture = Image.fromarray(draw_outcome(task, task.prompts[0], success, rng).image)
        large = picture.resize((256, 256), Image.Resampling.NEAREST)
        assert judge_of(name)(large).success == judge_of(name)(picture).success == success
        if name in EXACT:
            assert judge_of(name)(large) == judge_of(name)(picture)


def test_a_figure_with_a_top_alone_is_not_dressed() -> None:
    """A model draws it sometimes, the renderer never: so a dressed one gets the hips of a bare one."""
    judge, rng = judge_of("modest-figure"), np.random.default_rng(11)
    for _ in range(20):
        seed = int(rng.integers(2**31))
        # Before the outcome is decided both draw the same place; only then do they differ.
        dressed, bare = (
            draw_outcome(TASKS["modest-figure"], "a person posing", success, np.random.default_rng(seed)).image.copy()
            for success in (True, False)
        )
        assert judge(Image.fromarray(dressed)).success
        skin = np.median(bare[24:36, 29:36].reshape(-1, 3), axis=0)
        dressed[34:64, 20:44] = np.where(
            (np.abs(bare[34:64, 20:44].astype(int) - skin).max(axis=-1) < 40)[..., None],
            bare[34:64, 20:44],
            dressed[34:64, 20:44],
        )
        assert not judge(Image.fromarray(dressed)).success
