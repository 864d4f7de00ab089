"""The LoRA in kohya's layout: the name of each layer there, and its tensors. Pure functions.

kohya's names are those of the *original* models (for Stable Diffusion 1.x and 2.x, of diffusers' UNet), with `_` for
`.`; that is what ComfyUI and A1111 look up. Where the original model has a single layer for several in
diffusers (q, k and v), their LoRAs become one of block-diagonal form. Sources: docs/export.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from hero.errors import ConfigError
from hero.policies.original import ORIGINAL, Place, swapped_rows

__all__ = ["KOHYA_FAMILIES", "kohya_encoder_tensors", "kohya_tensors", "places"]


def _same(layer: str, _config: Mapping[str, Any]) -> Place:
    return Place(layer)


KOHYA_FAMILIES: dict[str, Callable[[str, Mapping[str, Any]], Place]] = {**ORIGINAL, "StableDiffusionPipeline": _same}
"""Pipeline class → (layer in diffusers, the denoiser's configuration) → its place, as kohya's layout names it."""


def places(lora: Mapping[str, torch.Tensor], family: str, config: Mapping[str, Any]) -> dict[str, Place]:
    """Where each layer of a LoRA lies in the original model; see `kohya_tensors`."""
    if family not in KOHYA_FAMILIES:
        known = ", ".join(KOHYA_FAMILIES)
        raise ConfigError(f"kohya's layout is not known for {family} (known: {known}); use --format diffusers")
    layers = sorted({key.rsplit(".lora_", 1)[0] for key in lora})
    return {layer: KOHYA_FAMILIES[family](layer, config) for layer in layers}


def kohya_tensors(
    lora: Mapping[str, torch.Tensor], alpha: float, family: str, config: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """`lora_unet_<layer>.lora_down.weight`, `.lora_up.weight` and `.alpha` of each layer, sorted by name.

    Args:
        lora: `<layer>.lora_A.weight` (r, in, ...) and `<layer>.lora_B.weight` (out, r, ...), PEFT's names.
        alpha: that of every layer; the update is alpha / r · B·A. A layer made of p parts gets alpha p·alpha, rank p·r.
        family: the pipeline's class.
        config: the denoiser's configuration.

    Raises:
        ConfigError: kohya's layout has no names for this family, or for one of the layers.
    """
    found = places(lora, family, config)
    tensors: dict[str, torch.Tensor] = {}
    for name in sorted({place.name for place in found.values()}):
        parts = [(place.part, layer, place) for layer, place in found.items() if place.name == name]
        mine = sorted(parts, key=lambda part: part[:2])
        downs = [lora[f"{layer}.lora_A.weight"] for _, layer, _ in mine]
        ups = [swapped_rows(lora[f"{layer}.lora_B.weight"], place) for _, layer, place in mine]
        key = "lora_unet_" + name.replace(".", "_")
        tensors[f"{key}.alpha"] = torch.tensor(float(alpha * len(mine)))
        tensors[f"{key}.lora_down.weight"] = torch.cat(downs).contiguous()
        tensors[f"{key}.lora_up.weight"] = _stacked(ups, [part for part, _, _ in mine], mine[0][2].shares)
    return tensors


def kohya_encoder_tensors(parts: Mapping[str, Mapping[str, torch.Tensor]], family: str) -> dict[str, torch.Tensor]:
    """The same of a LoRA's parts on text encoders, `LoraFile.encoders`: `lora_te1_<layer>`, or `lora_te_<layer>`."""
    tensors: dict[str, torch.Tensor] = {}
    for component, part in parts.items():
        number = component.removeprefix("text_encoder").removeprefix("_") or "1"
        prefix = _ENCODERS.get(family, {}).get(component, f"lora_te{number}_")
        for key, value in part.items():
            layer, _, side = key.removesuffix(".weight").rpartition(".lora_")
            name = prefix + layer.replace(".", "_")
            tensors[f"{name}.{_SIDES[side]}.weight"] = value.contiguous()
            if side == "A":
                tensors[f"{name}.alpha"] = torch.tensor(float(len(value)))
    return tensors


_SIDES = {"A": "lora_down", "B": "lora_up"}
_ENCODERS = {
    "StableDiffusionPipeline": {"text_encoder": "lora_te_"},
    "FluxPipeline": {"text_encoder_2": "lora_te3_"},
}
"""Pipeline class → text encoder → the beginning of its layers' names, where it is not the encoder's number."""


def _stacked(ups: list[torch.Tensor], parts: list[int], shares: tuple[int, ...]) -> torch.Tensor:
    """(out, Σ r, ...): each B in the rows of its part and in its own columns; zero elsewhere."""
    if shares == (1,):
        return ups[0].contiguous()
    unit = ups[0].shape[0] // shares[parts[0]]
    whole = ups[0].new_zeros(unit * sum(shares), sum(up.shape[1] for up in ups))
    column = 0
    for up, part in zip(ups, parts, strict=True):
        row = unit * sum(shares[:part])
        whole[row : row + up.shape[0], column : column + up.shape[1]] = up
        column += up.shape[1]
    return whole
