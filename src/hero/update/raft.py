"""RAFT: fine-tuning on the round's good images alone, with the loss of pretraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from hero.objectives.denoising import denoising_loss
from hero.types import Judged
from hero.update.forward import ForwardUpdate, Renoised
from hero.update.gradient import Details

__all__ = ["RAFT"]


class RAFT(ForwardUpdate):
    """The denoising loss on images that are better than the rest of their round; see `hero.objectives.denoising`.

    Where labels are the reward, these are the good ones. Bad ones teach nothing. Source: Dong et al. 2023,
    arXiv:2304.06767, with its ranking by a reward model replaced by the round's own rewards.
    """

    FIGURES: ClassVar[Mapping[str, str]] = {
        "prediction_error": "root of the denoising loss, mean over noised good images"
    }

    def images(self, judged: Judged) -> Sequence[int]:
        return [i for i, better in enumerate(judged.advantages > 0) if better]

    def loss(self, renoised: Renoised) -> tuple[torch.Tensor, Details]:
        loss = denoising_loss(renoised.output, renoised.steps.target(renoised.sample, renoised.noise, renoised.t))
        return loss, {"prediction_error": loss.sqrt()}
