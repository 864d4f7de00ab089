"""Feedback-aligned representation: an embedding of final latents, trained online on good / bad / best labels.

An embedding network E and a projection head g are kept for the whole run. Each round they are fitted with a
triplet loss (anchor: the best image; positive: a good one; negative: a bad one). Rewards use E, never g.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from hero.errors import TrainingError
from hero.memory import Memory
from hero.progress import OnStep, ignore
from hero.registry import SimilaritySettings
from hero.seeding import Stage, derive_seed, generator
from hero.types import Labelled, Verdict
from hero.update.optimizer import load_optimizer_tensors, optimizer_tensors

__all__ = [
    "EmbeddingNetwork",
    "ProjectionHead",
    "Representation",
    "TripletGroup",
    "cosine_distance",
    "embedding_channels",
    "triplet_groups",
    "triplet_loss",
]


def embedding_channels(latent_channels: int) -> tuple[int, int, int]:
    """Channels of the three blocks of E: 2C, 4C, 8C as published, at most 128 but never fewer than C."""
    widest = max(128, latent_channels)
    return min(2 * latent_channels, widest), min(4 * latent_channels, widest), min(8 * latent_channels, widest)


class EmbeddingNetwork(nn.Module):
    """E: three blocks of 3×3 convolution, ReLU and 2×2 max-pooling (`embedding_channels`), then a linear layer.

    Maps (N, C, h, w) latents to (N, width) embeddings ≥ 0. h and w are the model's; latents with a side
    shorter than 8 are pooled only as often as it allows.
    """

    def __init__(self, latent_shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels, height, side = latent_shape
        layers: list[nn.Module] = []
        for out in embedding_channels(channels):
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU()]
            if min(height, side) >= 2:
                layers.append(nn.MaxPool2d(2))
                height, side = height // 2, side // 2
            channels = out
        self.blocks = nn.Sequential(*layers)
        self.linear = nn.Linear(channels * height * side, width)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = torch.relu(self.linear(self.blocks(latents).flatten(1)))
        return embeddings


class ProjectionHead(nn.Sequential):
    """g: width → width → width/2 → width/4, ReLU between; 2048 → 2048 → 1024 → 512 as published."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width // 2),
            nn.ReLU(),
            nn.Linear(width // 2, width // 4),
        )


def cosine_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """d(x, y) = 1 − (1 + cos(x, y))/2, in [0, 1]; (N, D), (N, D) → (N,)."""
    return 1 - (1 + functional.cosine_similarity(x, y, dim=-1)) / 2


def triplet_loss(anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, margin: float) -> torch.Tensor:
    """mean of max(0, d(a, p) − d(a, n) + margin) over (N, D) projections; a scalar. Source: HERO, eq. 2."""
    gap = cosine_distance(anchor, positive) - cosine_distance(anchor, negative) + margin
    return gap.clamp(min=0).mean()


@dataclass(frozen=True)
class TripletGroup:
    """The triplets of one prompt: its best latent (C, h, w), good ones (P, C, h, w), bad ones (B, C, h, w)."""

    anchor: torch.Tensor
    positives: torch.Tensor
    negatives: torch.Tensor


def triplet_groups(labelled: Labelled, memory: Memory) -> list[TripletGroup]:
    """A group for each prompt that has a best, a positive and a negative; possibly none.

    Positives are this round's good images other than the best, and those replayed from earlier rounds; if there are
    none, the good images of the latest earlier round that had any. Negatives are this round's bad images and those
    replayed.
    """
    latents = labelled.final_latents.float()
    groups = []
    for prompt, anchor in sorted(memory.best.items()):
        replay = memory.replay.get(prompt, [])
        good, bad = latents[memory.others(labelled, prompt)], latents[labelled.rows_labelled(prompt, Verdict.BAD)]
        positives = torch.cat([good, *(earlier for earlier, _ in replay)])
        negatives = torch.cat([bad, *(earlier for _, earlier in replay)])
        if not len(positives):
            positives = memory.good.get(prompt, positives)
        if len(positives) and len(negatives):
            groups.append(TripletGroup(anchor, positives, negatives))
    return groups


