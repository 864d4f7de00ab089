"""The run's settings as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

__all__ = ["Setting", "settings"]


@dataclass(frozen=True)
class Setting:
    """One row of the table of settings; `changed`: it differs from the field's own default."""

    key: str
    value: str
    meaning: str
    changed: bool


def settings(model: BaseModel, prefix: str = "") -> Iterator[Setting]:
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        key = f"{prefix}{name}"
        if isinstance(value, BaseModel):
            yield from settings(value, f"{key}.")
        else:
            changed = not info.is_required() and value != info.get_default(call_default_factory=True)
            yield Setting(key, _shown(value), info.description or "", changed)
    for name, table in (model.model_extra or {}).items():  # that of the chosen kind
        yield from settings(table, f"{prefix}{name}.")


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
