"""Which of the drawn images are shown: a label is what costs, a draw is cheap. See `hero.registry.SELECTORS`."""

from __future__ import annotations

from typing import Protocol

import torch

from hero.config import SelectionConfig
from hero.registry import Settings
from hero.seeding import Stage, generator
from hero.types import Score

__all__ = ["Selector", "ShowAll", "ShowRandom", "make_selector"]


class Selector(Protocol):
    """Chooses among the images of one round. Made from the settings of its kind."""

    def __init__(self, settings: Settings | None = None) -> None: ...

    def select(self, score: Score, prompt_index: torch.Tensor, shown: int, *, seed: int, round_: int) -> list[int]:
        """Rows of the `shown` images to show, ascending; a pure function of the arguments.

        Args:
            score: the reward's estimate for each of the N drawn images, from what it learnt in earlier rounds.
            prompt_index: (N,); prompts take turns, and should do so among the shown images, too.
        """
        ...


class ShowAll(Selector):
    """Every image."""

    def select(self, score: Score, prompt_index: torch.Tensor, shown: int, *, seed: int, round_: int) -> list[int]:
        return list(range(len(prompt_index)))


class ShowRandom(Selector):
    """At random, each prompt with its share: the baseline that any other selector has to beat."""

    def select(self, score: Score, prompt_index: torch.Tensor, shown: int, *, seed: int, round_: int) -> list[int]:
        prompts = sorted(set(prompt_index.tolist()))
        source = generator(seed, Stage.SELECTION, round_)
        chosen: list[int] = []
        for place, prompt in enumerate(prompts):
            rows = (prompt_index == prompt).nonzero().flatten()
            share = len(range(place, shown, len(prompts)))  # as many turns as it has among the images that are shown
            chosen += rows[torch.randperm(len(rows), generator=source)[:share]].tolist()
        return sorted(chosen)


def make_selector(config: SelectionConfig) -> Selector:
    """The selector that `config` names."""
    made: Selector = config.choice.load()(config.own)
    return made
