"""The label store: what evaluators said, kept for ever. No torch here: the labelling page imports it."""

from __future__ import annotations

from hero.feedback.store import SCHEMA_VERSION, Label, LabelStore, Mark

__all__ = ["SCHEMA_VERSION", "Label", "LabelStore", "Mark"]
