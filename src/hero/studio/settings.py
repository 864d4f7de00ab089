"""The settings as a form needs them, from the configuration's own JSON schema; and which of them a page may set.

A page may set numbers, switches and choices. Free text may name a file, a module or a server: of such settings only
those listed here are taken from a page, and a new one is refused until somebody has thought about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from hero.config import Config
from hero.registry import Registry

__all__ = ["SET_ELSEWHERE", "described", "flat", "may_set", "nested"]

SET_ELSEWHERE = frozenset(
    {
        "method",
        "preset",
        "rounds",
        "seed",
        "task",
        "model.path",
        "evaluator.name",
        "evaluator.people",
        "sampling.images_per_round",
    }
)
"""Settings, or stages, that the form has questions of its own for."""

_SAFE_TEXT = frozenset(
    {
        "evaluation.drift_prompts",
        "evaluator.rule",
        "model.device",
        "model.revision",
        "model.variant",
        "tracking.project",
    }
)

Field = dict[str, Any]


def described() -> list[dict[str, Any]]:
    """Every stage that a page may set: `stage`, `about`, `fields`, and for stages of kinds also `kinds`.

    A field has `key` (dotted), `about`, `type` (`number`, `integer`, `switch`, `choice`, `choices`, `text` or `lines`)
    and, where there are any, `choices`, `least` and `most`, which may be reached, and `above` and `below`, which may
    not. `kinds` has for each kind its `summary` and `fields`.
    """
    stages = []
    for name, field in Config.model_fields.items():
        model = field.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or name in SET_ELSEWHERE:
            continue
        stage: dict[str, Any] = {"stage": name, "about": _first_line(model), "fields": list(_fields(name, model))}
        kinds: Registry | None = getattr(model, "kinds", None)
        if kinds is not None:
            stage["kinds"] = {
                kind: {
                    "summary": choice.summary,
                    "fields": [] if choice.settings is None else list(_fields(f"{name}.{kind}", choice.settings)),
                }
                for kind, choice in kinds.items()
            }
            stage["fields"] = [
                {**one, "type": "choice", "choices": list(kinds)} if one["key"] == f"{name}.kind" else one
                for one in stage["fields"]
            ]
        stages.append(stage)
    return stages


def may_set() -> frozenset[str]:
    """The dotted names of all settings that a page may set."""
    stages = described()
    own = {field["key"] for stage in stages for field in stage["fields"]}
    tables = {f["key"] for stage in stages for kind in stage.get("kinds", {}).values() for f in kind["fields"]}
    return frozenset(own | tables)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name → value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`; of two names of which one continues the other, the longer one counts."""
    made: dict[str, Any] = {}
    for dotted, value in sorted(values.items()):
        *path, last = dotted.split(".")
        at = made
        for part in path:
            below = at.get(part)
            at[part] = at = below if isinstance(below, dict) else {}
        at[last] = value
    return made


def _fields(prefix: str, model: type[BaseModel]) -> Iterator[Field]:
    schema = model.model_json_schema()
    for name, about in schema["properties"].items():
        key = f"{prefix}.{name}"
        field = _field(key, about)
        free = field["type"] in ("text", "lines") and not key.endswith(".kind")
        if key not in SET_ELSEWHERE and (not free or key in _SAFE_TEXT):
            yield field


def _field(key: str, about: Mapping[str, Any]) -> Field:
    field: Field = {"key": key, "about": about.get("description", "")}
    options = [one for one in about.get("anyOf", [about]) if one.get("type") != "null"]
    kind = options[0]
    items = kind.get("items", {})
    if "enum" in kind or "const" in kind:
        return {**field, "type": "choice", "choices": kind.get("enum", [kind.get("const")])}
    if kind.get("type") == "array":
        if "enum" in items or "const" in items:
            return {**field, "type": "choices", "choices": items.get("enum", [items.get("const")])}
        return {**field, "type": "lines"}
    limits = {"minimum": "least", "maximum": "most", "exclusiveMinimum": "above", "exclusiveMaximum": "below"}
    field |= {ours: kind[theirs] for theirs, ours in limits.items() if theirs in kind}
    return {
        **field,
        "type": {"number": "number", "integer": "integer", "boolean": "switch"}.get(kind.get("type"), "text"),
    }


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]
