"""Updates on the forward process: final latents are noised again, and the loss is on the model's predictions for them.

No stored steps and no log-probabilities: any sampler may have drawn the images, even a deterministic one. Noise levels
and noises are functions of (seed, round, image). The subclass defines what is minimised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch

from hero.batching import batched
from hero.config import UpdateConfig
from hero.distributed import Alone, Work, Workers
from hero.ids import LARGEST
from hero.policies import Conditioning, Policy
from hero.policies.adapters import Adapter, LoraAdapter
from hero.policies.steps import Steps
from hero.progress import OnStep, ignore
from hero.registry import ForwardSettings
from hero.seeding import Stage, generator, normal
from hero.types import Judged, UpdateStats
from hero.update.gradient import Details, Gradient, GradientSteps, StepTaken, mean_of, shuffled, stats_of
from hero.update.protocol import Update

__all__ = ["ForwardUpdate", "Renoised"]


@dataclass(frozen=True)
class Renoised:
    """M final latents noised again, and what the models predict for them. Tensors are fp32, on the policy's device.

    Attributes:
        sample, noise, latents: (M, C, h, w): x_0, ε and x_t.
        t: (M,) noise levels in (0, 1].
        output: (M, C, h, w), the trained model's, with gradient.
        references: the same for each model that the update names in `references`, without gradient.
        rewards, advantages: (M,).
        steps: the schedule, for conversions (`to_sample`, `to_noise`, `target`).
    """

    sample: torch.Tensor
    noise: torch.Tensor
    latents: torch.Tensor
    t: torch.Tensor
    output: torch.Tensor
    references: Mapping[Adapter, torch.Tensor]
    rewards: torch.Tensor
    advantages: torch.Tensor
    steps: Steps


@dataclass(frozen=True)
class _Noisings:
    """M latents to be noised again: everything but the model; their losses' sum is divided by `total`."""

    sample: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    prompt_index: torch.Tensor
    rewards: torch.Tensor
    advantages: torch.Tensor
    total: float


class ForwardUpdate(Update):
    """A loss over renoised images. A subclass defines the loss (`loss`) and the other models in it (`references`)."""

    FIGURES: ClassVar[Mapping[str, str]] = {}

    references: tuple[Literal["old", "base"], ...] = ()
    """Models that predict besides the trained one: `old`, which drew the images, and `base`, without a LoRA."""

    def __init__(self, policy: Policy, config: UpdateConfig, *, seed: int) -> None:
        self.policy = policy
        self.config = config
        self.settings = config.table(ForwardSettings)
        self.seed = seed
        self.gradients = GradientSteps(policy, config)
        if "old" in self.references:
            policy.add_adapter("old")
            policy.blend("old", towards="current", decay=0.0)  # a policy may have learnt with another update before

    def images(self, judged: Judged) -> Sequence[int]:
        """The images to learn from; none: there is nothing to learn. By default all that have a reward."""
        if not judged.advantages.any():
            return []
        return [i for i, rewarded in enumerate(~judged.rewards.isnan()) if rewarded]

    def loss(self, renoised: Renoised) -> tuple[torch.Tensor, Details]:
        """The loss of each image and level (M,), not yet averaged, and figures of each."""
        raise NotImplementedError

    def figures(self, taken: Sequence[StepTaken]) -> Mapping[str, float]:
        """The round's figures; by default the mean of each detail."""
        return {name: mean_of(taken, name) for name in taken[0].details}

    def adapters(self) -> tuple[LoraAdapter, ...]:
        return ("current", "old") if "old" in self.references else ("current",)

    @classmethod
    def loras(cls) -> int:
        return 1 + ("old" in cls.references)

    def sampling(self) -> LoraAdapter:
        """The model that follows the trained one, if there is one; else the trained one."""
        return self.adapters()[-1]

    def tasks(self, conditioning: Conditioning) -> Mapping[str, Work]:
        return {"gradient": partial(self._gradient, conditioning)}

    def step(
        self,
        judged: Judged,
        conditioning: Conditioning,
        round_: int,
        workers: Workers | None = None,
        on_step: OnStep = ignore,
    ) -> UpdateStats | None:
        images = list(self.images(judged))
        if not images:
            return None
        workers = workers or Alone(self.tasks(conditioning))
        levels = range(self.settings.levels_per_image)
        plan = [
            [(image, epoch, k) for image in step for k in levels]
            for epoch in range(self.config.inner_epochs)
            for step in batched(shuffled(images, self.seed, round_, epoch), self.config.images_per_step)
        ]
        taken = self.gradients.take(
            plan, lambda examples, total: self._noisings(examples, judged, round_, total), round_, workers, on_step
        )
        if "old" in self.references:
            self.policy.blend("old", towards="current", decay=self.settings.old_decay)
        return stats_of(taken, self.figures(taken))

    def _noisings(
        self, examples: Sequence[tuple[int, int, int]], judged: Judged, round_: int, total: float
    ) -> _Noisings:
        images = torch.tensor([image for image, _, _ in examples])
        drawn = [self._drawn(round_, *example) for example in examples]
        return _Noisings(
            judged.trajectory.final_latents[images],
            torch.stack([noise for noise, _ in drawn]),
            torch.stack([t for _, t in drawn]),
            judged.trajectory.prompt_index[images],
            judged.rewards[images],
            judged.advantages[images],
            total,
        )

    def _drawn(self, round_: int, image: int, epoch: int, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise (C, h, w) and noise level () of one example; the levels of an image are spread over their range."""
        index = (epoch * self.settings.levels_per_image + level) * (LARGEST + 1) + image
        noise = normal(self.policy.latent_shape, generator(self.seed, Stage.FORWARD_NOISE, round_, index))
        share = torch.rand((), generator=generator(self.seed, Stage.FORWARD_TIMES, round_, index))
        least = self.settings.least_level
        place = (level + 1 - share) / self.settings.levels_per_image
        return noise, place if least == 0 else least + (1 - least) * place

    def _gradient(self, conditioning: Conditioning, item: _Noisings) -> Gradient:
        policy, rows = self.policy, conditioning.rows(item.prompt_index)
        sample, noise, t, rewards, advantages = (
            tensor.to(policy.device, torch.float32)
            for tensor in (item.sample, item.noise, item.t, item.rewards, item.advantages)
        )
        latents = policy.steps.noised(sample, noise, t)
        references: dict[Adapter, torch.Tensor] = {}
        with torch.no_grad():
            for adapter in self.references:
                with policy.using(adapter):
                    references[adapter] = policy.predict(latents, t, rows, guided=False)
        output = policy.predict(latents, t, rows, guided=False)
        renoised = Renoised(sample, noise, latents, t, output, references, rewards, advantages, policy.steps)
        loss, details = self.loss(renoised)
        return self.gradients.differentiate(loss, item.total, details)

    def state_dict(self) -> dict[str, torch.Tensor]:
        old = self.policy.state_dict("old") if "old" in self.references else {}
        return {**self.gradients.state_dict(), **{f"old.{name}": value for name, value in old.items()}}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        old = {name.removeprefix("old."): value for name, value in state.items() if name.startswith("old.")}
        if old:
            self.policy.load_state_dict(old, "old")
        self.gradients.load_state_dict({k: v for k, v in state.items() if not k.startswith("old.")})
