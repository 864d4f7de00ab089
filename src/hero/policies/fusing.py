"""A LoRA added to the weights of its denoiser: summed in fp32, stored as the model's own files are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hero.config import ModelConfig
from hero.model_index import is_folder, missing_folder
from hero.tinyworld import NAME as TINYWORLD
from hero.tinyworld import model_path

__all__ = ["FusedPrecision", "by_name", "fuse", "stored_dtypes"]

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class FusedPrecision:
    """What storing a sum in the model's own precision costs.

    Attributes:
        dtype: of the denoiser's weights, e.g. "bfloat16".
        unchanged: share of the weights that the LoRA changes whose sum rounds to what they were.
        lost: norm of the rounding of all sums, as a share of the norm of the change.
    """

    dtype: str
    unchanged: float
    lost: float


def stored_dtypes(config: ModelConfig) -> dict[str, torch.dtype]:
    """The dtype of the first weights of each component of a model, from the headers of its files, and `default`.

    Raises:
        ModelError: its folder does not exist.
    """
    from diffusers import DiffusionPipeline

    local = Path(model_path() if config.path == TINYWORLD else config.path).expanduser()
    if not local.exists() and is_folder(config.path):
        raise missing_folder(config.path)
    if not local.is_dir():
        local = Path(DiffusionPipeline.download(config.path, revision=config.revision, variant=config.variant))
    found = {"default": torch.float32}
    for file in sorted(local.glob("*/*.safetensors")):
        with file.open("rb") as data:
            header = json.loads(data.read(int.from_bytes(data.read(8), "little")))
        kinds = [value["dtype"] for name, value in header.items() if name != "__metadata__"]
        if floats := [_DTYPES[kind] for kind in kinds if kind in _DTYPES]:
            found[file.parent.name] = floats[0]
    return found


def by_name(pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A and B by layer under PEFT's names, as `fuse` takes them."""
    return {
        f"{layer}.lora_{side}.weight": matrix
        for layer, pair in pairs.items()
        for side, matrix in zip("AB", pair, strict=True)
    }


@torch.no_grad()
def fuse(denoiser: Any, lora: Mapping[str, torch.Tensor], scale: float) -> FusedPrecision:
    """Adds scale·B·A to each weight of `denoiser` that `lora` has matrices for; sums are in fp32.

    Args:
        lora: `<layer>.lora_A.weight` (r, in, ...) and `<layer>.lora_B.weight` (out, r, ...).
    """
    changed = unchanged = 0
    lost = asked = 0.0
    for name in sorted(key.removesuffix(".lora_A.weight") for key in lora if key.endswith(".lora_A.weight")):
        weight = denoiser.get_submodule(name).weight
        down, up = (lora[f"{name}.lora_{side}.weight"].float().flatten(1) for side in "AB")
        delta = scale * (up @ down).view(weight.shape)
        exact = weight.float() + delta
        stored = exact.to(weight.dtype)
        changed += int((delta != 0).sum())
        unchanged += int(((stored == weight) & (delta != 0)).sum())
        lost += float((stored.float() - exact).square().sum())
        asked += float(delta.square().sum())
        weight.copy_(stored)
    dtype = str(denoiser.dtype).removeprefix("torch.")
    return FusedPrecision(dtype, unchanged / max(1, changed), (lost / asked) ** 0.5 if asked else 0.0)
