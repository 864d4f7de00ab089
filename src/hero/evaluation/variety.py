"""How varied a set of images is, and how far images from the same noises moved, both on the feature map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from hero.evaluation.features import Features, pixel_features
from hero.seeding import Stage, derive_seed

__all__ = [
    "DIVERSITY_SAMPLE",
    "MIN_DIVERSITY_SAMPLE",
    "Drift",
    "diversity",
    "drift",
    "mean_distance",
    "vendi_score",
]

DIVERSITY_SAMPLE = 64
"""Images in one subsample of a diversity figure, if every set has that many successful ones."""

MIN_DIVERSITY_SAMPLE = 16
"""Fewest successful images that a diversity figure may rest on; with fewer, `evaluate` gives None."""

_KERNEL_POWER = 24
_PIXEL_THRESHOLD = 16


def vendi_score(features: Features) -> float:
    """Vendi score: the effective number of different rows of `features` (N, D), from 1 to N.

    exp(−Σ λ log λ) over the eigenvalues λ of K / N (Friedman & Dieng, 2210.02410). K is the cosine
    similarity, clipped at 0 below and raised elementwise to a power: pictures of one prompt are all alike
    at cosine .8 to 1, and without the power every score would lie near 1. Rows that are equal give 1, rows
    that are orthogonal give N. Features must be non-negative for K to be positive semidefinite.

    Raises:
        ValueError: no row, a row that is zero, or a negative feature.
    """
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f"vendi_score: features of shape {features.shape}; need (N, D) with N ≥ 1")
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if (lengths == 0).any() or (features < 0).any():
        raise ValueError("vendi_score: a row of features is zero or has a negative component")
    unit = features / lengths
    kernel = np.clip(unit @ unit.T, 0, 1) ** _KERNEL_POWER
    eigenvalues = np.linalg.eigvalsh(kernel / len(features))
    positive = eigenvalues[eigenvalues > 1e-12]
    return float(np.exp(-np.sum(positive * np.log(positive))))


def diversity(
    images: Sequence[Image.Image],
    keep: npt.ArrayLike,
    *,
    n: int = DIVERSITY_SAMPLE,
    seed: int = 0,
    repeats: int = 10,
) -> float | None:
    """Mean Vendi score, from 1 to n, of `repeats` random subsamples of n images out of those kept.

    The score grows with the number of images, so only figures with the same n can be compared; callers report
    one as a share of the base model's.

    Args:
        images: N images.
        keep: (N,) bool; which of them count (the successful ones).

    Returns:
        None where fewer than n images are kept.
    """
    mask = np.asarray(keep, dtype=bool)
    if mask.shape != (len(images),):
        raise ValueError(f"diversity: keep has shape {mask.shape} for {len(images)} images")
    if n < 1 or repeats < 1:
        raise ValueError(f"diversity: n = {n}, repeats = {repeats}; both must be at least 1")
    kept = np.flatnonzero(mask)
    if len(kept) < n:
        return None
    features = pixel_features([images[int(i)] for i in kept])
    if len(kept) == n:
        return vendi_score(features)
    rng = np.random.default_rng(derive_seed(seed, Stage.DIVERSITY))
    scores = [vendi_score(features[rng.choice(len(kept), n, replace=False)]) for _ in range(repeats)]
    return float(np.mean(scores))


@dataclass(frozen=True)
class Drift:
    """How far images of the same prompts and noises moved.

    Attributes:
        feature_distance: mean of sqrt(1 − cosine) between features under `FEATURE_MAP`; 0 to 1.
        pixels_changed: share of pixels with a channel that moved by more than 16 of 255; 0 to 1.
    """

    feature_distance: float
    pixels_changed: float


def drift(base_images: Sequence[Image.Image], tuned_images: Sequence[Image.Image]) -> Drift:
    """Change from `base_images` to `tuned_images`, pair by pair (same prompt, same noises).

    Raises:
        ValueError: no image, or not equally many, or a pair of different sizes.
    """
    if not base_images or len(base_images) != len(tuned_images):
        raise ValueError(f"drift: {len(base_images)} base and {len(tuned_images)} tuned images; need pairs")
    distances = _distances(pixel_features(base_images), pixel_features(tuned_images))
    changed = [_share_changed(a, b) for a, b in zip(base_images, tuned_images, strict=True)]
    return Drift(float(np.mean(distances)), float(np.mean(changed)))


def _distances(a: Features, b: Features) -> Features:
    """sqrt(1 − cosine) of rows of unit length, as |a − b| / sqrt(2), which is exactly 0 for equal rows."""
    return np.asarray(np.linalg.norm(a - b, axis=-1) / math.sqrt(2), dtype=np.float64)


def _share_changed(before: Image.Image, after: Image.Image) -> float:
    if before.size != after.size:
        raise ValueError(f"drift: a pair of images of sizes {before.size} and {after.size}")
    a, b = (np.asarray(image.convert("RGB"), dtype=np.int16) for image in (before, after))
    return float(np.mean(np.abs(a - b).max(axis=2) > _PIXEL_THRESHOLD))


def mean_distance(images: Sequence[Image.Image]) -> float | None:
    """Mean feature distance of different images: the scale on which a drift can be read."""
    if len(images) < 2:
        return None
    features = pixel_features(images)
    first, second = np.triu_indices(len(features), k=1)
    return float(np.mean(_distances(features[first], features[second])))
