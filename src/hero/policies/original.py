"""Where the layers of a denoiser lie in the *original* model, whose names other programs and their files use.

Where the original model has a single layer for several in diffusers (q, k and v), each of them is a part of its output
rows. Sources: docs/export.md, and the conversions in diffusers' `loaders/single_file_utils.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from hero.errors import ConfigError

__all__ = ["ORIGINAL", "Place", "swapped_rows"]


@dataclass(frozen=True)
class Place:
    """Where a layer lies in the original model.

    Attributes:
        name: the original layer, dotted.
        part: which part of its output rows this is, from 0.
        shares: relative sizes of all its parts; (1,) for a layer that is a single one in both models.
        swapped: whether the two halves of its output rows have changed places: diffusers' last modulation gives scale
            and shift, the original one shift and scale.
    """

    name: str
    part: int = 0
    shares: tuple[int, ...] = (1,)
    swapped: bool = False


def _same(layer: str, _config: Mapping[str, Any]) -> Place:
    return Place(layer)


_SGM_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_SGM_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_LAYER = re.compile(
    r"(?P<side>down_blocks|mid_block|up_blocks)\.(?:(?P<block>\d+)\.)?"
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<k>\d+)\.(?P<rest>.+)"
)


def _sgm(layer: str, config: Mapping[str, Any]) -> Place:
    """Stable Diffusion, SDXL: blocks are numbered consecutively, each with a residual (0) and maybe a transformer (1).

    The residual block's place is taken by what halves the picture; what doubles it comes last in its block.
    """
    if layer in _SGM_OUTSIDE:
        return Place(_SGM_OUTSIDE[layer])
    found = _UNET_LAYER.fullmatch(layer)
    if found is None:
        raise ConfigError(f"the layer {layer} has no name in the original UNet; export another format")
    kind, k, rest = found["kind"], int(found["k"]), found["rest"]
    is_resnet = kind == "resnets"
    if is_resnet:
        rest = _SGM_RESNET.get(rest, rest)
    if found["side"] == "mid_block":
        return Place(f"middle_block.{2 * k if is_resnet else 1}.{rest}")
    down, block, layers = found["side"] == "down_blocks", int(found["block"]), config["layers_per_block"]
    first = block * (layers + 1) + (1 if down else 0)
    if kind == "downsamplers":
        return Place(f"input_blocks.{first + layers}.0.op")
    if kind == "upsamplers":
        attends = "Attn" in config["up_block_types"][block]
        return Place(f"output_blocks.{first + layers}.{2 if attends else 1}.{rest}")
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
    "norm1.linear": Place("x_block.adaLN_modulation.1"),
    "norm1_context.linear": Place("context_block.adaLN_modulation.1"),
    **{f"attn.norm_{x}": Place(f"x_block.attn.ln_{x}") for x in "qk"},
    **{f"attn2.norm_{x}": Place(f"x_block.attn2.ln_{x}") for x in "qk"},
    **{f"attn.norm_added_{x}": Place(f"context_block.attn.ln_{x}") for x in "qk"},
}
_SD3_OUTSIDE: dict[str, Place] = {
    "pos_embed": Place(""),
    "pos_embed.proj": Place("x_embedder.proj"),
    "time_text_embed.timestep_embedder.linear_1": Place("t_embedder.mlp.0"),
    "time_text_embed.timestep_embedder.linear_2": Place("t_embedder.mlp.2"),
    "time_text_embed.text_embedder.linear_1": Place("y_embedder.mlp.0"),
    "time_text_embed.text_embedder.linear_2": Place("y_embedder.mlp.2"),
    "context_embedder": Place("context_embedder"),
    "norm_out.linear": Place("final_layer.adaLN_modulation.1", swapped=True),
    "proj_out": Place("final_layer.linear"),
}
_QUERY_AND_KEY = {"q": "query", "k": "key"}
_FLUX_DOUBLE: dict[str, Place] = {
    **{f"attn.to_{x}": Place("img_attn.qkv", i, _QKV) for i, x in enumerate("qkv")},
    **{f"attn.add_{x}_proj": Place("txt_attn.qkv", i, _QKV) for i, x in enumerate("qkv")},
    "attn.to_out.0": Place("img_attn.proj"),
    "attn.to_add_out": Place("txt_attn.proj"),
    "ff.net.0.proj": Place("img_mlp.0"),
    "ff.net.2": Place("img_mlp.2"),
    "ff_context.net.0.proj": Place("txt_mlp.0"),
    "ff_context.net.2": Place("txt_mlp.2"),
    "norm1.linear": Place("img_mod.lin"),
    "norm1_context.linear": Place("txt_mod.lin"),
    **{f"attn.norm_{x}": Place(f"img_attn.norm.{name}_norm") for x, name in _QUERY_AND_KEY.items()},
    **{f"attn.norm_added_{x}": Place(f"txt_attn.norm.{name}_norm") for x, name in _QUERY_AND_KEY.items()},
}
_LINEAR1 = (1, 1, 1, 4)
_FLUX_SINGLE: dict[str, Place] = {
    **{f"attn.to_{x}": Place("linear1", i, _LINEAR1) for i, x in enumerate("qkv")},
    "proj_mlp": Place("linear1", 3, _LINEAR1),
    "proj_out": Place("linear2"),
    "norm.linear": Place("modulation.lin"),
    **{f"attn.norm_{x}": Place(f"norm.{name}_norm") for x, name in _QUERY_AND_KEY.items()},
}
_FLUX_OUTSIDE: dict[str, Place] = {
    **{
        f"time_text_embed.{ours}.linear_{k}": Place(f"{theirs}.{name}_layer")
        for ours, theirs in (
            ("timestep_embedder", "time_in"),
            ("guidance_embedder", "guidance_in"),
            ("text_embedder", "vector_in"),
        )
        for k, name in ((1, "in"), (2, "out"))
    },
    "context_embedder": Place("txt_in"),
    "x_embedder": Place("img_in"),
    "norm_out.linear": Place("final_layer.adaLN_modulation.1", swapped=True),
    "proj_out": Place("final_layer.linear"),
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


def _in_blocks(
    tables: Mapping[str, tuple[str, Mapping[str, Place]]], outside: Mapping[str, Place] = {}
) -> Callable[[str, Mapping[str, Any]], Place]:
    """`tables`: list of blocks in diffusers → its name in the original, and a block's layers; the rest `outside`."""

    def place(layer: str, _config: Mapping[str, Any]) -> Place:
        if layer in outside:
            return outside[layer]
        blocks, _, rest = layer.partition(".")
        index, _, inner = rest.partition(".")
        original, table = tables.get(blocks, ("", {}))
        if inner not in table:
            raise ConfigError(f"the layer {layer} has no name in the original model; export another format")
        return replace(table[inner], name=f"{original}.{index}.{table[inner].name}")

    return place


_sd3_in_blocks = _in_blocks({"transformer_blocks": ("joint_blocks", _SD3)}, _SD3_OUTSIDE)


def _sd3(layer: str, config: Mapping[str, Any]) -> Place:
    """The last block's modulation of the text is a final one, with two outputs instead of six."""
    found = _sd3_in_blocks(layer, config)
    last = layer == f"transformer_blocks.{config.get('num_layers', 0) - 1}.norm1_context.linear"
    return replace(found, swapped=True) if last else found


ORIGINAL: dict[str, Callable[[str, Mapping[str, Any]], Place]] = {
    "StableDiffusionPipeline": _sgm,
    "StableDiffusionXLPipeline": _sgm,
    "StableDiffusion3Pipeline": _sd3,
    "FluxPipeline": _in_blocks(
        {
            "transformer_blocks": ("double_blocks", _FLUX_DOUBLE),
            "single_transformer_blocks": ("single_blocks", _FLUX_SINGLE),
        },
        _FLUX_OUTSIDE,
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


def swapped_rows(rows: torch.Tensor, place: Place) -> torch.Tensor:
    """`rows` (out, ...) of a layer at `place` from one model's order to the other's."""
    return torch.cat(rows.chunk(2)[::-1]) if place.swapped else rows
