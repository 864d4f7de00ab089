"""The errors that `hero` raises on purpose. The command line prints their text and exits with `exit_status`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["ConfigError", "FeedbackError", "HeroError", "ModelError", "RunError", "TrainingError", "nearest"]


class HeroError(Exception):
    """Base class; the message says what is wrong, where, and what to do."""

    exit_status = 1


class ConfigError(HeroError, ValueError):
    """A setting, a task, a method or an evaluator that does not exist or is out of range.

    Attributes:
        problems: (setting, what is wrong with it) for each setting at fault, where that is known; "" stands for the
            whole. Together they are the message.
    """

    exit_status = 2

    def __init__(self, message: str, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class FeedbackError(HeroError, ValueError):
    """Feedback that does not fit the batch it answers; nothing was learnt or stored from it."""

    exit_status = 2


class ModelError(HeroError):
    """A model that cannot be loaded, or one that the project does not support."""

    exit_status = 2


class RunError(HeroError):
    """A run directory that cannot be used as asked."""

    exit_status = 2


class TrainingError(HeroError):
    """Training cannot continue (a loss is not finite, say); the last checkpoint is intact."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown `name`: the nearest known name if one is close, then all known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names)}"
