"""What image by image comparison says of two models that drew from the same noises. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

__all__ = ["Paired"]


@dataclass(frozen=True)
class Paired:
    """Two models on the same noises, image by image.

    Attributes:
        better: images that failed before and succeed after.
        worse: images that succeeded before and fail after.
        p: of McNemar's exact test, two-sided: how likely, if neither model were better, so uneven a split of the images
            that changed would be (the binomial distribution of better + worse fair coins). 1 if none changed.
    """

    better: int
    worse: int
    p: float

    @classmethod
    def of(cls, before: Sequence[bool | None], after: Sequence[bool | None]) -> Paired:
        """From the verdicts on each image before and after, in the same order; None: no verdict, not counted."""
        pairs = [(b, a) for b, a in zip(before, after, strict=False) if b is not None and a is not None]
        better, worse = sum(a and not b for b, a in pairs), sum(b and not a for b, a in pairs)
        p = binomtest(better, better + worse, 0.5).pvalue if better + worse else 1.0
        return cls(better, worse, float(p))
