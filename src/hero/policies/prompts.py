"""What text encoders do not see of long prompts: each takes so many tokens, and its tokenizer cuts off the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["CutPrompt", "chat_prefix", "cut_prompts"]


@dataclass(frozen=True)
class CutPrompt:
    """A prompt that is too long for a text encoder.

    Attributes:
        prompt: as given.
        encoder: name of the pipeline's text encoder.
        cut: what it does not see, as its tokenizer writes it.
    """

    prompt: str
    encoder: str
    cut: str

    def __str__(self) -> str:
        return f"{self.encoder} does not see the end of “{self.prompt}”: “{self.cut}”"


def cut_prompts(pipeline: Any, limits: Mapping[str, int], prompts: Sequence[str]) -> list[CutPrompt]:
    """The prompts that `pipeline` cuts, for each of its text encoders.

    Args:
        limits: name of a tokenizer → most tokens that its text encoder is given, those that it adds itself included.
            Tokenizers that the pipeline does without are left out.
    """
    found = []
    for name, limit in limits.items():
        tokenizer = getattr(pipeline, name, None)
        if tokenizer is None:
            continue
        for prompt in prompts:
            own = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
            added = len(tokenizer(prompt, verbose=False).input_ids) - len(own)
            if rest := own[max(0, limit - added) :]:
                text = tokenizer.decode(rest, skip_special_tokens=True).strip()
                found.append(CutPrompt(prompt, name.replace("tokenizer", "text_encoder"), text))
    return found


def chat_prefix(tokenizer: Any) -> int:
    """Tokens that a chat template puts before the words of a user."""
    mark = "\N{SNOWMAN}"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True
    )
    return len(tokenizer(text.split(mark)[0]).input_ids)
