"""Shares with intervals that stay honest near 0 and 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import ndtri

__all__ = ["Measured", "wilson_interval"]


def wilson_interval(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share of `successes` out of `n`: (low, high) in [0, 1].

    With p = successes / n and z the normal quantile of (1 + confidence) / 2:
    (p + z²/2n ± z·sqrt(p(1 − p)/n + z²/4n²)) / (1 + z²/n). It stays inside [0, 1] and is honest near 0
    and 1, unlike p ± z·sqrt(p(1 − p)/n). Where n is an effective number, neither count need be whole.

    Raises:
        ValueError: n < 1, successes outside 0..n, or confidence outside (0, 1).
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"wilson_interval: {successes} successes of {n}; need n ≥ 1 and 0 ≤ successes ≤ n")
    if not 0 < confidence < 1:
        raise ValueError(f"wilson_interval: confidence is {confidence}; it must lie between 0 and 1")
    z = float(ndtri((1 + confidence) / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the ends one bound is exactly p; rounding must not leave a trace of it.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


@dataclass(frozen=True)
class Measured:
    """A share with its interval.

    Attributes:
        value: successes / n, in [0, 1].
        low, high: 95 % Wilson interval.
        successes, n: counts.
    """

    value: float
    low: float
    high: float
    successes: int
    n: int

    @classmethod
    def share(cls, verdicts: Sequence[bool]) -> Measured:
        """The share of true `verdicts` (at least one)."""
        successes = sum(verdicts)
        low, high = wilson_interval(successes, len(verdicts))
        return cls(successes / len(verdicts), low, high, successes, len(verdicts))
