"""Stable Diffusion XL: two text encoders, and a UNet that also takes pooled embeddings, size and crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hero.config import SamplingConfig
from hero.errors import ModelError
from hero.policies.conditioning import Conditioning
from hero.policies.family import ClassifierFree, Rows, decode_kl, prompting
from hero.policies.lora import UNET_LAYERS
from hero.policies.stable_diffusion import unet_feature_layers, unet_image_size
from hero.policies.steps import DDIMSteps, ddim_scheduler

__all__ = ["StableDiffusionXL"]


class StableDiffusionXL:
    """`StableDiffusionXLPipeline` as a `hero.policies.family.Family`."""

    denoiser = "unet"
    text_encoders = ("text_encoder", "text_encoder_2")
    layers = UNET_LAYERS
    true_cfg = False
    takes = ("negative_prompt", "clip_skip")

    def __init__(self, pipeline: Any, sampling: SamplingConfig, device: torch.device) -> None:
        if pipeline.unet.config.time_cond_proj_dim is not None:
            raise ModelError(
                "the UNet is a distilled one that takes the guidance scale as an input; use the base model"
            )
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

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Keys: `embeddings` (P, L, D), `pooled` (P, D') and `time_ids` (P, 6): original size, crop, target size."""
        embeddings, negative, pooled, negative_pooled = self.pipeline.encode_prompt(
            list(prompts), device=self.device, do_classifier_free_guidance=True, **self.prompting.for_each(prompts)
        )
        sides = [self.size.height, self.size.width]
        time_ids = torch.tensor([[*sides, 0, 0, *sides]], dtype=embeddings.dtype, device=self.device)
        return Conditioning(
            {"embeddings": embeddings, "pooled": pooled, "time_ids": time_ids.expand(len(prompts), -1)},
            {"embeddings": negative[:1], "pooled": negative_pooled[:1], "time_ids": time_ids},
        )

    def token_limits(self) -> Mapping[str, int]:
        tokenizers = {name: getattr(self.pipeline, name) for name in ("tokenizer", "tokenizer_2")}
        return {name: tokenizer.model_max_length for name, tokenizer in tokenizers.items() if tokenizer is not None}

    def predict(self, latents: torch.Tensor, times: torch.Tensor, rows: Rows) -> torch.Tensor:
        output: torch.Tensor = self.pipeline.unet(
            latents,
            times,
            encoder_hidden_states=rows["embeddings"],
            added_cond_kwargs={"text_embeds": rows["pooled"], "time_ids": rows["time_ids"]},
            return_dict=False,
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
