"""Pipelines written as one file in the layout of their makers: the inverse of diffusers' `from_single_file`."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from hero.bench import miniatures
from hero.bench.miniatures import MINIATURES
from hero.policies.original import ORIGINAL, Place, swapped_rows

__all__ = ["distinct_pipeline", "original_denoiser", "original_tensors", "write_original"]

_WIDER = 24


def distinct_pipeline(name: str) -> Any:
    """The miniature `name` with text encoders of different widths, by which diffusers tells them apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = MINIATURES[name]()
        if name in ("sdxl", "sd3"):
            config = {"hidden_size": _WIDER, "projection_dim": _WIDER}
            wider = {**pipeline.text_encoder_2.config.to_dict(), **config}
            pipeline.text_encoder_2 = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**wider))
        narrow = pipeline.text_encoder.config.hidden_size
        if name == "sdxl":
            sizes = {"cross_attention_dim": narrow + _WIDER, "projection_class_embeddings_input_dim": 48 + _WIDER}
            pipeline.unet = type(pipeline.unet).from_config({**pipeline.unet.config, **sizes})
        if name == "sd3":
            pipeline.text_encoder.text_projection.weight.data = torch.eye(narrow)  # files do not have it
            pipeline.text_encoder_3 = miniatures._t5(48)
            sizes = {"joint_attention_dim": 48, "pooled_projection_dim": narrow + _WIDER}
            pipeline.transformer = type(pipeline.transformer).from_config({**pipeline.transformer.config, **sizes})
        for part in pipeline.components.values():
            for parameter in part.parameters() if isinstance(part, torch.nn.Module) else ():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.02)
    return pipeline


def write_original(pipeline: Any, file: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes `pipeline` (of Stable Diffusion, SDXL, Stable Diffusion 3 or FLUX.1) as one file; returns it."""
    tensors = {
        name: value.detach().to(dtype).clone().contiguous() for name, value in original_tensors(pipeline).items()
    }
    save_file(tensors, file, {"modelspec.title": "the base"})
    return file


def original_tensors(pipeline: Any) -> dict[str, torch.Tensor]:
    """All weights under the names of the original model."""
    denoiser = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    family = type(pipeline).__name__
    tensors = {f"model.diffusion_model.{k}": v for k, v in original_denoiser(denoiser, family).items()}
    return {**tensors, **{f"first_stage_model.{k}": v for k, v in _vae(pipeline.vae).items()}, **_encoders(pipeline)}


def original_denoiser(denoiser: Any, family: str) -> dict[str, torch.Tensor]:
    """Those of the denoiser; parts of one layer are put together."""
    parts: defaultdict[str, list[tuple[Place, torch.Tensor]]] = defaultdict(list)
    for key, value in denoiser.state_dict().items():
        layer, _, kind = key.rpartition(".")
        if key == "pos_embed.pos_embed":
            parts["pos_embed"].append((Place(""), value))
            continue
        place = ORIGINAL[family](layer, denoiser.config)
        kind = "scale" if place.name.endswith("_norm") and family == "FluxPipeline" else kind
        parts[f"{place.name}.{kind}"].append((place, swapped_rows(value, place)))
    return {name: torch.cat([v for _, v in sorted(own, key=lambda p: p[0].part)]) for name, own in parts.items()}


def _vae(vae: Any) -> dict[str, torch.Tensor]:
    blocks, tensors = len(vae.config.up_block_types), {}
    for key, value in vae.state_dict().items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", key)
        name = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{blocks - 1 - int(m[1])}.block.", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample.", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            name = re.sub(r"to_([qkv])\.", r"\1.", name).replace("to_out.0", "proj_out")
            value = value[:, :, None, None] if value.ndim == 2 else value
        tensors[name] = value
    return tensors


def _encoders(pipeline: Any) -> dict[str, torch.Tensor]:
    family, tensors = type(pipeline).__name__, {}
    if family == "StableDiffusionPipeline":
        tensors = _clip(pipeline.text_encoder, "cond_stage_model.transformer.")
    elif family == "StableDiffusionXLPipeline":
        tensors = _clip(pipeline.text_encoder, "conditioner.embedders.0.transformer.")
        tensors |= _open_clip(pipeline.text_encoder_2, "conditioner.embedders.1.model.")
    elif family == "StableDiffusion3Pipeline":
        tensors = _clip(pipeline.text_encoder, "text_encoders.clip_l.transformer.")
        tensors |= _clip(pipeline.text_encoder_2, "text_encoders.clip_g.transformer.")
        del tensors["text_encoders.clip_l.transformer.text_projection.weight"]
        t5 = pipeline.text_encoder_3
        tensors |= {f"text_encoders.t5xxl.transformer.{k}": v for k, v in (t5.state_dict().items() if t5 else ())}
    return tensors


def _clip(encoder: Any, prefix: str) -> dict[str, torch.Tensor]:
    outer = ("text_model.", "text_projection.")
    return {prefix + (k if k.startswith(outer) else f"text_model.{k}"): v for k, v in encoder.state_dict().items()}


def _open_clip(encoder: Any, prefix: str) -> dict[str, torch.Tensor]:
    state, tensors = encoder.state_dict(), {}
    outside = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    inside = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    for key, value in state.items():
        if key in outside:
            tensors[outside[key]] = value
        elif key == "text_projection.weight":
            tensors["text_projection"] = value.T
        elif found := re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key):
            number, layer, kind = found.groups()
            block = f"transformer.resblocks.{number}"
            if layer in inside:
                tensors[f"{block}.{inside[layer]}.{kind}"] = value
            elif layer == "self_attn.q_proj":
                own = [state[key.replace("q_proj", f"{x}_proj")] for x in "qkv"]
                tensors[f"{block}.attn.in_proj_{kind}"] = torch.cat(own)
    return {prefix + name: value for name, value in tensors.items()}
