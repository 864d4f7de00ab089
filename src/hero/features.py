"""Final latents → their features under the frozen base model, in micro-batches that several processes share.

They do not depend on the LoRA, so an image's features never change and may be cached.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from hero.batching import halved
from hero.distributed import Alone, Workers
from hero.policies import Conditioning, Policy

__all__ = ["FeatureBatch", "extract", "features"]


@dataclass(frozen=True)
class FeatureBatch:
    """Final latents whose features are computed together: everything but the model.

    Attributes:
        latents: (M, C, h, w).
        prompt_index: (M,) int64 on the CPU, rows of the conditioning.
    """

    latents: torch.Tensor
    prompt_index: torch.Tensor


def extract(policy: Policy, conditioning: Conditioning, batch: FeatureBatch) -> torch.Tensor:
    """(M, D) fp32 on the CPU: the features of one micro-batch; a process runs this for the task `features`."""
    return policy.features(batch.latents, conditioning.rows(batch.prompt_index))


def features(
    policy: Policy,
    conditioning: Conditioning,
    prompt_index: torch.Tensor,
    latents: torch.Tensor,
    *,
    micro_batch: int,
    workers: Workers | None = None,
) -> torch.Tensor:
    """The features of N final latents, (N, D) fp32 on the CPU; see `Policy.features`.

    Args:
        conditioning: one row per prompt of the run.
        prompt_index: (N,) int64 on the CPU, which prompt each image was drawn for.
        latents: (N, C, h, w), N ≥ 1.
        micro_batch: latents in one pass; halved for the remaining latents when memory runs out.
        workers: the processes that run the task `features`; None: this one.

    Raises:
        TrainingError: memory runs out with a single image.
    """
    workers = workers or Alone({"features": partial(extract, policy, conditioning)})
    found: list[torch.Tensor] = []
    done, n = 0, len(latents)
    while done < n:
        batches = [
            # A view would be sent to other processes together with the whole tensor that it is a view of.
            FeatureBatch(latents[k : k + micro_batch].clone(), prompt_index[k : k + micro_batch].clone())
            for k in range(done, n, micro_batch)
        ]
        try:
            for part in workers.map("features", batches):
                found.append(part)
                done += len(part)
        except torch.OutOfMemoryError:
            micro_batch = halved(min(micro_batch, n - done), "sampling.micro_batch")
    return torch.cat(found)
