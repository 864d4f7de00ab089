"""The narcissus family: captions, forced outcomes, and how well its judges agree with what was drawn."""

from __future__ import annotations

import importlib
import time

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from hero.tinyworld.mixture import SUCCESS_SHARE
from hero.tinyworld.scenes import narcissus as family

TASKS = ("narcissus",)
PROMPT = "narcissus by a quiet spring and its reflection in the water"
COUNT = 200


def draw_for(task, rng, wanted):
    return family.draw(PROMPT, rng, success=wanted)


def judge_of(task):
    return importlib.import_module(f"hero.tinyworld.judges.{task.replace('-', '_')}").judge


def degraded(image, rng):
    """Blurred, resampled, tinted and noisy, like the output of a small VAE."""
    sigma = rng.uniform(0.6, 0.8)
    blurred = ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0)).round().astype(np.uint8)
    small = Image.fromarray(blurred).resize((48, 48), Image.Resampling.BILINEAR)
    back = np.asarray(small.resize((64, 64), Image.Resampling.BILINEAR), dtype=float)
    noisy = back + rng.normal(0, 5, back.shape) + rng.uniform(-10, 10, 3)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def test_captions_are_few_plain_and_led_by_the_prompt():
    captions = family.captions()
    assert 12 <= len(captions) <= 20
    assert 0.4 <= captions[PROMPT] / sum(captions.values()) <= 0.5
    assert all(caption == caption.lower() for caption in captions)


def test_every_caption_draws_a_picture_fast():
    rng = np.random.default_rng(0)
    captions = list(family.captions())
    start = time.process_time()
    for caption in captions * 3:
        scene = family.draw(caption, rng)
        assert scene.caption == caption
        assert scene.image.shape == (64, 64, 3)
        assert scene.image.dtype == np.uint8
        assert scene.image.std() > 5
    assert (time.process_time() - start) / (3 * len(captions)) < 0.01


def test_same_generator_same_picture():
    first, second = (family.draw(PROMPT, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert first.facts == second.facts


@pytest.mark.parametrize("task", TASKS)
def test_outcome_can_be_forced(task):
    rng = np.random.default_rng(1)
    for wanted in (True, False) * 20:
        assert family.succeeds(task, draw_for(task, rng, wanted).facts) is wanted


@pytest.mark.parametrize("task", TASKS)
def test_mixture_sets_the_share_of_successes(task):
    rng = np.random.default_rng(2)
    share = np.mean([family.succeeds(task, family.draw(PROMPT, rng).facts) for _ in range(400)])
    assert share == pytest.approx(SUCCESS_SHARE[task], abs=0.08)


@pytest.mark.parametrize("task", TASKS)
def test_judge_agrees_with_what_was_drawn(task):
    rng, judge = np.random.default_rng(3), judge_of(task)
    truth, clean, rough, quality = [], [], [], []
    for index in range(COUNT):
        scene = draw_for(task, rng, bool(index % 2))
        truth.append(family.succeeds(task, scene.facts))
        answer = judge(Image.fromarray(scene.image))
        clean.append(answer.success)
        quality.append(answer.quality)
        rough.append(judge(Image.fromarray(degraded(scene.image, rng))).success)
    agreement, rough_agreement = np.mean(np.equal(truth, clean)), np.mean(np.equal(truth, rough))
    print(f"{task}: agreement {agreement:.3f}, degraded {rough_agreement:.3f}")
    assert agreement >= 0.99
    assert rough_agreement >= 0.95
    good, bad = np.array(quality)[truth], np.array(quality)[~np.array(truth)]
    assert good.mean() > bad.mean() + 0.3
    assert good.std() > 0.01
    assert min(quality) >= 0
    assert max(quality) <= 1


@pytest.mark.parametrize("task", TASKS)
def test_judge_rejects_pictures_of_nothing(task):
    rng, judge = np.random.default_rng(5), judge_of(task)
    odd = [Image.new("RGB", (64, 64), colour) for colour in ("black", "white", (200, 150, 90), "navy")]
    odd += [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(5)]
    odd += [Image.new("L", (512, 300), 120), Image.new("RGBA", (7, 9))]
    for image in odd:
        answer = judge(image)
        assert not answer.success
        assert 0 <= answer.quality <= 0.35


def test_unknown_task_and_caption_are_errors():
    with pytest.raises(ValueError, match="no task"):
        family.succeeds("hand", {})
    with pytest.raises(KeyError):
        family.draw("a caption of another family", np.random.default_rng(0))