class Representation:
    """E and g with their optimizer."""

    def __init__(
        self,
        latent_shape: tuple[int, int, int],
        config: SimilaritySettings,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.config = config
        self.seed = seed
        self.device = device
        with torch.random.fork_rng(devices=[]):  # modules initialise from the global generator
            torch.manual_seed(derive_seed(seed, Stage.REPRESENTATION))
            self.embedding = EmbeddingNetwork(latent_shape, config.width).to(device)
            self.head = ProjectionHead(config.width).to(device)
        self.optimizer = torch.optim.Adam(
            [*self.embedding.parameters(), *self.head.parameters()], lr=config.learning_rate
        )

    @property
    def fitted(self) -> bool:
        """Whether `fit` has ever taken a step."""
        return bool(self.optimizer.state)

    def fit(self, groups: Sequence[TripletGroup], round_: int, on_step: OnStep = ignore) -> float:
        """Takes `epochs` Adam steps on random triplets of `groups` (at least one); returns the last loss.

        Each distinct latent is embedded once per step; triplets are index pairs into the embeddings.

        Raises:
            TrainingError: the loss is not a number.
        """
        latents, anchors, positives, negatives = _stack(groups)
        latents = latents.to(self.device)
        source = generator(self.seed, Stage.TRIPLETS, round_)
        size = torch.tensor([len(p) for p in positives], dtype=torch.float32)
        loss = torch.zeros(())
        for epoch in range(self.config.epochs):
            chosen = torch.multinomial(size, self.config.batch_size, replacement=True, generator=source)
            a = torch.tensor(anchors)[chosen]
            p = _pick(positives, chosen, source)
            n = _pick(negatives, chosen, source)
            projected = self.head(self.embedding(latents))
            loss = triplet_loss(projected[a], projected[p], projected[n], self.config.margin)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"round {round_}: the triplet loss is {loss.item()}; lower reward.similarity.learning_rate"
                )
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            on_step("representation", epoch + 1, self.config.epochs)
        return float(loss.item())

    @torch.no_grad()
    def embed(self, final_latents: torch.Tensor) -> torch.Tensor:
        """E(z_0): (N, C, h, w) → (N, width) fp32 on the CPU."""
        embeddings: torch.Tensor = self.embedding(final_latents.to(self.device, torch.float32))
        return embeddings.cpu()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Weights and optimizer state as plain tensors."""
        return {
            **{f"embedding.{k}": v.cpu() for k, v in self.embedding.state_dict().items()},
            **{f"head.{k}": v.cpu() for k, v in self.head.state_dict().items()},
            **{f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizer).items()},
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `state_dict`."""
        parts: dict[str, dict[str, torch.Tensor]] = {"embedding": {}, "head": {}, "optimizer": {}}
        for key, value in state.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        self.embedding.load_state_dict(parts["embedding"])
        self.head.load_state_dict(parts["head"])
        load_optimizer_tensors(self.optimizer, parts["optimizer"])


def _stack(
    groups: Sequence[TripletGroup],
) -> tuple[torch.Tensor, list[int], list[torch.Tensor], list[torch.Tensor]]:
    """All latents in one tensor, and per group the row of its anchor and the rows of its positives and negatives."""
    parts, anchors, positives, negatives = [], [], [], []
    offset = 0
    for group in groups:
        parts += [group.anchor[None], group.positives, group.negatives]
        anchors.append(offset)
        first_negative = offset + 1 + len(group.positives)
        positives.append(torch.arange(offset + 1, first_negative))
        negatives.append(torch.arange(first_negative, first_negative + len(group.negatives)))
        offset = first_negative + len(group.negatives)
    return torch.cat(parts), anchors, positives, negatives


def _pick(rows: Sequence[torch.Tensor], group: torch.Tensor, source: torch.Generator) -> torch.Tensor:
    """For each entry of `group` (B,), a random one of that group's `rows`; (B,) int64."""
    sizes = torch.tensor([len(r) for r in rows])[group]
    starts = torch.tensor([int(r[0]) for r in rows])[group]
    return starts + (torch.rand(len(group), generator=source) * sizes).long().clamp(max=sizes - 1)
