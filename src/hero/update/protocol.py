"""What an update is: it takes gradient steps on the LoRA from rewarded images. Callers use only this protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

import torch

from hero.config import UpdateConfig
from hero.distributed import Work, Workers
from hero.policies import Conditioning, Policy
from hero.policies.adapters import LoraAdapter
from hero.progress import OnStep, ignore
from hero.types import Judged, UpdateStats

__all__ = ["Update"]


class Update(Protocol):
    """Made from (policy, config, seed=...); owns its optimizer."""

    FIGURES: ClassVar[Mapping[str, str]]
    """Names of the figures in its `UpdateStats`, and what each means."""

    def __init__(self, policy: Policy, config: UpdateConfig, *, seed: int) -> None: ...

    def tasks(self, conditioning: Conditioning) -> Mapping[str, Work]:
        """The tasks that every process of the run performs for it; `conditioning` has one row per prompt of the run."""
        ...

    def adapters(self) -> tuple[LoraAdapter, ...]:
        """The adapters whose weights every process needs: the trained one and any that follow it."""
        return ("current",)

    @classmethod
    def loras(cls) -> int:
        """How many LoRAs it keeps: the trained one and any that follow it."""
        return 1

    def sampling(self) -> LoraAdapter:
        """The adapter that draws the images to learn from (see `Policy.using`)."""
        return "current"

    def step(
        self,
        judged: Judged,
        conditioning: Conditioning,
        round_: int,
        workers: Workers | None = None,
        on_step: OnStep = ignore,
    ) -> UpdateStats | None:
        """One round's update; returns None, and changes nothing, if there is nothing to learn from.

        Args:
            workers: the processes that run `tasks`; None: this one.

        Raises:
            TrainingError: a loss or gradient is not finite; no optimizer step was taken with it.
        """
        ...

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The optimizer's state, and anything else it keeps, as plain tensors."""
        ...

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `state_dict`."""
        ...
