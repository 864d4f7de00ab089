"""What a run achieved: success, diversity and drift, on held-out noises, each figure with what it rests on.

Pure measures first (`wilson_interval`, `pixel_features`, `vendi_score`, `diversity`, `drift`), then
`evaluate`, which draws the images with a policy. Figures that cannot be known are None, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.special import ndtri

from hero.noise import StandardNoise
from hero.rollout import draw_images
from hero.seeding import derive_seed
from hero.tinyworld.scenes import caption_weights, family_of

if TYPE_CHECKING:
    from hero.config import Config
    from hero.noise import FeedbackNoise
    from hero.policies import Policy
    from hero.tasks import Task
    from hero.tinyworld.scene import Judge

__all__ = [
    "DIVERSITY_SAMPLE",
    "FEATURE_MAP",
    "MIN_DIVERSITY_SAMPLE",
    "SETS",
    "Drift",
    "EvaluationResult",
    "Measured",
    "diversity",
    "drift",
    "evaluate",
    "pixel_features",
    "unrelated_prompts",
    "vendi_score",
    "wilson_interval",
]

FEATURE_MAP = "hero-pixels-v1"
"""Name of the frozen feature map behind `pixel_features`; figures on different maps cannot be compared."""

SETS = ("base", "tuned_fresh", "tuned_refined")
"""The image sets of an evaluation: base and tuned model on fresh noise, tuned model on refined noise."""

DIVERSITY_SAMPLE = 64
"""Images in one subsample of a diversity figure, where every set has that many successful ones."""

MIN_DIVERSITY_SAMPLE = 16
"""Fewest successful images that a diversity figure may rest on; below, `evaluate` gives None."""

_GRID = 16
_EDGE_SIDE = 64
_EDGE_CELLS = 4
_ORIENTATIONS = 8
_FLAT = 0.02
_KERNEL_POWER = 24
_PIXEL_THRESHOLD = 16
# Words that say nothing of what a picture shows; shorter ones are never compared.
_EMPTY_WORDS = frozenset({"photo", "with", "from", "front"})

Features = npt.NDArray[np.float64]


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share of `successes` out of `n`: (low, high) in [0, 1].

    With p = successes / n and z the normal quantile of (1 + confidence) / 2:
    (p + z²/2n ± z·sqrt(p(1 − p)/n + z²/4n²)) / (1 + z²/n). It stays inside [0, 1] and is honest near 0
    and 1, unlike p ± z·sqrt(p(1 − p)/n).

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


def pixel_features(images: Sequence[Image.Image]) -> Features:
    """Features (N, 1680) of PIL images of any size: non-negative rows of unit length, under `FEATURE_MAP`.

    Two halves of equal weight. Colour: the image averaged down to 16×16, each channel value x in [0, 1]
    written as (cos πx/2, sin πx/2), so that equal colours have inner product 1 and opposite ones 0.
    Shape: luminance at 64×64, and per cell of a 4×4 grid a histogram of the gradient's orientation (8 bins
    over 180°, weighted by its magnitude) with one more component for how flat the cell is. There is no
    network and no randomness in it.
    """
    if not images:
        return np.zeros((0, 6 * _GRID**2 + (_ORIENTATIONS + 1) * _EDGE_CELLS**2))
    rows = [np.concatenate([_colours(image), _orientations(image)]) for image in images]
    return np.stack(rows) / math.sqrt(2)


def _colours(image: Image.Image) -> Features:
    """(1536,) of unit length."""
    small = image.convert("RGB").resize((_GRID, _GRID), Image.Resampling.BOX)
    angle = np.asarray(small, dtype=np.float64).ravel() / 255 * (math.pi / 2)
    return np.concatenate([np.cos(angle), np.sin(angle)]) / math.sqrt(angle.size)


def _orientations(image: Image.Image) -> Features:
    """(144,) of unit length."""
    grey = image.convert("L").resize((_EDGE_SIDE, _EDGE_SIDE), Image.Resampling.BOX)
    down, right = np.gradient(np.asarray(grey, dtype=np.float64) / 255)
    magnitude = np.hypot(down, right)
    # Each gradient is shared between the two nearest bins, so that the map is continuous.
    position = (np.arctan2(down, right) % math.pi) / math.pi * _ORIENTATIONS
    lower = np.floor(position).astype(np.int64) % _ORIENTATIONS
    share = position - np.floor(position)
    bins = np.zeros((_EDGE_SIDE, _EDGE_SIDE, _ORIENTATIONS))
    rows, columns = np.indices(lower.shape)
    bins[rows, columns, lower] = magnitude * (1 - share)
    bins[rows, columns, (lower + 1) % _ORIENTATIONS] = magnitude * share
    side = _EDGE_SIDE // _EDGE_CELLS
    cells = bins.reshape(_EDGE_CELLS, side, _EDGE_CELLS, side, _ORIENTATIONS).mean(axis=(1, 3))
    flat = np.full((_EDGE_CELLS, _EDGE_CELLS, 1), _FLAT)
    histograms = np.concatenate([cells, flat], axis=2).reshape(_EDGE_CELLS**2, -1)
    histograms /= np.linalg.norm(histograms, axis=1, keepdims=True)
    return histograms.ravel() / _EDGE_CELLS


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
    rng = np.random.default_rng(derive_seed(seed, "diversity"))
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


@dataclass(frozen=True)
class EvaluationResult:
    """What `evaluate` found. Mappings have the keys `SETS`; None means that the figure cannot be known.

    Attributes:
        task: name of the task, "custom" for prompts of one's own.
        images: images per set.
        labels: labels spent on training.
        success: share of images that the task's judge calls a success.
        diversity: Vendi score of successful images (of all, without a judge) as a share of the base's.
        drift: change on unrelated prompts.
        details: JSON-ready extras: counts, raw scores, figures by prompt, sampler, feature map, judge.
    """

    task: str
    images: int
    labels: int
    success: Mapping[str, Measured | None]
    diversity: Mapping[str, float | None]
    drift: Drift | None
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The object that `hero evaluate --json` prints."""
        measured = {name: self.success.get(name) for name in SETS}
        return {
            "task": self.task,
            "images": self.images,
            "labels": self.labels,
            "success": {name: None if m is None else m.value for name, m in measured.items()},
            "success_interval": {name: None if m is None else [m.low, m.high] for name, m in measured.items()},
            "diversity": {name: self.diversity.get(name) for name in SETS},
            "drift": None if self.drift is None else self.drift.feature_distance,
            "details": dict(self.details),
        }


