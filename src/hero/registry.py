"""What a run can be built from: the kinds of noise, selection, reward and update, each with a table of settings.

A stage of the configuration has a `kind` and, if that kind has its own settings, a table of that name:
`[update] kind = "ppo"` and `[update.ppo]`. A new kind needs an implementation and one entry here or, from outside the
package, one call of `Registry.add` (docs/extending.md). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hero.errors import ConfigError, nearest

__all__ = [
    "FROZEN",
    "MOVED",
    "NOISES",
    "RENAMED_KINDS",
    "REWARDS",
    "SELECTORS",
    "UPDATES",
    "Choice",
    "D3POSettings",
    "FeedbackNoiseSettings",
    "ForwardSettings",
    "HeadSettings",
    "NFTSettings",
    "PPOSettings",
    "Registry",
    "ReplaySettings",
    "Settings",
    "SharedNoiseSettings",
    "SimilaritySettings",
]


class Settings(BaseModel):
    """A stage of the configuration, or the table of one kind: frozen, and every unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def check(self, config: Any) -> None:
        """Raises ValueError, with the remedy, if this table does not fit the rest of `config` (a `Config`)."""


@dataclass(frozen=True)
class Choice:
    """One kind of a stage.

    Attributes:
        summary: a phrase, for the reference.
        implementation: "module:name", imported on first use, or the class itself; None: there is nothing to do.
        settings: its table; None: it has none.
        needs_density: for updates: whether the sampler's steps must have a density, so cannot be deterministic.
        narrows: for selectors: whether fewer images are shown than are drawn.
        estimates: for rewards: whether it also judges images that have no label.
        shares: for noises: whether images of a prompt start from the very same noise in groups.
    """

    summary: str
    implementation: str | Callable[..., Any] | None
    settings: type[Settings] | None = None
    needs_density: bool = False
    narrows: bool = False
    estimates: bool = False
    shares: bool = False

    def load(self) -> Callable[..., Any]:
        """The implementation."""
        if isinstance(self.implementation, str):
            module, _, name = self.implementation.partition(":")
            found: Callable[..., Any] = getattr(import_module(module), name)
            return found
        assert self.implementation is not None
        return self.implementation


class Registry(Mapping[str, Choice]):
    """The kinds of one stage, by name."""

    def __init__(self, stage: str, choices: Mapping[str, Choice]) -> None:
        self.stage = stage
        self._choices = dict(choices)

    def add(
        self,
        kind: str,
        implementation: str | Callable[..., Any],
        *,
        summary: str = "",
        settings: type[Settings] | None = None,
        needs_density: bool = False,
        narrows: bool = False,
        estimates: bool = False,
        shares: bool = False,
    ) -> None:
        """Registers `kind`; see `Choice`.

        Raises:
            ConfigError: another one has that name, or `settings` is no subclass of `Settings`.
        """
        if settings is not None and not (isinstance(settings, type) and issubclass(settings, Settings)):
            raise ConfigError(f"{self.stage}.kind {kind!r}: its table must be a subclass of hero.registry.Settings")
        choice = Choice(summary, implementation, settings, needs_density, narrows, estimates, shares)
        if self._choices.get(kind, choice) != choice:
            raise ConfigError(f"{self.stage}.kind {kind!r} exists already; choose another name")
        self._choices[kind] = choice

    def __getitem__(self, kind: str) -> Choice:
        if kind not in self._choices:
            raise ConfigError(f"{self.stage}.kind = {kind!r}: {nearest(kind, self._choices)}")
        return self._choices[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self._choices

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)


# ---------------------------------------------------------------------------------------------- noise


class FeedbackNoiseSettings(Settings):
    """Near the noises of good images."""

    best_share: float = Field(0.5, ge=0, le=1, description="β: share of draws near the best image's noise.")
    epsilon: float = Field(0.1, ge=0, le=1, description="ε0: a draw is sqrt(1 − ε0²)·z + ε0·ξ (variance preserving).")


class SharedNoiseSettings(Settings):
    """One noise for several images, which then differ by the noise of their steps alone."""

    group_size: int = Field(
        7, ge=2, description="Images of a prompt that start from one noise; the last group of a round may have fewer."
    )


