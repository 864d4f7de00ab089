"""Turns feedback into a number per image. `hero.registry.REWARDS` lists the rewards; `protocol` says what one is."""

from __future__ import annotations

from hero.config import RewardConfig
from hero.reward.protocol import Reward, RewardContext

__all__ = ["Reward", "RewardContext", "make_reward"]


def make_reward(config: RewardConfig, context: RewardContext) -> Reward:
    """The reward that `config` names."""
    made: Reward = config.choice.load()(context, config)
    return made