def unrelated_prompts(task_prompts: Sequence[str], n: int = 24) -> tuple[str, ...]:
    """Up to `n` prompts of the tiny world's grammar that have nothing to do with `task_prompts`.

    Captions of the families that own a task prompt are left out; for a prompt outside the grammar, those that
    share a word of four letters or more with it. The heaviest captions come first, families in turn.
    """
    families, words = set(), set()
    for prompt in task_prompts:
        try:
            families.add(family_of(prompt))
        except KeyError:
            words |= _content_words(prompt)
    ranked: dict[str, list[str]] = {}
    for caption, _ in sorted(caption_weights().items(), key=lambda item: (-item[1], item[0])):
        family = family_of(caption)
        if family not in families and not words & _content_words(caption):
            ranked.setdefault(family, []).append(caption)
    depth = max(map(len, ranked.values()), default=0)
    rows = [ranked[family][rank : rank + 1] for rank in range(depth) for family in sorted(ranked)]
    return tuple(caption for row in rows for caption in row)[:n]


def _content_words(prompt: str) -> set[str]:
    """Words of at least four letters, without a plural's s."""
    words = {word.strip(".,;:!?()").removesuffix("s") for word in prompt.lower().split()}
    return {word for word in words if len(word) > 3} - _EMPTY_WORDS


