"""A wish: what somebody wants of a new run, as the form has it, and the configuration that it amounts to."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from hero.config import Config, check_used
from hero.errors import ConfigError, HeroError
from hero.methods import configure
from hero.run.finished import FinishedRun
from hero.studio.models import Models
from hero.studio.settings import flat, may_set, nested
from hero.tasks import judge_for

__all__ = ["Checked", "Problem", "Wish", "checked", "wish_of"]

_JUDGES = ("web", "oracle")
"""Who may be asked from a page; anyone else is code or a model that the user's own command line names."""
_DOTTED = re.compile(r"[a-z_]+(?:\.[a-z0-9_-]+)+")

Text = Annotated[str, Field(max_length=4000)]
Raw = int | float | Annotated[str, Field(max_length=200)] | None
"""A number as it was typed: whether it is one, the configuration says in its own words."""


class Wish(BaseModel):
    """The form of a new run.

    Attributes:
        name: of the run's folder.
        task: a built-in task, instead of prompts.
        judge: `web`, people, or `oracle`, the task's judge.
        like: the run that this one is a copy of, which may have a model from elsewhere.
        settings: dotted name → value, as typed.
    """

    model_config = ConfigDict(extra="forbid")

    name: Text = ""
    task: Text | None = None
    prompts: Annotated[list[Text], Field(max_length=500)] = []
    criterion: Text = ""
    model: Text = "tinyworld"
    method: Text = "hero"
    judge: Text = "web"
    rounds: Raw = None
    images_per_round: Raw = None
    seed: Raw = None
    people: Raw = None
    like: Text | None = None
    settings: Annotated[dict[Text, Any], Field(max_length=300)] = {}


@dataclass(frozen=True)
class Problem:
    """What is wrong, and with which field: one of the form's, the dotted name of a setting, or "" for the whole."""

    field: str
    message: str


@dataclass(frozen=True)
class Checked:
    """A wish, checked: the configuration, or what is wrong with it."""

    config: Config | None
    problems: tuple[Problem, ...] = ()


_FIELDS = {
    "rounds": "rounds",
    "seed": "seed",
    "sampling.images_per_round": "images_per_round",
    "evaluator.people": "people",
    "evaluator.name": "judge",
    "task.prompts": "prompts",
    "task.name": "task",
    "task.criterion": "criterion",
    "task": "prompts",
    "model.path": "model",
    "method": "method",
}
"""Setting → the form's own field for it."""

_WORDS = {"method": "method", "prompt": "task.prompts"}
"""What a message that names no setting is about, by a word in it."""


def checked(wish: Wish, models: Models, also: Collection[str] = ()) -> Checked:
    """The configuration that `wish` amounts to, by the same rules as the command line's.

    Args:
        also: models that may be named beside those of `models`.
    """
    problems = [Problem(key, f"{key} cannot be set from here") for key in sorted(wish.settings.keys() - may_set())]
    if (refused := models.allow(wish.model, also)) is not None:
        problems.append(Problem("model", refused))
    if wish.judge not in _JUDGES:
        problems.append(Problem("judge", f"{wish.judge[:80]!r} cannot be asked from here; name it in a terminal"))
    prompts = tuple(prompt.strip() for prompt in wish.prompts if prompt.strip())
    if wish.task is None and not prompts:
        problems.append(Problem("prompts", "Write at least one prompt."))
    if problems:
        return Checked(None, tuple(problems))
    try:
        config = configure(
            wish.task,
            prompts=() if wish.task is not None else prompts,
            criterion=wish.criterion.strip() or None,
            model=wish.model,
            method=wish.method,
            evaluator=wish.judge,
            settings=_settings(wish),
        )
        check_used(_settings(wish), config)
    except ConfigError as error:
        return Checked(None, _problems_of(error))
    if wish.judge == "oracle" and judge_for(config.task.name, config.model.path) is None:
        message = "Only a task of the tiny world has a judge of its own, and only on that model; judge yourself."
        return Checked(None, (Problem("judge", message),))
    return Checked(config)


def _settings(wish: Wish) -> dict[str, Any]:
    own = {"rounds": wish.rounds, "seed": wish.seed, "evaluator.people": wish.people}
    own["sampling.images_per_round"] = wish.images_per_round
    given = {**wish.settings, **{key: value for key, value in own.items() if value not in (None, "")}}
    return nested(given)


def _problems_of(error: ConfigError) -> tuple[Problem, ...]:
    known = may_set() | _FIELDS.keys()
    given = error.problems or (("", str(error)),)
    found: dict[str, Problem] = {}
    for setting, message in given:
        named = [setting, setting.rpartition(".")[0], *_DOTTED.findall(message)]  # also "lora.layers.0", of a list
        field = next((one for one in named if one in known), "")
        if not field:
            field = next((key for word, key in _WORDS.items() if word in message), "")
        found.setdefault(field, Problem(_FIELDS.get(field, field), message))
    return tuple(found.values())


def wish_of(run: FinishedRun) -> Wish:
    """The form that would make a run like `run`; its name is left out.

    Raises:
        HeroError: the run cannot be read.
    """
    config = run.config
    own = config.task.name == "custom"
    judge = config.evaluator.name if config.evaluator.name in _JUDGES else "web"
    wish = Wish(
        task=None if own else config.task.name,
        prompts=list(config.task.prompts),
        criterion=config.task.criterion,
        model=config.model.path,
        method=config.method,
        judge=judge,
        rounds=config.rounds,
        images_per_round=config.sampling.images_per_round,
        seed=config.seed,
        people=config.evaluator.people,
        like=run.name,
    )
    values = flat(config.model_dump(mode="json", exclude_none=True))
    usual = _usual(wish)
    changed = {key: value for key, value in values.items() if key in may_set() and usual.get(key) != value}
    return wish.model_copy(update={"settings": changed})


def _usual(wish: Wish) -> Mapping[str, Any]:
    """The values of a run like `wish` in which no setting was changed."""
    try:
        config = configure(
            wish.task,
            prompts=() if wish.task is not None else tuple(wish.prompts),
            model=wish.model,
            method=wish.method,
            evaluator=wish.judge,
        )
    except HeroError:  # a method of somebody's own, say: then every setting is written out
        return {}
    return flat(config.model_dump(mode="json", exclude_none=True))
