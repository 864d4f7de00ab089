"""Random numbers as pure functions of (seed, stage, round, index).

Nothing in the project draws from a global generator. A draw therefore never depends on batch size, on the
number of processes or on what ran before, which is what makes resuming exact.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["derive_seed", "generator", "normal"]


def derive_seed(seed: int, stage: str, round_: int = 0, index: int = 0) -> int:
    """A 63-bit hash of the arguments; torch's CPU generator uses its lower 32 bits."""
    text = f"{seed}/{stage}/{round_}/{index}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def generator(seed: int, stage: str, round_: int = 0, index: int = 0) -> torch.Generator:
    """A CPU generator seeded with `derive_seed`; on the CPU on every device, so that GPUs draw the same."""
    return torch.Generator("cpu").manual_seed(derive_seed(seed, stage, round_, index))


def normal(shape: tuple[int, ...], source: torch.Generator) -> torch.Tensor:
    """Standard normal fp32 tensor of `shape` on the CPU."""
    return torch.randn(shape, generator=source, dtype=torch.float32)
