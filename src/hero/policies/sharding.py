"""A frozen denoiser split over several processes (FSDP2), with a LoRA that every process holds completely.

A block's weights are gathered when it computes, forwards or backwards, and freed afterwards. So every forward and
backward pass is a collective: all processes must run the same ones at the same time, on whatever images.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

__all__ = ["shard_frozen"]


def shard_frozen(denoiser: Any, blocks: Sequence[torch.nn.Module], mesh: DeviceMesh, device: torch.device) -> None:
    """Puts this process's part of the frozen weights, and all trained ones, on `device`.

    Args:
        blocks: those of `denoiser`, outer before inner; each is gathered by itself, and the weights outside them stay
            gathered for the whole pass.
    """
    trained = {p for p in denoiser.parameters() if p.requires_grad}
    for module in (*reversed(blocks), denoiser):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    # torch warns of in-place writes to a block's output; there are none: a test compares each family's gradients.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    for parameter in trained:
        parameter.data = parameter.data.to(device)
