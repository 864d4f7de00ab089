"""Prompts that have nothing to do with a task, on which drift is measured."""

from __future__ import annotations

from collections.abc import Sequence

from hero.tinyworld.scenes import caption_weights, family_of

__all__ = ["unrelated_prompts"]

# Words that say nothing of what a picture shows; shorter ones are never compared.
_EMPTY_WORDS = frozenset({"photo", "with", "from", "front"})


def unrelated_prompts(task_prompts: Sequence[str], n: int = 24) -> tuple[str, ...]:
    """Up to `n` prompts of the tiny world's grammar that have nothing to do with `task_prompts`.

    Captions of the families that own a task prompt are left out; for a prompt outside the grammar, those that
    share a word of four letters or more with it. The heaviest captions come first, families in turn.
    """
    families, words = set(), set()
    for prompt in task_prompts:
        try:
            families.add(family_of(prompt))
        except KeyError:
            words |= _content_words(prompt)
    ranked: dict[str, list[str]] = {}
    for caption, _ in sorted(caption_weights().items(), key=lambda item: (-item[1], item[0])):
        family = family_of(caption)
        if family not in families and not words & _content_words(caption):
            ranked.setdefault(family, []).append(caption)
    depth = max(map(len, ranked.values()), default=0)
    rows = [ranked[family][rank : rank + 1] for rank in range(depth) for family in sorted(ranked)]
    return tuple(caption for row in rows for caption in row)[:n]


def _content_words(prompt: str) -> set[str]:
    """Words of at least four letters, without a plural's s."""
    words = {word.strip(".,;:!?()").removesuffix("s") for word in prompt.lower().split()}
    return {word for word in words if len(word) > 3} - _EMPTY_WORDS
