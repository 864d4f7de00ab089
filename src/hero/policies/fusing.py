"""A LoRA added to the weights of its denoiser: summed in fp32, stored as the model's own files are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hero.config import ModelConfig
from hero.model_index import is_folder, missing_folder, read_header
from hero.tinyworld import NAME as TINYWORLD
from hero.tinyworld import model_path

__all__ = ["DTYPES", "FusedPrecision", "FusedSums", "by_name", "fuse", "stored_dtypes"]

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""The floating-point types of safetensors files, by their names there."""


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
    if local.is_file():
        found = Counter(about["dtype"] for name, about in read_header(local).items() if name != "__metadata__")
        return {"default": next((DTYPES[kind] for kind, _ in found.most_common() if kind in DTYPES), torch.float32)}
    if not local.is_dir():
        local = Path(DiffusionPipeline.download(config.path, revision=config.revision, variant=config.variant))
    dtypes = {"default": torch.float32}
    for file in sorted(local.glob("*/*.safetensors")):
        kinds = [value["dtype"] for name, value in read_header(file).items() if name != "__metadata__"]
        if floats := [DTYPES[kind] for kind in kinds if kind in DTYPES]:
            dtypes[file.parent.name] = floats[0]
    return dtypes


def by_name(pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A and B by layer under PEFT's names, as `fuse` takes them."""
    return {
        f"{layer}.lora_{side}.weight": matrix
        for layer, pair in pairs.items()
        for side, matrix in zip("AB", pair, strict=True)
    }


class FusedSums:
    """Sums of weights and what is added to them, and what storing them costs."""

    def __init__(self) -> None:
        self._changed = self._unchanged = 0
        self._lost = self._asked = 0.0

    def add(self, weight: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        """weight + delta, summed in fp32, in the dtype of `weight`; any shape, `delta` fp32."""
        exact = weight.float() + delta
        stored = exact.to(weight.dtype)
        self._changed += int((delta != 0).sum())
        self._unchanged += int(((stored.float() == weight.float()) & (delta != 0)).sum())
        self._lost += float((stored.float() - exact).square().sum())
        self._asked += float(delta.square().sum())
        return stored

    def precision(self, dtype: torch.dtype) -> FusedPrecision:
        """What it cost; `dtype` is that of the weights."""
        lost = (self._lost / self._asked) ** 0.5 if self._asked else 0.0
        return FusedPrecision(str(dtype).removeprefix("torch."), self._unchanged / max(1, self._changed), lost)


@torch.no_grad()
def fuse(denoiser: Any, lora: Mapping[str, torch.Tensor], scale: float) -> FusedPrecision:
    """Adds scale·B·A to each weight of `denoiser` that `lora` has matrices for; sums are in fp32.

    Args:
        lora: `<layer>.lora_A.weight` (r, in, ...) and `<layer>.lora_B.weight` (out, r, ...).
    """
    sums = FusedSums()
    for name in sorted(key.removesuffix(".lora_A.weight") for key in lora if key.endswith(".lora_A.weight")):
        weight = denoiser.get_submodule(name).weight
        down, up = (lora[f"{name}.lora_{side}.weight"].float().flatten(1) for side in "AB")
        weight.copy_(sums.add(weight, scale * (up @ down).view(weight.shape)))
    return sums.precision(denoiser.dtype)
