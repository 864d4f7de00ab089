"""Loads the user's own evaluator from "module:callable", with messages that say what is missing."""

from __future__ import annotations

from typing import Any

from hero.errors import ConfigError, nearest
from hero.evaluators.protocols import Evaluator, LiveEvaluator
from hero.own_code import import_own

__all__ = ["load_evaluator"]


def load_evaluator(spec: str) -> Evaluator | LiveEvaluator:
    """The evaluator that `spec`, "module:callable", names.

    Modules of the current directory are found too. A class is instantiated without arguments.

    Raises:
        ConfigError: there is no such module or attribute, importing or instantiating fails, or it is not an
            evaluator.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"evaluator {spec!r}: write module:callable, e.g. my_judge:evaluate")
    module = import_own(module_name, f"evaluator {spec!r}")
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in vars(found) if not name.startswith("_")]
            hint = f"; {nearest(part, public)}" if public else ""
            raise ConfigError(f"evaluator {spec!r}: {module.__name__} has no {attribute!r}{hint}")
        found = getattr(found, part)
    if isinstance(found, type):
        found = _instantiate(found, spec)
    if isinstance(found, LiveEvaluator):
        return found
    if not callable(found):
        raise ConfigError(
            f"evaluator {spec!r} is a {type(found).__name__}: it must be callable with an ImageBatch, "
            "or have begin, show and collect"
        )
    evaluator: Evaluator = found
    return evaluator


def _instantiate(kind: type, spec: str) -> Any:
    try:
        return kind()
    except Exception as error:
        raise ConfigError(
            f"evaluator {spec!r}: {kind.__name__}() failed: {type(error).__name__}: {error}; "
            "an evaluator class is instantiated without arguments"
        ) from error
