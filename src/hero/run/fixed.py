"""The settings of a run that cannot change once it has begun, and why: what was learnt would not fit, or mean less."""

from __future__ import annotations

from operator import attrgetter

from hero.config import Config
from hero.errors import ConfigError

__all__ = ["FIXED", "check_unchanged"]

_RECIPE = "the recipe's other settings would not follow"
_LEARNT_ON = "what was learnt belongs to that model"
_LORA = "the LoRA's weights were learnt under it"

FIXED: dict[str, str] = {
    "method": _RECIPE,
    "preset": _RECIPE,
    "seed": "features and the order of what is drawn are functions of it",
    "task.name": "the labels so far are of that task",
    "task.prompts": "best and good images are remembered by the prompt's place in this list",
    "task.prompts_per_round": "which prompt an image was drawn for is a function of it",
    "model.path": f"{_LEARNT_ON} (the same one at another place is accepted)",
    "model.config": f"{_LEARNT_ON} (the same files at another place are accepted)",
    "model.revision": _LEARNT_ON,
    "model.variant": _LEARNT_ON,
    "lora.rank": _LORA,
    "lora.alpha": f"{_LORA}, and would be scaled by the new value",
    "lora.layers": _LORA,
    "lora.start": _LORA,
    "lora.merge_start": _LORA,
    "evaluator.store": "the labels so far are in that store",
}
"""Setting → the reason. Sizes that what was learnt depends on are compared with the checkpoint as well."""


def check_unchanged(begun: Config, wanted: Config) -> None:
    """Raises ConfigError if `wanted` would turn the run that has `begun` into a different one."""
    for key, reason in FIXED.items():
        before, after = (attrgetter(key)(config) for config in (begun, wanted))
        if before != after:
            raise ConfigError(
                f"{key} cannot change once a run has begun (it is {_shown(before)}): {reason}; start a new run with "
                "`hero train`"
            )


def _shown(value: object) -> str:
    return ", ".join(map(repr, value)) if isinstance(value, tuple) else repr(value)
