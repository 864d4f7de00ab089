"""What a head learns from n labels: how well it tells good from bad, which images to ask about, and how well it counts.

`python -m hero.bench.heads --task hand --images 512 --out docs/results/heads`

No model is trained. Images of the base model are drawn once and judged by the task's judge; a head is then fitted to n
of them, many times, and asked about others. What concerns the head alone costs seconds here, and hours elsewhere.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.cluster.vq import kmeans2
from scipy.special import expit
from scipy.stats import mannwhitneyu

from hero.bench.machine import about_this
from hero.features import features
from hero.ids import prompt_index_of
from hero.methods import configure
from hero.noise import fresh_noise
from hero.policies import load_policy
from hero.reward.logistic import Logistic, fit_logistic
from hero.rollout import rollout
from hero.seeding import Stage
from hero.tasks import get_task

__all__ = [
    "CHOICES",
    "JudgedImages",
    "Row",
    "calibration",
    "counting",
    "draw_judged",
    "foresight_of",
    "main",
    "selection",
]

_Array = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.int64]

PRIOR = 30.0
"""That of a head's settings."""

LABELS = (16, 32, 64, 128)
_STEP = 16
"""Labels asked for at a time where images are chosen."""
_POOL = 64
"""Images of which they are chosen."""
_HELD_OUT = 160


@dataclass(frozen=True)
class JudgedImages:
    """Images of one task by the base model: features (N, D), and whether the judge calls them good (N,)."""

    features: _Array
    good: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Row:
    """One line of the results: mean over repetitions and its standard error."""

    study: str
    variant: str
    labels: int
    figure: str
    mean: float
    error: float


def draw_judged(task_name: str, n: int) -> JudgedImages:
    """Draws and judges `n` images of the bundled model."""
    task, config = get_task(task_name), configure(task_name)
    policy = load_policy(config)
    conditioning = policy.encode(task.prompts)
    index = torch.tensor([prompt_index_of(i, len(task.prompts)) for i in range(n)])
    noise = fresh_noise(n, policy.latent_shape, seed=0, stage=Stage.HEAD_NOISE)
    latents, good = [], []
    size = config.sampling.micro_batch
    for chunk in rollout(
        policy,
        conditioning,
        index,
        noise,
        seed=0,
        round_=0,
        micro_batch=size,
        stage=Stage.HEAD_STEP_NOISE,
        adapter="base",
    ):
        latents.append(chunk.trajectory.final_latents)
        for row, image in zip(chunk.indices, chunk.images, strict=True):
            judge = task.judge_of(task.prompts[int(index[row])])
            assert judge is not None, f"{task_name} has no judge"
            good.append(judge(image).success)
    found = features(policy, conditioning, index, torch.cat(latents), micro_batch=size)
    return JudgedImages(found.double().numpy(), np.array(good))


# ------------------------------------------------------------------------------------- which images to ask about

Choice = Callable[[Logistic | None, _Array, int, np.random.Generator], _Indices]
"""(the head so far, features (M, D) of the drawn images, how many to ask about, source) → which, (k,)."""


def _random(head: Logistic | None, drawn: _Array, k: int, rng: np.random.Generator) -> _Indices:
    return rng.choice(len(drawn), k, replace=False)


def _typical(head: Logistic | None, drawn: _Array, k: int, rng: np.random.Generator) -> _Indices:
    """The image nearest to the centre of each of k clusters. Source: Hacohen et al. 2022 (TypiClust), simplified."""
    scaled = (drawn - drawn.mean(0)) / np.maximum(drawn.std(0), 1e-6)
    centres, cluster = kmeans2(scaled, k, minit="++", seed=int(rng.integers(2**31)))
    chosen = [
        int(members[((scaled[members] - centres[j]) ** 2).sum(1).argmin()])
        for j in range(k)
        if len(members := np.flatnonzero(cluster == j))
    ]
    others = np.setdiff1d(np.arange(len(drawn)), chosen)
    return np.array([*chosen, *rng.choice(others, k - len(chosen), replace=False)], dtype=np.int64)


def _by(score: Callable[[Logistic, _Array, np.random.Generator], _Array]) -> Choice:
    """The highest by `score`; at random while there is no head."""

    def choose(head: Logistic | None, drawn: _Array, k: int, rng: np.random.Generator) -> _Indices:
        if head is None:
            return _random(head, drawn, k, rng)
        return np.argsort(-score(head, drawn, rng))[:k]

    return choose


def _sampled(head: Logistic, drawn: _Array, rng: np.random.Generator) -> _Array:
    mean, deviation = head.logit(drawn)
    sampled: _Array = mean + deviation * rng.normal(size=len(mean))
    return sampled


CHOICES: dict[str, Choice] = {
    "random": _random,
    "typical": _typical,
    "least certain (p near ½)": _by(lambda head, x, _: -np.abs(head.probability(x)[0] - 0.5)),
    "largest uncertainty of p": _by(lambda head, x, _: head.probability(x)[1]),
    "likely good": _by(lambda head, x, _: head.probability(x)[0]),
    "Thompson samples": _by(_sampled),
}
"""Ways to choose the images that are asked about."""


