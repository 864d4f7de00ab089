"""What a run remembers of earlier rounds: the best image and the last good ones of each prompt, as latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
        replay: final latents of earlier rounds, oldest first: (good without the best, bad) per round.
    """

    best_id: dict[int, ImageId]
    best: dict[int, torch.Tensor]
    good: dict[int, torch.Tensor]
    replay: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=dict)

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
        *,
        replay_rounds: int = 0,
    ) -> None:
        """Takes over the labels of a round that was learnt from.

        `good` is replaced for each prompt that has good images other than its best; `replay` grows by a round for
        each prompt, and forgets all but the newest `replay_rounds`.
        """
        row_of = {i: k for k, i in enumerate(ids)}
        bests = set(self.best_id.values())
        latents = final_latents.float()
        for prompt in sorted(set(prompt_index.tolist())):
            mine = {i for i, k in row_of.items() if int(prompt_index[k]) == prompt}
            good = latents[[row_of[i] for i in feedback.good if i in mine and i not in bests]].clone()
            bad = latents[[row_of[i] for i in feedback.bad if i in mine]].clone()
            if len(good):
                self.good[prompt] = good.clone()  # a checkpoint may hold no tensor twice
            if replay_rounds:
                self.replay[prompt] = [*self.replay.get(prompt, []), (good, bad)][-replay_rounds:]

    def tensors(self) -> dict[str, torch.Tensor]:
        """`best.<prompt>`, `good.<prompt>`, and `replay.<prompt>.<k>.good` and `.bad`, k from 0 for the oldest."""
        tensors = {f"best.{k}": v for k, v in self.best.items()} | {f"good.{k}": v for k, v in self.good.items()}
        for prompt, rounds in self.replay.items():
            for k, (good, bad) in enumerate(rounds):
                tensors |= {f"replay.{prompt}.{k:04d}.good": good, f"replay.{prompt}.{k:04d}.bad": bad}
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], best_id: Mapping[int, ImageId]) -> Memory:
        """The inverse of `tensors`."""
        memory = cls(dict(best_id), {}, {})
        for key in sorted(tensors):
            kind, prompt, *rest = key.split(".")
            if kind == "replay" and rest[1] == "good":
                pair = (tensors[key].clone(), tensors[key.removesuffix("good") + "bad"].clone())
                memory.replay.setdefault(int(prompt), []).append(pair)
            elif kind != "replay":
                {"best": memory.best, "good": memory.good}[kind][int(prompt)] = tensors[key].clone()
        return memory
