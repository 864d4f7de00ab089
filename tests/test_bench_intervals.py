"""Intervals over a few seeds cover as often as they say, in a simulation of seeds that disagree on shared images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from hero.bench.intervals import (
    Values,
    difference_bounds,
    difference_interval,
    interquartile_mean,
    seeds_interval,
    share_bounds,
    share_interval,
    stratified_bootstrap,
)
from hero.evaluation import wilson_interval

IMAGES, REPEATS = 200, 1200
FLOOR = 0.93


def simulated(
    seeds: int, share: float, between: float, rng: np.random.Generator, repeats: int = REPEATS
) -> npt.NDArray[np.bool_]:
    """Verdicts (repeats, seeds, images): each seed's share is beta with mean `share` and standard deviation `between`;
    an image is easy or hard for all seeds alike (correlation .4 of what decides its verdict)."""
    shares = np.full((repeats, seeds), share)
    if between:
        weight = share * (1 - share) / between**2 - 1
        shares = rng.beta(share * weight, (1 - share) * weight, (repeats, seeds))
    easy = rng.standard_normal((repeats, 1, IMAGES))
    own = rng.standard_normal((repeats, seeds, IMAGES))
    threshold = stats.norm.ppf(np.clip(shares, 1e-9, 1 - 1e-9))[:, :, None]
    verdicts: npt.NDArray[np.bool_] = np.sqrt(0.4) * easy + np.sqrt(0.6) * own < threshold
    return verdicts


def covered(bounds: tuple[Values, Values], truth: float) -> float:
    low, high = bounds
    return float(np.mean((low <= truth) & (truth <= high)))


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(
    ("share", "between"),
    [(share, sd) for share in (0.25, 0.5, 0.8) for sd in (0.0, 0.04, 0.08, 0.12)] + [(0.93, 0.0), (0.93, 0.03)],
)
def test_intervals_of_success_and_of_gain_cover(seeds: int, share: float, between: float) -> None:
    drawn = simulated(seeds, share, between, np.random.default_rng(seeds))
    assert covered(share_bounds(drawn.astype(float)), share) >= FLOOR
    if share == 0.5:  # the base is one set of verdicts on the same images
        base = simulated(1, 0.3, 0.0, np.random.default_rng(9))
        assert covered(difference_bounds([drawn.astype(float) - base]), share - 0.3) >= FLOOR


def test_the_bootstrap_that_was_used_before_does_not_cover() -> None:
    """Why it was replaced; the simulation is able to fail."""
    rng = np.random.default_rng(0)
    found = []
    for verdicts in simulated(3, 0.5, 0.12, rng, repeats=200):
        rows = verdicts.astype(float)[rng.integers(3, size=(500, 3))].mean(axis=1)
        means = (rows * rng.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=500)).sum(axis=1) / IMAGES
        found.append(tuple(np.quantile(means, [0.025, 0.975])))
    low, high = np.array(found).T
    assert covered((low, high), 0.5) < 0.87


@pytest.mark.parametrize("between", [0.0, 0.06, 0.12])
def test_the_pooled_interval_covers(between: float) -> None:
    """Five tasks of different success, three seeds each; tasks are strata and not a source of error."""
    rng, shares = np.random.default_rng(2), (0.4, 0.5, 0.6, 0.7, 0.8)
    tasks = [simulated(3, share, between, rng, repeats=600).astype(float) for share in shares]
    assert covered(difference_bounds(tasks), float(np.mean(shares))) >= FLOOR


def test_the_interval_of_one_figure_a_seed_covers() -> None:
    rng = np.random.default_rng(3)
    found = [seeds_interval(list(row)) for row in rng.normal(0.8, 0.1, (400, 3))]
    low, high = np.array(found, dtype=float).T
    assert covered((low, high), 0.8) >= FLOOR


def test_the_interval_of_the_interquartile_mean_covers() -> None:
    """Seven tasks, three seeds each; truth: the mean of the middle half of what the seven give in the long run."""
    rng, means = np.random.default_rng(4), np.linspace(0.3, 0.9, 7)
    truth = float(stats.trim_mean(rng.normal(means, 0.08, (200_000, 7)).ravel(), 0.25))
    found = []
    for _ in range(100):
        value, interval = interquartile_mean([list(rng.normal(mean, 0.08, 3)) for mean in means])
        assert interval is not None
        assert interval[0] <= value <= interval[1]
        found.append(interval)
    low, high = np.array(found).T
    assert covered((low, high), truth) >= FLOOR


def test_one_seed_has_wilsons_interval() -> None:
    verdicts = np.arange(40) < 12
    assert share_interval(verdicts[None]) == pytest.approx(wilson_interval(12, 40))


def test_seeds_that_agree_on_every_image_are_no_more_than_one() -> None:
    verdicts = np.arange(40) < 12
    alone, thrice = share_interval(verdicts[None]), share_interval(np.tile(verdicts, (3, 1)))
    assert thrice == pytest.approx(alone, abs=0.005)
    assert share_interval(np.ones((3, 40))) == pytest.approx(wilson_interval(40, 40))


def test_seeds_that_disagree_widen_the_interval() -> None:
    agreeing = np.tile(np.arange(400) % 2, (3, 1))
    disagreeing = np.stack([np.zeros(400), np.arange(400) % 2, np.ones(400)])
    for interval in (share_interval, difference_interval):
        narrow, wide = interval(agreeing), interval(disagreeing)
        assert wide[1] - wide[0] > 5 * (narrow[1] - narrow[0])
    assert share_interval(disagreeing) == (0.0, 1.0)


def test_the_seeds_part_is_students_t() -> None:
    """Images without noise: three seeds whose means are 1, 2 and 3."""
    values = np.repeat([[1.0], [2.0], [3.0]], 10, axis=1)
    wanted = stats.ttest_1samp([1.0, 2.0, 3.0], 0).confidence_interval(0.95)
    assert difference_interval(values) == pytest.approx((wanted.low, wanted.high))
    assert seeds_interval([1.0, 2.0, 3.0]) == pytest.approx((wanted.low, wanted.high))
    assert seeds_interval([1.0]) is None


def test_strata_count_equally_and_their_errors_add() -> None:
    values = np.repeat([[1.0], [2.0], [3.0]], 10, axis=1)
    low, high = difference_interval(values, values + 10)
    assert (low + high) / 2 == pytest.approx(7.0)
    half = stats.t.ppf(0.975, 4) * np.sqrt(2 * (1 / 3)) / 2
    assert (high - low) / 2 == pytest.approx(half)


@pytest.mark.parametrize("values", [np.ones(4), np.ones((0, 4)), np.ones((2, 0))])
def test_values_of_another_shape_are_refused(values: Values) -> None:
    for interval in (share_interval, difference_interval):
        with pytest.raises(ValueError, match="need"):
            interval(values)


def test_strata_on_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many images"):
        difference_interval(np.ones((2, 4)), np.ones((2, 5)))


def test_a_bootstrap_needs_two_seeds_a_stratum_and_is_the_same_each_time() -> None:
    def mean(*samples: Values, axis: int = -1) -> Values:
        found: Values = np.concatenate(samples, axis=axis).mean(axis=axis)
        return found

    assert stratified_bootstrap([[1.0, 2.0], [3.0]], mean) is None
    first, second = (stratified_bootstrap([[1.0, 2.0, 4.0], [3.0, 3.5]], mean) for _ in range(2))
    assert first == second
    assert first is not None
    assert first[0] < 2.7 < first[1]
