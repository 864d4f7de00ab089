"""Which prompt each image of a round is drawn for: the one place that knows. No torch."""

from __future__ import annotations

from hero.config import Config
from hero.ids import ImageId, index_of, prompt_index_of, round_of
from hero.seeding import Stage, derive_seed

__all__ = ["prompt_indices", "prompt_of", "round_prompts"]


def round_prompts(config: Config, round_: int) -> tuple[int, ...]:
    """The prompts of a round, as places in the run's list: all of them, or `task.prompts_per_round`.

    They are taken in turn from one order, which is a function of the seed, so that over the rounds no prompt is more
    than one ahead of another. An imported round, 0, may have any.
    """
    total, share = len(config.task.prompts), config.task.prompts_per_round
    if share is None or share >= total or round_ == 0:
        return tuple(range(total))
    order = sorted(range(total), key=lambda k: derive_seed(config.seed, Stage.PROMPT_ORDER, index=k))
    first = (round_ - 1) * share
    return tuple(order[(first + k) % total] for k in range(share))


def prompt_indices(config: Config, round_: int, count: int) -> list[int]:
    """The prompts of images 0 to `count` − 1 of a round: those of the round take turns."""
    chosen = round_prompts(config, round_)
    return [chosen[prompt_index_of(i, len(chosen))] for i in range(count)]


def prompt_of(config: Config, image: ImageId) -> str:
    """The prompt of an image of the run.

    Raises:
        FeedbackError: `image` is not an id.
    """
    chosen = round_prompts(config, round_of(image))
    return config.task.prompts[chosen[prompt_index_of(index_of(image), len(chosen))]]
