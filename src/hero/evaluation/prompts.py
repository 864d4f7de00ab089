"""Prompts that have nothing to do with a task, on which drift is measured."""

from __future__ import annotations

from collections.abc import Sequence

from hero.tinyworld import NAME as TINYWORLD
from hero.tinyworld.scenes import caption_weights, scene_family_of

__all__ = ["EVERYDAY", "UNRELATED", "unrelated_prompts"]

UNRELATED = 24
"""How many prompts drift is measured on, unless told otherwise."""

# Words that say nothing about what a picture shows; shorter ones are never compared.
_EMPTY_WORDS = frozenset({"photo", "with", "from", "front"})


# For models that know more than the tiny world: everyday things of many kinds, no particular people and no text.
EVERYDAY = (
    "a golden retriever running on a beach",
    "a bowl of ramen with a soft-boiled egg",
    "the interior of an old library",
    "a red bicycle leaning against a brick wall",
    "a lighthouse in a storm",
    "an elderly man playing chess in a park",
    "a close-up of a honeybee on lavender",
    "a steam locomotive crossing a stone viaduct",
    "a bedroom with morning light on white sheets",
    "a market stall full of oranges and lemons",
    "an astronaut floating above the Earth",
    "a watercolour of a sailing boat",
    "a skyscraper seen from street level at night",
    "a child blowing soap bubbles",
    "a fox asleep in the snow",
    "a wooden table with a cup of coffee and a newspaper",
    "a waterfall in a rainforest",
    "a pair of worn leather boots",
    "a baker taking bread out of an oven",
    "a hot-air balloon over sand dunes",
    "a glass chess set on a marble board",
    "an oil painting of a village in autumn",
    "a jazz trio on a small stage",
    "a tortoise eating a strawberry",
    "a greenhouse full of cacti",
    "a robot watering plants",
    "a frozen lake under northern lights",
    "a crowded tram in the rain",
)
"""Prompts of our own on which the drift of any model but the tiny world is measured."""


def unrelated_prompts(
    task_prompts: Sequence[str], n: int = UNRELATED, *, model: str = TINYWORLD, own: Sequence[str] = ()
) -> tuple[str, ...]:
    """Up to `n` prompts that have nothing to do with `task_prompts`.

    For the tiny world they are captions of its grammar, without the families that a task prompt belongs to and, for a
    prompt outside the grammar, without those that share a word of four letters or more with it; the captions with
    the largest weight come first, families taking turns. For any other `model` they are those of `EVERYDAY` that
    share no such word.

    Args:
        own: `evaluation.drift_prompts`; if given, all of them are used unchanged instead.
    """
    if own:
        return tuple(own)
    if model != TINYWORLD:
        taken = set().union(*(_content_words(prompt) for prompt in task_prompts))
        return tuple(prompt for prompt in EVERYDAY if not taken & _content_words(prompt))[:n]
    return _captions_unlike(task_prompts)[:n]


def _captions_unlike(task_prompts: Sequence[str]) -> tuple[str, ...]:
    families, words = set(), set()
    for prompt in task_prompts:
        try:
            families.add(scene_family_of(prompt))
        except KeyError:
            words |= _content_words(prompt)
    ranked: dict[str, list[str]] = {}
    for caption, _ in sorted(caption_weights().items(), key=lambda item: (-item[1], item[0])):
        family = scene_family_of(caption)
        if family not in families and not words & _content_words(caption):
            ranked.setdefault(family, []).append(caption)
    depth = max(map(len, ranked.values()), default=0)
    rows = [ranked[family][rank : rank + 1] for rank in range(depth) for family in sorted(ranked)]
    return tuple(caption for row in rows for caption in row)


def _content_words(prompt: str) -> set[str]:
    """Words of at least four letters, without a plural s."""
    words = {word.strip(".,;:!?()").removesuffix("s") for word in prompt.lower().split()}
    return {word for word in words if len(word) > 3} - _EMPTY_WORDS
