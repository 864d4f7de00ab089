"""HERO's reward: how close an image lies to the best one, in an embedding learnt online from the labels alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch.nn import functional

from hero.config import RewardConfig
from hero.progress import OnStep, ignore
from hero.registry import Settings, SimilaritySettings
from hero.reward.protocol import Reward, RewardContext
from hero.reward.representation import Representation, embedding_channels, triplet_groups
from hero.types import Labelled, Score, Verdict

__all__ = ["Similarity", "similarity"]


def similarity(embeddings: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """R = mean over references of (1 + cos(E(z), E(reference)))/2: (N, D), (M, D) → (N,) in [0, 1].

    With the best image as the one reference this is HERO's reward (eq. 3).
    """
    cosine = functional.cosine_similarity(embeddings[:, None], reference[None], dim=-1)
    return ((1 + cosine) / 2).mean(dim=1)


class Similarity(Reward):
    """Similarity to the best image of the same prompt so far, or also to this round's good ones (see `reference`)."""

    FIGURES: ClassVar[Mapping[str, str]] = {
        "triplet_loss": "loss of the last step of fitting the representation; missing if it was not fitted"
    }

    def __init__(self, context: RewardContext, config: RewardConfig) -> None:
        self.settings = config.table(SimilaritySettings)
        self.memory = context.memory
        self.replay_rounds = self.settings.replay_rounds
        self.representation = Representation(
            context.policy.latent_shape, self.settings, seed=context.seed, device=context.policy.device
        )

    @property
    def ready(self) -> bool:
        return self.representation.fitted

    def fit(self, labelled: Labelled, on_step: OnStep = ignore) -> Mapping[str, float]:
        groups = triplet_groups(labelled, self.memory)
        return {"triplet_loss": self.representation.fit(groups, labelled.round, on_step)} if groups else {}

    def rewards(self, labelled: Labelled) -> torch.Tensor:
        """An image whose prompt has no best yet has no reward."""
        references = {
            prompt: torch.cat([best[None], labelled.final_latents[self._also(labelled, prompt)].float()])
            for prompt, best in self.memory.best.items()
        }
        return self._similarity_to(references, labelled.final_latents, labelled.prompt_index)

    def _also(self, labelled: Labelled, prompt: int) -> list[int]:
        """Rows of further references besides the best."""
        return self.memory.others(labelled, prompt) if self.settings.reference == "good" else []

    def score(self, final_latents: torch.Tensor, prompt_index: torch.Tensor) -> Score:
        """Similarity to the best image; without an uncertainty."""
        references = {prompt: best[None] for prompt, best in self.memory.best.items()}
        return Score(self._similarity_to(references, final_latents, prompt_index))

    def _similarity_to(
        self, references: Mapping[int, torch.Tensor], final_latents: torch.Tensor, prompt_index: torch.Tensor
    ) -> torch.Tensor:
        rewards = torch.full((len(final_latents),), float("nan"))
        for prompt in sorted(set(prompt_index.tolist()) & references.keys()):
            rows = prompt_index == prompt
            embedded = self.representation.embed(final_latents[rows])
            rewards[rows] = similarity(embedded, self.representation.embed(references[prompt]))
        return rewards

    def note(self, labelled: Labelled) -> str:
        if not self.memory.best:
            return "no best image yet: nothing learnt, fresh noise again"
        if not self.ready:
            return "no good image besides the best, or no bad one, in any round yet: no update"
        if Verdict.BAD not in labelled.feedback.verdicts.values():
            return "no bad image: the representation was not changed"
        return ""

    @staticmethod
    def memory_needed(latent_shape: tuple[int, int, int], settings: Settings | None) -> int:
        """Embedding network and head with gradients and Adam's state; E's three poolings come first."""
        assert isinstance(settings, SimilaritySettings)
        width = settings.width
        linear = embedding_channels(latent_shape[0])[-1] * (latent_shape[1] // 8) * (latent_shape[2] // 8)
        return 16 * (linear * width + width * width + width * width // 2 + width * width // 8)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.representation.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        own = self.representation.state_dict()
        for name in sorted(own.keys() & state.keys()):
            if own[name].shape != state[name].shape:
                there, here = tuple(state[name].shape), tuple(own[name].shape)
                raise ValueError(f"the representation has {there} and not {here} as {name}")
        self.representation.load_state_dict(state)
