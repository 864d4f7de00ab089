"""A run opened for use rather than for training: its model with the LoRA, its refined noise, its figures."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hero.errors import ConfigError
from hero.evaluation import SETS, EvaluationResult, evaluate
from hero.evaluation.stored import people_said
from hero.ids import prompts_in_turn
from hero.memory import Memory
from hero.noise import InitialNoise, fresh_noise, make_noise
from hero.policies import load_policy
from hero.progress import OnImages
from hero.rollout import draw_images
from hero.run import RunDirectory
from hero.run.directory import RESULT_FILE
from hero.run.finished import FinishedRun
from hero.run.state import remembered
from hero.seeding import Stage
from hero.tasks import TASKS

__all__ = ["TrainedRun"]


class TrainedRun:
    """The run in `path` as of its newest checkpoint.

    Attributes:
        policy: the model with the run's LoRA.
        refined: the refined initial noise; None where the method has none or no best image is known yet.
        history: one dict per finished round, as of that checkpoint.

    Raises:
        RunError: there is no run in `path`, or none of its rounds is finished.
        ModelError: its model cannot be loaded.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        finished = FinishedRun(path)
        self.config = finished.config
        checkpoint = finished.checkpoint()
        self.history: list[dict[str, Any]] = checkpoint.state["history"]
        self.policy = load_policy(self.config)
        self.policy.load_state_dict(checkpoint.tensors["lora"])
        memory, noise = Memory(), make_noise(self.config.noise, self.config.task.prompts)
        memory.load(*remembered(checkpoint))
        noise.load_state_dict(checkpoint.tensors["noise"])
        noise.refit(memory)
        self.refined: InitialNoise | None = noise if noise.fitted else None

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

        Args:
            images, prompts: see `hero.evaluation.evaluate`.
            base_of: another run on the same model, prompts and settings, evaluated on as many images. Its images of
                the base model are reused, since drawing them again would give the same ones.
            out: the folder to write into; None: evaluation/ in the run.
            progress: called as images are drawn.
        """
        started = time.monotonic()
        finished = FinishedRun(self.path, evaluation=out)
        folder = RunDirectory(finished.evaluation_folder, self.config)
        base = None
        if base_of is not None:
            other = FinishedRun(base_of)
            base = {name: other.evaluated_images(name) for name in ("base", "unrelated_base")}
        result, sets = evaluate(
            self.policy,
            TASKS.get(self.config.task.name),
            self.config,
            self.refined,
            self.labels,
            images=images,
            prompts=prompts,
            base=base,
            progress=progress,
        )
        training = sum(line[key] for line in self.history for key in ("seconds_sampling", "seconds_updating"))
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
        progress: OnImages | None = None,
    ) -> list[Image.Image]:
        """Draws `images` images, prompts in turn (default: the run's), with the sampler of training.

        Args:
            noise: `fresh`, N(0, I), or `refined`, near the noises of good images.
            seed: of the initial noises and the step noises; independent of training and of evaluation.
            base: draw with the base model, without the LoRA.

        Raises:
            ConfigError: `noise` is neither of these, or the run has no refined noise for these prompts.
        """
        chosen = tuple(prompts or self.config.task.prompts)
        wanted = prompts_in_turn(chosen, images)
        latents = self._noise(noise, chosen, wanted, seed)
        drawn = 0

        def advance(count: int) -> None:
            nonlocal drawn
            drawn += count
            if progress is not None:
                progress(drawn, images)

        def draw() -> list[Image.Image]:
            size = self.config.sampling.micro_batch
            return draw_images(
                self.policy,
                wanted,
                latents,
                seed=seed,
                stage=Stage.GENERATE_STEP_NOISE,
                micro_batch=size,
                on_chunk=advance,
            )

        if not base:
            return draw()
        with self.policy.frozen():
            return draw()

    def _noise(self, name: str, prompts: Sequence[str], wanted: Sequence[str], seed: int) -> torch.Tensor:
        shape, stage = self.policy.latent_shape, Stage.GENERATE_NOISE
        if name == "fresh":
            return fresh_noise(len(wanted), shape, seed=seed, stage=stage)
        if name != "refined":
            raise ConfigError(f"unknown noise {name!r}; known: fresh, refined")
        if self.refined is None or not self.refined.knows(prompts):
            raise ConfigError(
                f"the run in {self.path} has no refined noise for these prompts; use fresh noise, or the "
                f"prompts it was trained on: {', '.join(map(repr, self.config.task.prompts))}"
            )
        return self.refined.sample(wanted, shape, seed=seed, round_=0, stage=stage)
