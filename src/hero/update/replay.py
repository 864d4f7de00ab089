"""Updates that replay steps of stored trajectories: which transitions, and their log-probabilities then and now.

Images are replayed alone or in groups that a loss compares. Which timesteps are replayed, and in which order, is a
function of (seed, round, images). The subclass defines the loss itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import ClassVar

import torch

from hero.batching import batched
from hero.config import UpdateConfig
from hero.distributed import Alone, Work, Workers
from hero.ids import LARGEST
from hero.policies import Conditioning, Policy
from hero.progress import OnStep, ignore
from hero.registry import ReplaySettings
from hero.seeding import Stage, generator
from hero.transitions import Transition
from hero.types import Judged, Trajectory, UpdateStats
from hero.update.gradient import Details, Gradient, GradientSteps, StepTaken, mean_of, shuffled, stats_of
from hero.update.protocol import Update

__all__ = ["Group", "ReplayUpdate", "Replayed", "ratio_deviation"]

Group = tuple[int, ...]
"""Images that enter a loss together, always the same number of them: (image,) or (winner, loser)."""

_Row = tuple[Group, int]
"""A group and the step at which each of its images is replayed."""


@dataclass(frozen=True)
class Replayed:
    """R rows of m transitions each, under the policy as it is now and as it was when it drew them.

    Attributes:
        log_probs: (R, m) fp32 with gradient; means over latent dimensions.
        old_log_probs: (R, m).
        rewards, advantages: (R, m), of the images.
        std: (R,), σ of the step.
    """

    log_probs: torch.Tensor
    old_log_probs: torch.Tensor
    rewards: torch.Tensor
    advantages: torch.Tensor
    std: torch.Tensor


@dataclass(frozen=True)
class _Transitions:
    """R·m stored transitions, row after row: everything but the model.

    Attributes:
        latents, following: (R·m, C, h, w), before and after the step.
        steps, prompt_index: (R·m,) int64.
        old_log_probs, rewards, advantages: (R, m).
        total: what the sum of the rows' losses is divided by.
    """

    latents: torch.Tensor
    following: torch.Tensor
    steps: torch.Tensor
    prompt_index: torch.Tensor
    old_log_probs: torch.Tensor
    rewards: torch.Tensor
    advantages: torch.Tensor
    total: float

    @classmethod
    def of(cls, rows: Sequence[_Row], judged: Judged, old_log_probs: torch.Tensor, total: float) -> _Transitions:
        images = torch.tensor([group for group, _ in rows])
        steps = torch.tensor([step for _, step in rows])[:, None].expand_as(images)
        flat, at = images.flatten(), steps.flatten()
        trajectory = judged.trajectory
        return cls(
            trajectory.latents[flat, at],
            trajectory.latents[flat, at + 1],
            at,
            trajectory.prompt_index[flat],
            old_log_probs[images, steps],
            judged.rewards[images],
            judged.advantages[images],
            total,
        )


class ReplayUpdate(Update):
    """A loss over replayed transitions. A subclass defines the images (`groups`) and what is minimised (`loss`)."""

    FIGURES: ClassVar[Mapping[str, str]] = {}

    def __init__(self, policy: Policy, config: UpdateConfig, *, seed: int) -> None:
        self.policy = policy
        self.config = config
        self.settings = config.table(ReplaySettings)
        self.seed = seed
        self.gradients = GradientSteps(policy, config)

    def groups(self, judged: Judged) -> Sequence[Group]:
        """The groups of images to replay; none: there is nothing to learn from."""
        raise NotImplementedError

    def loss(self, replayed: Replayed) -> tuple[torch.Tensor, Details]:
        """The loss of each row (R,), not yet averaged, and figures of each row."""
        raise NotImplementedError

    def figures(self, taken: Sequence[StepTaken]) -> Mapping[str, float]:
        """The round's figures; by default the mean of each detail over all rows."""
        return {name: mean_of(taken, name) for name in taken[0].details}

    def tasks(self, conditioning: Conditioning) -> Mapping[str, Work]:
        return {
            "gradient": partial(self._gradient, conditioning),
            "log-probs": partial(self._log_probs, conditioning),
        }

    def step(
        self,
        judged: Judged,
        conditioning: Conditioning,
        round_: int,
        workers: Workers | None = None,
        on_step: OnStep = ignore,
    ) -> UpdateStats | None:
        groups = list(self.groups(judged))
        if not groups:
            return None
        workers = workers or Alone(self.tasks(conditioning))
        width, trajectory = len(groups[0]), judged.trajectory
        rows = {group: self._rows(trajectory, group, round_) for group in groups}
        per_step = max(1, self.config.images_per_step // width)
        plan = [
            [row for group in step for row in rows[group]]
            for epoch in range(self.config.inner_epochs)
            for step in batched(shuffled(groups, self.seed, round_, epoch), per_step)
        ]
        old_log_probs = trajectory.log_probs.clone()
        first_epoch = plan[: len(plan) // self.config.inner_epochs]
        drawn_by = self.policy.state_dict() if self._recomputes() else {}

        def renew_log_probs(taken: int, shrunk: bool) -> None:
            """Old log-probabilities depend on the batch's shape, so they are recomputed, with the weights that drew the
            images, before the first step and whenever that shape changes."""
            if not self._recomputes() or (taken and not shrunk):
                return
            now = self.policy.state_dict() if taken else {}
            if taken:
                self.policy.load_state_dict(drawn_by)
            try:
                self._recompute(judged, first_epoch, old_log_probs, workers, width)
            finally:
                if taken:
                    self.policy.load_state_dict(now)

        taken = self.gradients.take(
            plan,
            lambda rows, total: _Transitions.of(rows, judged, old_log_probs, total),
            round_,
            workers,
            on_step,
            width=width,
            before_step=renew_log_probs,
        )
        return stats_of(taken, self.figures(taken))

    def _rows(self, trajectory: Trajectory, group: Group, round_: int) -> list[_Row]:
        trainable = trajectory.trainable.nonzero().flatten()
        index = 0
        for image in group:
            index = index * (LARGEST + 1) + image
        order = torch.randperm(len(trainable), generator=generator(self.seed, Stage.TIMESTEPS, round_, index))
        return [(group, int(k)) for k in trainable[order[: self.settings.timesteps_per_image]]]

    def _recomputes(self) -> bool:
        if self.settings.recompute_log_probs == "auto":
            return self.policy.storage_dtype != torch.float32 or self.policy.device.type != "cpu"
        return self.settings.recompute_log_probs == "always"

    def _recompute(
        self, judged: Judged, plan: Sequence[Sequence[_Row]], old: torch.Tensor, workers: Workers, width: int
    ) -> None:
        """Old log-probabilities through the training path: in half precision they depend on the batch's shape."""
        size = max(1, self.gradients.micro_batch // width)
        micro_batches = list(chain.from_iterable(batched(step, size) for step in plan))
        items = [_Transitions.of(m, judged, old, len(m)) for m in micro_batches]
        for item_rows, log_probs in zip(micro_batches, workers.map("log-probs", items), strict=True):
            images = torch.tensor([group for group, _ in item_rows])
            steps = torch.tensor([step for _, step in item_rows])[:, None].expand_as(images)
            old[images, steps] = log_probs.view(images.shape)

    @torch.no_grad()
    def _log_probs(self, conditioning: Conditioning, item: _Transitions) -> torch.Tensor:
        return self._replay(conditioning, item).log_prob(item.following.to(self.policy.device)).cpu()

    def _replay(self, conditioning: Conditioning, item: _Transitions) -> Transition:
        """The stored transitions under the policy as it is now."""
        rows = conditioning.rows(item.prompt_index)
        return self.policy.transition(item.latents.to(self.policy.device), item.steps, rows)

    def _gradient(self, conditioning: Conditioning, item: _Transitions) -> Gradient:
        transition = self._replay(conditioning, item)
        log_probs = transition.log_prob(item.following.to(self.policy.device))
        shape, device = item.old_log_probs.shape, log_probs.device
        std = transition.std.view(shape)[:, 0]
        replayed = Replayed(
            log_probs.view(shape),
            item.old_log_probs.to(device),
            item.rewards.to(device),
            item.advantages.to(device),
            std,
        )
        loss, details = self.loss(replayed)
        if self.settings.timestep_weight == "std":
            loss = std * loss
        return self.gradients.differentiate(loss, item.total, details)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.gradients.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.gradients.load_state_dict(state)


@torch.no_grad()
def ratio_deviation(policy: Policy, trajectory: Trajectory, conditioning: Conditioning, micro_batch: int) -> float:
    """Largest distance from 1 of the probability ratios of all transitions, replayed in batches of `micro_batch`.

    With the weights that drew `trajectory` it is 0, up to rounding that depends on the batch's shape.
    """
    everything = [(image, int(k)) for image in range(len(trajectory)) for k in trajectory.trainable.nonzero().flatten()]
    largest = 0.0
    for pairs in batched(everything, micro_batch):
        images, steps = map(torch.tensor, zip(*pairs, strict=True))
        rows = conditioning.rows(trajectory.prompt_index[images])
        transition = policy.transition(trajectory.latents[images, steps].to(policy.device), steps, rows)
        log_probs = transition.log_prob(trajectory.latents[images, steps + 1].to(policy.device)).cpu()
        ratio = (log_probs - trajectory.log_probs[images, steps]).exp()
        largest = max(largest, float((ratio - 1).abs().max()))
    return largest
