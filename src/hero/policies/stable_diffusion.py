"""Stable Diffusion 1.x and 2.x (and the tiny world): a UNet with cross-attention, stepped by stochastic DDIM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hero.config import SamplingConfig
from hero.policies.conditioning import Conditioning
from hero.policies.family import ClassifierFree, ImageSize, Rows, decode_kl, prompting
from hero.policies.lora import UNET_LAYERS
from hero.policies.steps import DDIMSteps, ddim_scheduler

__all__ = ["StableDiffusion", "unet_feature_layers", "unet_image_size"]


def unet_image_size(pipeline: Any, sampling: SamplingConfig) -> ImageSize:
    """The requested size, or else that of the latents that the UNet was trained on."""
    factor, native = pipeline.vae_scale_factor, pipeline.unet.config.sample_size
    sides = (native, native) if isinstance(native, int) else tuple(native)
    return ImageSize.of(sampling, (sides[0] * factor, sides[1] * factor), factor)


def unet_feature_layers(unet: Any) -> tuple[str, ...]:
    """The middle block, which some distilled UNets lack, and the first block of the upward path."""
    return ("up_blocks.0",) if unet.mid_block is None else ("mid_block", "up_blocks.0")


class StableDiffusion:
    """`StableDiffusionPipeline` as a `hero.policies.family.Family`."""

    denoiser = "unet"
    text_encoders = ("text_encoder",)
    layers = UNET_LAYERS
    true_cfg = False
    takes = ("negative_prompt", "clip_skip")

    def __init__(self, pipeline: Any, sampling: SamplingConfig, device: torch.device) -> None:
        self.pipeline = pipeline
        self.device = device
        self.feature_layers = unet_feature_layers(pipeline.unet)
        self.size = unet_image_size(pipeline, sampling)
        self.latent_shape = self.size.latent_shape(pipeline.unet.config.in_channels)
        pipeline.scheduler = ddim_scheduler(pipeline.scheduler)
        self.steps = DDIMSteps(pipeline.scheduler, sampling.num_steps, sampling.eta, device)
        self.scale = sampling.guidance_scale
        self.guidance = ClassifierFree.above_one(self.scale)
        self.prompting = prompting(sampling)
        if sampling.clip_skip is not None and not hasattr(pipeline.text_encoder, "text_model"):
            # The pipeline looks for the last norm in a part that newer versions of transformers have done away with.
            pipeline.text_encoder.__dict__["text_model"] = pipeline.text_encoder

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Keys: `embeddings` (P, L, D)."""
        more = self.prompting.for_each(prompts)
        positive, negative = self.pipeline.encode_prompt(list(prompts), self.device, 1, True, **more)
        return Conditioning({"embeddings": positive}, {"embeddings": negative[:1]})

    def token_limits(self) -> Mapping[str, int]:
        return {"tokenizer": self.pipeline.tokenizer.model_max_length}

    def predict(self, latents: torch.Tensor, times: torch.Tensor, rows: Rows) -> torch.Tensor:
        output: torch.Tensor = self.pipeline.unet(
            latents, times, encoder_hidden_states=rows["embeddings"], return_dict=False
        )[0]
        return output

    def by_position(self, output: Any) -> torch.Tensor:
        maps: torch.Tensor = output
        return maps

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return decode_kl(self.pipeline.vae, latents)

    def library_arguments(self, noise: torch.Tensor) -> dict[str, Any]:
        more = self.prompting.for_each(noise)
        return {"latents": noise, "guidance_scale": self.scale, "eta": 0.0, **more}

    def from_library(self, latents: torch.Tensor) -> torch.Tensor:
        return latents
