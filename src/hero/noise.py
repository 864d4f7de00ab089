"""Initial-noise distributions: where the trajectories of a round start (feedback-guided image generation).

A distribution is sampled before a round and refitted after it. Which component image i draws from, and every
number it draws, is a function of (seed, round, i) alone.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

import torch
from safetensors import safe_open
from safetensors.torch import save

from hero.config import NoiseConfig
from hero.seeding import Stage, generator, normal
from hero.types import Feedback, ImageId

__all__ = ["FeedbackNoise", "InitialNoise", "StandardNoise", "make_noise", "perturb"]


class InitialNoise(Protocol):
    """A distribution over initial noises z_T of shape (C, h, w), one per prompt."""

    def sample(
        self,
        prompts: Sequence[str],
        shape: tuple[int, int, int],
        *,
        seed: int,
        round_: int,
        stage: Stage = Stage.NOISE,
    ) -> torch.Tensor:
        """(N, C, h, w) fp32 on the CPU, one draw per entry of `prompts`."""
        ...

    def refit(
        self, initial_noise: torch.Tensor, ids: Sequence[ImageId], prompts: Sequence[str], feedback: Feedback
    ) -> None:
        """Learns from a round: `initial_noise` (N, C, h, w) are its z_T, `feedback` its labels."""
        ...

    def state_dict(self) -> dict[str, torch.Tensor]: ...

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None: ...


def perturb(noise: torch.Tensor, xi: torch.Tensor, epsilon: float) -> torch.Tensor:
    """N_ε(z): sqrt(1 − ε²)·z + ε·ξ, any shape. Variance preserving: unit variance stays unit variance.

    Source: HERO, eq. for π_HERO, in the form of its published code.
    """
    return math.sqrt(1 - epsilon**2) * noise + epsilon * xi


class StandardNoise:
    """z_T ~ N(0, I); learns nothing."""

    def sample(
        self,
        prompts: Sequence[str],
        shape: tuple[int, int, int],
        *,
        seed: int,
        round_: int,
        stage: Stage = Stage.NOISE,
    ) -> torch.Tensor:
        return torch.stack([normal(shape, generator(seed, stage, round_, i)) for i in range(len(prompts))])

    def refit(
        self, initial_noise: torch.Tensor, ids: Sequence[ImageId], prompts: Sequence[str], feedback: Feedback
    ) -> None:
        return None

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        if state:
            raise ValueError(f"StandardNoise has no state, got {sorted(state)}")


class FeedbackNoise:
    """The mixture π_HERO = β·N_ε(z_T^best) + (1 − β)/|G|·Σ_{i ∈ G} N_ε(z_T^i), one per prompt.

    G are the good images of the last round that had any, without the best. Of the n images of a prompt,
    floor(β·n) start near the best, spread evenly over the round (a share, not a coin). With G empty β is 1; with
    no best yet (and for a prompt that was never trained on) it is N(0, I).
    """

    def __init__(self, prompts: Sequence[str], best_share: float = 0.5, epsilon: float = 0.1) -> None:
        self.prompts = tuple(prompts)
        self.best_share = best_share
        self.epsilon = epsilon
        self._best: dict[str, torch.Tensor] = {}
        self._good: dict[str, torch.Tensor] = {}

    @property
    def fitted(self) -> bool:
        """Whether any prompt has a best noise, so that draws differ from N(0, I)."""
        return bool(self._best)

    def knows(self, prompts: Sequence[str]) -> bool:
        """Whether each of `prompts` has a best noise."""
        return all(prompt in self._best for prompt in prompts)

    def sample(
        self,
        prompts: Sequence[str],
        shape: tuple[int, int, int],
        *,
        seed: int,
        round_: int,
        stage: Stage = Stage.NOISE,
    ) -> torch.Tensor:
        seen: Counter[str] = Counter()
        draws = []
        for i, prompt in enumerate(prompts):
            source = generator(seed, stage, round_, i)
            xi = normal(shape, source)
            rank = seen[prompt]
            seen[prompt] += 1
            draws.append(xi if prompt not in self._best else self._near_good_image(prompt, rank, xi, source))
        return torch.stack(draws)

    def _near_good_image(self, prompt: str, rank: int, xi: torch.Tensor, source: torch.Generator) -> torch.Tensor:
        good = self._good.get(prompt)
        from_best = math.floor((rank + 1) * self.best_share) > math.floor(rank * self.best_share)
        if good is None or from_best:
            return perturb(self._best[prompt], xi, self.epsilon)
        choice = int(torch.randint(len(good), (), generator=source))
        return perturb(good[choice], xi, self.epsilon)

    def refit(
        self, initial_noise: torch.Tensor, ids: Sequence[ImageId], prompts: Sequence[str], feedback: Feedback
    ) -> None:
        noise = initial_noise.detach().to("cpu", torch.float32)
        index_of = {i: k for k, i in enumerate(ids)}
        for best in feedback.best:
            if best in index_of:  # a best kept from before is here already
                self._best[prompts[index_of[best]]] = noise[index_of[best]].clone()
        for prompt in set(prompts):
            rows = [index_of[i] for i in feedback.good if prompts[index_of[i]] == prompt and i not in feedback.best]
            if rows:
                self._good[prompt] = noise[rows].clone()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """`best.<k>` (C, h, w) and `good.<k>` (G, C, h, w) for the k-th prompt."""
        state = {}
        for k, prompt in enumerate(self.prompts):
            for name, table in (("best", self._best), ("good", self._good)):
                if prompt in table:
                    state[f"{name}.{k}"] = table[prompt]
        return state

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._best, self._good = {}, {}
        for key, tensor in state.items():
            name, k = key.split(".")
            table = {"best": self._best, "good": self._good}[name]
            table[self.prompts[int(k)]] = tensor.clone()

    def save(self, path: Path) -> None:
        """Writes the distribution to one safetensors file with its prompts, β and ε0 as metadata.

        Equal distributions give equal bytes: safetensors shuffles metadata, hence one entry for all of it.
        """
        about = {"prompts": self.prompts, "best_share": self.best_share, "epsilon": self.epsilon}
        path.write_bytes(save(self.state_dict(), metadata={"feedback_noise": json.dumps(about)}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """The inverse of `save`."""
        with safe_open(path, framework="pt") as file:
            noise = cls(**json.loads(file.metadata()["feedback_noise"]))
            noise.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        return noise


def make_noise(config: NoiseConfig, prompts: Sequence[str]) -> InitialNoise:
    """The distribution that `config` names."""
    if config.kind == "feedback":
        return FeedbackNoise(prompts, config.best_share, config.epsilon)
    return StandardNoise()
