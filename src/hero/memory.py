"""What a run remembers of earlier rounds: for each prompt, the best image and the latest good ones.

An image is remembered by where it began and where it ended, z_T and z_0. Everything that looks back at earlier rounds,
the feedback-guided noise, the representation and the pages, looks here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from hero.types import ImageId, Labelled, Verdict

__all__ = ["Memory"]


@dataclass
class Memory:
    """Per prompt, keyed by its index in the run's prompts; fp32 on the CPU.

    Attributes:
        best_id: id of the best image so far.
        best: its final latent, (C, h, w).
        good: final latents (G, C, h, w) of the good images without the best, of the last round that had any.
        best_noise, good_noise: their initial noises; none for imported images.
        replay: final latents of earlier rounds, oldest first: (good without the best, bad) per round.
    """

    best_id: dict[int, ImageId] = field(default_factory=dict)
    best: dict[int, torch.Tensor] = field(default_factory=dict)
    good: dict[int, torch.Tensor] = field(default_factory=dict)
    best_noise: dict[int, torch.Tensor] = field(default_factory=dict)
    good_noise: dict[int, torch.Tensor] = field(default_factory=dict)
    replay: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=dict)

    def update_best(self, labelled: Labelled) -> None:
        """Stores the best images that the feedback names; one kept from before is already here."""
        for best in labelled.feedback.best:
            row = labelled.row_of.get(best)
            if row is None:
                continue
            prompt = int(labelled.prompt_index[row])
            self.best_id[prompt] = best
            self.best[prompt] = _kept(labelled.final_latents[row])
            if labelled.initial_noise is None:
                self.best_noise.pop(prompt, None)
            else:
                self.best_noise[prompt] = _kept(labelled.initial_noise[row])

    def update_good(self, labelled: Labelled, *, replay_rounds: int = 0) -> None:
        """Stores the good and bad images of a round that the run has learnt from; call `update_best` first.

        `good` is replaced for each prompt that has good images other than its best; `replay` gains a round
        for each prompt and keeps only the newest `replay_rounds`.
        """
        latents = _kept(labelled.final_latents)
        for prompt in labelled.rows_by_prompt:
            rows = self.others(labelled, prompt)
            good, bad = latents[rows], latents[labelled.rows_labelled(prompt, Verdict.BAD)]
            if rows:
                self.good[prompt] = good.clone()  # a checkpoint must not hold a tensor twice
                if labelled.initial_noise is None:
                    self.good_noise.pop(prompt, None)
                else:
                    self.good_noise[prompt] = _kept(labelled.initial_noise)[rows]
            if replay_rounds:
                self.replay[prompt] = [*self.replay.get(prompt, []), (good, bad)][-replay_rounds:]

    def others(self, labelled: Labelled, prompt: int) -> list[int]:
        """Rows of the good images of `prompt` that are not the best."""
        best = self.best_id.get(prompt)
        return [row for row in labelled.rows_labelled(prompt, Verdict.GOOD) if labelled.ids[row] != best]

    def tensors(self) -> dict[str, torch.Tensor]:
        """`best.<prompt>`, `good.<prompt>`, `best_noise.<prompt>`, `good_noise.<prompt>`, and
        `replay.<prompt>.<k>.good` and `.bad`, k from 0 for the oldest."""
        tensors = {f"{name}.{k}": tensor for name in _TABLES for k, tensor in getattr(self, name).items()}
        for prompt, rounds in self.replay.items():
            for k, (good, bad) in enumerate(rounds):
                tensors |= {f"replay.{prompt}.{k:04d}.good": good, f"replay.{prompt}.{k:04d}.bad": bad}
        return tensors

    def load(self, tensors: Mapping[str, torch.Tensor], best_id: Mapping[int, ImageId]) -> None:
        """The inverse of `tensors`."""
        self.best_id = dict(best_id)
        for name in (*_TABLES, "replay"):
            setattr(self, name, {})
        for key in sorted(tensors):
            kind, prompt, *rest = key.split(".")
            if kind != "replay":
                getattr(self, kind)[int(prompt)] = tensors[key].clone()
            elif rest[1] == "good":
                pair = (tensors[key].clone(), tensors[key.removesuffix("good") + "bad"].clone())
                self.replay.setdefault(int(prompt), []).append(pair)


_TABLES = ("best", "good", "best_noise", "good_noise")


def _kept(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in fp32 on the CPU."""
    return tensor.detach().to("cpu", torch.float32, copy=True)
