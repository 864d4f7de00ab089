"""What a task is: prompts, and what counts as success, in words and (where there is one) as a judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hero.types import Judge

__all__ = ["Task"]


@dataclass(frozen=True)
class Task:
    """A built-in task.

    Attributes:
        name: how the command line and `Config.task.name` call it.
        title: a few words for lists.
        prompts: what is trained on.
        criterion: what makes an image good, in words, shown to a person who judges.
        judge: decides success by image analysis; None where only a person can tell.
        kind: what goes wrong at first, as the published tasks are classed.
        base_success: success of the tiny world before training, for display, as docs/results/base measured it.
        judge_model: the model whose images the judge was made for; it means nothing on any other's.
        transfer_prompts: neighbouring prompts, never trained on, on which transfer is measured, by the same judge
            except where `transfer_judges` names another.
        transfer_judges: transfer prompt → its own judge, where something else is asked for.
        sensitive: whether the images may be unwelcome to look at; pages ask before they show them.
    """

    name: str
    title: str
    prompts: tuple[str, ...]
    criterion: str
    judge: Judge | None
    kind: str
    base_success: str
    judge_model: str = "tinyworld"
    transfer_prompts: tuple[str, ...] = ()
    transfer_judges: Mapping[str, Judge] = field(default_factory=dict)
    sensitive: bool = False

    def judge_of(self, prompt: str) -> Judge | None:
        """The judge of images of `prompt`; None where there is none, or the prompt is not of this task."""
        if prompt in self.transfer_judges:
            return self.transfer_judges[prompt]
        return self.judge if prompt in {*self.prompts, *self.transfer_prompts} else None
