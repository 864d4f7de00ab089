"""The optimizer of an update, and optimizer state as plain tensors, so that checkpoints need no pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module

import torch

from hero.config import UpdateConfig
from hero.errors import ConfigError

__all__ = ["load_optimizer_tensors", "make_adamw", "optimizer_tensors"]


def make_adamw(parameters: Sequence[torch.nn.Parameter], config: UpdateConfig) -> torch.optim.Optimizer:
    """AdamW as `config` asks for it.

    Raises:
        ConfigError: its state should be kept in 8 bits, but bitsandbytes is not installed.
    """
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    try:
        bitsandbytes = import_module("bitsandbytes")
    except ImportError as error:
        raise ConfigError(
            f"update.optimizer = {config.optimizer!r} needs the package bitsandbytes ({error}); "
            "pip install bitsandbytes, or use adamw"
        ) from None
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay
    )
    return optimizer


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """`<parameter index>.<name>` → tensor, for every state tensor; learning rates and the like are settings."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value).detach().cpu().clone()
        for index, values in state.items()
        for name, value in values.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """The inverse of `optimizer_tensors`, for an optimizer made with the same parameters and settings."""
    state: dict[int, dict[str, torch.Tensor | int]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        counts = value.dim() == 0 and not value.is_floating_point()  # bitsandbytes' step is a plain int
        state.setdefault(int(index), {})[name] = int(value) if counts else value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
