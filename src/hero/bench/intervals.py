"""Intervals of figures over a few seeds, 95 % unless told otherwise; that they cover is tested by simulation.

A figure of tuned models has two errors: another seed would have learnt something else, and other held-out noises would
have shown something else. All seeds are measured on the same noises, so that the second error does not shrink with
seeds. Each has an interval of its own here, and their half-widths are added as squares (MOVER, Zou & Donner,
Statistics in Medicine 27, 2008). Resampling three to five seeds instead covers far less than it says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from hero.evaluation import wilson_interval

__all__ = [
    "Interval",
    "Values",
    "difference_bounds",
    "difference_interval",
    "interquartile_mean",
    "seeds_interval",
    "share_bounds",
    "share_interval",
    "stratified_bootstrap",
]

Interval = tuple[float, float]
Values = npt.NDArray[np.float64]
_CONFIDENCE = 0.95
_RESAMPLES = 4000


def share_interval(verdicts: npt.ArrayLike, confidence: float = _CONFIDENCE) -> Interval:
    """Interval of the mean share of true `verdicts` (seeds, images), each seed judged on the same images.

    The seeds' part is Student's t on their shares; the images' part is Wilson's, with the number of independent
    verdicts n = I·p(1 − p) / var(share of seeds that succeed on image i), which is I where seeds always agree and
    nears seeds·I where they never do. With one seed it is Wilson's, and speaks for that seed alone.

    It covers as it says while shares up to two standard deviations between seeds from the mean stay below 1: three
    seeds that all came out near 1 cannot tell of the one in ten that will not.

    Raises:
        ValueError: not (seeds, images) with at least one of each.
    """
    low, high = share_bounds(_matrix(verdicts), confidence)
    return float(low), float(high)


def share_bounds(values: Values, confidence: float = _CONFIDENCE) -> tuple[Values, Values]:
    """`share_interval` of many (..., seeds, images) at once: lower and upper ends (...)."""
    seeds, images = values.shape[-2:]
    mean = values.mean(axis=(-2, -1))
    between = _variance(values.mean(axis=-2))
    spread = images * mean * (1 - mean)
    independent = np.divide(spread, between, out=np.full_like(mean, images), where=between > 0)
    independent = np.clip(independent, images, seeds * images)
    low, high = np.vectorize(wilson_interval, otypes=[float, float])(mean * independent, independent, confidence)
    half = _seeds_half([values], confidence)
    return (
        np.maximum(0.0, mean - np.hypot(half, mean - low)),
        np.minimum(1.0, mean + np.hypot(half, high - mean)),
    )


def difference_interval(*strata: npt.ArrayLike, confidence: float = _CONFIDENCE) -> Interval:
    """Interval of the mean over strata (tasks) of the means of `strata`, each (seeds, images): gains, areas, drift.

    Strata are fixed and count equally. The seeds' part is Welch's t on their means within each stratum; the images'
    part is normal, from the variance of the means over seeds and strata of image i, since image i has the same noises
    in all of them. With one seed a stratum it speaks for these seeds alone.

    Raises:
        ValueError: no stratum, not (seeds, images) each, or different numbers of images.
    """
    values = [_matrix(stratum) for stratum in strata]
    if len({stratum.shape[1] for stratum in values}) != 1:
        raise ValueError("difference_interval: strata need equally many images, the same noises in each")
    low, high = difference_bounds(values, confidence)
    return float(low), float(high)


def difference_bounds(strata: Sequence[Values], confidence: float = _CONFIDENCE) -> tuple[Values, Values]:
    """`difference_interval` of many strata (..., seeds, images) at once: lower and upper ends (...)."""
    by_image = np.mean([stratum.mean(axis=-2) for stratum in strata], axis=0)
    mean = by_image.mean(axis=-1)
    error = np.sqrt(_variance(by_image) / by_image.shape[-1])
    half = np.hypot(_seeds_half(strata, confidence), stats.norm.ppf((1 + confidence) / 2) * error)
    return mean - half, mean + half


def seeds_interval(values: Sequence[float], confidence: float = _CONFIDENCE) -> Interval | None:
    """Student's t interval of the mean of one figure a seed (diversity); None for fewer than two seeds.

    It speaks for other seeds on these held-out noises.
    """
    if len(values) < 2:
        return None
    mean = float(np.mean(values))
    half = float(_seeds_half([np.asarray(values, dtype=float)[:, None]], confidence))
    return mean - half, mean + half


def stratified_bootstrap(
    strata: Sequence[Sequence[float]], statistic: Callable[..., Any], confidence: float = _CONFIDENCE
) -> Interval | None:
    """Bootstrap interval of `statistic(*samples, axis=...)`, each stratum's seeds resampled among themselves.

    It is the percentile interval at the wider level that makes up for few seeds (Hesterberg, 1411.5279, 4.4.1):
    α/2 = Φ(−√(n/(n − 1))·t), with t the quantile of Student's distribution and n the seeds of the smallest stratum.
    None where a stratum has fewer than two.
    """
    fewest = min(map(len, strata))
    if fewest < 2:
        return None
    freedom = sum(len(stratum) - 1 for stratum in strata)
    quantile = stats.t.ppf((1 + confidence) / 2, freedom) * math.sqrt(fewest / (fewest - 1))
    found = stats.bootstrap(
        [np.asarray(stratum, dtype=float) for stratum in strata],
        statistic,
        n_resamples=_RESAMPLES,
        confidence_level=float(1 - 2 * stats.norm.sf(quantile)),
        method="percentile",
        vectorized=True,
        paired=False,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def interquartile_mean(strata: Sequence[Sequence[float]]) -> tuple[float, Interval | None]:
    """The mean of the middle half of all values, with its interval; strata are tasks, values one a seed.

    It speaks for other seeds on these held-out noises.
    """

    def statistic(*samples: Any, axis: int = -1) -> Any:
        return stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)

    value = float(statistic(*(np.asarray(stratum, dtype=float) for stratum in strata)))
    return value, stratified_bootstrap(strata, statistic)


def _seeds_half(strata: Sequence[Values], confidence: float) -> Values:
    """Half-widths (...) of the t interval of the mean over strata of seeds' means; 0 with one seed a stratum.

    Degrees of freedom by Welch and Satterthwaite.
    """
    several = [stratum.mean(axis=-1) for stratum in strata if stratum.shape[-2] > 1]
    if not several:
        return np.zeros(strata[0].shape[:-2])
    errors = np.stack([_variance(means) / means.shape[-1] for means in several])
    total = errors.sum(axis=0)
    left = np.array([means.shape[-1] - 1 for means in several]).reshape(-1, *[1] * total.ndim)
    tied = (errors**2 / left).sum(axis=0)
    freedom = np.divide(total**2, tied, out=np.ones_like(total), where=tied > 0)
    half: Values = stats.t.ppf((1 + confidence) / 2, freedom) * np.sqrt(total) / len(strata)
    return half


def _variance(values: Values) -> Values:
    """Unbiased, over the last axis; 0 of a single value."""
    return np.var(values, axis=-1, ddof=1) if values.shape[-1] > 1 else np.zeros(values.shape[:-1])


def _matrix(values: npt.ArrayLike) -> Values:
    matrix = np.asarray(values, dtype=float)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"values of shape {matrix.shape}; need (seeds, images) with at least one of each")
    return matrix
