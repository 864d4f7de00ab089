"""Noise → trajectories → images, one micro-batch at a time, so that a person sees the first images at once.

The step noise of image i of a round is a function of (seed, round, i): it does not depend on the micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image

from hero.batching import halved
from hero.distributed import Alone, Workers
from hero.errors import TrainingError
from hero.policies import Conditioning, Policy
from hero.policies.adapters import Adapter
from hero.seeding import Stage, generator, normal
from hero.types import Trajectory

__all__ = ["MicroBatch", "RolloutChunk", "concatenate", "draw_chunks", "draw_images", "draw_micro_batch", "rollout"]


@dataclass(frozen=True)
class MicroBatch:
    """Images that are drawn together: everything but the model.

    Attributes:
        indices: into the round.
        prompt_index: (M,) int64 on the CPU, rows of the conditioning.
        initial_noise: (M, C, h, w), z_T.
        seed, stage, round_: of the step noise.
        adapter: which of the policy's adapters draws; None: the one in use.
        decoded: whether anybody will look at the images.
        merged: see `rollout`.
    """

    indices: range
    prompt_index: torch.Tensor
    initial_noise: torch.Tensor
    seed: int
    stage: Stage
    round_: int
    adapter: Adapter | None = None
    decoded: bool = True
    merged: bool = False


@dataclass(frozen=True)
class RolloutChunk:
    """One micro-batch: `indices` into the round, its trajectories, and its images if they are decoded."""

    indices: range
    trajectory: Trajectory
    images: list[Image.Image]


@torch.no_grad()
def draw_micro_batch(policy: Policy, conditioning: Conditioning, batch: MicroBatch) -> RolloutChunk:
    """Draws one micro-batch with the policy as it is now.

    Raises:
        TrainingError: the latents are not finite.
    """
    step_noise = torch.stack(
        [
            normal((policy.num_steps, *policy.latent_shape), generator(batch.seed, batch.stage, batch.round_, i))
            for i in batch.indices
        ]
    )
    rows = conditioning.rows(batch.prompt_index)
    with (
        nullcontext() if batch.adapter is None else policy.using(batch.adapter),
        policy.merged() if batch.merged else nullcontext(),
    ):
        trajectory = _denoise(policy, rows, batch.prompt_index, batch.initial_noise, step_noise)
    images = policy.decode(trajectory.final_latents) if batch.decoded else []
    return RolloutChunk(batch.indices, trajectory, images)


def rollout(
    policy: Policy,
    conditioning: Conditioning,
    prompt_index: torch.Tensor,
    initial_noise: torch.Tensor,
    *,
    seed: int,
    round_: int,
    micro_batch: int,
    stage: Stage = Stage.STEP_NOISE,
    adapter: Adapter | None = None,
    decoded: bool = True,
    merged: bool = False,
    workers: Workers | None = None,
) -> Iterator[RolloutChunk]:
    """Draws N images with the policy as it is now.

    Args:
        conditioning: one row per prompt of the run.
        prompt_index: (N,) int64 on the CPU, which prompt each image is drawn for.
        initial_noise: (N, C, h, w), z_T.
        adapter: which of the policy's adapters draws; None: the one in use, for a process alone.
        decoded: False saves the decoding of latents that nobody will look at.
        merged: draws faster with the LoRA as a part of the weights (`Policy.merged`). Not for an update that compares
            the log-probabilities with those of the trained model: they differ by rounding.
        micro_batch: images denoised together; halved for the remaining images when memory runs out.
        workers: the processes that run the task `draw`; None: this one.

    Yields:
        Chunks in order. Trajectories are on the CPU in the policy's storage dtype.

    Raises:
        TrainingError: the latents are not finite, or memory runs out with a single image.
    """
    workers = workers or Alone({"draw": partial(draw_micro_batch, policy, conditioning)})
    drawn, n = 0, len(prompt_index)
    while drawn < n:
        starts = range(drawn, n, micro_batch)
        batches = [
            MicroBatch(
                range(k, min(k + micro_batch, n)),
                prompt_index[k : k + micro_batch].clone(),  # a view would be sent with its whole tensor
                initial_noise[k : k + micro_batch].clone(),
                seed,
                stage,
                round_,
                adapter,
                decoded,
                merged,
            )
            for k in starts
        ]
        try:
            for chunk in workers.map("draw", batches):
                yield chunk
                drawn = chunk.indices.stop
        except torch.OutOfMemoryError:
            micro_batch = halved(min(micro_batch, n - drawn), "sampling.micro_batch")


def _denoise(
    policy: Policy,
    conditioning: Conditioning,
    prompt_index: torch.Tensor,
    initial_noise: torch.Tensor,
    step_noise: torch.Tensor,
) -> Trajectory:
    latents = initial_noise.to(policy.device, policy.storage_dtype)
    path, log_probs = [latents], []
    for k in range(policy.num_steps):
        steps = torch.full((len(latents),), k)
        transition = policy.transition(latents, steps, conditioning)
        # Rounded to the storage dtype first: the update sees the rounded latent, so the ratio starts at 1.
        latents = transition.sample(step_noise[:, k].to(policy.device)).to(policy.storage_dtype)
        path.append(latents)
        trainable = bool(policy.trainable_steps[k])
        log_probs.append(transition.log_prob(latents) if trainable else torch.zeros(len(latents)))
    if not torch.isfinite(latents).all():  # a NaN at any step persists to the last one
        raise TrainingError(
            "the model draws latents that are not finite; lower update.learning_rate, or use model.dtype "
            "float32 or bfloat16; the last checkpoint is intact"
        )
    return Trajectory(
        latents=torch.stack([x.cpu() for x in path], dim=1),
        log_probs=torch.stack([x.cpu() for x in log_probs], dim=1),
        trainable=policy.trainable_steps,
        prompt_index=prompt_index,
    )


def concatenate(trajectories: Sequence[Trajectory]) -> Trajectory:
    """One trajectory batch out of several, in order."""
    return Trajectory(
        latents=torch.cat([t.latents for t in trajectories]),
        log_probs=torch.cat([t.log_probs for t in trajectories]),
        trainable=trajectories[0].trainable,
        prompt_index=torch.cat([t.prompt_index for t in trajectories]),
    )


def draw_chunks(
    policy: Policy,
    prompts: Sequence[str],
    noise: torch.Tensor,
    *,
    seed: int,
    stage: Stage,
    micro_batch: int,
    round_: int = 0,
) -> Iterator[RolloutChunk]:
    """One trajectory and image per entry of `prompts`, from `noise` (N, C, h, w), outside of training.

    Step noises are a function of (seed, stage, round_, i). `prompt_index` of the trajectories counts distinct prompts
    in the order in which they first appear.
    """
    distinct = list(dict.fromkeys(prompts))
    index = torch.tensor([distinct.index(p) for p in prompts], dtype=torch.int64)
    return rollout(
        policy,
        policy.encode(distinct),
        index,
        noise,
        seed=seed,
        round_=round_,
        micro_batch=micro_batch,
        stage=stage,
        merged=True,
    )


def draw_images(
    policy: Policy,
    prompts: Sequence[str],
    noise: torch.Tensor,
    *,
    seed: int,
    stage: Stage,
    micro_batch: int,
    on_chunk: Callable[[int], None] | None = None,
) -> list[Image.Image]:
    """One image per entry of `prompts`, from `noise` (N, C, h, w); step noises are a function of (seed, stage, i).

    `on_chunk` is called with the number of images that each micro-batch added.
    """
    images: list[Image.Image] = []
    for chunk in draw_chunks(policy, prompts, noise, seed=seed, stage=stage, micro_batch=micro_batch):
        images += chunk.images
        if on_chunk is not None:
            on_chunk(len(chunk.images))
    return images
