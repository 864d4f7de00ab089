"""Initial-noise distributions: where the trajectories of a round start (feedback-guided image generation).

A distribution is sampled before a round and refitted after it. Which component image i draws from, and every
number it draws, is a function of (seed, round, i) alone. `hero.registry.NOISES` lists the distributions.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

import torch
from safetensors import safe_open
from safetensors.torch import save

from hero.config import NoiseConfig
from hero.memory import Memory
from hero.registry import FeedbackNoiseSettings, Settings, SharedNoiseSettings
from hero.seeding import Stage, generator, normal

__all__ = ["FeedbackNoise", "InitialNoise", "SharedNoise", "StandardNoise", "fresh_noise", "make_noise", "perturb"]


def fresh_noise(
    n: int, shape: tuple[int, int, int], *, seed: int, round_: int = 0, stage: Stage = Stage.NOISE
) -> torch.Tensor:
    """(n, C, h, w) fp32 on the CPU: draws from N(0, I); draw i depends on (seed, stage, round, i) alone."""
    return torch.stack([normal(shape, generator(seed, stage, round_, i)) for i in range(n)])


def perturb(noise: torch.Tensor, xi: torch.Tensor, epsilon: float) -> torch.Tensor:
    """N_ε(z): sqrt(1 − ε²)·z + ε·ξ, any shape. Variance preserving: unit variance stays unit variance.

    Source: HERO, eq. for π_HERO, in the form of its published code.
    """
    return math.sqrt(1 - epsilon**2) * noise + epsilon * xi


class InitialNoise(Protocol):
    """A distribution over initial noises z_T of shape (C, h, w), one per prompt. Made from (prompts, settings).

    A class that inherits from it has everything but `sample`, and learns nothing.
    """

    def __init__(self, prompts: Sequence[str] = (), settings: Settings | None = None) -> None: ...

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

    def refit(self, memory: Memory) -> None:
        """Refits to what the run remembers, after a round and when the run is resumed."""

    @property
    def fitted(self) -> bool:
        """Whether any draw differs from N(0, I), so that there is something to `save`."""
        return False

    def knows(self, prompts: Sequence[str]) -> bool:
        """Whether draws for each of `prompts` differ from N(0, I)."""
        return False

    def save(self, path: Path) -> None:
        """Writes the distribution to one safetensors file, for other programs; whatever is `fitted` has to."""
        raise NotImplementedError(f"{type(self).__name__} is fitted and has no `save`")

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What it has learnt beyond what the run remembers anyway."""
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `state_dict`."""


class StandardNoise(InitialNoise):
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
        return fresh_noise(len(prompts), shape, seed=seed, round_=round_, stage=stage)


class SharedNoise(InitialNoise):
    """z_T ~ N(0, I), the very same for `group_size` images of a prompt in turn; learns nothing.

    The images of a group differ by the noise of their steps alone. A group's noise is the one that its first image
    would have had by itself. Source: D3PO's published code, which draws seven images of a prompt from one noise.
    """

    def __init__(self, prompts: Sequence[str] = (), settings: Settings | None = None) -> None:
        chosen = settings or SharedNoiseSettings()
        assert isinstance(chosen, SharedNoiseSettings)
        self.settings = chosen

    def sample(
        self,
        prompts: Sequence[str],
        shape: tuple[int, int, int],
        *,
        seed: int,
        round_: int,
        stage: Stage = Stage.NOISE,
    ) -> torch.Tensor:
        of_prompt: defaultdict[str, list[torch.Tensor]] = defaultdict(list)
        for i, prompt in enumerate(prompts):
            drawn = of_prompt[prompt]
            begins = len(drawn) % self.settings.group_size == 0
            drawn.append(normal(shape, generator(seed, stage, round_, i)) if begins else drawn[-1])
        in_order = {prompt: iter(drawn) for prompt, drawn in of_prompt.items()}
        return torch.stack([next(in_order[prompt]) for prompt in prompts])


class FeedbackNoise(InitialNoise):
    """The mixture π_HERO = β·N_ε(z_T^best) + (1 − β)/|G|·Σ_{i ∈ G} N_ε(z_T^i), one per prompt.

    G are the good images of the last round that had any, without the best. Of the n images of a prompt,
    floor(β·n) start near the best, spread evenly over the round (a fixed share, not coin flips). If G is empty, β is
    1; if the best is an imported image, whose noise is not known, β is 0; with no best yet, no noise known (and for a
    prompt that was never trained on) it is N(0, I).
    """

    def __init__(self, prompts: Sequence[str], settings: Settings | None = None) -> None:
        chosen = settings or FeedbackNoiseSettings()
        assert isinstance(chosen, FeedbackNoiseSettings)
        self.prompts = tuple(prompts)
        self.settings = chosen
        self._best: dict[str, torch.Tensor] = {}
        self._good: dict[str, torch.Tensor] = {}

    @property
    def fitted(self) -> bool:
        return bool(self._best or self._good)

    def knows(self, prompts: Sequence[str]) -> bool:
        return all(prompt in self._best or prompt in self._good for prompt in prompts)

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
            draws.append(self._near_good_image(prompt, rank, xi, source) if self.knows([prompt]) else xi)
        return torch.stack(draws)

    def _near_good_image(self, prompt: str, rank: int, xi: torch.Tensor, source: torch.Generator) -> torch.Tensor:
        best, good = self._best.get(prompt), self._good.get(prompt)
        share, epsilon = self.settings.best_share, self.settings.epsilon
        from_best = math.floor((rank + 1) * share) > math.floor(rank * share)
        if best is not None and (good is None or from_best):
            return perturb(best, xi, epsilon)
        assert good is not None  # `knows`
        choice = int(torch.randint(len(good), (), generator=source))
        return perturb(good[choice], xi, epsilon)

    def refit(self, memory: Memory) -> None:
        self._best = {self.prompts[k]: noise for k, noise in memory.best_noise.items()}
        # Good images of a prompt without a best are kept until it has one.
        self._good = {self.prompts[k]: noise for k, noise in memory.good_noise.items() if k in memory.best}

    def save(self, path: Path) -> None:
        """`best.<k>` (C, h, w) and `good.<k>` (G, C, h, w) for the k-th prompt; prompts, β and ε0 as metadata.

        Equal distributions give equal bytes: safetensors shuffles metadata, hence one entry for all of it.
        """
        about = {"prompts": self.prompts, "best_share": self.settings.best_share, "epsilon": self.settings.epsilon}
        tensors = {
            f"{name}.{k}": table[prompt]
            for k, prompt in enumerate(self.prompts)
            for name, table in (("best", self._best), ("good", self._good))
            if prompt in table
        }
        path.write_bytes(save(tensors, metadata={"feedback_noise": json.dumps(about)}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """The inverse of `save`."""
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["feedback_noise"])
            noise = cls(about.pop("prompts"), FeedbackNoiseSettings(**about))
            tables = {"best": noise._best, "good": noise._good}
            for key in file.keys():  # noqa: SIM118
                name, k = key.split(".")
                tables[name][noise.prompts[int(k)]] = file.get_tensor(key)
        return noise


def make_noise(config: NoiseConfig, prompts: Sequence[str]) -> InitialNoise:
    """The distribution that `config` names."""
    made: InitialNoise = config.choice.load()(prompts, config.own)
    return made
