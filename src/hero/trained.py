"""A run opened for use rather than for training: its model with the LoRA, its refined noise, its figures."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hero.best_of import LatentScore, draw_best, scorer_of
from hero.errors import ConfigError
from hero.evaluation import SETS, EvaluationResult, evaluate
from hero.evaluation.stored import people_said
from hero.ids import prompts_in_turn
from hero.noise import InitialNoise, fresh_noise
from hero.policies import load_policy
from hero.policies.lora_file import scaled
from hero.progress import OnImages
from hero.rollout import draw_images
from hero.run import RunDirectory
from hero.run.directory import RESULT_FILE
from hero.run.finished import FinishedRun
from hero.run.state import restored_noise, restored_reward
from hero.seeding import Stage
from hero.tasks import TASKS

__all__ = ["TrainedRun"]

_TRAINING = ("seconds_sampling", "seconds_updating", "seconds_practising")


class TrainedRun:
    """The run in `path` as of its newest checkpoint, or of the round `round_`.

    Attributes:
        policy: the model with the run's LoRA.
        refined: the refined initial noise; None where the method has none or no best image is known yet.
        history: one dict per finished round, as of that checkpoint.

    Raises:
        RunError: there is no run in `path`, none of its rounds is finished, or that one is not kept.
        ModelError: its model cannot be loaded.
    """

    def __init__(self, path: str | Path, *, round_: int | None = None) -> None:
        self.path = Path(path)
        self.round = round_
        finished = FinishedRun(path, round_=round_)
        self.config = finished.config
        checkpoint = finished.checkpoint()
        self.history: list[dict[str, Any]] = checkpoint.state["history"]
        self.policy = load_policy(self.config)
        self.policy.load_state_dict(checkpoint.tensors["lora"])
        self._checkpoint = checkpoint
        self.refined: InitialNoise | None = restored_noise(self.config, checkpoint)

    @property
    def labels(self) -> int:
        """Labels spent: every image that was shown counts as one."""
        return int(self.history[-1]["labels"]) if self.history else 0

    def evaluate(
        self,
        *,
        images: int | None = None,
        prompts: Sequence[str] | None = None,
        base_of: Path | None = None,
        out: Path | None = None,
        progress: OnImages | None = None,
    ) -> EvaluationResult:
        """Measures success, diversity and drift; writes result.json and the images beside it.

        With `evaluation.best_of` the tuned model's images are the best of so many by the run's reward.

        Args:
            images, prompts: see `hero.evaluation.evaluate`.
            base_of: another run on the same model, prompts and settings, evaluated on as many images. Its images of
                the base model are reused, since drawing them again would give the same ones.
            out: the folder to write into; None: evaluation/ in the run, or evaluation-<round>/.
            progress: called as images are drawn.

        Raises:
            ConfigError: `evaluation.best_of` asks for a choice, and the run's reward cannot choose.
        """
        started = time.monotonic()
        finished = FinishedRun(self.path, evaluation=out, round_=self.round)
        folder = RunDirectory(finished.evaluation_folder, self.config)
        base = None
        if base_of is not None:
            other = FinishedRun(base_of)
            base = {name: other.evaluated_images(name) for name in ("base", "unrelated_base")}
        best_of = self.config.evaluation.best_of
        result, sets = evaluate(
            self.policy,
            TASKS.get(self.config.task.name),
            self.config,
            self.refined,
            self.labels,
            images=images,
            prompts=prompts,
            base=base,
            scorer=self._scorer(prompts or self.config.task.prompts) if best_of > 1 else None,
            progress=progress,
        )
        training = sum(line.get(key, 0.0) for line in self.history for key in _TRAINING)
        seconds = {"seconds_training": training, "seconds_evaluating": time.monotonic() - started}
        result = dataclasses.replace(result, details={**result.details, **seconds})
        for name in (*SETS, "unrelated_base", "unrelated_tuned"):  # also removes those of an earlier evaluation
            folder.write_images_under(name, sets.get(name, ()))
        result = dataclasses.replace(result, people=people_said(finished, result.to_dict()))
        folder.write_text(RESULT_FILE, json.dumps(result.to_dict(), indent=1) + "\n")
        return result

    def generate(
        self,
        *,
        images: int = 16,
        prompts: Sequence[str] | None = None,
        noise: str = "fresh",
        seed: int = 0,
        base: bool = False,
        strength: float = 1.0,
        best_of: int = 1,
        progress: OnImages | None = None,
    ) -> list[Image.Image]:
        """Draws `images` images, prompts in turn (default: the run's), with the sampler of training.

        Args:
            noise: `fresh`, N(0, I), or `refined`, near the noises of good images.
            seed: of the initial noises and the step noises; independent of training and of evaluation.
            base: draw with the base model, without the LoRA.
            strength: factor of the LoRA's effect, as its weight in other programs: 1 is as trained, 0 the base model.
            best_of: candidates drawn for each image, of which the one is kept that the run's reward scores highest. The
                first candidates are what is drawn without a choice.
            progress: called with (candidates drawn so far, candidates in all).

        Raises:
            ConfigError: `noise` is neither of these, or the run has no refined noise for these prompts; with `best_of`
                above 1: the run's reward has learnt nothing about one of them, or is not learnt.
            ValueError: `best_of` is less than 1, or `strength` is not a finite number.
        """
        if best_of < 1:
            raise ValueError(f"best_of is {best_of}; it must be at least 1")
        if not math.isfinite(strength):
            raise ValueError(f"strength is {strength}; it must be a finite number")
        chosen = tuple(prompts or self.config.task.prompts)
        wanted = prompts_in_turn(chosen, images)
        noise_of = partial(self._noise, noise, chosen, wanted, seed)
        scorer = self._scorer(chosen) if best_of > 1 else None
        first = noise_of(0)
        drawn = 0

        def advance(count: int) -> None:
            nonlocal drawn
            drawn += count
            if progress is not None:
                progress(drawn, images * best_of)

        def draw() -> list[Image.Image]:
            size, stage = self.config.sampling.micro_batch, Stage.GENERATE_STEP_NOISE
            if scorer is None:
                return draw_images(
                    self.policy, wanted, first, seed=seed, stage=stage, micro_batch=size, on_chunk=advance
                )
            return draw_best(
                self.policy,
                wanted,
                noise_of,
                scorer,
                best_of,
                seed=seed,
                stage=stage,
                micro_batch=size,
                on_chunk=advance,
            )

        with self.policy.frozen() if base else self._at(strength):
            return draw()

    @contextmanager
    def _at(self, strength: float) -> Iterator[None]:
        """Within it, the LoRA has `strength` times its effect."""
        trained = self._checkpoint.tensors["lora"]
        self.policy.load_state_dict(scaled(trained, strength))
        try:
            yield
        finally:
            self.policy.load_state_dict(trained)

    def _scorer(self, prompts: Sequence[str]) -> LatentScore:
        """The reward as of the checkpoint, as one that chooses among images of `prompts`."""
        trained_on = self.config.task.prompts
        reward = restored_reward(self.config, self._checkpoint, self.policy, self.policy.encode(trained_on))
        return scorer_of(reward, trained_on, prompts, self.policy.latent_shape)

    def _noise(
        self, name: str, prompts: Sequence[str], wanted: Sequence[str], seed: int, candidate: int
    ) -> torch.Tensor:
        shape, stage = self.policy.latent_shape, Stage.GENERATE_NOISE
        if name == "fresh":
            return fresh_noise(len(wanted), shape, seed=seed, round_=candidate, stage=stage)
        if name != "refined":
            raise ConfigError(f"unknown noise {name!r}; known: fresh, refined")
        if self.refined is None or not self.refined.knows(prompts):
            raise ConfigError(
                f"the run in {self.path} has no refined noise for these prompts; use fresh noise, or the "
                f"prompts it was trained on: {', '.join(map(repr, self.config.task.prompts))}"
            )
        return self.refined.sample(wanted, shape, seed=seed, round_=candidate, stage=stage)
