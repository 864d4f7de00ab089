"""The reward: turns feedback into a number per image. Learning, suggestions and selection use this one interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from hero.config import RewardConfig
from hero.distributed import Work, Workers
from hero.memory import Memory
from hero.policies import Conditioning, Policy
from hero.progress import OnStep, ignore
from hero.registry import Settings
from hero.types import Labelled, Score

__all__ = ["Reward", "RewardContext"]


@dataclass(frozen=True)
class RewardContext:
    """What a reward may look at.

    Attributes:
        policy: for latent shapes, the device, and features of the base model.
        conditioning: one row per prompt of the run.
        memory: the best and good images so far; the run keeps it up to date.
        seed: of the run.
        workers: the processes that run `Reward.tasks`.
    """

    policy: Policy
    conditioning: Conditioning
    memory: Memory
    seed: int
    workers: Workers


class Reward(Protocol):
    """Learnt online, round by round. Made from (context, config); a class that inherits from it has everything but
    `rewards`.

    The run calls `fit` and then `rewards` with each answered round, once its best images are in the memory.
    """

    FIGURES: ClassVar[Mapping[str, str]] = {}
    """Names of the figures that `fit` may return, and what each means."""

    replay_rounds: int = 0
    """How many earlier rounds' latents the memory must keep for it."""

    def __init__(self, context: RewardContext, config: RewardConfig) -> None: ...

    @property
    def ready(self) -> bool:
        """Whether its numbers are worth following: an embedding that was never fitted says nothing."""
        return True

    def fit(self, labelled: Labelled, on_step: OnStep = ignore) -> Mapping[str, float]:
        """Learns from one more round; returns figures."""
        return {}

    def rewards(self, labelled: Labelled) -> torch.Tensor:
        """(N,) fp32: the reward of each image of a round that was just learnt from; NaN where there is none."""
        ...

    def score(self, final_latents: torch.Tensor, prompt_index: torch.Tensor) -> Score:
        """Its estimate for images that nobody has judged: `final_latents` (N, C, h, w), `prompt_index` (N,)."""
        return Score(torch.full((len(final_latents),), float("nan")))

    def practice(self, unlabelled: Labelled) -> tuple[torch.Tensor, torch.Tensor]:
        """For images of practice, which have no labels: its estimates and the rewards to learn from, both (N,) fp32."""
        mean = self.score(unlabelled.final_latents, unlabelled.prompt_index).mean
        return mean, mean

    def share_good(self, estimates: torch.Tensor) -> tuple[float, float] | None:
        """What share of images with these `estimates` (N,) is good, with its standard error; None if it cannot say."""
        return None

    def note(self, labelled: Labelled) -> str:
        """Why this round taught less than a full one; "" otherwise."""
        return ""

    def tasks(self) -> Mapping[str, Work]:
        """The tasks that every process of the run performs for it."""
        return {}

    @staticmethod
    def memory_needed(latent_shape: tuple[int, int, int], settings: Settings | None) -> int:
        """Bytes on the device, optimizer state included; an estimate."""
        return 0

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything that it has learnt, as plain tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `state_dict`.

        Raises:
            ValueError: `state` is of a reward with other settings; says in which way.
        """
