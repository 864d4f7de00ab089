"""Best of n: several candidates are drawn for each image, and the one that a learnt reward scores highest is kept.

No label is spent on the choice, and no weight changes; what it costs is draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image

from hero.errors import ConfigError
from hero.policies import Policy
from hero.reward import Reward
from hero.rollout import draw_chunks
from hero.seeding import Stage

__all__ = ["LatentScore", "draw_best", "scorer_of"]

LatentScore = Callable[[torch.Tensor, Sequence[str]], torch.Tensor]
"""(final latents (N, C, h, w), their N prompts) → (N,) scores, higher is better."""


def scorer_of(
    reward: Reward, trained_on: Sequence[str], wanted: Sequence[str], latent_shape: tuple[int, int, int]
) -> LatentScore:
    """The scores that `reward`, learnt on the prompts `trained_on`, gives to images of the prompts `wanted`.

    Raises:
        ConfigError: `reward` has learnt nothing yet, or nothing about one of `wanted`, or never scores images that
            nobody has judged.
    """
    if not reward.ready:
        raise ConfigError(
            "the run's reward has learnt nothing yet, so it cannot choose among images: it takes rounds with good "
            "images and bad ones; without best-of there is nothing to choose"
        )
    row_of = {prompt: k for k, prompt in enumerate(trained_on)}
    blank = torch.zeros(len(trained_on), *latent_shape)
    scored = ~reward.score(blank, torch.arange(len(trained_on))).mean.isnan()
    if not scored.any():
        raise ConfigError(
            "the run's reward repeats what it was told and cannot choose among images that nobody has judged; best-of "
            "takes one that is learnt, as in runs with --method best-of-n or hero"
        )
    known = [prompt for prompt, k in row_of.items() if scored[k]]
    if unknown := [prompt for prompt in wanted if prompt not in known]:
        raise ConfigError(
            f"the run's reward has learnt nothing about {unknown[0]!r}, so it cannot choose among images of it; it has "
            f"about {', '.join(map(repr, known))}; without best-of any prompt can be drawn"
        )

    def score(final_latents: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return reward.score(final_latents, torch.tensor([row_of[prompt] for prompt in prompts])).mean

    return score


def draw_best(
    policy: Policy,
    prompts: Sequence[str],
    noise_of: Callable[[int], torch.Tensor],
    score: LatentScore,
    n: int,
    *,
    seed: int,
    stage: Stage,
    micro_batch: int,
    on_chunk: Callable[[int], None] | None = None,
) -> list[Image.Image]:
    """For each entry of `prompts` the best of `n` candidates by `score`; of equal ones the first.

    Candidate 0 is what is drawn without a choice: more candidates only ever replace an image by one of a higher score.

    Args:
        noise_of: candidate → its initial noises (N, C, h, w).
        stage: of the step noises, which are a function of (seed, stage, candidate, i).
        on_chunk: called with the number of candidates that each micro-batch added.
    """
    kept: dict[int, tuple[float, Image.Image]] = {}
    for candidate in range(n):
        noise = noise_of(candidate)
        for chunk in draw_chunks(
            policy, prompts, noise, seed=seed, stage=stage, micro_batch=micro_batch, round_=candidate
        ):
            scores = score(chunk.trajectory.final_latents, [prompts[i] for i in chunk.indices]).tolist()
            for i, value, image in zip(chunk.indices, scores, chunk.images, strict=True):
                if i not in kept or value > kept[i][0]:
                    kept[i] = value, image
            if on_chunk is not None:
                on_chunk(len(chunk.images))
    return [image for _, (_, image) in sorted(kept.items())]
