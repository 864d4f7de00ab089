"""Gradient steps around an objective. Each update owns its optimizer and has a `state_dict`."""

from __future__ import annotations

from hero.config import UpdateConfig
from hero.policies import Policy
from hero.update.replay import ReplayUpdate

__all__ = ["ReplayUpdate", "make_update"]


def make_update(policy: Policy, config: UpdateConfig, *, seed: int) -> ReplayUpdate | None:
    """The update that `config` names; None for frozen weights."""
    return None if config.kind == "none" else ReplayUpdate(policy, config, seed=seed)
