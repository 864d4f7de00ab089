"""Who answers: `make_evaluator` turns `Config.evaluator` into an evaluator.

A new built-in evaluator is one file in this folder and one entry in `_BUILT_IN`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NoReturn

from hero.config import Config
from hero.errors import ConfigError, nearest
from hero.evaluators.callable import load_evaluator
from hero.evaluators.check import check_evaluator
from hero.evaluators.oracle import Oracle
from hero.evaluators.protocols import Evaluator, LiveEvaluator, ask, ask_about, evaluator_name
from hero.evaluators.reward_model import RewardModel, is_reward_model, load_reward_model, require_threshold
from hero.tasks import get_task

__all__ = [
    "Evaluator",
    "LiveEvaluator",
    "Oracle",
    "RewardModel",
    "ask",
    "ask_about",
    "check_can_judge",
    "check_evaluator",
    "evaluator_name",
    "evaluator_named",
    "load_evaluator",
    "load_reward_model",
    "make_evaluator",
]

_OWN = "name an evaluator of your own with --evaluator module:callable"


def make_evaluator(config: Config) -> Evaluator | LiveEvaluator:
    """The evaluator that `config.evaluator.name` names.

    Raises:
        ConfigError: there is none of that name, it cannot judge this task or this model, or it is "python",
            whose answers come from the caller.
    """
    name = config.evaluator.name
    if is_reward_model(name):
        return load_reward_model(name, config.model.device)
    if ":" in name:
        return load_evaluator(name)
    if name not in _BUILT_IN:
        raise ConfigError(f"unknown evaluator {name!r}; {nearest(name, _BUILT_IN)}, or module:callable")
    return _BUILT_IN[name](config)


def check_can_judge(name: str, config: Config) -> None:
    """Refuses at once an evaluator that cannot judge each finished image good or bad; loads no model.

    Raises:
        ConfigError: as `make_evaluator`; or it is a reward model without a threshold, whose share of good images is
            fixed in advance and so says nothing.
    """
    if is_reward_model(name):
        require_threshold(name)
    elif name != "web":
        evaluator_named(name, config)


def evaluator_named(name: str, config: Config) -> Evaluator | LiveEvaluator:
    """The evaluator called `name`, as `make_evaluator` would give it for a run with that evaluator."""
    return make_evaluator(config.model_copy(update={"evaluator": config.evaluator.model_copy(update={"name": name})}))


def _oracle(config: Config) -> Evaluator:
    if config.task.name == "custom":
        raise ConfigError(f"a prompt of your own has no oracle; {_OWN}")
    task = get_task(config.task.name)
    other = [prompt for prompt in config.task.prompts if prompt in task.transfer_judges]
    if other:
        raise ConfigError(f"{other[0]!r} does not ask for what the oracle of the task {task.name!r} judges; {_OWN}")
    own = [prompt for prompt in config.task.prompts if prompt not in task.prompts + task.transfer_prompts]
    if own:
        raise ConfigError(f"a prompt of your own has no oracle: {own[0]!r} does not belong to {task.name!r}; {_OWN}")
    if task.judge is None:
        raise ConfigError(f"the task {task.name!r} has no oracle, only a person can judge it; {_OWN}")
    if config.model.path != task.judge_model:
        raise ConfigError(
            f"the oracle of {task.name!r} can judge only images of the model {task.judge_model!r}, "
            f"not of {config.model.path!r}; {_OWN}"
        )
    return Oracle(task.judge, config.evaluator, config.seed, config.rounds)


def _web(config: Config) -> NoReturn:
    raise ConfigError(
        "the evaluator 'web' stands for people at a page, who answer a whole run: use `hero train --evaluator web`, or "
        "hero.people.session.train_with_people"
    )


def _python(config: Config) -> NoReturn:
    raise ConfigError(
        "the evaluator 'python' stands for the caller: loop over Tuner.ask() and Tuner.tell(feedback) yourself"
    )


_BUILT_IN: Mapping[str, Callable[[Config], Evaluator | LiveEvaluator]] = MappingProxyType(
    {"oracle": _oracle, "web": _web, "python": _python}
)
