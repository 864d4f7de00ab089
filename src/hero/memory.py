"""What a run remembers of earlier rounds: the best image and the last good ones of each prompt, as latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from hero.types import Feedback, ImageId

__all__ = ["Memory"]


@dataclass
class Memory:
    """Per prompt, keyed by its index in the run's prompts.

    Attributes:
        best_id: id of the best image so far.
        best: its final latent, (C, h, w) fp32.
        good: final latents (G, C, h, w) fp32 of the last round's good images without the best, of the last
            round that had any.
    """

    best_id: dict[int, ImageId]
    best: dict[int, torch.Tensor]
    good: dict[int, torch.Tensor]

    @classmethod
    def empty(cls) -> Memory:
        return cls({}, {}, {})

    def update_best(
        self,
        final_latents: torch.Tensor,
        ids: Sequence[ImageId],
        prompt_index: torch.Tensor,
        feedback: Feedback,
    ) -> None:
        """Takes over the bests named in `feedback`; one kept from before is here already."""
        row_of = {i: k for k, i in enumerate(ids)}
        for best in feedback.best:
            if best in row_of:
                prompt = int(prompt_index[row_of[best]])
                self.best_id[prompt] = best
                self.best[prompt] = final_latents[row_of[best]].float().clone()

    def update_good(
        self,
        final_latents: torch.Tensor,
        ids: Sequence[ImageId],
        prompt_index: torch.Tensor,
        feedback: Feedback,
    ) -> None:
        """Replaces the good latents of each prompt that has good images other than its best in this round."""
        row_of = {i: k for k, i in enumerate(ids)}
        bests = set(self.best_id.values())
        rows = [row_of[i] for i in feedback.good if i not in bests]
        for prompt in {int(prompt_index[row]) for row in rows}:
            chosen = [row for row in rows if int(prompt_index[row]) == prompt]
            self.good[prompt] = final_latents[chosen].float().clone()

    def tensors(self) -> dict[str, torch.Tensor]:
        """`best.<prompt>` and `good.<prompt>`."""
        return {f"best.{k}": v for k, v in self.best.items()} | {f"good.{k}": v for k, v in self.good.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], best_id: Mapping[int, ImageId]) -> Memory:
        """The inverse of `tensors`."""
        memory = cls(dict(best_id), {}, {})
        for key, value in tensors.items():
            kind, _, prompt = key.partition(".")
            {"best": memory.best, "good": memory.good}[kind][int(prompt)] = value.clone()
        return memory
