"""Gradient steps on the LoRA. `hero.registry.UPDATES` lists the updates; `protocol` says what one is."""

from __future__ import annotations

from hero.config import UpdateConfig
from hero.policies import Policy
from hero.update.protocol import Update

__all__ = ["Update", "make_update"]


def make_update(policy: Policy, config: UpdateConfig, *, seed: int) -> Update | None:
    """The update that `config` names; None for frozen weights."""
    if not config.learns:
        return None
    made: Update = config.choice.load()(policy, config, seed=seed)
    return made
