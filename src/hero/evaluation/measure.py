"""Draws base and tuned model on held-out noises and measures success, diversity and drift."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from hero.best_of import draw_best
from hero.evaluation.features import FEATURE_MAP
from hero.evaluation.intervals import Measured
from hero.evaluation.prompts import UNRELATED, unrelated_prompts
from hero.evaluation.result import SETS, EvaluationResult
from hero.evaluation.variety import DIVERSITY_SAMPLE, MIN_DIVERSITY_SAMPLE, diversity, drift, mean_distance
from hero.ids import prompts_in_turn
from hero.noise import fresh_noise
from hero.progress import OnImages
from hero.rollout import draw_images
from hero.seeding import Stage

if TYPE_CHECKING:
    from hero.best_of import LatentScore
    from hero.config import Config
    from hero.noise import InitialNoise
    from hero.policies import Policy
    from hero.tasks import Task
    from hero.types import Judge

__all__ = ["HELD_OUT", "evaluate"]

HELD_OUT = (Stage.EVALUATION_NOISE, Stage.EVALUATION_STEP_NOISE)
"""Seed stages of the initial and the step noises that every figure is measured on."""


def evaluate(
    policy: Policy,
    task: Task | None,
    config: Config,
    refined: InitialNoise | None,
    labels: int,
    *,
    images: int | None = None,
    prompts: Sequence[str] | None = None,
    base: Mapping[str, Sequence[Image.Image]] | None = None,
    unrelated: int = UNRELATED,
    scorer: LatentScore | None = None,
    progress: OnImages | None = None,
) -> tuple[EvaluationResult, dict[str, list[Image.Image]]]:
    """Measures the policy as it is now against its base, with the sampler of training.

    Every set is drawn with the same held-out noises, which training never sees: image i of each set has the
    same step noises, and image i of the refined set has the same ξ that is all of z_T in the fresh sets. With
    `config.evaluation.best_of` candidates the first one has those noises, and the others have noises of their own that
    are held out, too. Base images and those of unrelated prompts are drawn once.

    Args:
        policy: the tuned model.
        task: the run's task; None if its prompts are the caller's own.
        refined: the refined initial noise; None if the run has none.
        labels: labels spent on training.
        images: images per set; None: `config.evaluation.images`.
        prompts: distributed evenly over the images; None: those trained on.
        base: "base" and, if drift is measured, "unrelated_base" as drawn by another run on the same model, prompts
            and settings.
        unrelated: how many prompts of our own drift is measured on; 0: it is not measured.
        scorer: chooses among candidates; needed where `config.evaluation.best_of` is more than 1.
        progress: called with (images drawn so far, images in all) after each micro-batch.

    Returns:
        The figures, and the images under the keys `SETS` (without "tuned_refined" where there is no refined
        noise for these prompts) and "unrelated_base", "unrelated_tuned". Success is unknown where the task's
        judge was not made for this model and these prompts.
    """
    total = config.evaluation.images if images is None else images
    if total < 1:
        raise ValueError(f"evaluate: images is {total}; it must be at least 1")
    asked = tuple(prompts or config.task.prompts)
    drawn_prompts = prompts_in_turn(asked, total)
    trained = [*config.task.prompts, *asked]
    others: tuple[str, ...] = ()
    if unrelated:
        others = unrelated_prompts(trained, unrelated, model=config.model.path, own=config.evaluation.drift_prompts)
    if config.evaluation.best_of > 1 and scorer is None:
        raise ValueError(f"evaluate: evaluation.best_of is {config.evaluation.best_of}, and there is no scorer")
    sets = _draw_sets(policy, config, refined, drawn_prompts, others, base or {}, scorer, progress)

    judges = _judges_of(task, config, drawn_prompts)
    verdicts = {name: _verdicts(judges, sets.get(name)) for name in SETS}
    vendi, sample = _diversity_of({name: sets[name] for name in SETS if name in sets}, verdicts, config.evaluation.seed)
    moved = [drift([a], [b]) for a, b in zip(sets["unrelated_base"], sets["unrelated_tuned"], strict=True)]
    result = EvaluationResult(
        task=config.task.name,
        images=total,
        labels=labels,
        success={name: None if marks is None else Measured.share(marks) for name, marks in verdicts.items()},
        diversity={name: _ratio(vendi[name], vendi["base"]) for name in SETS},
        drift=drift(sets["unrelated_base"], sets["unrelated_tuned"]) if others else None,
        details={
            "model": config.model.path,
            "judge_model": None if judges is None or task is None else task.judge_model,
            "sampler": config.sampling.sampler,
            "seed": config.evaluation.seed,
            "best_of": config.evaluation.best_of,
            "draws": {name: total * _candidates(name, config) for name in SETS if name in sets},
            "prompts": drawn_prompts,
            "drift_prompts": list(config.evaluation.drift_prompts),
            "verdicts": verdicts,
            "success_by_prompt": _by_prompt(drawn_prompts, verdicts),
            "feature_map": FEATURE_MAP,
            "vendi": vendi,
            "diversity_sample": sample,
            "diversity_of": "all images" if judges is None else "successful images",
            "pixels_changed": float(np.mean([d.pixels_changed for d in moved])) if moved else None,
            "drift_scale": mean_distance(sets["unrelated_base"]),
            "drift_by_prompt": {prompt: asdict(d) for prompt, d in zip(others, moved, strict=True)},
        },
    )
    return result, sets


def _draw_sets(
    policy: Policy,
    config: Config,
    refined: InitialNoise | None,
    prompts: Sequence[str],
    unrelated: Sequence[str],
    base: Mapping[str, Sequence[Image.Image]],
    scorer: LatentScore | None,
    progress: OnImages | None,
) -> dict[str, list[Image.Image]]:
    seed, shape = config.evaluation.seed, policy.latent_shape
    learns = config.update.learns  # frozen weights draw the base's images from fresh noise
    best_of = config.evaluation.best_of
    fresh = fresh_noise(len(prompts), shape, seed=seed, stage=HELD_OUT[0])
    near_good = None
    if refined is not None:
        near_good = refined.sample(prompts, shape, seed=seed, round_=0, stage=HELD_OUT[0])
        if torch.equal(near_good, fresh):  # it knows none of these prompts
            near_good = None
    tuned = (best_of if learns or best_of > 1 else 0) + (best_of if near_good is not None else 0)
    total = ((not base) + tuned) * len(prompts) + ((not base) + learns) * len(unrelated)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    def draw(wanted: Sequence[str], noise: torch.Tensor, stage: Stage) -> list[Image.Image]:
        size = config.sampling.micro_batch
        return draw_images(policy, wanted, noise, seed=seed, stage=stage, micro_batch=size, on_chunk=advance)

    def draw_tuned(noise_of: Callable[[int], torch.Tensor]) -> list[Image.Image]:
        """The first candidates, or for each image the best of several."""
        if best_of == 1:
            return draw(prompts, noise_of(0), HELD_OUT[1])
        assert scorer is not None
        size = config.sampling.micro_batch
        return draw_best(
            policy, prompts, noise_of, scorer, best_of, seed=seed, stage=HELD_OUT[1], micro_batch=size, on_chunk=advance
        )

    def fresh_candidate(k: int) -> torch.Tensor:
        return fresh_noise(len(prompts), shape, seed=seed, round_=k, stage=HELD_OUT[0])

    def refined_candidate(k: int) -> torch.Tensor:
        assert refined is not None
        return refined.sample(prompts, shape, seed=seed, round_=k, stage=HELD_OUT[0])

    def draw_unrelated() -> list[Image.Image]:
        if not unrelated:
            return []
        noise = fresh_noise(len(unrelated), shape, seed=seed, stage=Stage.DRIFT_NOISE)
        return draw(unrelated, noise, Stage.DRIFT_STEP_NOISE)

    if base:
        sets = {"base": list(base["base"]), "unrelated_base": list(base["unrelated_base"]) if unrelated else []}
    else:
        with policy.frozen():
            sets = {"base": draw(prompts, fresh, HELD_OUT[1]), "unrelated_base": draw_unrelated()}
    sets["tuned_fresh"] = draw_tuned(fresh_candidate) if learns or best_of > 1 else sets["base"]
    sets["unrelated_tuned"] = draw_unrelated() if learns else sets["unrelated_base"]
    if near_good is not None:
        sets["tuned_refined"] = draw_tuned(refined_candidate)
    return sets


def _candidates(name: str, config: Config) -> int:
    """Candidates drawn for each image of a set; the base model is measured without a choice."""
    return 1 if name == "base" else config.evaluation.best_of


def _judges_of(task: Task | None, config: Config, prompts: Sequence[str]) -> list[Judge] | None:
    """The task's judge of each prompt; None if there is none for this model or for one of these prompts."""
    if task is None or config.model.path != task.judge_model:
        return None
    judges = [task.judge_of(prompt) for prompt in prompts]
    known = [judge for judge in judges if judge is not None]
    return known if len(known) == len(judges) else None


def _verdicts(judges: Sequence[Judge] | None, images: Sequence[Image.Image] | None) -> list[bool] | None:
    """The verdict of judge i on image i."""
    if judges is None or images is None:
        return None
    return [bool(judge(image).success) for judge, image in zip(judges, images, strict=True)]


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
