"""The LoRA in kohya's layout: the name of each layer there, and its tensors. Pure functions.

kohya's names are those of the *original* models (for Stable Diffusion 1.x and 2.x, of diffusers' UNet), with `_` for
`.`; that is what ComfyUI and A1111 look up. Where the original model has a single layer for several in
diffusers (q, k and v), their LoRAs become one of block-diagonal form. Sources: docs/export.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hero.errors import ConfigError

__all__ = ["KOHYA_FAMILIES", "Place", "kohya_tensors", "places"]


@dataclass(frozen=True)
class Place:
    """Where a layer lies in the original model.

    Attributes:
        name: the original layer, dotted.
        part: which part of its output rows this is, from 0.
        shares: relative sizes of all its parts; (1,) for a layer that is a single one in both models.
    """

    name: str
    part: int = 0
    shares: tuple[int, ...] = (1,)


def _same(layer: str, _config: Mapping[str, Any]) -> Place:
    return Place(layer)


_SGM_RESNET = {"conv1": "in_layers.2", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
_UNET_LAYER = re.compile(
    r"(?P<side>down_blocks|mid_block|up_blocks)\.(?:(?P<block>\d+)\.)?(?P<kind>resnets|attentions)\.(?P<k>\d+)\.(?P<rest>.+)"
)


def _sgm(layer: str, config: Mapping[str, Any]) -> Place:
    """SDXL: blocks are numbered consecutively, each with a residual (0) and possibly a transformer (1)."""
    found = _UNET_LAYER.fullmatch(layer)
    if found is None:
        raise ConfigError(f"the layer {layer} has no name in kohya's layout of SDXL; export another format")
    is_resnet, k, rest = found["kind"] == "resnets", int(found["k"]), found["rest"]
    if is_resnet:
        rest = _SGM_RESNET.get(rest, rest)
    if found["side"] == "mid_block":
        return Place(f"middle_block.{2 * k if is_resnet else 1}.{rest}")
    down = found["side"] == "down_blocks"
    first = int(found["block"]) * (config["layers_per_block"] + 1) + (1 if down else 0)
    return Place(f"{'input' if down else 'output'}_blocks.{first + k}.{0 if is_resnet else 1}.{rest}")


_QKV = (1, 1, 1)
_SD3: dict[str, Place] = {
    **{f"attn.to_{x}": Place("x_block.attn.qkv", i, _QKV) for i, x in enumerate("qkv")},
    **{f"attn2.to_{x}": Place("x_block.attn2.qkv", i, _QKV) for i, x in enumerate("qkv")},
    **{f"attn.add_{x}_proj": Place("context_block.attn.qkv", i, _QKV) for i, x in enumerate("qkv")},
    "attn.to_out.0": Place("x_block.attn.proj"),
    "attn2.to_out.0": Place("x_block.attn2.proj"),
    "attn.to_add_out": Place("context_block.attn.proj"),
    "ff.net.0.proj": Place("x_block.mlp.fc1"),
    "ff.net.2": Place("x_block.mlp.fc2"),
    "ff_context.net.0.proj": Place("context_block.mlp.fc1"),
    "ff_context.net.2": Place("context_block.mlp.fc2"),
}
_FLUX_DOUBLE: dict[str, Place] = {
    **{f"attn.to_{x}": Place("img_attn.qkv", i, _QKV) for i, x in enumerate("qkv")},
    **{f"attn.add_{x}_proj": Place("txt_attn.qkv", i, _QKV) for i, x in enumerate("qkv")},
    "attn.to_out.0": Place("img_attn.proj"),
    "attn.to_add_out": Place("txt_attn.proj"),
    "ff.net.0.proj": Place("img_mlp.0"),
    "ff.net.2": Place("img_mlp.2"),
    "ff_context.net.0.proj": Place("txt_mlp.0"),
    "ff_context.net.2": Place("txt_mlp.2"),
}
_LINEAR1 = (1, 1, 1, 4)
_FLUX_SINGLE: dict[str, Place] = {
    **{f"attn.to_{x}": Place("linear1", i, _LINEAR1) for i, x in enumerate("qkv")},
    "proj_mlp": Place("linear1", 3, _LINEAR1),
    "proj_out": Place("linear2"),
}
_KLEIN_DOUBLE = {
    **{layer: place for layer, place in _FLUX_DOUBLE.items() if layer.startswith("attn.")},
    "ff.linear_in": Place("img_mlp.0"),
    "ff.linear_out": Place("img_mlp.2"),
    "ff_context.linear_in": Place("txt_mlp.0"),
    "ff_context.linear_out": Place("txt_mlp.2"),
}
_KLEIN_SINGLE = {"attn.to_qkv_mlp_proj": Place("linear1"), "attn.to_out": Place("linear2")}
_Z_IMAGE: dict[str, Place] = {
    **{f"attention.to_{x}": Place("attention.qkv", i, _QKV) for i, x in enumerate("qkv")},
    "attention.to_out.0": Place("attention.out"),
    **{name: Place(name) for name in ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")},
}


def _in_blocks(tables: Mapping[str, tuple[str, Mapping[str, Place]]]) -> Callable[[str, Mapping[str, Any]], Place]:
    """`tables`: list of blocks in diffusers → its name in the original, and the layers of a block."""

    def place(layer: str, _config: Mapping[str, Any]) -> Place:
        blocks, _, rest = layer.partition(".")
        index, _, inner = rest.partition(".")
        original, table = tables.get(blocks, ("", {}))
        if inner not in table:
            raise ConfigError(f"the layer {layer} has no name in kohya's layout; export another format")
        found = table[inner]
        return Place(f"{original}.{index}.{found.name}", found.part, found.shares)

    return place


KOHYA_FAMILIES: dict[str, Callable[[str, Mapping[str, Any]], Place]] = {
    "StableDiffusionPipeline": _same,
    "StableDiffusionXLPipeline": _sgm,
    "StableDiffusion3Pipeline": _in_blocks({"transformer_blocks": ("joint_blocks", _SD3)}),
    "FluxPipeline": _in_blocks(
        {
            "transformer_blocks": ("double_blocks", _FLUX_DOUBLE),
            "single_transformer_blocks": ("single_blocks", _FLUX_SINGLE),
        }
    ),
    "QwenImagePipeline": _same,
    "ZImagePipeline": _in_blocks(
        {blocks: (blocks, _Z_IMAGE) for blocks in ("layers", "noise_refiner", "context_refiner")}
    ),
    "Flux2KleinPipeline": _in_blocks(
        {
            "transformer_blocks": ("double_blocks", _KLEIN_DOUBLE),
            "single_transformer_blocks": ("single_blocks", _KLEIN_SINGLE),
        }
    ),
}
"""Pipeline class → (layer in diffusers, the denoiser's configuration) → its place in the original model."""


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
        mine = sorted((place.part, layer, place.shares) for layer, place in found.items() if place.name == name)
        downs = [lora[f"{layer}.lora_A.weight"] for _, layer, _ in mine]
        ups = [lora[f"{layer}.lora_B.weight"] for _, layer, _ in mine]
        key = "lora_unet_" + name.replace(".", "_")
        tensors[f"{key}.alpha"] = torch.tensor(float(alpha * len(mine)))
        tensors[f"{key}.lora_down.weight"] = torch.cat(downs).contiguous()
        tensors[f"{key}.lora_up.weight"] = _stacked(ups, [part for part, _, _ in mine], mine[0][2])
    return tensors


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
