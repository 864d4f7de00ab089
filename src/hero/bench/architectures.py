"""Full-size models with random weights, from their published configurations: for speed and memory, not for pictures.

Configurations are those of the models' config.json on the hub; tokenizers are the miniatures' (only lengths matter).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode

from hero.bench.miniatures import new_clip_tokenizer
from hero.config import Config
from hero.errors import ConfigError
from hero.policies import Conditioning, family_of
from hero.policies.footprint import Costs, measure_costs
from hero.policies.pipeline import PipelinePolicy
from hero.tinyworld.architecture import new_scheduler

__all__ = ["FULL_SIZE", "FullSize", "costs_of", "save_full_size"]


@dataclass(frozen=True)
class FullSize:
    """A full-size architecture.

    Attributes:
        title: the model that it belongs to.
        pipeline: its class.
        networks: makes the pipeline's networks; tokenizers are left out if speed and memory do not depend on them.
        scheduler: makes the scheduler.
        others: the pipeline's other arguments.
        conditioning: shapes of one row of the conditioning.
    """

    title: str
    pipeline: Any
    networks: Callable[[], dict[str, Any]]
    scheduler: Callable[[], Any]
    others: Callable[[], dict[str, Any]]
    conditioning: Mapping[str, tuple[int, ...]]


def save_full_size(name: str, folder: Path, seed: int = 0) -> Path:
    """Writes the pipeline `name` with random weights in fp16 into `folder`, if it is not there; returns it.

    Raises:
        ConfigError: there are no tokenizers for it here, so it could not be loaded.
    """
    full = FULL_SIZE[name]
    others = full.others()
    if None in (value for key, value in others.items() if key.startswith("tokenizer")):
        raise ConfigError(f"{name} cannot be made with random weights: only its size is known here; use sd15")
    if not (folder / "model_index.json").exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pipeline = full.pipeline(scheduler=full.scheduler(), **full.networks(), **others)
        pipeline.to(dtype=torch.float16).save_pretrained(folder)
    return folder


def costs_of(name: str, config: Config) -> Costs:
    """What the architecture `name` costs, without allocating its weights: its tensors have only shapes."""
    full = FULL_SIZE[name]
    dtype = getattr(torch, config.model.dtype)
    mode: AbstractContextManager[Any] = FakeTensorMode(allow_non_fake_inputs=True)
    usual = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with mode:
            networks = full.networks()
    finally:
        torch.set_default_dtype(usual)
    pipeline = full.pipeline(scheduler=full.scheduler(), **networks, **full.others())
    device = torch.device("cpu")
    family = family_of(full.pipeline.__name__)(pipeline, config.sampling, device)
    policy = PipelinePolicy(pipeline, family, config, device=device)
    rows = {k: torch.zeros(1, *shape, dtype=dtype) for k, shape in full.conditioning.items()}
    with mode:
        return measure_costs(policy, config, Conditioning(rows, rows))


def _stable_diffusion_15() -> dict[str, Any]:
    return {
        "vae": _vae(4, scaling_factor=0.18215),
        "text_encoder": transformers.CLIPTextModel(_clip_l()),
        "unet": diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
    }


def _stable_diffusion_xl() -> dict[str, Any]:
    unet = diffusers.UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return {
        "vae": _vae(4, scaling_factor=0.13025),
        "text_encoder": transformers.CLIPTextModel(_clip_l()),
        "text_encoder_2": transformers.CLIPTextModelWithProjection(_clip_g()),
        "unet": unet,
    }


def _stable_diffusion_35_medium() -> dict[str, Any]:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=128,
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
        qk_norm="rms_norm",
    )
    return {
        "vae": _vae(16, scaling_factor=1.5305, shift_factor=0.0609),
        "text_encoder": transformers.CLIPTextModelWithProjection(_clip_l()),
        "text_encoder_2": transformers.CLIPTextModelWithProjection(_clip_g()),
        "text_encoder_3": _t5_xxl(),
        "transformer": transformer,
    }


def _flux_1_dev() -> dict[str, Any]:
    return {
        "vae": _vae(16, scaling_factor=0.3611, shift_factor=0.1159),
        "text_encoder": transformers.CLIPTextModel(_clip_l()),
        "text_encoder_2": _t5_xxl(),
        "transformer": diffusers.FluxTransformer2DModel(guidance_embeds=True),
    }


def _flow(**config: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, **config)


FULL_SIZE: dict[str, FullSize] = {
    "sd15": FullSize(
        "Stable Diffusion 1.5",
        diffusers.StableDiffusionPipeline,
        _stable_diffusion_15,
        new_scheduler,
        lambda: {
            "tokenizer": new_clip_tokenizer(),
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        },
        {"embeddings": (77, 768)},
    ),
    "sdxl": FullSize(
        "Stable Diffusion XL base",
        diffusers.StableDiffusionXLPipeline,
        _stable_diffusion_xl,
        new_scheduler,
        lambda: {"tokenizer": None, "tokenizer_2": None, "add_watermarker": False},
        {"embeddings": (77, 2048), "pooled": (1280,), "time_ids": (6,)},
    ),
    "sd35-medium": FullSize(
        "Stable Diffusion 3.5 medium",
        diffusers.StableDiffusion3Pipeline,
        _stable_diffusion_35_medium,
        _flow,
        lambda: {"tokenizer": None, "tokenizer_2": None, "tokenizer_3": None},
        {"embeddings": (333, 4096), "pooled": (2048,)},
    ),
    "flux-dev": FullSize(
        "FLUX.1 dev",
        diffusers.FluxPipeline,
        _flux_1_dev,
        lambda: _flow(use_dynamic_shifting=True),
        lambda: {"tokenizer": None, "tokenizer_2": None},
        {"embeddings": (512, 4096), "pooled": (768,)},
    ),
}
"""Name → architecture."""


def _vae(channels: int, **config: float) -> Any:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=channels,
        **config,
    )


def _clip_l() -> Any:
    return transformers.CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
    )


def _clip_g() -> Any:
    return transformers.CLIPTextConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280
    )


def _t5_xxl() -> Any:
    config = transformers.T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
    )
    return transformers.T5EncoderModel(config)