NOISES = Registry(
    "noise",
    {
        "feedback": Choice("near the noises of good images", "hero.noise:FeedbackNoise", FeedbackNoiseSettings),
        "standard": Choice("always N(0, I)", "hero.noise:StandardNoise"),
        "shared": Choice(
            "N(0, I), one draw for several images of a prompt",
            "hero.noise:SharedNoise",
            SharedNoiseSettings,
            shares=True,
        ),
    },
)
"""Where the initial noises of a round come from."""

# ---------------------------------------------------------------------------------------------- selection

SELECTORS = Registry(
    "selection",
    {
        "all": Choice("every image that is drawn", "hero.selection:ShowAll"),
        "random": Choice("as many as are to be shown, at random", "hero.selection:ShowRandom", narrows=True),
    },
)
"""Which of the drawn images are shown."""

# ---------------------------------------------------------------------------------------------- reward


class SimilaritySettings(Settings):
    """The embedding that is trained online on good / bad / best labels (feedback-aligned representation)."""

    reference: Literal["best", "good"] = Field(
        "best", description="`best`: (1 + cos(E(z), E(best)))/2, as published; `good`: its mean over the good images."
    )
    width: int = Field(2048, ge=4, description="Width of the embedding; the head narrows it to a quarter.")
    epochs: int = Field(500, ge=0, description="Gradient steps on triplets per round.")
    batch_size: int = Field(2048, ge=1, description="Triplets per gradient step.")
    learning_rate: float = Field(1e-5, gt=0, description="Adam's learning rate.")
    replay_rounds: int = Field(
        0, ge=0, description="Earlier rounds whose labels are trained on again; 0, as published: only this round's."
    )
    margin: float = Field(0.5, ge=0, description="Margin of the triplet loss (distances lie in [0, 1]).")


class HeadSettings(Settings):
    """Bayesian logistic regression on features of the frozen denoiser."""

    prior: float = Field(
        30.0, gt=0, description="λ: precision of the weights' Gaussian prior, on standardised features."
    )
    label_share: float = Field(
        0.5, ge=0, le=1, description="Share of the label in a labelled image's reward; the rest is its standing."
    )
    least_spread: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Least deviation of p(good) among a prompt's images by which their standing is measured: where "
        "p says little, or of all images about the same, so does the reward.",
    )
    variety: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of a likely good image's reward in practice that is for lying apart from other likely good "
        "ones; the rest is its standing.",
    )
    micro_batch: int = Field(
        16, ge=1, description="Latents whose features are computed together. Halved when memory runs out."
    )


REWARDS = Registry(
    "reward",
    {
        "similarity": Choice(
            "how close an image lies to the best one in an embedding learnt from the labels",
            "hero.reward.similarity:Similarity",
            SimilaritySettings,
            estimates=True,
        ),
        "head": Choice(
            "p(good), from a head on the frozen denoiser's features and every label so far",
            "hero.reward.head:Head",
            HeadSettings,
            estimates=True,
        ),
        "label": Choice("1 for good, 0 for bad", "hero.reward.given:LabelReward"),
        "score": Choice("the evaluator's own number", "hero.reward.given:ScoreReward"),
    },
)
"""What turns feedback into a number per image."""

# ---------------------------------------------------------------------------------------------- update


class ReplaySettings(Settings):
    """For updates that replay steps of stored trajectories."""

    timesteps_per_image: int = Field(5, ge=1, description="K: timesteps trained per image, drawn at random.")
    timestep_weight: Literal["uniform", "std"] = Field(
        "uniform",
        description="Weight of a transition in the loss: `uniform`, as published; `std`: its standard deviation σ, "
        "since a log-probability's gradient grows as 1/σ, and the last steps, which only polish, outweigh the rest.",
    )
    recompute_log_probs: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Whether old log-probabilities are computed again through the training path before the "
        "first gradient step; `auto`: always except in fp32 on the CPU, where batch shapes hardly matter.",
    )

    def check(self, config: Any) -> None:
        if self.timesteps_per_image > config.sampling.num_steps:
            raise ValueError(
                f"update.{config.update.kind}.timesteps_per_image is {self.timesteps_per_image}, more than "
                f"sampling.num_steps, {config.sampling.num_steps}: train at most that many timesteps of an image"
            )


