"""What prompts contribute to a denoising step. Below every family, so that none has to know the registry of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

__all__ = ["Conditioning"]


@dataclass(frozen=True)
class Conditioning:
    """What P prompts contribute: named tensors (P, ...), and the same for the empty prompt.

    Attributes:
        positive: one row per prompt.
        negative: the same keys, one row, for classifier-free guidance.
    """

    positive: Mapping[str, torch.Tensor]
    negative: Mapping[str, torch.Tensor]

    def rows(self, prompt_index: torch.Tensor) -> Conditioning:
        """One positive and one negative row per entry of `prompt_index` (N,)."""
        n = len(prompt_index)
        return Conditioning(
            {key: value[prompt_index.to(value.device)] for key, value in self.positive.items()},
            {key: value[:1].expand(n, *value.shape[1:]) for key, value in self.negative.items()},
        )
