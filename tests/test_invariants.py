"""The invariants of the design that concern drawing and files; exact resume is in test_resume, labels in test_store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from conftest import update_config
from hero.config import Config
from hero.noise import StandardNoise
from hero.policies import Policy
from hero.rollout import RolloutChunk, concatenate, rollout
from hero.tuner import Tuner
from hero.types import Feedback, Judged, Trajectory
from hero.update.ppo import PPO

PROMPTS = ("1 hand", "a person posing")
DETERMINISTIC: dict[str, Any] = {"eta": 0.0}
ALL_LAYERS = ("attention", "feed-forward", "resnet", "projection")


def draw(policy: Policy, n: int, micro_batch: int) -> tuple[Trajectory, list[np.ndarray[Any, Any]]]:
    """n trajectories and their images, prompts in turn."""
    index = torch.arange(n) % 2
    noise = StandardNoise().sample([PROMPTS[k] for k in index], policy.latent_shape, seed=0, round_=1)
    chunks: list[RolloutChunk] = list(
        rollout(policy, policy.encode(PROMPTS), index, noise, seed=0, round_=1, micro_batch=micro_batch)
    )
    images = [np.asarray(image, dtype=int) for chunk in chunks for image in chunk.images]
    return concatenate([chunk.trajectory for chunk in chunks]), images


def library(model: Path) -> Any:
    """The library's own pipeline with its own DDIM."""
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def library_call(pipeline: Any, noise: torch.Tensor, config: Config, output: str) -> Any:
    return pipeline(
        [PROMPTS[i % 2] for i in range(len(noise))],
        latents=noise.clone(),
        num_inference_steps=config.sampling.num_steps,
        guidance_scale=config.sampling.guidance_scale,
        height=config.sampling.height,
        width=config.sampling.width,
        eta=0.0,
        output_type=output,
    ).images


# ---------------------------------------------------------------------------------------------- 1: ratio one


# Guidance multiplies the rounding errors of another batch shape; a tenth of the clip range is the bound then.
@pytest.mark.parametrize(("guidance", "bound"), [(1.0, 1e-6), (5.0, 1e-5)])
@pytest.mark.parametrize(("sampled", "trained"), [(4, 16), (2, 3)])
def test_ratio_one_before_the_first_gradient_step(
    tiny_policy: Callable[..., Policy], sampled: int, trained: int, guidance: float, bound: float
) -> None:
    policy = tiny_policy(lora_std=0.1, lora={"layers": ALL_LAYERS}, sampling={"guidance_scale": guidance})
    trajectory, _ = draw(policy, 4, sampled)
    config = update_config(timesteps_per_image=4, images_per_step=4, micro_batch=trained, learning_rate=1e-4)
    judged = Judged(trajectory, torch.arange(4.0), torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    update = PPO(policy, config, seed=0)
    stats = update.step(judged, policy.encode(PROMPTS), round_=1)
    assert stats is not None
    assert stats.figures["first_ratio_deviation"] <= bound
    again = update.step(judged, policy.encode(PROMPTS), round_=1)
    assert again is not None
    assert again.figures["first_ratio_deviation"] > 1e-4  # the measure does see a policy that moved


# ---------------------------------------------------------------------------------------------- 2: same as the library


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_deterministic_rollout_is_the_library_s_own(
    tiny_policy: Callable[..., Policy],
    tiny_config: Callable[..., Config],
    random_pipeline: Path,
    tmp_path: Path,
    prediction: str,
    guidance: float,
) -> None:
    model = tmp_path / "model"
    shutil.copytree(random_pipeline, model)
    scheduler = model / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"prediction_type": prediction}))
    settings: dict[str, Any] = {"sampling": {"guidance_scale": guidance, **DETERMINISTIC}, "update": {"kind": "none"}}
    policy = tiny_policy(path=model, lora_std=0.0, **settings)
    trajectory, images = draw(policy, 4, micro_batch=2)
    pipeline, config = library(model), tiny_config(path=model, **settings)
    latents = library_call(pipeline, trajectory.initial_noise, config, "latent")
    assert (trajectory.final_latents - latents).abs().max() <= 1e-4
    theirs = library_call(pipeline, trajectory.initial_noise, config, "pil")
    assert max(np.abs(ours - np.asarray(x, dtype=int)).max() for ours, x in zip(images, theirs, strict=True)) <= 1