class PPOSettings(ReplaySettings):
    """Clipped policy gradient over replayed timesteps."""

    clip_range: float = Field(1e-4, gt=0, description="PPO clip range ε (log-probabilities are means, so small).")


class D3POSettings(ReplaySettings):
    """Direct preference optimisation over replayed timesteps of pairs of images."""

    beta: float = Field(0.1, gt=0, description="β: how strongly a preference pulls against the drawing policy.")
    ratio_range: float = Field(0.1, gt=0, lt=1, description="ε: a probability ratio has a gradient only within 1 ± ε.")
    within: Literal["noise", "prompt"] = Field(
        "noise",
        description="Which images are compared: `noise`, those of a prompt that started from one noise, as published; "
        "`prompt`, all of a prompt.",
    )
    pairs_per_round: int = Field(
        128,
        ge=1,
        description="Pairs of a round that are learnt from, drawn at random where there are more. Groups of seven in a "
        "round of 64 images have no more than 108; all its images together may have 1024.",
    )

    def check(self, config: Any) -> None:
        super().check(config)
        if self.within == "noise" and not config.noise.choice.shares:
            raise ValueError(
                f"update.{config.update.kind}.within is 'noise', but with noise.kind = {config.noise.kind!r} every "
                "image has a noise of its own; choose noise.kind = 'shared', or compare images within a 'prompt'"
            )


class ForwardSettings(Settings):
    """For updates that add noise to final latents again, at levels of their own, and need no stored steps."""

    levels_per_image: int = Field(
        4, ge=1, description="Noise levels per image and pass: one at random from each equal part of the range."
    )
    least_level: float = Field(
        0.0, ge=0, lt=1, description="Noise levels lie above this one, up to 1: near 0, only details are decided."
    )
    old_decay: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of its weights that the drawing model keeps after a round; the rest is the trained one's.",
    )


class NFTSettings(ForwardSettings):
    """Negative-aware fine-tuning on the forward process."""

    beta: float = Field(1.0, gt=0, description="β: strength of guidance; larger steps with a smaller one.")
    pull: float = Field(0.0, ge=0, description="k: weight of the squared distance from the base model's predictions.")
    optimality: Literal["advantage", "reward"] = Field(
        "advantage",
        description="r, how likely an image is one to draw more of: `advantage`, as published, "
        "½ + ½·clip(A/scale, −1, 1); `reward`: the reward itself, for rewards in [0, 1].",
    )
    advantage_scale: float = Field(5.0, gt=0, description="Advantage at which r is 1, and minus which it is 0.")


FROZEN = "none"
"""The kind that does not update."""

UPDATES = Registry(
    "update",
    {
        "ppo": Choice(
            "clipped policy gradient over replayed timesteps", "hero.update.ppo:PPO", PPOSettings, needs_density=True
        ),
        "nft": Choice(
            "towards likely good images and away from others, on the forward process",
            "hero.update.nft:NFT",
            NFTSettings,
        ),
        "d3po": Choice(
            "winners likelier than losers, over replayed timesteps of pairs",
            "hero.update.d3po:D3PO",
            D3POSettings,
            needs_density=True,
        ),
        "raft": Choice("the denoising loss on good images alone", "hero.update.raft:RAFT", ForwardSettings),
        FROZEN: Choice("frozen weights", None),
    },
)
"""How the LoRA learns from rewarded images."""

# ---------------------------------------------------------------------------------------------- version 0.1

MOVED: dict[str, str] = {
    **{f"noise.{name}": f"noise.feedback.{name}" for name in ("best_share", "epsilon")},
    **{
        f"representation.{name}": f"reward.similarity.{name}"
        for name in ("width", "epochs", "batch_size", "learning_rate", "replay_rounds", "margin")
    },
    **{
        f"update.{name}": f"update.ppo.{name}"
        for name in ("clip_range", "timesteps_per_image", "timestep_weight", "recompute_log_probs")
    },
}
"""Names of settings in version 0.1, before each kind had its own table → their present names."""

RENAMED_KINDS: dict[tuple[str, str], dict[str, dict[str, str]]] = {
    ("reward", f"similarity-to-{reference}"): {"similarity": {"reference": reference}} for reference in ("best", "good")
}
"""(stage, kind) in version 0.1 → the present kind, and what to put into its table."""