def evaluate(
    policy: Policy,
    task: Task | None,
    config: Config,
    refined: FeedbackNoise | None,
    labels: int,
    *,
    images: int | None = None,
    prompts: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[EvaluationResult, dict[str, list[Image.Image]]]:
    """Measures the policy as it is now against its base, with the sampler of training.

    Every set is drawn with the same held-out noises, which training never sees: image i of each set has the
    same step noises, and image i of the refined set the same ξ that is the whole of z_T in the fresh ones.

    Args:
        policy: the tuned model.
        task: the run's task; None if its prompts are the caller's own.
        refined: the refined initial noise; None if the run has none.
        labels: labels spent on training.
        images: images per set; None: `config.evaluation.images`.
        prompts: shared out evenly over the images; None: those trained on.
        progress: is told (images drawn so far, images in all) after each micro-batch.

    Returns:
        The figures, and the images under the keys `SETS` (without "tuned_refined" where there is no refined
        noise for these prompts) and "unrelated_base", "unrelated_tuned". Success is unknown where the task's
        judge was not made for this model and these prompts.
    """
    total = config.evaluation.images if images is None else images
    if total < 1:
        raise ValueError(f"evaluate: images is {total}; it must be at least 1")
    asked = tuple(prompts or config.task.prompts)
    drawn_prompts = [asked[i % len(asked)] for i in range(total)]
    unrelated = unrelated_prompts([*config.task.prompts, *asked])
    sets = _draw_sets(policy, config, refined, drawn_prompts, unrelated, progress)

    judge = _judge_of(task, config, asked)
    verdicts = {name: _verdicts(judge, sets.get(name)) for name in SETS}
    vendi, sample = _diversity_of({name: sets[name] for name in SETS if name in sets}, verdicts, config.evaluation.seed)
    moved = [drift([a], [b]) for a, b in zip(sets["unrelated_base"], sets["unrelated_tuned"], strict=True)]
    result = EvaluationResult(
        task=config.task.name,
        images=total,
        labels=labels,
        success={name: None if marks is None else Measured.share(marks) for name, marks in verdicts.items()},
        diversity={name: _ratio(vendi[name], vendi["base"]) for name in SETS},
        drift=drift(sets["unrelated_base"], sets["unrelated_tuned"]) if unrelated else None,
        details={
            "model": config.model.path,
            "judge_model": None if judge is None or task is None else task.judge_model,
            "sampler": config.sampling.model_dump(include={"num_steps", "eta", "guidance_scale"}),
            "seed": config.evaluation.seed,
            "prompts": drawn_prompts,
            "verdicts": verdicts,
            "success_by_prompt": _by_prompt(drawn_prompts, verdicts),
            "feature_map": FEATURE_MAP,
            "vendi": vendi,
            "diversity_sample": sample,
            "diversity_of": "all images" if judge is None else "successful images",
            "pixels_changed": float(np.mean([d.pixels_changed for d in moved])) if moved else None,
            "drift_scale": _mean_distance(sets["unrelated_base"]),
            "drift_by_prompt": {prompt: asdict(d) for prompt, d in zip(unrelated, moved, strict=True)},
        },
    )
    return result, sets


def _draw_sets(
    policy: Policy,
    config: Config,
    refined: FeedbackNoise | None,
    prompts: Sequence[str],
    unrelated: Sequence[str],
    progress: Callable[[int, int], None] | None,
) -> dict[str, list[Image.Image]]:
    seed, shape = config.evaluation.seed, policy.latent_shape
    fresh = StandardNoise().sample(prompts, shape, seed=seed, round_=0, stage="evaluation-noise")
    near_good = None
    if refined is not None:
        near_good = refined.sample(prompts, shape, seed=seed, round_=0, stage="evaluation-noise")
        if torch.equal(near_good, fresh):  # it knows none of these prompts
            near_good = None
    total = len(prompts) * (2 if near_good is None else 3) + 2 * len(unrelated)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    def draw(wanted: Sequence[str], noise: torch.Tensor, stage: str) -> list[Image.Image]:
        size = config.sampling.micro_batch
        return draw_images(policy, wanted, noise, seed=seed, stage=stage, micro_batch=size, on_chunk=advance)

    def draw_unrelated() -> list[Image.Image]:
        if not unrelated:
            return []
        noise = StandardNoise().sample(unrelated, shape, seed=seed, round_=0, stage="drift-noise")
        return draw(unrelated, noise, "drift-step-noise")

    with policy.frozen():
        sets = {"base": draw(prompts, fresh, "evaluation-step-noise"), "unrelated_base": draw_unrelated()}
    sets["tuned_fresh"] = draw(prompts, fresh, "evaluation-step-noise")
    if near_good is not None:
        sets["tuned_refined"] = draw(prompts, near_good, "evaluation-step-noise")
    sets["unrelated_tuned"] = draw_unrelated()
    return sets


def _judge_of(task: Task | None, config: Config, prompts: Sequence[str]) -> Judge | None:
    """The task's judge if it was made for this model and all these prompts."""
    if task is None or config.model.path != task.judge_model:
        return None
    return task.judge if set(prompts) <= {*task.prompts, *task.transfer_prompts} else None


def _verdicts(judge: Judge | None, images: Sequence[Image.Image] | None) -> list[bool] | None:
    return None if judge is None or images is None else [bool(judge(image).success) for image in images]


def _by_prompt(
    prompts: Sequence[str], verdicts: Mapping[str, list[bool] | None]
) -> dict[str, dict[str, dict[str, int]]]:
    """Prompt -> set -> {"successes", "n"}, for the sets that were judged."""
    return {
        prompt: {
            name: {
                "successes": sum(mark for p, mark in zip(prompts, marks, strict=True) if p == prompt),
                "n": prompts.count(prompt),
            }
            for name, marks in verdicts.items()
            if marks is not None
        }
        for prompt in dict.fromkeys(prompts)
    }


def _diversity_of(
    sets: Mapping[str, Sequence[Image.Image]], verdicts: Mapping[str, list[bool] | None], seed: int
) -> tuple[dict[str, float | None], int | None]:
    """(Vendi score of each of `SETS`, size of the subsamples); the size is the same for all sets.

    It is `DIVERSITY_SAMPLE`, or the smallest set's count where that is less; a set with fewer than
    `MIN_DIVERSITY_SAMPLE` counting images has no score.
    """
    keep = {name: verdicts[name] or [verdicts[name] is None] * len(images) for name, images in sets.items()}
    counts = [count for count in map(sum, keep.values()) if count >= MIN_DIVERSITY_SAMPLE]
    if not counts:
        return dict.fromkeys(SETS), None
    n = min(DIVERSITY_SAMPLE, *counts)
    scores = {name: diversity(sets[name], keep[name], n=n, seed=seed) if name in sets else None for name in SETS}
    return scores, n


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value / base


def _mean_distance(images: Sequence[Image.Image]) -> float | None:
    """Mean feature distance of different images: the scale on which a drift can be read."""
    if len(images) < 2:
        return None
    features = pixel_features(images)
    first, second = np.triu_indices(len(features), k=1)
    return float(np.mean(_distances(features[first], features[second])))
