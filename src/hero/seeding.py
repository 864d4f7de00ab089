"""Random numbers as pure functions of (seed, stage, round, index).

Nothing in the project draws from a global generator. A draw therefore never depends on batch size, on the
number of processes or on what ran before, which is what makes resuming exact.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["Stage", "derive_seed", "generator", "normal"]


class Stage(StrEnum):
    """Every use of random numbers. Each has its own stage, since draws of the same stage, round and index are equal.

    A method from outside the package uses a stage of its own: a string that begins with its module's name.
    """

    NOISE = "noise"
    STEP_NOISE = "step-noise"
    LORA = "lora"
    REPRESENTATION = "representation"
    TRIPLETS = "triplets"
    TIMESTEPS = "timesteps"
    IMAGE_ORDER = "image-order"
    PAIRS = "pairs"
    FORWARD_NOISE = "forward-noise"
    FORWARD_TIMES = "forward-times"
    PRACTICE_NOISE = "practice-noise"
    PRACTICE_STEP_NOISE = "practice-step-noise"
    FEATURE_NOISE = "feature-noise"
    SELECTION = "selection"
    PROMPT_ORDER = "prompt-order"
    ORACLE_FLIP = "oracle-flip"
    ORACLE_BEST = "oracle-best"
    ORACLE_PERSON = "oracle-person"
    PREVIEW_NOISE = "preview-noise"
    PREVIEW_STEP_NOISE = "preview-step-noise"
    EVALUATION_NOISE = "evaluation-noise"
    EVALUATION_STEP_NOISE = "evaluation-step-noise"
    DRIFT_NOISE = "drift-noise"
    DRIFT_STEP_NOISE = "drift-step-noise"
    DIVERSITY = "diversity"
    BLIND_ORDER = "blind-order"
    GENERATE_NOISE = "generate-noise"
    GENERATE_STEP_NOISE = "generate-step-noise"
    DOCTOR_NOISE = "doctor-noise"
    DOCTOR_STEP_NOISE = "doctor-step-noise"
    EYE_NOISE = "eye-noise"
    EYE_STEP_NOISE = "eye-step-noise"
    BENCH_LORA = "bench-lora"
    HEAD_NOISE = "head-noise"
    HEAD_STEP_NOISE = "head-step-noise"
    BENCH_FLOW = "bench-flow"
    BENCH_CLIENTS = "bench-clients"


def derive_seed(seed: int, stage: Stage | str, round_: int = 0, index: int = 0) -> int:
    """A 63-bit hash of the arguments; torch's CPU generator uses its lower 32 bits."""
    text = f"{seed}/{stage}/{round_}/{index}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def generator(seed: int, stage: Stage | str, round_: int = 0, index: int = 0) -> torch.Generator:
    """A CPU generator seeded with `derive_seed`; on the CPU on every device, so that GPUs draw the same."""
    import torch  # here, so that what needs a seed alone starts at once

    return torch.Generator("cpu").manual_seed(derive_seed(seed, stage, round_, index))


def normal(shape: tuple[int, ...], source: torch.Generator) -> torch.Tensor:
    """Standard normal fp32 tensor of `shape` on the CPU."""
    import torch

    return torch.randn(shape, generator=source, dtype=torch.float32)
