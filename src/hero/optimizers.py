"""Optimizer state as plain tensors, so that checkpoints need no pickle."""

from __future__ import annotations

from collections.abc import Mapping

import torch

__all__ = ["load_optimizer_tensors", "optimizer_tensors"]


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
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
