"""The label store: every label, kept permanently. No torch here: the labelling page imports it."""

from __future__ import annotations

from hero.feedback.channel import Channel, Command, DeskState, Event
from hero.feedback.marks import Mark
from hero.feedback.schema import SCHEMA_VERSION
from hero.feedback.store import Draft, Label, LabellingProgress, LabelStore

__all__ = [
    "SCHEMA_VERSION",
    "Channel",
    "Command",
    "DeskState",
    "Draft",
    "Event",
    "Label",
    "LabelStore",
    "LabellingProgress",
    "Mark",
]