# ---------------------------------------------------------------------------------------------- 3: seed purity


def test_images_do_not_depend_on_batch_sizes(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    few, few_images = draw(policy, 8, micro_batch=3)
    many, many_images = draw(policy, 8, micro_batch=8)
    assert torch.equal(few.initial_noise, many.initial_noise)
    torch.testing.assert_close(few.latents, many.latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(few.log_probs, many.log_probs, atol=1e-5, rtol=1e-5)
    assert max(np.abs(a - b).max() for a, b in zip(few_images, many_images, strict=True)) <= 1


def test_the_first_images_of_a_larger_round_are_those_of_a_smaller_one(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    small, small_images = draw(policy, 3, micro_batch=3)
    torch.manual_seed(5)  # the global generator plays no part
    large, large_images = draw(policy, 6, micro_batch=3)
    assert torch.equal(large.latents[:3], small.latents)
    assert all(np.array_equal(a, b) for a, b in zip(small_images, large_images[:3], strict=True))
    assert not torch.equal(large.latents[3], large.latents[1])


# ---------------------------------------------------------------------------------------------- 6: the file is it


@pytest.mark.parametrize(
    ("layers", "alpha"),
    [*[((layer,), 3.0) for layer in ALL_LAYERS], (ALL_LAYERS, 2.0), (ALL_LAYERS, 5.5)],
)
def test_the_saved_lora_in_the_library_s_loader_draws_the_same(
    tiny_policy: Callable[..., Policy],
    tiny_config: Callable[..., Config],
    random_pipeline: Path,
    tmp_path: Path,
    layers: tuple[str, ...],
    alpha: float,
) -> None:
    settings: dict[str, Any] = {
        "sampling": DETERMINISTIC,
        "update": {"kind": "none"},
        "lora": {"rank": 2, "alpha": alpha, "layers": layers},
    }
    policy = tiny_policy(lora_std=0.2, **settings)
    trajectory, _ = draw(policy, 2, micro_batch=2)
    with policy.frozen():
        base, _ = draw(policy, 2, micro_batch=2)
    pipeline = library(random_pipeline)
    pipeline.load_lora_weights(policy.save_lora(tmp_path).parent)
    latents = library_call(pipeline, trajectory.initial_noise, tiny_config(**settings), "latent")
    # The factor alpha/r is in the file's matrices, so that the last bits of products differ.
    assert (trajectory.final_latents - latents).abs().max() <= 3e-4 * latents.abs().max()
    assert (trajectory.final_latents - base.final_latents).abs().max() > 1e-2  # the LoRA does something


def test_equal_weights_give_equal_files(tiny_policy: Callable[..., Policy], tmp_path: Path) -> None:
    policy = tiny_policy(lora={"layers": ALL_LAYERS})
    files = {policy.save_lora(tmp_path / str(k)).read_bytes() for k in range(10)}
    assert len(files) == 1


# ---------------------------------------------------------------------------------------------- 7: ids, not indexes


def test_feedback_means_the_same_in_any_order(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    results = []
    for name, reverse in (("forward", False), ("backward", True)):
        with Tuner(tiny_config(prompts=PROMPTS, rounds=2), tmp_path / name) as tuner:
            batch = tuner.ask()
            marks = [(i, "good" if k in (1, 2, 4) else "bad") for k, i in enumerate(batch.ids)]
            bests = [batch.ids[4], batch.ids[1]]
            tuner.tell(Feedback(dict(reversed(marks) if reverse else marks), best=bests[::-1] if reverse else bests))
            results.append(tuner.learner.memory)
    one, other = results
    assert one.best_id == other.best_id == {0: "r0001-i0004", 1: "r0001-i0001"}
    assert all(torch.equal(one.best[k], other.best[k]) for k in one.best)
    assert all(torch.equal(one.best_noise[k], other.best_noise[k]) for k in range(2))
    assert torch.equal(one.good_noise[0], other.good_noise[0])
