"""The judge of the task `hand` agrees with what the renderer drew, and answers on any picture at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage

from hero.tinyworld.judges.hand import judge
from hero.tinyworld.mixture import SUCCESS_SHARE
from hero.tinyworld.scenes import hands

TASK = "hand"
PROMPTS = (hands.TASK_PROMPT,)
SCENES = 200


def degraded(pixels: npt.NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """As a small autoencoder would give it back: blurred, noisy, tinted, resampled."""
    sigma = float(rng.uniform(0.6, 0.8))
    blurred = ndimage.gaussian_filter(pixels.astype(np.float64), (sigma, sigma, 0))
    noisy = blurred + rng.normal(0, 5, blurred.shape) + rng.uniform(-10, 10, 3)
    image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return image.resize((48, 48), Image.Resampling.BILINEAR).resize((64, 64), Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class Measured:
    """Shares of agreement, the share of successes drawn, and the qualities of successes and failures."""

    clean: float
    degraded: float
    drawn: float
    good: list[float]
    bad: list[float]


def measure(*, balanced: bool) -> Measured:
    rng = np.random.default_rng(7)
    truths, clean, blurred = [], [], []
    qualities: dict[bool, list[float]] = {True: [], False: []}
    for index in range(SCENES):
        forced = (index // len(PROMPTS)) % 2 == 0 if balanced else None
        scene = hands.draw(PROMPTS[index % len(PROMPTS)], rng, success=forced)
        truth = hands.succeeds(TASK, scene.facts)
        assert not balanced or truth == forced
        judgement = judge(Image.fromarray(scene.image))
        qualities[judgement.success].append(judgement.quality)
        truths.append(truth)
        clean.append(judgement.success == truth)
        blurred.append(judge(degraded(scene.image, rng)).success == truth)
    measured = Measured(
        float(np.mean(clean)),
        float(np.mean(blurred)),
        float(np.mean(truths)),
        qualities[True],
        qualities[False],
    )
    print(f"{TASK}: agreement {measured.clean:.3f}, degraded {measured.degraded:.3f}, n = {SCENES}")
    return measured


@pytest.mark.parametrize("balanced", [True, False])
def test_agrees_with_the_renderer(balanced: bool) -> None:
    measured = measure(balanced=balanced)
    assert measured.clean >= 0.99
    assert measured.degraded >= 0.95


def test_quality_is_graded_and_lower_for_failures() -> None:
    measured = measure(balanced=True)
    assert max(measured.bad) < min(measured.good)
    assert np.std(measured.good) > 0.01
    assert min(measured.bad) >= 0
    assert max(measured.good) <= 1


def test_mixture_draws_the_share_it_says() -> None:
    share = measure(balanced=False).drawn
    spread = (SUCCESS_SHARE[TASK] * (1 - SUCCESS_SHARE[TASK]) / SCENES) ** 0.5
    assert share == pytest.approx(SUCCESS_SHARE[TASK], abs=4 * spread)


@pytest.mark.parametrize("size", [(64, 64), (17, 40), (256, 256)])
def test_odd_pictures_are_failures(size: tuple[int, int]) -> None:
    width, height = size
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    for picture in (Image.new("RGB", size), Image.new("L", size, 255), Image.fromarray(noise)):
        judgement = judge(picture)
        assert not judgement.success
        assert 0 <= judgement.quality < 0.4


def test_larger_pictures_are_judged_the_same() -> None:
    rng = np.random.default_rng(3)
    for success in (True, False):
        scene = hands.draw(PROMPTS[0], rng, success=success)
        large = Image.fromarray(scene.image).resize((256, 256), Image.Resampling.NEAREST)
        assert judge(large) == judge(Image.fromarray(scene.image))


def test_every_caption_is_drawn_and_depends_on_the_generator_alone() -> None:
    for caption, weight in hands.captions().items():
        one = hands.draw(caption, np.random.default_rng(5))
        two = hands.draw(caption, np.random.default_rng(5))
        assert weight > 0
        assert one.caption == caption
        assert one.image.shape == (64, 64, 3)
        assert one.image.dtype == np.uint8
        assert np.array_equal(one.image, two.image)
        assert one.facts == two.facts


def test_weights_and_unknown_names() -> None:
    weights = hands.captions()
    assert sum(weights.values()) == pytest.approx(1)
    assert 0.4 <= sum(weights[prompt] for prompt in PROMPTS) <= 0.5
    with pytest.raises(KeyError, match="unknown caption"):
        hands.draw("a submarine", np.random.default_rng(0))
    with pytest.raises(ValueError, match="no task"):
        hands.succeeds("submarine", {})