def selection(images: JudgedImages, repetitions: int) -> Iterator[Row]:
    """AUC on held-out images after 16, 32 and 64 labels that were chosen 16 of 64 drawn images at a time."""
    for name, choose in CHOICES.items():
        found: dict[int, list[float]] = {}
        for rng, order in _orders(images, repetitions):
            test, rest = order[:_HELD_OUT], order[_HELD_OUT:]
            asked: list[int] = []
            head: Logistic | None = None
            for start in range(0, min(len(rest), 4 * _POOL) - _POOL + 1, _POOL):
                pool = rest[start : start + _POOL]
                asked += pool[choose(head, images.features[pool], _STEP, rng)].tolist()
                head = _fitted(images, np.array(asked))
                if head is not None and len(asked) in LABELS:
                    found.setdefault(len(asked), []).append(_auc(head, images, test))
        yield from (_row("which images to ask about", name, n, "AUC", values) for n, values in found.items())


# ---------------------------------------------------------------------------------------------- what the head says


def foresight_of(images: JudgedImages, repetitions: int) -> Iterator[Row]:
    """AUC on images that were not labelled, by the precision of the prior."""
    for prior in (PRIOR / 10, PRIOR, 10 * PRIOR):
        for n in LABELS:
            heads = [
                (head, order[n:])
                for _, order in _orders(images, repetitions)
                if (head := _fitted(images, order[:n], prior)) is not None
            ]
            values = [_auc(head, images, test) for head, test in heads]
            yield _row("prior", f"λ = {prior:g}", n, "AUC", values)


def calibration(images: JudgedImages, repetitions: int) -> Iterator[Row]:
    """The squared error of p(good), calibrated and as the prior leaves it, and how good the likely good images are:
    as many as are good by expectation, and half as many."""
    for n in LABELS:
        found: dict[tuple[str, str], list[float]] = {}
        for _, order in _orders(images, repetitions):
            head = _fitted(images, order[:n])
            if head is None:
                continue
            features, good = images.features[order[n:]], images.good[order[n:]]
            mean, deviation = head.logit(features)
            p, _ = head.probability(features)
            for variant, said in (
                ("calibrated", p),
                ("as the prior leaves it", expit(mean / np.sqrt(1 + np.pi * deviation**2 / 8))),
                ("the share of good ones, for each", np.full(len(good), good.mean())),
            ):
                found.setdefault((variant, "Brier score"), []).append(float(np.square(said - good).mean()))
            for variant, share in (("the likely good", 1.0), ("the likelier half of them", 0.5)):
                likely = np.argsort(-p, kind="stable")[: max(round(share * float(p.sum())), 1)]
                found.setdefault((variant, "share of good ones"), []).append(float(good[likely].mean()))
        for (variant, figure), values in found.items():
            yield _row("calibration", variant, n, figure, values)


def counting(images: JudgedImages, repetitions: int, share: float = 0.8) -> Iterator[Row]:
    """How far `share_good` is from the truth, on images as drawn and on a selection of which `share` is good."""
    for n in LABELS[1:3]:
        errors: dict[str, list[float]] = {"as drawn": [], f"{100 * share:.0f} % good": []}
        told: dict[str, list[float]] = {name: [] for name in errors}
        for _, order in _orders(images, repetitions):
            head = _fitted(images, order[:n])
            if head is None:
                continue
            rest = order[n:]
            good, bad = rest[images.good[rest]], rest[~images.good[rest]]
            k = min(len(good), round(len(bad) * share / (1 - share)), 64)
            enriched = np.concatenate([good[:k], bad[: round(k * (1 - share) / share)]])
            for name, rows in zip(errors, (rest, enriched), strict=True):
                p = head.probability(images.features[rows])[0]
                estimate, error = head.share_good(images.good[order[:n]], p)
                errors[name].append(estimate - float(images.good[rows].mean()))
                told[name].append(error)
        for name, values in errors.items():
            rms = float(np.sqrt(np.mean(np.square(values))))
            yield Row("share of good images, without labels", name, n, "rms error", rms, rms / np.sqrt(2 * len(values)))
            yield _row("share of good images, without labels", name, n, "standard error it states", told[name])


def _orders(images: JudgedImages, repetitions: int) -> Iterator[tuple[np.random.Generator, _Indices]]:
    """The same random orders for each variant."""
    for k in range(repetitions):
        rng = np.random.default_rng(k)
        yield rng, rng.permutation(len(images.good))


def _fitted(images: JudgedImages, rows: _Indices, prior: float = PRIOR) -> Logistic | None:
    good = images.good[rows]
    return None if good.all() or not good.any() else fit_logistic(images.features[rows], good, prior)


def _auc(head: Logistic, images: JudgedImages, rows: _Indices) -> float:
    scores, good = head.logit(images.features[rows])[0], images.good[rows]
    return float(mannwhitneyu(scores[good], scores[~good]).statistic) / float(good.sum() * (~good).sum())


def _row(study: str, variant: str, labels: int, figure: str, values: Sequence[float]) -> Row:
    return Row(study, variant, labels, figure, float(np.mean(values)), float(np.std(values) / np.sqrt(len(values))))


def main() -> None:
    """The command line of this module: writes TASK.json and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repetitions", type=int, default=24)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    images = draw_judged(arguments.task, arguments.images)
    rows = [
        row
        for study in (foresight_of, calibration, selection, counting)
        for row in study(images, arguments.repetitions)
    ]
    about = {
        **about_this(),
        "task": arguments.task,
        "images": arguments.images,
        "repetitions": arguments.repetitions,
        "base": float(images.good.mean()),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**about, "rows": [vars(row) for row in rows]}, indent=1, ensure_ascii=False)
    (arguments.out / f"{arguments.task}.json").write_text(text + "\n", encoding="utf-8")
    for row in rows:
        print(f"{row.study:38} {row.variant:32} {row.labels:4} {row.figure:26} {row.mean:.3f} ± {row.error:.3f}")


if __name__ == "__main__":
    main()
